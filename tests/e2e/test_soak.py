"""A long run of mixed traffic with a change every 20 s: nothing fails, and nothing grows.

Not a part of `make test`; run it with `make soak`, for as long as RAY_CANARY_SOAK_S says (seconds, default 3600). It
prints the tables of `docs/operations.md`; once a minute it writes them to RAY_CANARY_SOAK_REPORT, if that names a file.

Two Deployments share a local Ray: one changes all the time, the other never does.
"""

import itertools
import operator
import os
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.census import Census, Use, lived_through
from tests.e2e.deployments import probe
from tests.e2e.harness import RealCluster
from tests.e2e.journey import NAME, Change, Journey
from tests.e2e.test_lifecycle import all_pids
from tests.e2e.traffic import KINDS, TASKS, Sent, Traffic, task

SOAK_S = float(os.environ.get("RAY_CANARY_SOAK_S", "3600"))
REPORT = os.environ.get("RAY_CANARY_SOAK_REPORT")
EVERY_S = 20.0
#: The first look at what processes use comes after a round of changes, when caches that fill once have filled.
WARM_UP_S = min(600.0, SOAK_S / 4)
STEADY = "steady"
#: What a process of ours may grow by after its warm-up, in MiB: in an hour, a leak of 700 bytes a request is more
#: (`test_soak_load.py` sends more requests, and finds smaller ones).
MOST_GROWTH_MIB = 24
MOST_FILES, MOST_THREADS = 16, 4
#: Ray's own note every replica that ever was, and each of the last tasks: few of these, in the tests' clusters.
RAYS_GROWTH_MIB, RAYS_FILES, RAYS_THREADS = 96, 64, 32
#: Here replicas go as users' do, with Serve's own period.
REPLICA_DRAIN_S = 30


def steady() -> dict[str, Any]:
    """Return the Deployment that nobody touches; `a` has a queue."""
    file = probe({"a": 50}, name=STEADY, route_prefix=f"/{STEADY}")
    queue = {"config_overrides": {"traffic": {"external_queue": True, "concurrency": 32}}}
    file["canary"]["versions"]["a"]["services"] = {"Probe": queue}
    return file


def ours(role: str) -> bool:
    """Whether a process runs our code: an ingress, a version, or a queue."""
    return role.startswith((f"{NAME}", f"{STEADY}")) or role == "Queue"


@pytest.mark.soak
@pytest.mark.timeout(SOAK_S + 1200)
def test_an_hour_of_mixed_traffic_with_a_change_every_20_s_fails_nothing_and_leaves_nothing_behind(
    cluster: RealCluster,
) -> None:
    journey = Journey(cluster)
    cluster.canary("deploy", "-f", cluster.write("steady.yaml", steady()), timeout_s=600)
    journey.begin()
    untouched = {name: pids for name, pids in all_pids(cluster).items() if name.startswith(STEADY)}
    both = {"changing": f"{cluster.url}/", "steady": f"{cluster.url}/{STEADY}/"}
    kinds = {"changing": KINDS, "steady": {**KINDS, TASKS: (task, 1.0)}}
    start: Census | None = None
    told = 0
    began = time.monotonic()
    with Traffic(both["changing"], kinds["changing"]) as changing, Traffic(both["steady"], kinds["steady"]) as still:
        loads = {"changing": changing, "steady": still}
        for number, (what, change) in enumerate(itertools.chain.from_iterable(iter(journey.round, None))):
            if time.monotonic() > began + SOAK_S:
                break
            journey.make(what, change)
            failed = [one for load in loads.values() for one in load.failures]
            print(f"{time.monotonic() - began:5.0f} s: {what}; {len(failed)} requests have failed so far", flush=True)
            for one in failed[told:]:
                print(f"        {one.at - began:.1f} s: {one}", flush=True)
            told = len(failed)
            if start is None and time.monotonic() > began + WARM_UP_S:
                start = Census.take(cluster.local.name)
            if start is not None and number % 3 == 0:
                write(loads, journey.changes, start, Census.take(cluster.local.name), began)
            wait = journey.changes[-1].began + EVERY_S - time.monotonic()
            time.sleep(max(0.0, wait))  # It is what this test does, not what it waits for.
    assert start is not None, f"{SOAK_S} s are too few"
    end = Census.take(cluster.local.name)
    print(write(loads, journey.changes, start, end, began))
    assert not [one for load in loads.values() for one in load.failures]
    assert not journey.astray(changing.sent)
    assert {name: pids for name, pids in all_pids(cluster).items() if name.startswith(STEADY)} == untouched
    for pid in lived_through(start, end):
        (role, before), (_, after) = start.found[pid], end.found[pid]
        most = (
            (MOST_GROWTH_MIB, MOST_FILES, MOST_THREADS) if ours(role) else (RAYS_GROWTH_MIB, RAYS_FILES, RAYS_THREADS)
        )
        grown = (after.memory - before.memory, after.files - before.files, after.threads - before.threads)
        assert all(map(operator.le, grown, most)), f"{role}: {before} -> {after}"
    for load in loads.values():
        first, last = tenths(load.sent, began)
        assert len(last) > len(first) / 2, "it is as fast as it was"


