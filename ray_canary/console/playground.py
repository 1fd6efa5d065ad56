"""The Playground page: ask a version, or two side by side, and see why a request goes where it goes."""

import asyncio
import difflib
from collections.abc import Callable
from typing import Any, Final

from nicegui import run, ui

from ray_canary.console import acting, asking, parts, result, snippets
from ray_canary.console.asking import Answer, Target
from ray_canary.console.desk import Desk
from ray_canary.console.form import Form
from ray_canary.console.schema import Endpoint, endpoints
from ray_canary.errors import ConfigError, RayCanaryError
from ray_canary.explaining import explain
from ray_canary.plan import MAIN
from ray_canary.serving.state import Live

#: What stands for no version in particular.
SPLIT: Final = ""
#: Seconds between two drawings of an answer that is still coming.
EVERY_S: Final = 0.1
#: Seconds between two looks at the split.
LOOK_EVERY_S: Final = 3.0
#: Lines of each answer that are compared: more would hold the whole console up.
_COMPARED: Final = 1000


async def show(desk: Desk, name: str) -> None:
    """Show the page of one Deployment."""
    try:
        found = await run.io_bound(acting.live, desk, name)
    except RayCanaryError as error:
        parts.alert(str(error))
        return
    if found is not None:
        await _Page(desk, found).begin()


