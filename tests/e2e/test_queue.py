"""The external queue on a real cluster: order, bound, and what becomes of requests when something dies."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil
import pytest

from ray_canary.serving import local
from tests.e2e.deployments import HTTP_PORT, probe
from tests.e2e.harness import RealCluster, wait_for

#: Requests at once that a replica takes.
CONCURRENCY = 4
BURST = 500
#: The size of a burst during which something is killed, and how long each request takes, seconds: when all have been
#: sent, most of them wait yet.
SLOW, SLOW_S = 200, 0.2


@dataclass
class Told:
    """What became of each request: its status, or the name of what went wrong; and what the Bento saw."""

    statuses: dict[int, int | str] = field(default_factory=dict)
    retry_after: list[str] = field(default_factory=list)
    begun: list[int] = field(default_factory=list)
    most: int = 0
    #: Not yet answered when `meanwhile` was called.
    waiting: int = 0
    took_s: float = 0.0

    def __str__(self) -> str:
        off = self.displaced if self.begun else 0
        return (
            f"{dict(self.counts)}, {len(self.begun)} begun, {len(self.repeated)} twice, at most {self.most} at once, \
at most {off} places off, {self.waiting} waiting at that moment, {self.took_s:.1f} s"
        )

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


async def _send(http: httpx.AsyncClient, number: int, seconds: float, told: Told) -> None:
    try:
        response = await http.post("/number", json={"number": number, "seconds": seconds})
    except httpx.HTTPError as error:
        told.statuses[number] = type(error).__name__
        return
    told.statuses[number] = response.status_code
    if response.status_code == 429:
        told.retry_after.append(response.headers["retry-after"])


Tasks = list[asyncio.Task[None]]


def burst(
    cluster: RealCluster,
    *,
    count: int = BURST,
    seconds: float = 0.01,
    every_s: float = 0.0,
    at: int = 0,
    meanwhile: Callable[[Tasks], None] = lambda tasks: None,
) -> Told:
    """Send `count` numbered requests of `seconds` each, every one on a connection of its own, one every `every_s`.

    `meanwhile` is called when they have all been sent and `at` of them are answered.
    """
    told = Told()

    async def run() -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=cluster.url, timeout=150, limits=limits) as http:
            tasks: Tasks = []
            for number in range(count):
                tasks.append(asyncio.create_task(_send(http, number, seconds, told)))
                await asyncio.sleep(every_s)
            while len(told.statuses) < at:
                await asyncio.sleep(0.005)
            told.waiting = count - len(told.statuses)
            meanwhile(tasks)
            await asyncio.gather(*tasks, return_exceptions=True)

    numbers(cluster)
    began = time.monotonic()
    asyncio.run(run())
    told.took_s = time.monotonic() - began
    said = numbers(cluster)
    told.begun, told.most = said["begun"], said["most"]
    return told


def numbers(cluster: RealCluster) -> dict[str, Any]:
    """Ask the Bento what it saw since it was asked last."""
    return dict(httpx.post(f"{cluster.url}/numbers", json={}, timeout=60).raise_for_status().json())


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def queue_pid(cluster: RealCluster) -> int:
    """Return the process of the queue's actor."""
    found = [process.pid for process in local.processes_of(cluster.local.name) if is_queue(process)]
    assert len(found) == 1
    return found[0]


def is_queue(process: psutil.Process) -> bool:
    try:
        return bool(process.cmdline()) and process.cmdline()[0].startswith("ray::Queue")
    except psutil.NoSuchProcess:
        return False


# What the queue promises ---------------------------------------------------------------------------------------------


def test_a_burst_is_answered_whole_and_never_more_at_once_than_concurrency(cluster: RealCluster) -> None:
    told = burst(cluster, seconds=0.05)
    print(f"\nburst: {told}")
    assert told.counts == {200: BURST}
    assert told.most == CONCURRENCY
    assert told.repeated == []


def test_requests_begin_in_the_order_of_their_arrival_at_whichever_ingress_replica(cluster: RealCluster) -> None:
    """They are sent 50 ms apart, and queue up.

    Two that arrive at different ingress replicas within a few milliseconds may change places, and each replica of the
    ingress is as late as its event loop is busy: hence the tolerance, of 0.4 s on a busy machine of two cores.
    """
    told = burst(cluster, count=120, every_s=0.05, seconds=0.4)
    print(f"\norder: {told}")
    assert told.counts == {200: 120}
    assert told.waiting >= 30
    assert told.displaced <= 8
    assert told.most == CONCURRENCY


def test_a_client_that_leaves_gives_its_place_up(cluster: RealCluster) -> None:
    """Every second one leaves while nearly all of them wait: what has not begun by then is never begun."""
    numbers(cluster)
    clients = [asking(number, seconds=0.3) for number in range(200)]
    assert clients[0].recv(4096).startswith(b"HTTP/1.1 200")
    for client in clients[1::2]:
        client.close()
    for client in clients[2::2]:
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
    for client in clients[0::2]:
        client.close()
    said = numbers(cluster)
    print(f"\nclients leaving: {len(said['begun'])} of 200 begun")
    assert set(range(0, 200, 2)) <= set(said["begun"])
    assert len(said["begun"]) < 140, "who leaves is noticed at once"
    assert (said["most"], len(said["begun"])) == (CONCURRENCY, len(set(said["begun"])))


