"""What the cluster has of the Deployments now: versions, shares, replicas, last errors; looked at again and again."""

from collections.abc import Callable
from typing import Any

from nicegui import run, ui

from ray_canary.console.desk import Desk
from ray_canary.description import describe
from ray_canary.errors import ClusterError
from ray_canary.serving.state import Live

#: Seconds between two looks at the cluster.
EVERY_S = 2.0


async def show_all(desk: Desk) -> None:
    """Show every Deployment on the cluster."""
    ui.label("Deployments").classes("text-2xl").props('role="heading" aria-level="1"')

    def draw(lives: dict[str, Live]) -> None:
        if not lives:
            ui.label("There is no Deployment on this cluster. Make one: ray-canary deploy FILE")
        for name in sorted(lives):
            with ui.row().classes("items-center"):
                ui.link(name, f"/deployments/{name}")
                ui.label(lives[name].status)

    await _kept_up(desk, draw)


async def show(desk: Desk, name: str) -> None:
    """Show one Deployment: its versions, and every replica of them."""
    ui.label(name).classes("text-2xl").props('role="heading" aria-level="1"')

    def draw(lives: dict[str, Live]) -> None:
        if name in lives:
            _deployment(describe(lives[name]))
        else:
            ui.label(f"There is no Deployment {name!r} on this cluster.").props('role="alert"')

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
        if lives is None:
            return  # The console is being ended.
        seen = failure or repr({name: describe(live) for name, live in lives.items()})
        if shown == [seen]:
            return
        shown[:] = [seen]
        area.clear()
        with area:
            if failure:
                ui.label(failure).classes("text-red-600 dark:text-red-400").props('role="alert"')
            else:
                draw(lives)

    await look()
    ui.timer(EVERY_S, look)


def _deployment(about: dict[str, Any]) -> None:
    """Draw what `describe` says of one Deployment."""
    ui.label(f"{about['status']['status']} · {', '.join(about['endpoint_urls'])}")
    if rejected := about["split"].get("rejected"):
        ui.label(f"The ingress refuses its user_config: {rejected}").props('role="alert"')
        return
    split = about["split"]
    by = f" ({split['route_by']})" if split["route_by"] else ""
    ui.label(f"Requests are split by {split['route_type']}{by}.")
    targets: dict[str, dict[str, Any]] = about["targets"]
    _table(
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
    _table(
        "Replicas",
        ("Of", "Replica", "State", "Process", "Node"),
        [
            (whose, one["id"], one["state"].lower(), one["pid"] or "-", one["node_id"][:8] or "-")
            for whose, replicas in of
            for one in replicas
        ],
    )
    for key, target in targets.items():
        if target["message"]:
            ui.label(f"{key}: {target['message']}").classes("whitespace-pre-wrap font-mono").props('role="alert"')


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    ui.table(
        title=title,
        columns=[{"name": name, "label": name, "field": name, "align": "left"} for name in columns],
        rows=[dict(zip(columns, row, strict=True)) for row in rows],
    ).props("flat bordered")