# The report. ----------------------------------------------------------------------------------------------------------


def write(loads: dict[str, Traffic], changes: list[Change], start: Census, end: Census, began: float) -> str:
    """Return the tables so far, and write them where they are wanted."""
    minutes = (time.monotonic() - began) / 60
    text = "\n".join([f"{minutes:.0f} minutes.\n", *_requests(loads, began), "", *_changes(changes), ""])
    text += "\n".join(_processes(start, end)) + "\n"
    if REPORT:
        Path(REPORT).write_text(text)
    return text


def _requests(loads: dict[str, Traffic], began: float) -> list[str]:
    rows = ["| Deployment | Request | Sent | Failed | Failed over | p50, first tenth -> last, ms | p99, ms |"]
    rows.append("| --- | --- | --- | --- | --- | --- | --- |")
    for name, load in loads.items():
        sent = list(load.sent)
        for kind in load.kinds:
            own = [one for one in sent if one.kind == kind]
            failed = sum(bool(one.error) for one in own)
            over = sum(one.reason == "failover" for one in own)
            first, last = tenths(own, began)
            drift = [f"{_percentile(first, at)} -> {_percentile(last, at)}" for at in (50, 99)]
            rows.append(f"| {name} | {kind} | {len(own)} | {failed} | {over} | {' | '.join(drift)} |")
    return rows


def tenths(sent: list[Sent], began: float) -> tuple[list[Sent], list[Sent]]:
    """Return what was sent in the first tenth of the run so far, and in the last."""
    ended = max((one.at for one in sent), default=began)
    tenth = (ended - began) / 10
    return [one for one in sent if one.at < began + tenth], [one for one in sent if one.at > ended - tenth]


def _percentile(sent: list[Sent], at: int) -> str:
    if len(sent) < 2:
        return "-"
    return f"{statistics.quantiles((one.took * 1000 for one in sent), n=100, method='inclusive')[at - 1]:.0f}"


def _changes(changes: list[Change]) -> list[str]:
    rows = ["| Change | Times | Median, s | Longest, s |", "| --- | --- | --- | --- |"]
    for what in Counter(change.what for change in changes[1:]):
        took = [change.ended - change.began for change in changes[1:] if change.what == what]
        rows.append(f"| {what} | {len(took)} | {statistics.median(took):.1f} | {max(took):.1f} |")
    return rows


def _processes(start: Census, end: Census) -> list[str]:
    rows = ["| Process, all through the run | How many | At first: MiB, files, threads | At last |"]
    rows.append("| --- | --- | --- | --- |")
    pids = lived_through(start, end)
    before, after = start.by_role(pids), end.by_role(pids)
    rows += [f"| {role} | {len(uses)} | {_sum(uses)} | {_sum(after[role])} |" for role, uses in before.items()]
    return rows


def _sum(uses: list[Use]) -> Use:
    return Use(sum(use.memory for use in uses), sum(use.files for use in uses), sum(use.threads for use in uses))
