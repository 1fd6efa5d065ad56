"""The tab `Monitoring` of a Deployment's page."""

from nicegui import ui

from ray_canary.console.desk import Desk


async def show(desk: Desk, name: str) -> None:
    """Show it, inside the panel that is open."""
    ui.label(f"monitoring of {name}")
