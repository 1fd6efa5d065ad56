"""The console's pages: the list of Deployments, and one page for each."""

from nicegui import ui

from ray_canary.console import status
from ray_canary.console.desk import Desk


def add(desk: Desk) -> None:
    """Add the pages to NiceGUI."""

    @ui.page("/", title="Deployments · ray-canary")
    async def listing() -> None:
        await status.show_all(desk)

    @ui.page("/deployments/{name}")
    async def deployment(name: str) -> None:
        ui.page_title(f"{name} · ray-canary")
        ui.link("All Deployments", "/")
        await status.show(desk, name)
