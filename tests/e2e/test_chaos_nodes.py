"""Faults of whole nodes, while every version has its users: killed, drained, and without its way in.

Not a part of `make test`; run it with `make chaos`. Three nodes are three raylets on this machine. They share its
port, so they run Serve's own proxies: HAProxies would take each other's. The kernel deals connections out to those;
here every client enters by the proxy of one node that is named, as behind a load balancer without the others.
"""

import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import psutil
import pytest

from ray_canary.serving import drain, local
from ray_canary.serving.cluster import Cluster
from tests.e2e.conftest import settings_of
from tests.e2e.deployments import OFFSET
from tests.e2e.faults import CLIENTS, NAME, Chaos, as_the_file_says, file_of, kill, nobody_else
from tests.e2e.harness import RealCluster, build_bento, wait_for
from tests.e2e.nodes import Nodes
from tests.e2e.test_lifecycle import deploy

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

#: Eight replicas of 0.1 fill a node to the half, so any two nodes have room for all of them.
CPUS = 2
HEAD = ""
#: Seconds that a drained node has: the hosts' graceful shutdown (600 s), and 180 for replicas to start elsewhere.
DRAIN_S = 780


@dataclass
class Cloud:
    """The nodes, and the faults that they suffer."""

    nodes: Nodes
    chaos: Chaos

    def begin(self, name: str) -> None:
        """Start a worker node that has the Bento."""
        self.nodes.start(name, CPUS)
        shutil.copytree(self.nodes.cluster.home / "bentos", self.nodes.home(name) / "bentos")

    def replace(self, name: str) -> None:
        """Start a worker node once the cluster has noticed that another has gone."""
        wait_for(lambda: self.nodes.alive() == 2, "the cluster has noticed that a node has gone", 90)
        self.begin(name)

    def enter_by(self, name: str) -> None:
        """Let every client enter by the proxy of this node from now on."""
        self.chaos.enters = lambda port: any(port in _peers(pid) for pid in self.proxies(name))

    def proxies(self, name: str) -> set[int]:
        """Return the pid of a node's proxy."""
        return {each.pid for each in self.nodes.processes(name) if _line(each).startswith("ray::ProxyActor")}

    def places(self) -> dict[str, dict[str, str]]:
        """Return where replicas run: for each application the node of each replica, by the replica's id."""
        names = {process.pid: name for name in (HEAD, *self.nodes.names) for process in self.nodes.processes(name)}
        return {
            name: {
                replica.id: names[replica.pid]
                for one in application.deployments.values()
                for replica in one.replicas
                if replica.state == "RUNNING" and replica.pid in names
            }
            for name, application in self.nodes.cluster.state().applications.items()
        }

    def spread(self) -> str:
        """Return a worker node with a replica of `a`, where every application has a replica elsewhere too.

        Ray spreads replicas as it can. Where two of an application are together, one is killed until they aren't.
        """
        found = wait_for(self._struck_well, "the replicas are spread over the nodes", 60, 0.5)
        return str(found)

    def _struck_well(self) -> str:
        places = self.places()
        if any(len(nodes) != 2 for nodes in places.values()):
            return ""
        for name, nodes in places.items():
            if len(set(nodes.values())) < 2:
                pid = min(self.nodes.cluster.pids(name))
                kill({pid})
                wait_for(lambda: pid not in self.nodes.cluster.pids(name), "Serve has noticed")  # noqa: B023
                return ""
        print("\n" + "\n".join(f"{name}: {sorted(nodes.values())}" for name, nodes in places.items()))
        return next(name for name in places[f"{NAME}-canary-a"].values() if name != HEAD)

    def node_id(self, name: str) -> str:
        """Return Ray's id of a node on which replicas run."""
        pids = {process.pid for process in self.nodes.processes(name)}
        (found,) = {
            replica.node_id
            for application in self.nodes.cluster.state().applications.values()
            for one in application.deployments.values()
            for replica in one.replicas
            if replica.pid in pids
        }
        return found

    def drain(self, name: str) -> Callable[[], None]:
        """Drain a node as a pod's hook does, and return what waits until nothing is left there."""
        cluster, node = self.nodes.cluster, self.node_id(name)
        # A node that goes sooner than the replicas' graceful shutdown ends isn't given replacements first.
        cluster.run(*drain.command(f"127.0.0.1:{cluster.local.port}", node, DRAIN_S))
        return lambda: _left(drain.wait(Cluster(cluster.local.address).details, node, DRAIN_S, print))


