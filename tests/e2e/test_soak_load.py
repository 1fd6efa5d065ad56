"""A long run through the whole: memory, open files and threads of the ingress stay where they are.

Not a part of `make test`; run it with `make soak`, for as long as RAY_CANARY_SOAK_LOAD_S says (seconds, default 600).
It sends as much as it can; `test_soak.py` sends less, of every kind, and changes everything meanwhile.
"""

import os
import time

import httpx
import pytest

from tests.e2e.census import Census, Use
from tests.e2e.deployments import probe
from tests.e2e.harness import RealCluster
from tests.e2e.load import Load

SOAK_S = float(os.environ.get("RAY_CANARY_SOAK_LOAD_S", "600"))
WARM_UP_S = min(60.0, SOAK_S / 4)
#: What a replica may grow by after its warm-up: caches that fill once. A leak of 100 bytes a request would be more.
MOST_GROWTH_MIB = 24


def usage(cluster: RealCluster, pids: set[int]) -> dict[int, Use]:
    """Return what each process uses."""
    found = Census.take(cluster.local.name).found
    return {pid: found[pid][1] for pid in pids}


@pytest.mark.soak
@pytest.mark.timeout(SOAK_S + 300)
def test_a_long_run_with_keys_that_never_repeat_leaves_every_ingress_replica_as_it_was(cluster: RealCluster) -> None:
    cluster.serve_deploy(cluster.build(probe({"a": 20, "b": 30})))
    cluster.until_ready("probe")
    ingress = cluster.pids("probe")
    make = lambda number: httpx.Request("POST", f"{cluster.url}/who?feature={number}", json={})  # noqa: E731
    count = failures = 0
    begin: dict[int, Use] = {}
    ends = time.monotonic() + SOAK_S
    warm = time.monotonic() + WARM_UP_S
    first_rate = last_rate = 0.0
    while time.monotonic() < ends:
        with Load(cluster.url, make, clients=4) as load:
            time.sleep(10)
        count, failures = count + len(load.sent), failures + len(load.failures)
        last_rate = len(load.sent) / 10
        if not begin and time.monotonic() > warm:
            begin, first_rate = usage(cluster, ingress), last_rate
        print(f"{count} requests, {failures} failed, {last_rate:.0f}/s, {usage(cluster, ingress)}", flush=True)
    end = usage(cluster, ingress)
    assert failures == 0
    assert cluster.pids("probe") == ingress
    for pid, (memory, files, threads) in end.items():
        assert memory - begin[pid][0] < MOST_GROWTH_MIB, f"MiB before and after {count} requests: {begin}, {end}"
        assert files <= begin[pid][1] + 16
        assert threads <= begin[pid][2] + 4
    assert last_rate > first_rate / 2
