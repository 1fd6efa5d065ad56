"""Versions that stand at zero replicas: the first requests wake them, and none fails."""

import asyncio
import time
from collections import Counter
from typing import Any

import httpx
import pytest

from ray_canary.splitter import Splitter
from tests.e2e.deployments import probe
from tests.e2e.harness import RealCluster, wait_for

#: Seconds to the first byte of a response; and those that a replica takes to start, at least.
TIMEOUT_S, START_S = 4, 6
FIRST = 50


@pytest.fixture(scope="module")
def cluster(shared: RealCluster) -> RealCluster:
    """`main` has no queue, `a` has one; both go to zero as soon as nobody asks for anything, inner service and all."""
    file = probe({"a": 50}, envs={key: {"PROBE_START_S": str(START_S)} for key in ("main", "a")})
    traffic = {"timeout": TIMEOUT_S, "concurrency": 100}
    file["services"]["Probe"] = {
        "config_overrides": {"resources": {"cpu": "100m"}, "traffic": traffic},
        "scaling": {"min_replicas": 0, "max_replicas": 1, "policy": {"scale_down_stabilization_window": 0}},
    }
    inner = {"min_replicas": 0, "max_replicas": 1, "policy": {"scale_down_stabilization_window": 0}}
    file["services"]["Letters"] = {"config_overrides": {"resources": {"cpu": "100m"}}, "scaling": inner}
    queue = {"traffic": {"external_queue": True, "concurrency": 100}}
    file["canary"]["versions"]["a"]["services"] = {"Probe": {"config_overrides": queue}}
    shared.serve_deploy(shared.build(file))
    wait_for(lambda: "probe" in shared.state().live(), "the Deployment is there", 30)
    return shared


def until_asleep(cluster: RealCluster, application: str) -> None:
    """Wait until a version has started once and stands at zero."""
    target = {"probe-main": "main", "probe-canary-a": "a"}[application]

    def asleep() -> bool:
        live = cluster.state().live().get("probe")
        return live is not None and live.targets[target].status == "scaled-to-zero"

    wait_for(asleep, f"{application} stands at zero", 120)
    wait_for(lambda: not cluster.pids(application, "Probe"), "no replica is left", 60)


def key_for(version: str) -> str:
    splitter = Splitter({"main": 50, "a": 50}, "probe", arms={"main": "main", "a": "a"})
    return next(str(key) for key in range(100) if splitter.choose(str(key).encode()) == version)


async def _first_requests(url: str, version: str) -> list[tuple[int, str, dict[str, Any]]]:
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=httpx.Limits(max_connections=None)) as http:
        asked = [http.post("/sleep", params={"feature": key_for(version)}, json={"seconds": 0.1}) for _ in range(FIRST)]
        answers = await asyncio.gather(*asked)
    return [(answer.status_code, answer.headers["x-bento-version"], answer.json()) for answer in answers]


@pytest.mark.parametrize(("application", "version"), [("probe-main", "main"), ("probe-canary-a", "a")])
def test_of_fifty_first_requests_at_once_none_fails_and_their_time_begins_after_the_start(
    cluster: RealCluster, application: str, version: str
) -> None:
    until_asleep(cluster, application)
    began = time.monotonic()
    answers = asyncio.run(_first_requests(cluster.url, version))
    took = time.monotonic() - began
    print(f"\nfrom zero, {version}: {Counter((status, by) for status, by, _ in answers)} in {took:.1f} s")
    assert Counter((status, by) for status, by, _ in answers) == {(200, version): FIRST}
    assert took > START_S > TIMEOUT_S


def test_asking_whether_it_is_ready_wakes_main(cluster: RealCluster) -> None:
    until_asleep(cluster, "probe-main")
    assert httpx.get(f"{cluster.url}/readyz", timeout=120).status_code == 200
    assert cluster.pids("probe-main", "Probe")


def test_an_inner_service_at_zero_wakes_with_its_caller_and_stays_awake_as_long(cluster: RealCluster) -> None:
    until_asleep(cluster, "probe-main")
    wait_for(lambda: not cluster.pids("probe-main", "Letters"), "the inner service stands at zero too", 120)

    async def count_at_once() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=cluster.url, timeout=120) as http:
            asked = [http.post("/count", params={"feature": key_for("main")}, json={"text": "abc"}) for _ in range(10)]
            return await asyncio.gather(*asked)

    answers = asyncio.run(count_at_once())
    assert [(answer.status_code, answer.text) for answer in answers] == [(200, "3")] * 10
    inner = cluster.pids("probe-main", "Letters")
    assert len(inner) == 1
    # Longer than Serve looks back before it scales down: only the caller is used, and the inner service stays.
    began = time.monotonic()
    with httpx.Client(base_url=cluster.url, timeout=30, params={"feature": key_for("main")}) as http:
        while time.monotonic() - began < 45:
            assert http.post("/sleep", json={"seconds": 0.2}).status_code == 200
    assert cluster.pids("probe-main", "Letters") == inner
    assert httpx.post(f"{cluster.url}/count", params={"feature": key_for("main")}, json={"text": "ab"}).text == "2"
