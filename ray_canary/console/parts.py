"""What several pages of the console are made of."""

from typing import Any, TypeVar

from nicegui import ui

#: Told apart in light and in dark, and by who doesn't see all colours (Okabe and Ito's palette, without its yellow).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f")


def colour(index: int) -> str:
    """Return the colour of a Deployment's version by its place, main's first."""
    return _COLOURS[index % len(_COLOURS)]


def alert(text: str) -> None:
    """Say what went wrong; a screen reader says it at once."""
    ui.label(text).classes("whitespace-pre-wrap text-red-700 dark:text-red-300").props('role="alert"')


def table(title: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """Draw a table."""
    ui.table(
        title=title,
        columns=[{"name": name, "label": name, "field": name, "align": "left"} for name in columns],
        rows=[dict(zip(columns, row, strict=True)) for row in rows],
        pagination=0,
    ).props("flat bordered wrap-cells hide-pagination").classes("w-full")


Drawn = TypeVar("Drawn", bound=ui.element)


def give(element: Drawn, **attributes: object) -> Drawn:
    """Give an element attributes, `_` in whose names stands for `-`.

    NiceGUI's `props("...")` reads a text: what a Bento's schema or a user wrote in it could be an attribute of its own.
    """
    for name, value in attributes.items():
        element.props[name.replace("_", "-")] = value
    element.update()
    return element


class Code:
    """A text to copy, shown as it is."""

    def __init__(self) -> None:
        """Draw it where the caller is drawing, empty."""
        with ui.row().classes("w-full no-wrap items-start bg-slate-100 dark:bg-slate-800 rounded p-2"):
            self._label = ui.label().classes("w-full whitespace-pre overflow-x-auto font-mono text-sm")
            self._label.props('data-area="code" tabindex="0"')
            copy = ui.button(icon="content_copy", on_click=lambda: ui.clipboard.write(self._label.text))
            copy.props('flat round size=sm aria-label="Copy"')

    def show(self, text: str) -> None:
        """Show another text."""
        self._label.set_text(text)


def gone(element: ui.element) -> bool:
    """Whether nobody looks at an element's page any more: what was waited for comes too late for it."""
    return element.is_deleted or element.client.is_deleted
