"""The external queue on a real cluster: order, bound, and what becomes of requests when something dies."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.deployments import probe
from tests.e2e.harness import RealCluster, wait_for

#: Requests at once that a replica takes.
CONCURRENCY = 4
BURST = 500


@dataclass
class Told:
    """What became of each request: its status, or the name of what went wrong; and what the Bento saw."""

    statuses: dict[int, int | str] = field(default_factory=dict)
    begun: list[int] = field(default_factory=list)
    most: int = 0

    @property
    def counts(self) -> Counter[int | str]:
        return Counter(self.statuses.values())

    @property
    def repeated(self) -> list[int]:
        return [number for number, times in Counter(self.begun).items() if times > 1]

    @property
    def displaced(self) -> int:
        """By how many places a request was at most away from its own in the order of arrival."""
        expected = sorted(self.begun)
        places = {number: place for place, number in enumerate(self.begun)}
        return max(abs(places[number] - place) for place, number in enumerate(expected))


def queued(**given: Any) -> dict[str, Any]:
    """Return a Deployment whose main has a queue in front of one replica."""
    file = probe({}, **given)
    traffic = {"concurrency": CONCURRENCY, "external_queue": True, "timeout": 120}
    file["services"]["Probe"]["config_overrides"] = {"resources": {"cpu": "100m"}, "traffic": traffic}
    return file


@pytest.fixture(scope="module")
def cluster(shared: RealCluster) -> RealCluster:
    shared.serve_deploy(shared.build(queued()))
    shared.until_ready("probe")
    return shared


async def _send(http: httpx.AsyncClient, number: int, seconds: float, statuses: dict[int, int | str]) -> None:
    try:
        response = await http.post("/number", json={"number": number, "seconds": seconds})
        statuses[number] = response.status_code
    except httpx.HTTPError as error:
        statuses[number] = type(error).__name__


def burst(
    cluster: RealCluster,
    *,
    count: int = BURST,
    seconds: float = 0.01,
    every_s: float = 0.0,
    meanwhile: Callable[[list[asyncio.Task[None]]], None] = lambda tasks: None,
    at: int = 0,
) -> Told:
    """Send `count` numbered requests, each on a connection of its own, one every `every_s`.

    `meanwhile` is called once `at` of them are answered.
    """
    told = Told()

    async def run() -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(base_url=cluster.url, timeout=150, limits=limits) as http:
            tasks = []
            for number in range(count):
                tasks.append(asyncio.create_task(_send(http, number, seconds, told.statuses)))
                await asyncio.sleep(every_s)
            if at:
                while len(told.statuses) < at:
                    await asyncio.sleep(0.005)
                await asyncio.to_thread(meanwhile, tasks)
            await asyncio.gather(*tasks, return_exceptions=True)

    numbers(cluster)
    asyncio.run(run())
    said = numbers(cluster)
    told.begun, told.most = said["begun"], said["most"]
    return told


def numbers(cluster: RealCluster) -> dict[str, Any]:
    return dict(httpx.post(f"{cluster.url}/numbers", json={}, timeout=60).raise_for_status().json())


def test_a_burst_is_answered_in_the_order_of_arrival_and_never_more_at_once_than_concurrency(
    cluster: RealCluster,
) -> None:
    began = time.monotonic()
    told = burst(cluster, every_s=0.002)
    print(f"\nburst: {told.counts} most {told.most} displaced {told.displaced} in {time.monotonic() - began:.1f} s")
    assert told.counts == {200: BURST}
    assert told.most == CONCURRENCY
    assert told.repeated == []


@pytest.mark.parametrize(("every_s", "seconds"), [(0.002, 0.05), (0.01, 0.06), (0.02, 0.1)])
def test_order(cluster: RealCluster, every_s: float, seconds: float) -> None:
    began = time.monotonic()
    told = burst(cluster, count=300, every_s=every_s, seconds=seconds)
    places = {number: place for place, number in enumerate(told.begun)}
    off = sorted(abs(places[number] - place) for place, number in enumerate(sorted(told.begun)))
    print(
        f"\norder {every_s} {seconds}: {told.counts} most {told.most} off {off[150]} {off[290]} {off[-1]} in {time.monotonic() - began:.1f} s"
    )
    print(told.begun[:80])