class _Page:
    """One open page."""

    def __init__(self, desk: Desk, live: Live) -> None:
        self._desk = desk
        self._live = live
        self._split = live.settings.split
        self._form: Form | None = None
        self._endpoints: dict[str, Endpoint] = {}
        self._sending: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Draw everything."""
        keys = list(self._live.targets)
        names = {SPLIT: "as the split decides", **{key: "main (production)" if key == MAIN else key for key in keys}}
        with ui.row().classes("w-full items-end gap-4"):
            self._version = ui.select(names, value=SPLIT, label="Version").classes("w-56")
            self._compare = ui.checkbox("Compare with")
            self._other = ui.select({key: names[key] for key in keys}, value=keys[-1], label="Other version").classes(
                "w-56"
            )
            self._other.bind_visibility_from(self._compare, "value")
            self._token = ui.input("Access token", password=True).props("autocomplete=off").classes("w-96")
        ui.label(
            f"To ask a certain version takes an access token: ray-canary token create --deployment {self._live.name}. "
            "It stays in this page."
        ).classes("text-sm opacity-70")
        self._key_field()
        with ui.row().classes("w-full items-end gap-4"):
            self._endpoint = ui.select({}, label="API").classes("w-72")
            self._trouble = ui.column()
        with ui.row().classes("w-full gap-4 items-start no-wrap max-md:flex-wrap"):
            with ui.card().classes("w-full min-w-0"):
                self._request()
            with ui.column().classes("w-full min-w-0 gap-4"):
                self._results = ui.row().classes("w-full gap-4 items-start no-wrap max-md:flex-wrap")
                self._difference = ui.column().classes("w-full")
        self._version.on_value_change(self._load)
        self._token.on("blur", self._load)
        self._compare.on_value_change(self._changed)
        self._other.on_value_change(self._changed)
        self._endpoint.on_value_change(self._chosen)
        ui.timer(LOOK_EVERY_S, self._look)
        await self._load()

    async def _look(self) -> None:
        """Explain the split that is in force now, not the one that was when the page was opened."""
        try:
            found = await run.io_bound(acting.live, self._desk, self._live.name)
        except RayCanaryError:
            return  # What is sent now says so better.
        if found is None or parts.gone(self._endpoint) or found == self._live:
            return
        self._live = found
        if self._key is not None:
            self._explain()

    # The split's key. ------------------------------------------------------------------------------------------------

    def _key_field(self) -> None:
        if self._split.route_type == "random":
            ui.label("Requests are split at random: no request has a key.")
            self._key = None
            return
        what = "header" if self._split.route_type == "header" else "query parameter"
        with ui.row().classes("w-full items-end gap-4"):
            self._key = ui.input(f"Key: the value of {what} {self._split.route_by}").classes("w-96")
            self._why = ui.label().props('role="status" data-area="why"')
        self._key.on_value_change(self._explain)
        self._explain()

    def _explain(self) -> None:
        assert self._key is not None
        key = str(self._key.value or "")
        told = explain(self._live, key=key)
        if told["version"] is None:
            self._why.set_text("Without a key, a request is split at random by the same weights.")
        else:
            scores = ", ".join(f"{name} {score:.4g}" for name, score in told["scores"].items())
            answers = told["answers"]
            ends = "" if answers == told["version"] else f", which is not ready: {answers or 'nobody'} answers"
            self._why.set_text(f"Goes to {told['version']}{ends}. The lowest score wins: {scores}.")
        self._changed()

    # The request. ----------------------------------------------------------------------------------------------------

    def _target(self, version: str | None) -> Target:
        key = str(self._key.value or "") if self._key is not None else ""
        pair = (str(self._split.route_by), key) if key else None
        by_header = self._split.route_type == "header"
        token = str(self._token.value or "").strip()
        return Target(self._live.url, version or None, pair if by_header else None, None if by_header else pair, token)

    async def _load(self) -> None:
        """Read the APIs of the chosen version from the Bento itself."""
        self._trouble.clear()
        try:
            found = endpoints(await asking.schema(self._target(self._version.value)))
        except ValueError as error:
            if parts.gone(self._endpoint):
                return
            self._endpoints = {}
            with self._trouble:
                parts.alert(f"Its APIs can't be read: {error}")
            self._endpoint.set_options({}, value=None)
            return
        if parts.gone(self._endpoint):
            return
        self._endpoints = {one.name: one for one in found}
        labels = {
            one.name: f"{one.name}{' (task)' if one.task else ''}{' (stream)' if one.streams else ''}" for one in found
        }
        kept = self._endpoint.value if self._endpoint.value in labels else next(iter(labels), None)
        self._endpoint.set_options(labels, value=kept)
        if self._form is None or self._form.endpoint != self._endpoints.get(str(kept)):
            self._chosen()

    def _request(self) -> None:
        with ui.tabs() as tabs:
            form, python, curl = (ui.tab(each) for each in ("Form", "Python", "cURL"))
        with ui.tab_panels(tabs, value=form).classes("w-full"):
            with ui.tab_panel(form):
                self._fields = ui.column().classes("w-full")
            with ui.tab_panel(python):
                self._python = parts.Code()
            with ui.tab_panel(curl):
                self._curl = parts.Code()
        with ui.row():
            self._send_button = ui.button("Send", on_click=self._send)
            self._cancel_button = ui.button("Cancel", on_click=self._cancel).props("flat")
            self._cancel_button.set_enabled(False)

    def _chosen(self) -> None:
        """Draw the form of the chosen API."""
        self._fields.clear()
        endpoint = self._endpoints.get(str(self._endpoint.value))
        self._form = None
        if endpoint is not None:
            with self._fields:
                self._form = Form(endpoint, self._changed)
        self._changed()

    def _changed(self) -> None:
        """Write the code anew."""
        if self._form is None:
            return
        try:
            body = self._form.body()
        except ConfigError as error:
            self._python.show(f"# {error}")
            self._curl.show(f"# {error}")
            return
        target = self._target(self._version.value)
        for code, write in ((self._python, snippets.python), (self._curl, snippets.curl)):
            code.show(write(target.at(self._form.endpoint.route), target.headers, body, bool(target.token)))

    # The answer. -----------------------------------------------------------------------------------------------------

    async def _send(self) -> None:
        if self._form is None:
            return
        try:
            body = self._form.body()
        except ConfigError as error:
            ui.notify(str(error), type="warning")
            return
        route = self._form.endpoint.route
        versions = [self._version.value, *([self._other.value] if self._compare.value else [])]
        answers = [Answer() for _ in versions]
        self._results.clear()
        self._difference.clear()
        with self._results:
            draws = [result.area(version or "", answer) for version, answer in zip(versions, answers, strict=True)]

        async def ask(version: str, answer: Answer, draw: Callable[[], None]) -> None:
            drawn = 0.0
            loop = asyncio.get_running_loop()
            async for _ in asking.send(self._target(version), "POST", route, body, answer):
                if parts.gone(self._results):
                    return
                if loop.time() - drawn > EVERY_S:
                    draw()
                    drawn = loop.time()
            draw()

        both = asyncio.gather(*(ask(*each) for each in zip(versions, answers, draws, strict=True)))
        self._sending = asyncio.ensure_future(_until_done(both))
        self._send_button.set_enabled(False)
        self._cancel_button.set_enabled(True)
        try:
            await self._sending
        except asyncio.CancelledError:
            for answer, draw in zip(answers, draws, strict=True):
                answer.failure = answer.failure or "cancelled"
                draw()
        finally:
            self._send_button.set_enabled(True)
            self._cancel_button.set_enabled(False)
        if len(answers) == 2:
            with self._difference:
                _difference([version or "the split's" for version in versions], answers)

    def _cancel(self) -> None:
        if self._sending is not None:
            self._sending.cancel()


async def _until_done(work: "asyncio.Future[Any]") -> None:
    await work


def _difference(names: list[str], answers: list[Answer]) -> None:
    """Draw what differs between two answers, as a text."""
    one, other = (result.readable(answer)[: result.SHOWN].splitlines()[:_COMPARED] for answer in answers)
    ui.label("Difference").classes("font-semibold").props('role="heading" aria-level="2"')
    lines = list(difflib.unified_diff(one, other, names[0], names[1], lineterm=""))
    if lines:
        difference = ui.label("\n".join(lines)).props('data-area="difference"')
        difference.classes("w-full whitespace-pre-wrap break-words font-mono text-sm")
    else:
        ui.label("The answers are the same.").props('data-area="difference"')
    first, second = (answer.took_s or 0.0 for answer in answers)
    ui.label(f"{names[0]} took {1000 * first:.0f} ms, {names[1]} {1000 * second:.0f} ms.")
