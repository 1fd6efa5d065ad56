"""The form of the Configuration page: it shows a draft, and every change of a field is an edit of it."""

from collections.abc import Callable, Mapping
from typing import Any

from nicegui import ui
from nicegui.events import ValueChangeEventArguments

from ray_canary.console import parts
from ray_canary.console.acting import Choices
from ray_canary.console.draft import ROUTE_TYPES, Draft, envs_of, envs_text
from ray_canary.plan import MAIN

#: What a field that leaves a setting to main or to the default shows.
INHERITED = "as main"
DEFAULT = "default"


class _Slider(ui.slider):
    """A slider that moves at once, not when the console has answered: by then the next key may have been pressed."""

    LOOPBACK = False


class Editor:
    """Fields for what BentoCloud's page has; keys of the file that it doesn't show stay as they are."""

    def __init__(
        self, draft: Draft, choices: Choices, services: Mapping[str, tuple[str, ...]], changed: Callable[[], None]
    ) -> None:
        """Draw the form where the caller is drawing; `changed` is called after each edit."""
        self._draft = draft
        self._choices = choices
        self._services = services
        self._changed = changed
        #: What is wrong in which field; nothing can be saved before it is right.
        self.wrong: dict[str, str] = {}
        self._area = ui.column().classes("w-full gap-4")
        self.draw()

    def draw(self) -> None:
        """Draw everything anew: after versions have come or gone."""
        self._weights: dict[str, tuple[ui.slider, ui.number]] = {}
        self.wrong.clear()
        self._area.clear()
        with self._area:
            self._split()
            for key in self._draft.targets:
                self._target(key)
            self._adding()
        self._weights_changed()

    def _edited(self, redraw: bool = False) -> None:
        if redraw:
            self.draw()
        self._changed()

    def _split(self) -> None:
        draft = self._draft
        with ui.card().classes("w-full"), ui.row().classes("items-center gap-6 w-full"):
            canary = ui.switch("Canary mode", value=bool(draft.versions)).props('aria-label="Canary mode"')
            canary.on_value_change(lambda event: self._canary(bool(event.value), canary))
            if not draft.versions:
                ui.label("Every request goes to main. Add a version to begin.")
                return
            route = ui.select(list(ROUTE_TYPES), value=draft.route_type, label="Requests are split by").classes("w-48")
            by = ui.input("Name of the header or query parameter", value=draft.route_by).classes("w-72")
            by.set_enabled(draft.route_type != "random")

            def routed(_: ValueChangeEventArguments[Any]) -> None:
                by.set_enabled(route.value != "random")
                draft.route(str(route.value), str(by.value or "").strip())
                self._edited()

            route.on_value_change(routed)
            by.on_value_change(routed)

    def _canary(self, on: bool, switch: ui.switch) -> None:
        if on or not self._draft.versions:
            switch.set_value(bool(self._draft.versions))
            return
        self._draft.canary_off()
        self._edited(redraw=True)

    def _target(self, key: str) -> None:
        draft = self._draft
        with parts.give(ui.card().classes("w-full"), role="group", aria_label=f"Version {key}"):
            with ui.row().classes("items-center w-full gap-4"):
                ui.label(key).classes("text-lg font-semibold w-24").props('role="heading" aria-level="2"')
                tags = list(dict.fromkeys((draft.bento(key), *self._choices.bentos)))
                bento = ui.select(tags, value=draft.bento(key), label=f"Bento of {key}", with_input=True)
                bento.classes("w-96").on_value_change(lambda event: self._bento(key, event.value))
                self._weight(key)
                if key != MAIN:
                    remove = ui.button(icon="delete", on_click=lambda: self._remove(key))
                    parts.give(remove.props("flat round"), aria_label=f"Remove version {key}")
            with ui.expansion("Instances, scaling and environment").classes("w-full"):
                for service in self._known_services(key):
                    self._service(key, service)

    def _bento(self, key: str, tag: Any) -> None:
        if tag:
            self._draft.set_bento(key, str(tag))
            self._edited()

    def _remove(self, key: str) -> None:
        self._draft.remove(key)
        self._edited(redraw=True)

    def _weight(self, key: str) -> None:
        """Draw a slider and a field that can't make the sum exceed 100; main has neither, but the rest."""
        share = self._draft.shares()[key]
        if key == MAIN:
            self._rest = ui.label().classes("w-24").props('aria-live="polite" data-weight="main"')
            return
        slider = _Slider(min=0, max=100, step=1, value=share).classes("w-64")
        parts.give(slider.props("label"), aria_label=f"Slider of the weight of {key}")
        field = ui.number("Weight", value=share, min=0, max=100, step=1, suffix="%").classes("w-24")
        parts.give(field, aria_label=f"Weight of {key} in percent", data_weight=key)
        for one in (slider, field):
            one.on_value_change(lambda event: self._weigh(key, event.value))
        self._weights[key] = (slider, field)

    def _weigh(self, key: str, value: Any) -> None:
        if value is None:
            return  # The field is empty while somebody types.
        held = self._draft.weigh(key, int(value))
        for one in self._weights[key]:
            if one.value != held:
                one.set_value(held)
                one.update()  # Who typed the value isn't told of another one otherwise.
        self._weights_changed()
        self._edited()

    def _weights_changed(self) -> None:
        self._rest.set_text(f"{self._draft.shares()[MAIN]} %")

    def _known_services(self, key: str) -> tuple[str, ...]:
        """Return the Bento services of a target; those of a new version are taken to be main's."""
        named = self._draft.target(key).get("services") or {}
        return tuple(dict.fromkeys((*self._services.get(key, self._services.get(MAIN, ())), *named)))

    def _service(self, key: str, service: str) -> None:
        said = self._draft.service(key, service)
        unsaid = DEFAULT if key == MAIN else INHERITED
        whose = f"{service} of {key}"
        with ui.row().classes("items-start gap-4 w-full"):
            ui.label(service).classes("w-40 pt-4")
            names: dict[str | None, str] = {None: unsaid, **{name: name for name in self._choices.instance_types}}
            there = said.get("instance_type")
            if there is not None:
                names.setdefault(there, there)
            chosen = ui.select(names, value=there, label="Instance type").props(
                f'aria-label="Instance type of {whose}"'
            )
            chosen.classes("w-44").on_value_change(
                lambda event: self._set(lambda: self._draft.set_instance_type(key, service, event.value))
            )
            for bound in ("min_replicas", "max_replicas"):
                self._bound(key, service, bound, (said.get("scaling") or {}).get(bound), unsaid)
            self._envs(key, service, list(said.get("envs") or ()))

    def _bound(self, key: str, service: str, bound: str, value: int | None, unsaid: str) -> None:
        field = ui.number(bound.replace("_", " "), value=value, min=0, step=1, placeholder=unsaid).classes("w-36")
        parts.give(field.props("clearable stack-label"), aria_label=f"{bound} of {service} of {key}")
        field.without_auto_validation()

        def edited(event: ValueChangeEventArguments[Any]) -> None:
            number = event.value
            whole_number = number is None or number == number // 1
            field.error = None if whole_number else f"{number} is not a whole number"
            if not whole_number:
                self._set(lambda: None, f"{key}.{service}.{bound}", f"{number} is not a whole number")
                return
            whole = None if number is None else int(number)
            self._set(lambda: self._draft.set_scaling(key, service, bound, whole), f"{key}.{service}.{bound}")

        field.on_value_change(edited)

    def _envs(self, key: str, service: str, envs: list[dict[str, Any]]) -> None:
        try:
            text = envs_text(envs)
        except ValueError as error:
            ui.label(f"Environment: {error}; edit it in the file.").classes("pt-4")
            return
        field = ui.textarea("Environment: NAME=value on each line", value=text).classes("w-80")
        parts.give(field.props("autogrow spellcheck=false"), aria_label=f"Environment of {service} of {key}")
        field.without_auto_validation()
        place = f"{key}.{service}.envs"

        def edited(event: ValueChangeEventArguments[Any]) -> None:
            try:
                read = envs_of(str(event.value or ""))
            except ValueError as error:
                field.error = str(error)
                self._set(lambda: None, place, str(error))
                return
            field.error = None
            self._set(lambda: self._draft.set_envs(key, service, read), place)

        field.on_value_change(edited)

    def _set(self, edit: Callable[[], None], place: str = "", wrong: str = "") -> None:
        self.wrong.pop(place, None)
        if wrong:
            self.wrong[place] = wrong
        else:
            edit()
        self._edited()

    def _adding(self) -> None:
        with ui.card().classes("w-full"), ui.row().classes("items-center gap-4"):
            ui.label("New version").classes("text-lg font-semibold").props('role="heading" aria-level="2"')
            key = ui.input("Its key, like b").classes("w-32")
            tags = list(self._choices.bentos)
            bento = ui.select(tags, label="Its Bento", with_input=True).classes("w-96")

            def add() -> None:
                name = str(key.value or "").strip()
                if not name or not bento.value:
                    ui.notify("Give the new version a key and a Bento.", type="warning")
                    return
                try:
                    self._draft.add(name, str(bento.value))
                except ValueError as error:
                    ui.notify(f"{error}.", type="warning")
                    return
                self._edited(redraw=True)

            ui.button("Add at weight 0", on_click=add).props("outline")
            if not tags:
                ui.label("This machine's Bento store is empty: build a Bento, or set BENTOML_HOME.")
