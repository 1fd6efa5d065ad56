"""The promise above all others: no change to one version disturbs a request of another."""

import threading
import time
from collections import Counter
from types import TracebackType
from typing import Any, Self

import httpx
import pytest

from ray_canary.splitter import Splitter
from tests.e2e.deployments import probe
from tests.e2e.harness import RealCluster, wait_for
from tests.e2e.load import Load, Sent

CLIENTS = 4
#: A version that takes this long to start must make nobody wait (a naive ingress makes some wait for all of it).
SLOW_START_S = 20
#: No request may take longer, end to end, whatever changes. The machine has two cores for everything.
LONGEST_S = 5.0
#: How many requests of thousands may wait over 0.25 s, while the machine is at its end.
A_FEW = 5


class Stream:
    """A stream that is under way while things change, until its block ends."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key = url, key
        self.lines: list[str] = []
        self.version = ""
        self.error = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()

    def _run(self) -> None:
        body = {"count": 10_000, "every_s": 0.5}
        try:
            with httpx.stream("POST", f"{self.url}/ticks?feature={self.key}", json=body, timeout=30) as response:
                self.version = response.headers["x-bento-version"]
                for line in filter(None, response.iter_lines()):
                    self.lines.append(line)
                    if self._stop.is_set():
                        return
            self.error = "it ended"
        except httpx.HTTPError as error:
            self.error = f"{type(error).__name__}: {error}"

    def assert_whole(self, seconds: float) -> None:
        """Read one more line, and assert that all came up to it, for as many seconds at least."""
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), f"the stream of {self.version} says nothing any more"
        assert self.error == "", f"the stream of {self.version} was cut off after {len(self.lines)} lines"
        assert self.lines == [str(number) for number in range(len(self.lines))]
        assert len(self.lines) > seconds, "there are two lines a second, on a busy machine fewer"


def key_of(splitter: Splitter, version: str) -> str:
    """Find a key that belongs to `version`."""
    return next(key for key in map(str, range(10_000)) if splitter.choose(key.encode()) == version)


def split(weights: dict[str, int]) -> Splitter:
    return Splitter({"main": 100 - sum(weights.values()), **weights}, "probe")


def wrong(sent: list[Sent], splitter: Splitter, since: float) -> list[Sent]:
    """Return the requests that were sent after `since` and not answered by the version that their key belongs to."""
    return [one for one in sent if one.at >= since and one.version != splitter.choose(one.key.encode())]


@pytest.mark.parametrize("ingress_replicas", [1, 2])
def test_no_change_of_a_version_fails_or_holds_up_a_request_or_restarts_another(
    either: RealCluster, ingress_replicas: int, record_property: Any
) -> None:
    cluster = either

    def deploy(weights: dict[str, int], **envs: dict[str, str]) -> float:
        file = probe(weights, envs=envs, ingress_replicas=ingress_replicas)
        return cluster.serve_deploy(cluster.build(file))

    slow = {"PROBE_START_S": str(SLOW_START_S)}
    deploy({"a": 30})
    cluster.until_ready("probe")
    ingress, main, a = (cluster.pids(name) for name in ("probe", "probe-main", "probe-canary-a"))
    on_main, on_a = (Stream(cluster.url, key_of(split({"a": 60}), version)) for version in ("main", "a"))
    began = time.monotonic()
    make = lambda number: httpx.Request("POST", f"{cluster.url}/who?feature={number}", json={})  # noqa: E731
    with on_main, on_a, Load(cluster.url, make, clients=CLIENTS) as load:
        time.sleep(2)  # the idle baseline
        idle = max(one.took for one in load.sent)

        put = deploy({"a": 60})
        time.sleep(3)
        late = wrong(load.sent, split({"a": 60}), put + 1.0)
        assert not late, f"{len(late)} requests met the old weights 1 s after the PUT: {late[0]}"

        deploy({"a": 30, "b": 30}, b=slow)
        wait_for(lambda: load.shares(time.monotonic() - 1)["b"], "b joins the split", 60)
        joined = time.monotonic()
        assert not [one for one in load.sent if one.version == "b" and one.reason != "keyed"]
        b = cluster.pids("probe-canary-b")

        deploy({"a": 30, "b": 30}, b=slow, a={"PROBE_OTHER": "1"})
        replaced = lambda: (now := cluster.pids("probe-canary-a", "Probe")) and now.isdisjoint(a)  # noqa: E731
        wait_for(replaced, "a runs with its new environment", 60)
        new_a = cluster.pids("probe-canary-a")

        put = deploy({"b": 30}, b=slow)
        wait_for(lambda: cluster.in_force("probe", {"main": 70, "b": 30}), "a is out of the split", 30)
        out = time.monotonic()
        wait_for(lambda: load.sent[-1].at > out + 3, "requests after that, also while a's replica ends", 30)
        end = time.monotonic()
        assert not wrong(load.sent, split({"b": 30}), min(out, put + 1.5))
        # a's has outlived its replica's replacement, and a itself.
        for stream in (on_main, on_a):
            stream.assert_whole(end - began)

    longest = load.longest()
    record_property("idle_longest_s", idle)
    record_property("longest_s", longest.took)
    print(f"\nrequests: {len(load.sent)}, longest: {longest.took:.2f} s, idle: {idle:.2f} s, b joined at {joined:.0f}")
    assert not load.failures, f"{len(load.failures)} of {len(load.sent)} failed, the first: {load.failures[0]}"
    assert longest.took < LONGEST_S
    assert_nobody_waited(cluster)
    assert (on_main.version, on_a.version) == ("main", "a")
    assert cluster.pids("probe") == ingress
    assert cluster.pids("probe-main") == main
    assert cluster.pids("probe-canary-b") == b
    assert new_a.isdisjoint(a) or len(new_a & a) == 1  # `Letters` has the same environment and keeps its replica
    cluster.clear()


def assert_nobody_waited(cluster: RealCluster) -> None:
    """Assert what the ingress measured: how long requests waited until they were sent to a replica.

    Nobody waits for a version that starts or goes: that would be seconds. 0.25 s is the limit that the ingress keeps;
    when processes start on two busy cores, its own timer can be late, and a few requests may see that.
    """
    counted: dict[str, Counter[str]] = {"0.25": Counter(), "0.5": Counter(), "all": Counter(), "sent": Counter()}
    for sample in cluster.metrics():
        le = sample.labels.get("le") if sample.name == "ray_canary_target_wait_seconds_bucket" else None
        if sample.name == "ray_canary_sent_total":
            le = "sent"
        if le in counted or sample.name == "ray_canary_target_wait_seconds_count":
            counted[le or "all"][sample.labels["bento_version"]] += int(sample.value)
    waited, sent = counted["all"], counted["sent"]
    assert set(sent) == {"main", "a", "b"}
    print(f"waited over 0.25 s: {dict(waited - counted['0.25'])}, of {dict(sent)}")
    assert counted["0.5"] == waited, f"waited over 0.5 s: {waited - counted['0.5']}"
    assert (waited - counted["0.25"]).total() <= max(A_FEW, sent.total() / 1000)
