"""The Configuration page: edit a Deployment, see what saving would do, save, and go back to what was."""

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from nicegui import run, ui

from ray_canary.console import acting, parts
from ray_canary.console.desk import Desk
from ray_canary.console.draft import Draft
from ray_canary.console.editor import Editor
from ray_canary.errors import RayCanaryError
from ray_canary.history import History
from ray_canary.preview import Preview, restarts_in_words, weights_in_words
from ray_canary.screens import moment
from ray_canary.serving.changes import Effect
from ray_canary.serving.rollout import Progress

#: Lines of progress that are shown at most, and seconds between two looks for new ones.
_LINES = 200
_EVERY_S = 0.3


async def show(desk: Desk, name: str) -> None:
    """Show the page of one Deployment."""
    await _Page(desk, name).begin()


class _Page:
    """One open page: its draft, and the plan that was shown last."""

    def __init__(self, desk: Desk, name: str) -> None:
        self._desk = desk
        self._name = name
        self._seen: dict[str, Any] | None = None
        self._busy = False
        self._area = ui.column().classes("w-full gap-4")

    async def begin(self) -> None:
        """Read what is there, and draw it; a draft that was begun is given up."""
        self._area.clear()
        with self._area:
            try:
                found = await run.io_bound(acting.live, self._desk, self._name)
                choices = await run.io_bound(acting.Choices.here)
            except RayCanaryError as error:
                parts.alert(str(error))
                return
            if found is None or choices is None or parts.gone(self._area):
                return  # The console is being ended, or the page has been left.
            self._draft = Draft(found.file())
            self._seen = None
            self._editor = Editor(self._draft, choices, acting.services(found), self._edited)
            self._token = ui.input("Access token", password=True).classes("w-96")
            self._token.props("autocomplete=off").set_visibility(found.settings.access_authorization)
            with ui.row().classes("items-center gap-4"):
                self._plan_button = ui.button("Show what saving would change", on_click=self._plan)
                self._save_button = ui.button("Save", on_click=self._save).props("color=positive")
                ui.button("Give the draft up", on_click=self.begin).props("flat")
            self._planned = ui.column().classes("w-full gap-2").props('aria-live="polite" data-area="plan"')
            self._progress = ui.column().classes("w-full gap-0 font-mono").props('aria-live="polite"')
            self._code()
            self._revisions = ui.column().classes("w-full")
        self._edited()
        await self._draw_revisions()

    def _edited(self) -> None:
        """What was planned is not what there is now."""
        if not hasattr(self, "_planned"):
            return  # The form is being drawn for the first time.
        stale = self._seen != self._draft.data
        if stale:
            self._planned.clear()
        ready = self._draft.changed and not self._editor.wrong and not self._busy
        self._plan_button.set_enabled(ready)
        self._save_button.set_enabled(ready and not stale)
        self._yaml.show(self._draft.yaml())
        self._python.show(self._draft.python())
        self._shell.show(self._draft.shell())

    def _code(self) -> None:
        with ui.expansion("As a file, in Python and in a shell").classes("w-full"):
            with ui.tabs() as tabs:
                names = [ui.tab(each) for each in ("YAML", "Python", "Shell")]
            with ui.tab_panels(tabs, value=names[0]).classes("w-full"):
                shown = []
                for tab in names:
                    with ui.tab_panel(tab):
                        shown.append(parts.Code())
            self._yaml, self._python, self._shell = shown

    async def _plan(self) -> None:
        wanted = Draft(self._draft.data).data
        self._planned.clear()
        with self._planned:
            ui.spinner()
        try:
            found = await run.io_bound(acting.previewed, self._desk, wanted)
        except RayCanaryError as error:
            if parts.gone(self._planned):
                return
            self._planned.clear()
            with self._planned:
                parts.alert(str(error))
            weights = self._draft.only_weights()
            if weights is None:
                return
            found = None
            with self._planned:
                ui.label("Only weights change: they can be saved all the same. No replica restarts.")
        else:
            if found is None or parts.gone(self._planned):
                return
            self._planned.clear()
            with self._planned:
                _preview(found)
        self._seen = wanted
        self._edited()

    async def _save(self) -> None:
        draft = Draft(self._draft.base)
        draft.data = Draft(self._draft.data).data

        def save(report: Callable[[Iterable[Progress]], None], notice: Callable[[str], None]) -> None:
            acting.save(self._desk, draft, str(self._token.value or ""), report, notice)

        await self._change(save, "Saved: it is in force on every ingress replica.")

    async def _change(self, change: Callable[..., None], done: str) -> None:
        """Change the Deployment, and show how far it is, until it is done or has failed."""
        lines: deque[str] = deque(maxlen=_LINES)
        seen: dict[str, str] = {}

        def report(parts: Iterable[Progress]) -> None:
            for part in parts:
                line = f"{part.part}: {part.status} ({part.running} of {part.wanted} replicas)"
                if part.trouble:
                    line += f": {part.trouble}"
                if seen.get(part.part) != line:
                    seen[part.part] = line
                    lines.append(line)

        self._busy = True
        self._revisions.set_visibility(False)  # The next change waits for this one.
        self._edited()
        self._progress.clear()
        timer = ui.timer(_EVERY_S, lambda: self._tell(lines))
        try:
            await run.io_bound(change, report, lines.append)
        except RayCanaryError as error:
            if parts.gone(self._area):
                return
            self._tell(lines)
            with self._progress:
                parts.alert(str(error))
        else:
            if parts.gone(self._area):
                return
            with self._area:
                ui.notify(done, type="positive")
            await self.begin()
        finally:
            timer.cancel()
            self._busy = False
            self._revisions.set_visibility(True)
            self._edited()

    def _tell(self, lines: deque[str]) -> None:
        while lines:
            with self._progress:
                ui.label(lines.popleft()).classes("whitespace-pre-wrap")

    async def _draw_revisions(self) -> None:
        try:
            found = await run.io_bound(acting.history, self._desk, self._name)
        except RayCanaryError as error:
            with self._revisions:
                parts.alert(f"Revisions can't be read: {error}")
            return
        if found is None or parts.gone(self._revisions):
            return
        with self._revisions:
            _revisions(found, self._ask_for_rollback)

    async def _ask_for_rollback(self, found: History, number: int) -> None:
        """Show what a rollback would change, and do it if that is wanted."""
        with ui.dialog() as dialog, ui.card().classes("max-w-3xl"):
            ui.label(f"Roll back to revision {number}?").classes("text-lg").props('role="heading" aria-level="2"')
            rows = acting.what_differs(found, number)
            if rows:
                parts.table(
                    "What changes",
                    ("Key", "Now", "Then"),
                    [(path, _said(was), _said(then)) for path, was, then in rows],
                )
            ui.label("What still runs is kept as it is. What is gone starts first, and then gets its share.")
            with ui.row():
                ui.button("Roll back", on_click=lambda: dialog.submit(True))
                ui.button("Cancel", on_click=lambda: dialog.submit(False)).props("flat")
        if not await dialog:
            return

        def roll_back(report: Callable[[Iterable[Progress]], None], notice: Callable[[str], None]) -> None:
            acting.roll_back(self._desk, self._name, number, str(self._token.value or ""), report, notice)

        await self._change(roll_back, f"{self._name} is back at revision {number}.")


