"""The console's pages: the list of Deployments, and for each of them one page per tab."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

from nicegui import ui

from ray_canary.console import configuration, monitoring, playground, status
from ray_canary.console.desk import Desk

#: Draws one tab of a Deployment's page.
Show = Callable[[Desk, str], Awaitable[None]]

#: What a Deployment's page has, by the last part of its address.
TABS: Final[dict[str, Show]] = {
    "status": status.show,
    "playground": playground.show,
    "monitoring": monitoring.show,
    "configuration": configuration.show,
}

#: The cookie that keeps whether somebody wants dark or light pages.
_LOOK: Final = "ray_canary_look"
#: How long a page may take to be made, seconds, and a browser to answer: a busy cluster says nothing for a while.
PATIENCE_S: Final = 30.0


def add(desk: Desk) -> None:
    """Add the pages to NiceGUI."""

    @ui.page("/", title="Deployments · ray-canary", response_timeout=PATIENCE_S)
    async def listing() -> None:
        with _frame():
            await status.show_all(desk)

    @ui.page("/deployments/{name}", response_timeout=PATIENCE_S)
    async def deployment(name: str) -> None:
        await tab(name, next(iter(TABS)))

    @ui.page("/deployments/{name}/{chosen}", response_timeout=PATIENCE_S)
    async def tab(name: str, chosen: str) -> None:
        ui.page_title(f"{name} {chosen} · ray-canary")
        with _frame(name, chosen):
            if chosen not in TABS:
                ui.label(f"There is no page {chosen!r}; there are: {', '.join(TABS)}.").props('role="alert"')
                return
            await TABS[chosen](desk, name)


def _chosen_look() -> bool | None:
    """Return whether this browser's user has chosen dark or light; None leaves it to the browser."""
    return {"dark": True, "light": False}.get(ui.context.client.request.cookies.get(_LOOK, ""))


@contextmanager
def _frame(name: str | None = None, chosen: str | None = None) -> Iterator[None]:
    """Draw what all pages have, and within it what the caller draws."""
    dark = ui.dark_mode(_chosen_look())
    ui.colors(primary="#2563eb")
    with ui.header().classes("items-center bg-slate-50 text-slate-900 dark:bg-slate-900 dark:text-slate-100 border-b"):
        ui.link("ray-canary", "/").classes("text-lg font-semibold no-underline text-inherit")
        if name is not None:
            ui.label(name).props('role="heading" aria-level="1"').classes("text-lg")
            with ui.row().classes("gap-1").props('role="navigation" aria-label="Pages of the Deployment"'):
                for each in TABS:
                    now = ' aria-current="page"' if each == chosen else ""
                    link = ui.link(each.capitalize(), f"/deployments/{name}/{each}").props(now)
                    link.classes("px-3 py-1 rounded no-underline text-inherit")
                    link.classes("hover:bg-slate-200 dark:hover:bg-slate-700")
                    if now:
                        link.classes("bg-slate-200 dark:bg-slate-700")
        ui.space()

        async def switch() -> None:
            is_dark = "document.body.classList.contains('body--dark')"
            now = not await ui.run_javascript(is_dark, timeout=PATIENCE_S)
            cookie = f"{_LOOK}={'dark' if now else 'light'}; path=/; max-age=31536000; samesite=strict"
            # Before the page changes: who has seen that it did may leave at once.
            await ui.run_javascript(f"document.cookie = '{cookie}'", timeout=PATIENCE_S)
            dark.set_value(now)

        ui.button(icon="contrast", on_click=switch).props('flat round aria-label="Light or dark"')
    with ui.column().classes("w-full max-w-screen-xl mx-auto gap-4").props('role="main"'):
        yield
