"""A fault while every version has its users: who feels it, how long, and when everything is as it was."""

import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from ray_canary.errors import ClusterError
from ray_canary.serving import local
from tests.e2e.harness import RealCluster, wait_for
from tests.e2e.load import Load, Sent
from tests.e2e.test_lifecycle import keys_of, light, splitter

NAME = "chaos"
#: The version that breaks has half of all requests, and main is sized for its own.
WEIGHTS = {"a": 50, "b": 20}
#: Clients of each version, each of which sends one request after the other.
CLIENTS = 2
#: What a replica of `a` reserves, and may have: it has some 150 MiB when it has begun.
MEMORY = "400Mi"
#: Seconds of load before a fault, and after everything is as it was.
CALM_S = 3.0
#: Seconds after which an answer of `a` no longer counts as one.
SLOW_S = 1.0
#: What a request of another version takes at most: less than what `a` hangs for. On two cores, on which processes start
#: at the same time, it is more than the fault itself does.
OTHERS_S = 2.5

HEADER = (
    "| Fault | Failed of a | Failed of main | Failed of b | Longest of a, s | Longest of main and b, s "
    "| Recovered after, s |\n| --- | --- | --- | --- | --- | --- | --- |"
)


@dataclass
class Row:
    """What one fault did: what was sent and failed by version, and the longest request of each, in seconds.

    `recovered_s` is how long after the strike `a` last failed its users, sent them to main, kept one waiting for a
    second, or was not running as `get` has it.
    """

    fault: str
    sent: dict[str, int] = field(default_factory=dict)
    failed: dict[str, Counter[str]] = field(default_factory=dict)
    longest: dict[str, float] = field(default_factory=dict)
    recovered_s: float = 0.0
    #: When each failed request was sent, in seconds after the strike.
    failed_at: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        cells = []
        for version in ("a", "main", "b"):
            failures = ", ".join(f"{count} x {what}" for what, count in sorted(self.failed[version].items()))
            cells.append(f"{failures or '0'} of {self.sent[version]}")
        slowest = max(self.longest["main"], self.longest["b"])
        times = f"{self.longest['a']:.2f} | {slowest:.2f} | {self.recovered_s:.1f}"
        return f"| {self.fault} | {' | '.join(cells)} | {times} |"


@dataclass
class Chaos:
    """A cluster with the Deployment of `file_of`, and what its faults have done so far.

    Where several proxies share one port, `enters` says whether a client's port (TCP) leads to the one wanted.
    """

    cluster: RealCluster
    breaks: Path
    enters: Callable[[int], bool] | None = None
    rows: list[Row] = field(default_factory=list)

    def break_as(self, how: str) -> None:
        """Let `a` break so, or not any more."""
        self.breaks.write_text(how)

    def table(self) -> str:
        """Return the faults so far, in Markdown."""
        return "\n".join([HEADER, *map(str, self.rows)])

    def suffer(
        self,
        fault: str,
        strike: Callable[[], None],
        mend: Callable[[], None] = lambda: None,
        path: str = "who",
    ) -> Row:
        """Strike while everybody sends, wait until `a` answers its own users again, and note what happened."""
        row = Row(fault)
        not_running = [0.0]
        with ExitStack() as stack:
            loads = {each: stack.enter_context(self._load_of(each, path)) for each in ("main", "a", "b")}
            time.sleep(CALM_S)
            struck = time.monotonic()
            strike()
            while time.monotonic() < struck + CALM_S:
                self._look(not_running)
                time.sleep(0.2)
            mend()

            def well() -> bool:
                sent = [one for one in loads["a"].sent if one.at > struck + CALM_S][-10:]
                return self._look(not_running) and len(sent) == 10 and not any(map(_is_bad, sent))

            wait_for(well, f"a answers its users again after: {fault}", 60, 0.2)
            time.sleep(CALM_S)
        bad = [one.at + one.took for one in loads["a"].sent if _is_bad(one)]
        row.recovered_s = max(0.0, max([*bad, *not_running]) - struck)
        for version, load in loads.items():
            row.sent[version] = len(load.sent)
            row.failed[version] = Counter(str(one.status or one.error.partition(":")[0]) for one in load.failures)
            row.longest[version] = load.longest().took
            row.failed_at += [one.at - struck for one in load.failures]
            for one in load.failures[:3]:
                print(f"\n{version}, {one.at - struck:.2f} s after the strike: {one.error or one.said}")
        self.rows.append(row)
        print("\n" + str(row))
        return row

    def _look(self, not_running: list[float]) -> bool:
        """Return whether the Deployment runs as `get` has it; note the moment if it doesn't."""
        try:
            running = self.cluster.state().live()[NAME].status == "running"
        except (ClusterError, KeyError):
            # Nobody knows while Serve's controller is away.
            running = False
        if not running:
            not_running.append(time.monotonic())
        return running

    def _load_of(self, version: str, path: str) -> Load:
        """Return the load of the users of one version."""
        keys = list(itertools.islice(keys_of(splitter(WEIGHTS, NAME), version), 200))

        def make(number: int) -> httpx.Request:
            # A client waits a little: the machine has two cores for everything.
            time.sleep(0.02)
            key = keys[number % len(keys)]
            return httpx.Request("POST", f"{self.cluster.url}/{path}?feature={key}", json={})

        return Load(self.cluster.url, make, clients=CLIENTS, enters=self.enters)


