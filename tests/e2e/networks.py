"""A local Ray whose nodes have a network of their own each: addresses that differ, HAProxies that don't meet, and
cables that can be cut.

Each node is a network namespace on one bridge, which leads nowhere else. It takes root, and `ip` of iproute2.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ray_canary.errors import ClusterError
from ray_canary.serving import local
from ray_canary.serving.cluster import Cluster
from tests.e2e.harness import RealCluster, wait_for
from tests.e2e.nodes import NODE

_BRIDGE = "rc-br"
_NETWORK = "10.213.77"


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


@dataclass
class Lan:
    """The nodes of one cluster, each at an address of its own; the first one to start is the head."""

    cluster: RealCluster
    addresses: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, home: Path, work: Path, settings: local.Local) -> "Lan":
        """Lay the network; nothing runs on it yet. What a run left behind that was killed goes first."""
        local.down(settings.name)
        _take_away(_left_behind())
        _ip("link", "add", _BRIDGE, "type", "bridge")
        _ip("addr", "add", f"{_NETWORK}.1/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
        return cls(_Cluster(home, work, settings))

    def start(self, name: str, cpus: float) -> None:
        """Start a node with a Bento store like the cluster's, and wait until the cluster has it."""
        head, number = next(iter(self.addresses.values()), None), len(self.addresses) + 2
        address = self.addresses[name] = f"{_NETWORK}.{number}"
        self._lay(name, address)
        home = self.cluster.work / name
        shutil.copytree(self.cluster.home, home)
        settings = self.cluster.local
        ports = [f"--port={settings.port}", f"--dashboard-port={settings.dashboard_port}"]
        more = [f"--address={head}:{settings.port}"] if head else ["--head", "--dashboard-host=0.0.0.0", *ports]
        command = [
            *["ip", "netns", "exec", _space(name), str(Path(sys.executable).with_name("ray")), "start", *more],
            *[f"--node-ip-address={address}", f"--num-cpus={cpus:g}", f"--memory={10 * 2**30}"],
            *["--object-store-memory=100000000", "--disable-usage-stats"],
        ]
        own = {**os.environ, **settings.settings(), "BENTOML_HOME": str(home), NODE: name}
        done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        if head is None:
            assert isinstance(self.cluster, _Cluster)
            self.cluster.local = _Local(**{**vars(settings), "host": address})
            self.cluster.entered_at = address
        wait_for(lambda: self._alive() == len(self.addresses), f"node {name} is there")

    def _alive(self) -> int:
        try:
            return len(Cluster(self.cluster.local.address).sizes())
        except ClusterError:
            return 0

    def cut(self, name: str) -> None:
        """Pull a node's cable: nothing reaches it any more, and it reaches nobody."""
        _ip("link", "set", f"rc-{name}", "down")

    def plug(self, name: str) -> None:
        """Put it back."""
        _ip("link", "set", f"rc-{name}", "up")

    def enter_by(self, name: str) -> None:
        """Let every user enter by this node's HAProxy from now on."""
        assert isinstance(self.cluster, _Cluster)
        self.cluster.entered_at = self.addresses[name]

    def remove(self) -> None:
        """End every process, and take the network away."""
        local.down(self.cluster.local.name, grace_s=2)
        _take_away(self.addresses)

    def _lay(self, name: str, address: str) -> None:
        _ip("netns", "add", _space(name))
        _ip("link", "add", f"rc-{name}", "type", "veth", "peer", "name", "eth0", "netns", _space(name))
        _ip("link", "set", f"rc-{name}", "master", _BRIDGE, "up")
        _ip("-n", _space(name), "addr", "add", f"{address}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            _ip("-n", _space(name), "link", "set", link, "up")


def _left_behind() -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.split()
    return [word.removeprefix(_space("")) for word in listed if word.startswith(_space(""))]


def _take_away(names: Iterable[str]) -> None:
    for name in names:
        subprocess.run(["ip", "netns", "delete", _space(name)], capture_output=True)
    subprocess.run(["ip", "link", "delete", _BRIDGE], capture_output=True)


def _space(name: str) -> str:
    return f"rc-{name}"


class _Local(local.Local):
    """What it was started with, reached from outside."""

    def __init__(self, host: str, **given: object) -> None:
        super().__init__(**given)  # type: ignore[arg-type]
        object.__setattr__(self, "host", host)

    @property
    def address(self) -> str:
        """The dashboard's address."""
        return f"http://{vars(self)['host']}:{self.dashboard_port}"


@dataclass
class _Cluster(RealCluster):
    """The cluster, entered at one node's address."""

    entered_at: str = "127.0.0.1"

    @property
    def url(self) -> str:
        """Where Serve answers."""
        return f"http://{self.entered_at}:{self.local.http_port}"
