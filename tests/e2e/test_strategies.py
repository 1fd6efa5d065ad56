"""How replicas are replaced, added and removed while requests keep coming: strategies, autoscaling, capacity."""

import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil
import pytest

from ray_canary.errors import ClusterError
from ray_canary.serving.cluster import Cluster
from ray_canary.serving.http_connection import GOES, introduction
from tests.e2e.conftest import DIRECT_PORTS
from tests.e2e.harness import RealCluster, wait_for
from tests.e2e.load import Load, Sent
from tests.e2e.test_lifecycle import all_pids, build_light, deploy, key_of, light, requests_to, splitter

STRATEGIES = ("RollingUpdate", "Recreate", "RampedSlowRollout", "BestEffortControlledRollout")
#: How many replicas each target has.
REPLICAS = {"main": 1, "a": 1, "b": 4}
WEIGHTS = {"a": 30, "b": 30}
#: How many clients send requests, one after the other.
CLIENTS = 2
#: Five replicas start at once here, and meanwhile Serve's controller may take seconds to tell of the new ones.
REPLICA_DRAIN_S = 6


@pytest.fixture(scope="module", autouse=True)
def home(shared: RealCluster) -> None:
    """Build what the module's Deployments run."""
    build_light(shared.home)


@dataclass(frozen=True, slots=True)
class Sample:
    """What the cluster had of one version: when it was asked (monotonic s), ready replicas, and all but the ending."""

    at: float
    ready: int
    existing: int


@dataclass
class Samples:
    """Looks at the replicas of every application about five times a second until its block ends."""

    address: str
    found: dict[str, list[Sample]] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        assert self._thread
        self._thread.join()

    def _run(self) -> None:
        cluster = Cluster(self.address)
        while not self._stop.wait(0.2):
            at = time.monotonic()
            try:
                applications = cluster.state().applications
            except ClusterError:
                continue  # Nobody answered in time; the next look says more.
            for name, application in applications.items():
                states = [replica.state for one in application.deployments.values() for replica in one.replicas]
                if application.deployments:  # While an application is rebuilt, Serve lists none of them.
                    sample = Sample(at, states.count("RUNNING"), len(states) - states.count("STOPPING"))
                    self.found.setdefault(name, []).append(sample)


# Strategies. ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """What one update of one target was like."""

    strategy: str
    target: str
    lowest: int
    highest: int
    sent: list[Sent] = field(repr=False)

    @property
    def failed(self) -> Counter[int]:
        """Count the requests that failed, by status."""
        return Counter(one.status for one in self.sent if one.failed)

    @property
    def failed_over(self) -> int:
        return sum(one.reason == "failover" and not one.failed for one in self.sent)

    def __str__(self) -> str:
        failed = ", ".join(f"{count} x {status}" for status, count in self.failed.items()) or "0"
        who = f"{'main' if self.target == 'main' else 'a canary'}, {REPLICAS[self.target]}"
        return (
            f"| {self.strategy} | {who} | {self.lowest} | {self.highest} | {len(self.sent)} | {failed} "
            f"| {self.failed_over} |"
        )


def strategic(strategy: str, steps: dict[str, str]) -> dict[str, Any]:
    """Return a Deployment with one strategy; a change of a target's step restarts that target."""
    file = light(WEIGHTS, envs={target: {"STEP": step} for target, step in steps.items()})
    file["services"]["Fragile"]["deployment_strategy"] = strategy
    four = {"min_replicas": REPLICAS["b"], "max_replicas": REPLICAS["b"]}
    file["canary"]["versions"]["b"]["services"] = {"Fragile": {"scaling": four}}
    return file


def application(target: str) -> str:
    return "light-main" if target == "main" else f"light-canary-{target}"


def replaced(cluster: RealCluster, old: dict[str, set[int]], targets: tuple[str, ...]) -> bool:
    """Whether every target has all its replicas, and none that it had before."""
    new = all_pids(cluster)
    return all(
        len(new.get(application(target), ())) == REPLICAS[target]
        and not new[application(target)] & old.get(application(target), set())
        for target in targets
    )