def _is_bad(one: Sent) -> bool:
    return one.failed or one.version != "a" or one.took > SLOW_S


def file_of(breaks: Path, main_concurrency: int | None = None) -> dict[str, Any]:
    """Return a Deployment with two ingress replicas, two replicas of every version, and a queue in front of a.

    `main_concurrency` is what a replica of main, and one of b, takes at a time.
    """
    bentos = {"main": "breaking:v1", "a": "breaking:v1", "b": "breaking:v1"}
    envs = {"a": {"BREAKING_FILE": str(breaks)}}
    file = light(WEIGHTS, name=NAME, bentos=bentos, envs=envs, ingress_replicas=2)
    small = file["services"].pop("Fragile")
    two = {"min_replicas": 2, "max_replicas": 2}
    file["services"]["Breaking"] = {**small, "scaling": two}
    if main_concurrency is not None:
        traffic = {"traffic": {"concurrency": main_concurrency}}
        file["services"]["Breaking"]["config_overrides"] = {**small["config_overrides"], **traffic}
    queue = {"traffic": {"external_queue": True, "concurrency": 8}}
    overrides = {**small["config_overrides"], **queue}
    overrides["resources"] = {**overrides["resources"], "memory": MEMORY}
    file["canary"]["versions"]["a"]["services"] = {"Breaking": {"config_overrides": overrides}}
    file["ray"]["hosts"] = {"enforce_memory": True}
    del file["ray"]["ingress"]["target_wait_s"]
    return file


def kill(pids: set[int]) -> None:
    """Kill processes at once."""
    assert pids, "there is nothing to kill"
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def named(cluster: RealCluster, *beginnings: str) -> set[int]:
    """Return the processes of the cluster whose command line begins so."""
    found = set()
    for process in local.processes_of(cluster.local.name):
        try:
            line = " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        if line.startswith(beginnings) or (line and line.split()[0].endswith("haproxy") and "haproxy" in beginnings):
            found.add(process.pid)
    return found


def nobody_else(row: Row) -> None:
    """A fault of `a` fails and slows no request of another version. This one is absolute."""
    assert not row.failed["main"], row
    assert not row.failed["b"], row
    assert max(row.longest["main"], row.longest["b"]) < OTHERS_S, row


def until_as_the_file_says(chaos: Chaos, file: dict[str, Any]) -> None:
    """Wait until every replica is there again, and see that all is as the file says."""

    def whole() -> bool:
        live = chaos.cluster.state().live()[NAME]
        every = (NAME, *live.version_applications)
        running = all(len(chaos.cluster.pids(name)) == 2 for name in every)
        return running and all(target.status == "running" for target in live.targets.values())

    wait_for(whole, "every replica is there again", 60, 0.5)
    as_the_file_says(chaos, file)


def as_the_file_says(chaos: Chaos, file: dict[str, Any], *, ingress: int = 2) -> None:
    """Every version runs with its share and its replicas, and a plan of the file has nothing to do."""
    cluster = chaos.cluster
    live = cluster.state().live()[NAME]
    assert {key: (one.weight, one.status) for key, one in live.targets.items()} == {
        "main": (30, "running"),
        "a": (50, "running"),
        "b": (20, "running"),
    }
    running = {name: len(cluster.pids(name)) for name in cluster.state().applications}
    everything = (NAME, f"{NAME}-main", f"{NAME}-canary-a", f"{NAME}-canary-b")
    assert running == {**dict.fromkeys(everything, 2), NAME: ingress}
    assert "No replica restarts." in cluster.canary("plan", "-f", cluster.write("chaos.yaml", file)).stdout