def _preview(found: Preview) -> None:
    """Show what saving would do: which replicas restart, whose users move."""
    ui.label(restarts_in_words(found.changes))
    if found.weights is not None:
        ui.label(weights_in_words(found.weights))
    changed = [change for change in found.changes if change.effect is not Effect.NONE]
    if changed:
        rows = [(one.application, one.deployment, one.effect.value, ", ".join(one.because)) for one in changed]
        parts.table("On the cluster", ("Application", "Deployment", "Effect", "Because of"), rows)
    if found.drift:
        keys = [(path, _said(there), _said(here)) for path, there, here in found.drift]
        parts.table("In the file", ("Key", "Now", "Then"), keys)
    for sentence in (*((found.too_small,) if found.too_small else ()), *found.stuck, *found.plan.warnings):
        ui.label(sentence).classes("text-amber-700 dark:text-amber-300")


def _revisions(found: History, roll_back: Callable[[History, int], Awaitable[None]]) -> None:
    ui.label("Revisions").classes("text-lg font-semibold").props('role="heading" aria-level="2"')
    with ui.element("table").classes("w-full text-left"):
        with ui.element("thead"), ui.element("tr"):
            for column in ("Revision", "Split", "Created by", "Created at (UTC)", "Cause", ""):
                with ui.element("th").props('scope="col"').classes("pr-4 py-1"):
                    ui.label(column)
        with ui.element("tbody"):
            for one in reversed(found.revisions):
                shares = ", ".join(f"{key} {share}" for key, share in one.release.settings.split.shares().items())
                with ui.element("tr").classes("border-t border-slate-300 dark:border-slate-700"):
                    for text in (one.number, shares, one.created_by, moment(one.created_at), one.cause):
                        with ui.element("td").classes("pr-4 py-1"):
                            ui.label(str(text))
                    with ui.element("td").classes("py-1"):
                        if one.number == found.active:
                            ui.label("deployed")
                        else:
                            _rollback_button(found, one.number, roll_back)


def _rollback_button(found: History, number: int, roll_back: Callable[[History, int], Awaitable[None]]) -> None:
    async def clicked() -> None:
        await roll_back(found, number)

    ui.button("Roll back", on_click=clicked).props(f'flat dense aria-label="Roll back to revision {number}"')


def _said(value: Any) -> str:
    return "-" if value is None else str(value)
