"""What the cluster has of the Deployments now: versions, shares, replicas, last errors; looked at again and again."""

from collections.abc import Callable
from typing import Any

from nicegui import run, ui

from ray_canary.console import parts
from ray_canary.console.desk import Desk
from ray_canary.description import describe
from ray_canary.errors import ClusterError
from ray_canary.screens import moment
from ray_canary.serving.state import Live

#: Seconds between two looks at the cluster.
EVERY_S = 2.0


async def show_all(desk: Desk) -> None:
    """Show every Deployment on the cluster."""
    ui.label("Deployments").classes("text-2xl").props('role="heading" aria-level="1"')

    def draw(lives: dict[str, Live]) -> None:
        if not lives:
            ui.label("There is no Deployment on this cluster. Make one: ray-canary deploy FILE")
        with ui.grid(columns="auto auto 1fr").classes("gap-x-8 gap-y-2 items-baseline"):
            for name in sorted(lives):
                ui.link(name, f"/deployments/{name}").classes("font-semibold")
                ui.label(lives[name].status)
                ui.label(_shares(lives[name]))

    await _kept_up(desk, draw)


async def show(desk: Desk, name: str) -> None:
    """Show one Deployment: its versions, and every replica of them."""

    def draw(lives: dict[str, Live]) -> None:
        if name in lives:
            _deployment(describe(lives[name]))
        else:
            parts.alert(f"There is no Deployment {name!r} on this cluster.")

    await _kept_up(desk, draw)


async def _kept_up(desk: Desk, draw: Callable[[dict[str, Live]], None]) -> None:
    """Draw what is on the cluster, and again whenever it has changed; say so if it can't be reached."""
    shown: list[str] = []
    area = ui.column().classes("w-full")

    async def look() -> None:
        failure = ""
        try:
            lives = await run.io_bound(lambda: desk.cluster().state().live())
        except ClusterError as error:
            lives, failure = {}, str(error)
        if lives is None or parts.gone(area):
            return  # The console is being ended, or the page has been left.
        seen = failure or repr({name: describe(live) for name, live in lives.items()})
        if shown == [seen]:
            return
        shown[:] = [seen]
        area.clear()
        with area:
            if failure:
                parts.alert(failure)
            else:
                draw(lives)

    await look()
    ui.timer(EVERY_S, look)


def _shares(live: Live) -> str:
    if live.rejected:
        return "its ingress refuses its user_config"
    return ", ".join(f"{key} {share} %" for key, share in live.settings.split.shares().items())


def _deployment(about: dict[str, Any]) -> None:
    """Draw what `describe` says of one Deployment."""
    ui.label(f"{about['status']['status']} · {', '.join(about['endpoint_urls'])}")
    if rejected := about["split"].get("rejected"):
        parts.alert(f"The ingress refuses its user_config: {rejected}")
        return
    split = about["split"]
    by = f" ({split['route_by']})" if split["route_by"] else ""
    ui.label(f"Requests are split by {split['route_type']}{by}.")
    targets: dict[str, dict[str, Any]] = about["targets"]
    parts.table(
        "Versions",
        ("Version", "Bento", "Weight", "In force", "Status", "Ready replicas"),
        [
            (
                key,
                target["bento"],
                f"{target['weight']} %",
                f"{target['effective_weight']} %",
                target["status"],
                sum(replica["state"] == "RUNNING" for replica in target["replicas"]),
            )
            for key, target in targets.items()
        ],
    )
    of = [(key, target["replicas"]) for key, target in targets.items()] + [("ingress", about["ingress"]["replicas"])]
    parts.table(
        "Replicas",
        ("Of", "Replica", "State", "Process", "Node", "Started (UTC)"),
        [
            (
                whose,
                one["id"],
                one["state"].lower(),
                one["pid"] or "-",
                one["node_id"][:8] or "-",
                moment(one["started_at"]) if one["started_at"] else "-",
            )
            for whose, replicas in of
            for one in replicas
        ],
    )
    for key, target in targets.items():
        if target["message"]:
            parts.alert(f"{key}: {target['message']}")
