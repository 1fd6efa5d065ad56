"""A form for one API of a Bento."""

from collections.abc import Callable
from typing import Any, Final

from nicegui import events, ui

from ray_canary.console import parts
from ray_canary.console.schema import Body, Endpoint, Field, File, body_of
from ray_canary.errors import ConfigError

#: Bytes that one file of a form may have: it is kept in the console until it is sent.
LARGEST: Final = 20 * 2**20


class Form:
    """The fields of an API, and what is in them."""

    def __init__(self, endpoint: Endpoint, changed: Callable[[], None]) -> None:
        """Draw the form where the caller is drawing; `changed` is called when somebody has changed a field."""
        self.endpoint = endpoint
        self._changed = changed
        self._inputs: dict[str, Any] = {}
        self._files: dict[str, list[File]] = {}
        if not endpoint.fields:
            ui.label("It takes nothing.")
        for field in endpoint.fields:
            self._draw(field)

    def body(self) -> Body:
        """Return what the form sends. Raises ConfigError, and shows each mistake at its field."""
        values = {name: element.value for name, element in self._inputs.items()}
        for element in self._inputs.values():
            element.props(remove="error error-message")
        try:
            return body_of(self.endpoint, {**values, **self._files})
        except ConfigError as error:
            for problem in error.problems:
                if problem.path in self._inputs:
                    parts.give(self._inputs[problem.path], error=True, error_message=problem.message)
            raise

    def _draw(self, field: Field) -> None:
        label = f"{field.title}{' *' if field.required else ''}"
        if field.is_file:
            self._upload(field, label)
        else:
            element = self._input(field, label)
            parts.give(element, aria_label=field.name).on_value_change(lambda: self._changed())
            self._inputs[field.name] = element
        if field.says:
            ui.label(field.says).classes("text-sm opacity-70")

    def _input(self, field: Field, label: str) -> Any:
        if field.kind == "boolean":
            return ui.checkbox(label, value=bool(field.default))
        if field.kind == "choice":
            first = field.default if field.default in field.choices else (field.choices[0] if field.required else None)
            return ui.select(list(field.choices), value=first, label=label, clearable=not field.required).classes(
                "w-full"
            )
        if field.kind in ("integer", "number"):
            number = ui.number(label, value=field.default, min=field.least, max=field.most).classes("w-full")
            return number.props("step=1" if field.kind == "integer" else "step=any")
        if field.kind == "json":
            import json

            text = "" if field.default is None else json.dumps(field.default, indent=2)
            return (
                ui.textarea(f"{label} (JSON)", value=text)
                .props("autogrow spellcheck=false")
                .classes("w-full font-mono")
            )
        return ui.textarea(label, value=str(field.default or "")).props("autogrow").classes("w-full")

    def _upload(self, field: Field, label: str) -> None:
        kept = self._files.setdefault(field.name, [])
        shown = ui.row().classes("items-center")
        several = field.kind == "files"

        async def chosen(event: events.UploadEventArguments) -> None:
            file = event.file
            if not several:
                kept.clear()
                shown.clear()
            media_type = file.content_type or "application/octet-stream"
            kept.append((file.name, media_type, await file.read()))
            with shown:
                if media_type.startswith("image/"):
                    import base64

                    data = base64.b64encode(kept[-1][2]).decode()
                    parts.give(ui.image(f"data:{media_type};base64,{data}").classes("w-40"), alt=field.name)
                ui.label(f"{file.name}, {len(kept[-1][2]):,} bytes")
            self._changed()

        upload = ui.upload(
            label=f"{label}: choose a file, {LARGEST // 2**20} MiB at most",
            multiple=several,
            auto_upload=True,
            max_file_size=LARGEST,
            on_upload=chosen,
            on_rejected=lambda: ui.notify(
                f"A file of the Playground has {LARGEST // 2**20} MiB at most.", type="warning"
            ),
        ).classes("w-full")
        parts.give(upload.props("flat bordered"), aria_label=field.name)
        if field.media_type:
            parts.give(upload, accept=field.media_type)