def update(cluster: RealCluster, strategy: str, steps: dict[str, str], targets: tuple[str, ...]) -> list[Row]:
    """Replace the replicas of some targets by a strategy under load, and say what was seen."""
    before = all_pids(cluster)
    with requests_to(cluster, clients=CLIENTS) as load, Samples(cluster.local.address) as samples:
        wait_for(lambda: len(load.sent) > 20, "some requests")
        cluster.serve_deploy(cluster.build(strategic(strategy, steps)))
        wait_for(lambda: replaced(cluster, before, targets), f"{', '.join(targets)} are replaced", 120, 0.5)
        sent = len(load.sent)
        wait_for(lambda: len(load.sent) > sent + 20, "some more")
    after = all_pids(cluster)
    others = set(before) - {application(target) for target in targets}
    assert {name: after[name] for name in others} == {name: before[name] for name in others}
    return [row(strategy, target, load, samples) for target in targets]


def row(strategy: str, target: str, load: Load, samples: Samples) -> Row:
    split = splitter(WEIGHTS)
    found = samples.found[application(target)]
    own = [one for one in load.sent if split.choose(one.key.encode()) == target]
    return Row(strategy, target, min(one.ready for one in found), max(one.existing for one in found), own)


def test_each_strategy_replaces_a_canary_and_main_as_its_page_says(cluster: RealCluster) -> None:
    """One Deployment, with a canary of 1 and one of 4 replicas, and main with 1, has each strategy in turn."""
    deploy(cluster, strategic(STRATEGIES[0], {"main": "0", "a": "0", "b": "0"}))
    rows = []
    for number, strategy in enumerate(STRATEGIES):
        old, new = str(number), str(number + 1)
        canaries = update(cluster, strategy, {"main": old, "a": new, "b": new}, ("a", "b"))
        rows += update(cluster, strategy, {"main": new, "a": new, "b": new}, ("main",)) + canaries
    print("\n| Strategy | Of | Fewest ready | Most at once | Requests | Failed | Failed over to main |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(map(str, rows)))
    print("\n".join(f"{row.strategy} {row.target}: {one}" for row in rows for one in row.sent if one.status == 502))

    assert {(one.strategy, one.target) for one in rows} == {(one, target) for one in STRATEGIES for target in REPLICAS}
    for one in rows:
        wanted = REPLICAS[one.target]
        assert one.sent, "it was under load"
        if one.strategy in ("RollingUpdate", "RampedSlowRollout"):
            assert (one.lowest, one.highest) == (wanted, wanted + 1), one
            assert not one.failed_over, one
        elif one.strategy == "Recreate":
            assert (one.lowest, one.highest) == (0, wanted), one
        else:
            assert (one.lowest, one.highest) == (wanted - 1, wanted), one
        if one.lowest == 0:
            # What is on its way to the last replica of a target when it stops: each client has one request under way.
            assert one.failed[502] <= CLIENTS, one.failed
            assert set(one.failed) - {502} == ({503} if one.target == "main" else set()), one.failed
        else:
            assert not one.failed, one.failed
        assert bool(one.failed_over) == (one.lowest == 0 and one.target != "main"), one


# A replica that goes. ----------------------------------------------------------------------------------------------

INTRODUCE = """\
import ray
from ray import serve

ray.init(address="127.0.0.1:%d", namespace="serve", log_to_driver=False)
print("secret", serve.get_deployment_handle("Fragile", "light-canary-a").introduce.remote().result().decode())
"""


def port_of(pid: int) -> int:
    """Return where a replica listens for the ingress."""
    first, last = DIRECT_PORTS
    listens = [each.laddr.port for each in psutil.Process(pid).net_connections("tcp") if each.status == "LISTEN"]
    (port,) = [each for each in listens if first <= each <= last]
    return port


def until_refused(ask: Callable[[], bytes]) -> Iterator[bytes]:
    with suppress(ConnectionError):
        while True:
            yield ask()


def test_a_replica_that_goes_says_so_before_it_refuses_connections(cluster: RealCluster) -> None:
    """What meets the moment at which a server closes its idle connections would be lost."""
    file = light({"a": 50})
    deploy(cluster, file)
    done = cluster.run(sys.executable, "-c", INTRODUCE % cluster.local.port)
    secret = done.stdout.split("secret ")[1].split()[0].encode()
    (pid,) = cluster.pids("light-canary-a")
    address = ("127.0.0.1", port_of(pid))

    def asked() -> bytes:
        with socket.create_connection(address, timeout=5) as connection:
            connection.sendall(introduction(secret))
            answer = connection.recv(65536)
        if not answer:
            raise ConnectionError("it was closed")
        return answer

    assert b"x-ray-canary: 0 -" in asked()
    assert GOES[0] not in asked()
    file["canary"]["versions"]["a"]["envs"].append({"name": "EDITED", "value": "1"})
    cluster.serve_deploy(cluster.build(file))
    wait_for(lambda: GOES[0] in asked(), "it says that it goes", 60, 0.02)
    assert cluster.pids("light-canary-a") - {pid}, "it goes once there is another one"
    answers = list(until_refused(asked))
    assert len(answers) > 0
    assert all(GOES[0] in each for each in answers)


# Capacity before weight, and autoscaling. -----------------------------------------------------------------------------


def scaled(weights: dict[str, int], **scaling: dict[str, Any]) -> dict[str, Any]:
    """Return a Deployment whose targets scale as told."""
    file = light(weights, name="scaled")
    for target, said in scaling.items():
        place = file if target == "main" else file["canary"]["versions"][target]
        place.setdefault("services", {}).setdefault("Fragile", {})["scaling"] = said
    return file


FOUR = {"min_replicas": 4, "max_replicas": 4}
#: With a short window Serve could take the new replicas away before it has seen the load, so `weights` waits a minute.
UP_TO_FOUR = {"min_replicas": 1, "max_replicas": 4, "policy": {"scale_down_stabilization_window": 600}}


def least(cluster: RealCluster, version: str) -> int:
    """Return the `min_replicas` that Serve has for a version now."""
    config = cluster.state().applications[f"scaled-canary-{version}"].config
    assert config
    return int(config["deployments"][0]["autoscaling_config"]["min_replicas"])


def test_a_version_has_the_replicas_for_its_new_share_before_the_first_request_of_it(
    cluster: RealCluster, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    file = scaled({"a": 10, "b": 0}, main=FOUR, a=UP_TO_FOUR, b=UP_TO_FOUR)
    file["canary"]["versions"]["b"]["envs"].append({"name": "FRAGILE_BREAK", "value": str(gone)})
    deploy(cluster, file)
    before = all_pids(cluster)
    old, new = splitter({"a": 10, "b": 0}, "scaled"), splitter({"a": 80, "b": 0}, "scaled")
    with requests_to(cluster) as load, Samples(cluster.local.address) as samples:
        wait_for(lambda: len(load.sent) > 20, "some requests")
        cluster.canary("weights", "scaled", "a=80")
        sent = len(load.sent)
        wait_for(lambda: len(load.sent) > sent + 50, "some requests with the new weights")
    assert not load.failures, load.failures[:3]
    moved = [one for one in load.sent if {old.choose(one.key.encode()), one.version} == {"main", "a"}]
    assert all(new.choose(one.key.encode()) == one.version for one in moved)
    first = min(one.at + one.took for one in moved)
    replicas = samples.found["scaled-canary-a"]
    ready = next(one.at for one in replicas if one.ready >= 4)
    assert replicas[0].ready == 1
    assert ready < first, f"the 4th replica was seen {ready - first:.2f} s after the first request of the new share"
    assert least(cluster, "a") == 1, "the floor is gone"
    after = all_pids(cluster)
    assert before["scaled-canary-a"] < after["scaled-canary-a"]
    assert {name: pids for name, pids in after.items() if name != "scaled-canary-a"} == {
        name: pids for name, pids in before.items() if name != "scaled-canary-a"
    }

    edited = scaled({"a": 80, "b": 0}, main=FOUR, a=UP_TO_FOUR, b=UP_TO_FOUR)
    edited["canary"]["versions"]["a"]["envs"].append({"name": "EDITED", "value": "1"})
    edited["canary"]["versions"]["b"] = file["canary"]["versions"]["b"]
    with requests_to(cluster) as load, Samples(cluster.local.address) as samples:
        deploy(cluster, edited)
    assert not load.failures, load.failures[:3]
    assert min(one.ready for one in samples.found["scaled-canary-a"]) >= 4, "an edit keeps the replicas it has"
    assert all_pids(cluster)["scaled-canary-a"].isdisjoint(after["scaled-canary-a"])

    gone.touch()
    with requests_to(cluster) as load:
        done = cluster.canary("weights", "scaled", "a=0", "b=80", "--timeout", "60", code=1)
    assert not load.failures
    said = done.stdout + done.stderr
    assert "the split stays as it was" in said
    assert "the weights are gone" in said
    weights = {key: one.weight for key, one in cluster.state().live()["scaled"].targets.items()}
    assert weights == {"main": 20, "a": 80, "b": 0}
    assert least(cluster, "b") == 1, "Serve doesn't go on trying"
    gone.unlink()
    wait_for(lambda: cluster.pids("scaled-canary-b"), "b has a replica", 30)

    cluster.canary("weights", "scaled", "a=0", "b=80", "--now")
    # Serve may still be trying for the replicas that it was asked for above, so their number says nothing.
    assert least(cluster, "b") == 1, "no replica is asked for before the share"
    key = key_of(splitter({"a": 0, "b": 80}, "scaled"), "b")
    assert httpx.post(f"{cluster.url}/who?feature={key}", json={}, timeout=30).headers["x-bento-version"] == "b"


@contextmanager
def slow_requests(cluster: RealCluster, keys: list[str]) -> Iterator[Load]:
    """Keep one request of a second in flight for each key."""

    def make(number: int) -> httpx.Request:
        key = keys[number // 1_000_000]
        return httpx.Request("POST", f"{cluster.url}/sleep?feature={key}", json={"seconds": 1.0})

    with Load(cluster.url, make, clients=len(keys)) as load:
        yield load


def test_a_version_scales_up_and_down_by_its_own_numbers_and_no_other_version_moves(cluster: RealCluster) -> None:
    policy = {"scale_up_stabilization_window": 0, "scale_down_stabilization_window": 1}
    file = scaled({"a": 50}, a={"min_replicas": 1, "max_replicas": 2, "policy": policy})
    service = file["canary"]["versions"]["a"]["services"]["Fragile"]
    service["config_overrides"] = {"traffic": {"concurrency": 2}}
    deploy(cluster, file)
    before = all_pids(cluster)
    split = splitter({"a": 50}, "scaled")
    with slow_requests(cluster, [key_of(split, "a")] * 5 + [key_of(split, "main")] * 5) as load:
        wait_for(lambda: len(cluster.pids("scaled-canary-a")) == 2, "a has two replicas", 60)
        assert {one.version for one in load.sent} == {"main", "a"}
    assert not load.failures, load.failures[:3]
    assert before["scaled-canary-a"] < cluster.pids("scaled-canary-a")
    wait_for(lambda: len(cluster.pids("scaled-canary-a")) == 1, "a has one replica again", 90)
    after = all_pids(cluster)
    assert {name: pids for name, pids in after.items() if name != "scaled-canary-a"} == {
        name: pids for name, pids in before.items() if name != "scaled-canary-a"
    }