def asking(number: int, seconds: float) -> socket.socket:
    """Send one request on a connection of its own; whoever closes it leaves at that moment."""
    body = json.dumps({"number": number, "seconds": seconds}).encode()
    client = socket.create_connection(("127.0.0.1", HTTP_PORT), timeout=60)
    lines = ["POST /number HTTP/1.1", "Host: test", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    client.sendall("\r\n".join([*lines, "", ""]).encode() + body)
    return client


def replace(cluster: RealCluster, file: dict[str, Any]) -> None:
    """Deploy a file that restarts main, and wait until only new replicas answer."""
    before = cluster.pids("probe-main", "Probe")
    cluster.serve_deploy(cluster.build(file))
    wait_for(lambda: (now := cluster.pids("probe-main", "Probe")) and not now & before, "main is replaced", 90)
    cluster.until_ready("probe")
    # Each ingress replica hears of it by itself.
    wait_for(lambda: not {numbers(cluster)["pid"] for _ in range(20)} & before, "only new replicas answer", 20)


# Bounds --------------------------------------------------------------------------------------------------------------


def test_a_full_queue_is_a_429_and_one_whose_time_is_over_a_504_that_frees_its_slot(cluster: RealCluster) -> None:
    file = queued()
    file["ray"]["queue"] = {"max_depth": 10}
    file["services"]["Probe"]["config_overrides"]["traffic"]["timeout"] = 5
    replace(cluster, file)
    told = burst(cluster, count=40, seconds=60)
    print(f"\nfull: {told}")
    assert told.counts == {504: CONCURRENCY + 10, 429: 40 - CONCURRENCY - 10}
    assert {float(seconds) >= 1 for seconds in told.retry_after} == {True}
    assert told.most == CONCURRENCY
    assert burst(cluster, count=10).counts == {200: 10}, "the slots are free"
    wait_for(lambda: numbers(cluster)["now"] == 0, "the work was cancelled", 10)


def test_what_waits_in_the_queue_adds_replicas(cluster: RealCluster) -> None:
    file = queued()
    file["services"]["Probe"]["scaling"] = {
        "min_replicas": 1,
        "max_replicas": 2,
        "policy": {"scale_up_stabilization_window": 0},
    }
    replace(cluster, file)
    told = burst(cluster, count=200, seconds=0.5, at=1)
    print(f"\nscaling: {told}")
    assert told.counts == {200: 200}
    wait_for(lambda: len(cluster.pids("probe-main", "Probe")) == 2, "a second replica", 60)
    wait_for(lambda: metric_names(cluster) >= METRICS, "the queue's metrics are there", 30)


METRICS = {
    "ray_canary_queue_depth",
    "ray_canary_queue_oldest_seconds",
    "ray_canary_queue_refused_total",
    "ray_canary_queue_wait_seconds_bucket",
}


def metric_names(cluster: RealCluster) -> set[str]:
    try:
        return {sample.name for sample in cluster.metrics()}
    except httpx.HTTPError:
        return set()  # A node's agent is busy starting again.


def test_streams_at_a_replica_that_is_replaced_hold_no_slot_of_the_new_one(cluster: RealCluster) -> None:
    async def run() -> httpx.Response:
        async with httpx.AsyncClient(base_url=cluster.url, timeout=60) as http, contextlib.AsyncExitStack() as streams:
            for _ in range(CONCURRENCY):
                under_way = http.stream("POST", "/ticks", json={"count": 6000, "every_s": 0.1})
                assert (await streams.enter_async_context(under_way)).status_code == 200
            await asyncio.to_thread(replace, cluster, queued(envs={"main": {"CHANGED": "1"}}))
            return await http.post("/who", json={}, timeout=15)

    assert asyncio.run(run()).json()["pid"] in cluster.pids("probe-main", "Probe")


# What dies -----------------------------------------------------------------------------------------------------------


def test_a_queue_that_dies_loses_nothing_and_repeats_nothing(cluster: RealCluster) -> None:
    told = burst(cluster, count=SLOW, seconds=SLOW_S, at=20, meanwhile=lambda tasks: kill(queue_pid(cluster)))
    print(f"\nqueue killed: {told}")
    assert told.waiting >= SLOW / 3
    assert told.counts == {200: SLOW}
    assert (told.most, told.repeated) == (CONCURRENCY, [])


def test_a_replica_that_dies_loses_what_it_had_and_nothing_that_waits(cluster: RealCluster) -> None:
    (pid,) = cluster.pids("probe-main", "Probe")
    told = burst(cluster, count=SLOW, seconds=SLOW_S, at=20, meanwhile=lambda tasks: kill(pid))
    print(f"\nreplica killed: {told}")
    # What it had, and what was sent to it before anything showed that it was dead.
    assert told.waiting >= SLOW / 3
    assert told.counts[502] <= 2 * CONCURRENCY
    assert told.counts[200] + told.counts[502] == SLOW
    assert (told.most, told.repeated) == (CONCURRENCY, [])
    cluster.until_ready("probe")


def test_an_ingress_replica_that_dies_loses_no_more_than_what_it_had(cluster: RealCluster) -> None:
    """Who is connected to it loses the connection; the others go on, and its slots become free."""
    pids = cluster.pids("probe")
    told = burst(cluster, count=SLOW, seconds=SLOW_S, at=20, meanwhile=lambda tasks: kill(min(pids)))
    print(f"\ningress killed: {told}")
    assert told.waiting >= SLOW / 3
    assert told.counts[200] >= 0.4 * SLOW
    assert (told.most <= CONCURRENCY, told.repeated) == (True, [])
    two = lambda: len(now := cluster.pids("probe")) == 2 and min(pids) not in now  # noqa: E731
    wait_for(two, "the ingress has two replicas again")
    cluster.until_ready("probe")
    assert burst(cluster, count=20).counts == {200: 20}
