"""What a Bento's schema or a user wrote never becomes an attribute of its own in the console's pages."""

import pytest
from nicegui import ui
from nicegui.testing.general_fixtures import nicegui_reset_globals  # noqa: F401  # a page's elements are global

from ray_canary.console import parts
from ray_canary.console.form import Form
from ray_canary.console.schema import Endpoint, Field

HOSTILE = 'q" innerHTML="<img src=x onerror=alert(1)>" onclick="alert(1)'


@pytest.mark.parametrize("kind", ["text", "integer", "boolean", "choice", "json", "file", "files"])
@pytest.mark.usefixtures("nicegui_reset_globals")
def test_a_field_with_a_hostile_name_is_drawn_with_that_name_and_nothing_else(kind: str) -> None:
    field = Field(HOSTILE, kind, HOSTILE, required=False, choices=("a",), media_type=HOSTILE if "file" in kind else "")
    with ui.column() as area:
        Form(Endpoint("go", "/go", (field,)), lambda: None)
    drawn = list(area.descendants())
    assert any(one.props.get("aria-label") == HOSTILE for one in drawn)
    for one in drawn:
        assert not {"innerHTML", "onclick", "onerror"} & set(one.props)


def test_attributes_are_given_as_they_are() -> None:
    with ui.column():
        assert parts.give(ui.label(), aria_label=HOSTILE).props["aria-label"] == HOSTILE