def _left(nothing: bool) -> None:
    assert nothing, "Serve still has something on the drained node"


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def _peers(pid: int) -> set[int]:
    try:
        return {one.raddr.port for one in psutil.Process(pid).net_connections("tcp") if one.raddr}
    except psutil.NoSuchProcess:
        return set()


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A head and two workers with the Deployment: two ingress replicas, and two replicas of every version."""
    work = tmp_path_factory.mktemp("work")
    home = tmp_path_factory.mktemp("bentoml")
    build_bento(home, "breaking", "v1")
    settings = replace(settings_of(home, work, haproxy=False), cpus=CPUS)
    local.down(settings.name)
    local.up(settings)
    try:
        cluster = RealCluster(home, work, settings)
        found = Cloud(Nodes(cluster, OFFSET), Chaos(cluster, work / "break"))
        for name in ("one", "two"):
            found.begin(name)
        deploy(cluster, file_of(found.chaos.breaks))
        cluster.until_ready(NAME)
        yield found
        print("\n" + found.chaos.table())
    finally:
        local.down(settings.name, grace_s=2)


def test_the_ingress_replica_of_a_worker_is_killed(cloud: Cloud) -> None:
    cloud.enter_by(HEAD)
    name = next(name for name in cloud.places()[NAME].values() if name != HEAD)
    pids = {process.pid for process in cloud.nodes.processes(name)} & cloud.nodes.cluster.pids(NAME)
    row = cloud.chaos.suffer("the ingress replica of a worker is killed", lambda: kill(pids))
    for version, failed in row.failed.items():
        assert sum(failed.values()) <= CLIENTS, f"{version}: only what it had"


def test_the_proxy_of_the_head_is_killed_while_users_enter_by_another_node(cloud: Cloud) -> None:
    cloud.enter_by("one")
    row = cloud.chaos.suffer("the head's proxy is killed", lambda: kill(cloud.proxies(HEAD)))
    nobody_else(row)
    assert not row.failed["a"]
    wait_for(lambda: cloud.proxies(HEAD), "the head has a proxy again")


def test_a_node_is_drained(cloud: Cloud) -> None:
    cloud.enter_by(HEAD)
    name = cloud.spread()
    wait: list[Callable[[], None]] = []

    def goes() -> None:
        wait[0]()
        cloud.nodes.signal(name, signal.SIGKILL)
        cloud.replace("three")

    row = cloud.chaos.suffer("a node is drained, then taken away", lambda: wait.append(cloud.drain(name)), goes)
    nobody_else(row)
    assert not row.failed["a"], row


def test_a_node_is_killed(cloud: Cloud) -> None:
    cloud.enter_by(HEAD)
    name = cloud.spread()

    def dies() -> None:
        cloud.nodes.signal(name, signal.SIGKILL)

    row = cloud.chaos.suffer("a node is killed, and another comes", dies, lambda: cloud.replace("four"))
    for version, failed in row.failed.items():
        assert sum(failed.values()) <= CLIENTS, f"{version}: only what the node had"
    assert all(at < 1 for at in row.failed_at), "and nothing afterwards"


def test_afterwards_everything_is_as_the_file_says(cloud: Cloud) -> None:
    as_the_file_says(cloud.chaos, file_of(cloud.chaos.breaks))
