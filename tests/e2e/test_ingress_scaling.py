"""Ingress replicas come and go with the load, and nobody notices but the load."""

import time
from collections import Counter
from typing import Any

import httpx

from ray_canary.splitter import Splitter
from tests.e2e.deployments import probe
from tests.e2e.harness import RealCluster, wait_for
from tests.e2e.load import Load

WEIGHTS = {"a": 40}
#: Requests in progress; one ingress replica is said to be good for `AIM` of them.
CLIENTS = 8
AIM = 2


def scaled(**ingress: Any) -> dict[str, Any]:
    """Return a Deployment file with this `ray.ingress`."""
    file = probe(WEIGHTS)
    return {**file, "ray": {**file["ray"], "ingress": {"num_cpus": 0.1, **ingress}}}


def test_ingress_replicas_are_added_and_removed_under_load_and_no_request_fails(cluster: RealCluster) -> None:
    cluster.serve_deploy(cluster.build(scaled(num_replicas=1, max_replicas=3, target_ongoing_requests=AIM)))
    cluster.until_ready("probe")
    (first,) = cluster.pids("probe")
    versions = {name: cluster.pids(name) for name in ("probe-main", "probe-canary-a")}
    make = lambda number: httpx.Request(  # noqa: E731
        "POST", f"{cluster.url}/sleep?feature={number}", json={"seconds": 0.2}
    )
    with Load(cluster.url, make, clients=CLIENTS) as load:
        wait_for(lambda: len(cluster.pids("probe")) == 3, "there are three ingress replicas", 120)
        assert first in cluster.pids("probe")
        began = time.monotonic()
        wait_for(lambda: load.shares(began).total() > 100, "requests go on", 30)
        # Fewer by an edit, live: the two that go have their requests to finish.
        cluster.serve_deploy(cluster.build(scaled(num_replicas=1)))
        wait_for(lambda: len(cluster.pids("probe")) == 1, "there is one ingress replica", 120)
        # And more by an edit: no load is needed for those.
        cluster.serve_deploy(cluster.build(scaled(num_replicas=2)))
        wait_for(lambda: len(cluster.pids("probe")) == 2, "there are two ingress replicas", 60)
        began = time.monotonic()
        wait_for(lambda: load.shares(began).total() > 100, "requests go on", 30)
    assert not load.failures, f"{len(load.failures)} of {len(load.sent)} failed, the first: {load.failures[0]}"
    splitter = Splitter({"main": 60, **WEIGHTS}, "probe")
    meant = Counter(splitter.choose(one.key.encode()) for one in load.sent)
    assert Counter(one.version for one in load.sent) == meant
    assert {name: cluster.pids(name) for name in versions} == versions
