"""`ray-canary top`."""

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from rich.live import Live as Screen
from rich.table import Table

from ray_canary import lookup
from ray_canary.errors import ClusterError
from ray_canary.options import address as _address
from ray_canary.options import output as _output
from ray_canary.readings import COLUMNS, Readings, between, cells
from ray_canary.screens import data, out
from ray_canary.serving.cluster import Cluster

if TYPE_CHECKING:
    from ray_canary.prometheus import Prometheus

Next = Callable[[], Readings]


@click.command()
@click.argument("name")
@click.option(
    "--interval", type=click.FloatRange(min=5), default=20, show_default=True, help="Seconds that rates are taken over."
)
@click.option("--once", is_flag=True, help="Print one table and end; so it is, too, where there is no terminal.")
@click.option(
    "--prometheus",
    envvar="RAY_CANARY_PROMETHEUS",
    metavar="URL",
    help="Ask this Prometheus instead of Ray's own metrics.",
)
@_address
@_output
def top(name: str, interval: float, once: bool, prometheus: str | None, address: str | None, output: str) -> None:
    """Show what each version does now: requests, errors, latency, share, replicas, CPU and memory.

    Ray passes counts on every ten seconds; numbers are as old as that. REQUESTS IN ALL counts since
    the ingress replicas started; CPU is in percent of one core.
    """
    # What asks over HTTP takes a fifth of the time in which every other command starts.
    from ray_canary.prometheus import Prometheus

    cluster = Cluster(address)
    lookup.find(cluster, name)
    source = _asked(Prometheus(prometheus), name, interval) if prometheus else _looked(cluster, name, interval)
    if output != "table":
        data(_plain(source()), output)
        return
    if once or not out.is_terminal:
        out.print(_table(name, source()))
        return
    with Screen(console=out, auto_refresh=False, screen=True) as screen:
        screen.update(f"{name}: the first numbers come in {interval:g} s", refresh=True)
        while True:
            screen.update(_table(name, source()), refresh=True)


def _looked(cluster: Cluster, name: str, interval: float) -> Next:
    """Return what waits for the next readings, from Ray's own metrics."""
    from ray_canary.serving import scrape

    before = scrape.look(cluster)

    def after() -> Readings:
        nonlocal before
        time.sleep(max(0.0, before.at + interval - time.time()))
        now = scrape.look(cluster)
        found = between(before, now, name)
        before = now
        return found

    return after


def _asked(prometheus: "Prometheus", name: str, interval: float) -> Next:
    last = 0.0

    def after() -> Readings:
        nonlocal last
        time.sleep(max(0.0, last + interval - time.time()))
        last = time.time()
        found = prometheus.readings(name, last, last)
        if not found:
            raise ClusterError(f"Prometheus at {prometheus.url} has nothing about {name}; does it scrape this cluster?")
        return found[-1]

    return after


def _table(name: str, found: Readings) -> Table:
    at = time.strftime("%H:%M:%S", time.localtime(found.at))
    table = Table(title=f"{name} at {at}, over {found.seconds:.0f} s", title_justify="left", box=None)
    table.add_column("VERSION")
    for column in COLUMNS:
        table.add_column(column.upper(), justify="right")
    for version, one in found.versions.items():
        table.add_row(version, *cells(one))
    return table


def _plain(found: Readings) -> dict[str, Any]:
    versions = {
        version: {**dataclasses.asdict(one), "rate": one.rate, "success": one.success}
        for version, one in found.versions.items()
    }
    return {"at": found.at, "seconds": found.seconds, "versions": versions}
