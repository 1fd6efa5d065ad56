"""The console's pages: the list of Deployments, and one page with tabs for each."""

from nicegui import run, ui

from ray_canary.console import configuration, monitoring, playground, status
from ray_canary.console.desk import Desk

TABS = {
    "Playground": playground.show,
    "Monitoring": monitoring.show,
    "Configuration": configuration.show,
    "Status": status.show,
}


def add(desk: Desk) -> None:
    """Add the pages to NiceGUI."""

    @ui.page("/")
    async def listing() -> None:
        lives = await run.io_bound(lambda: desk.cluster().state().live())
        for name in sorted(lives or {}):
            ui.link(name, f"/deployments/{name}")

    @ui.page("/deployments/{name}")
    async def deployment(name: str, tab: str = "Playground") -> None:
        with ui.tabs() as tabs:
            for title in TABS:
                ui.tab(title)
        with ui.tab_panels(tabs, value=tab if tab in TABS else "Playground").classes("w-full"):
            for title, show in TABS.items():
                with ui.tab_panel(title):
                    await show(desk, name)
