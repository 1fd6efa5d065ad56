"""One answer in the Playground: who gave it, how long it took, and what it is."""

import base64
import json
from collections.abc import Callable
from typing import Final

from nicegui import ui

from ray_canary.console.asking import KEPT, Answer

#: Characters of a text that are shown, and bytes of an image.
SHOWN: Final = 100_000
_LARGEST_IMAGE: Final = 5 * 2**20


def area(version: str, answer: Answer) -> Callable[[], None]:
    """Draw a place for an answer where the caller is drawing; return what draws it anew as it comes."""
    with ui.card().classes("w-full min-w-0").props('data-area="answer" aria-live="polite"'):
        ui.label(version or "Answer").classes("font-semibold").props('role="heading" aria-level="2"')
        line = ui.label("Waiting").classes("text-sm")
        who = ui.label().classes("text-sm")
        body = ui.column().classes("w-full")

    def draw() -> None:
        line.set_text(_summary(answer))
        who.set_text(_who(answer))
        body.clear()
        with body:
            _content(answer)

    return draw


def readable(answer: Answer) -> str:
    """Return an answer as a text: JSON in lines, and what is no text by its kind and size."""
    if answer.failure and not answer.content:
        return answer.failure
    if answer.media_type == "application/json":
        try:
            return json.dumps(json.loads(answer.content), indent=2, ensure_ascii=False)
        except ValueError:
            return answer.text
    return answer.text if _is_text(answer) else f"{answer.media_type}, {answer.size:,} bytes"


def _summary(answer: Answer) -> str:
    said = []
    if answer.status is not None:
        said.append(f"Status {answer.status}")
    if answer.first_byte_s is not None:
        said.append(f"first byte after {1000 * answer.first_byte_s:.0f} ms")
    if answer.took_s is not None:
        said.append(f"all after {1000 * answer.took_s:.0f} ms")
    said.append(f"{answer.size:,} bytes")
    if answer.failure:
        said.append(answer.failure)
    return " · ".join(said)


def _who(answer: Answer) -> str:
    names = ("x-bento-version", "x-bento-tag", "x-bento-split")
    return " · ".join(f"{name}: {answer.headers[name]}" for name in names if name in answer.headers)


def _is_text(answer: Answer) -> bool:
    named = answer.media_type
    return named.startswith("text/") or named.endswith(("json", "+xml", "/xml", "yaml", "javascript")) or not named


def _content(answer: Answer) -> None:
    if not answer.content:
        return
    if answer.media_type.startswith("image/") and answer.took_s is not None and answer.size <= _LARGEST_IMAGE:
        data = base64.b64encode(answer.content).decode()
        ui.image(f"data:{answer.media_type};base64,{data}").classes("max-w-full").props('alt="The answer"')
    elif _is_text(answer):
        text = readable(answer) if answer.took_s is not None else answer.text
        cut = f"\n(and {len(text) - SHOWN:,} characters more)" if len(text) > SHOWN else ""
        ui.label(text[:SHOWN] + cut).classes("whitespace-pre-wrap break-words font-mono text-sm w-full")
    if answer.took_s is not None and (answer.size > SHOWN or not _is_text(answer)):
        name = "answer" + {"image/png": ".png", "image/jpeg": ".jpg", "application/json": ".json"}.get(
            answer.media_type, ""
        )
        content = bytes(answer.content)
        ui.button("Download", on_click=lambda: ui.download.content(content, name)).props("flat")
        if answer.size > KEPT:
            ui.label(f"Only its first {KEPT // 2**20} MiB were kept.")
