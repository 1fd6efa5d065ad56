"""A local Ray of several nodes: several raylets on this machine, each with a Bento store of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ray_canary.serving import local
from tests.e2e.harness import RealCluster, wait_for

#: Names the node that a process belongs to.
NODE = "RAY_CANARY_TEST_NODE"


@dataclass
class Nodes:
    """The worker nodes of a cluster, beside its head. Each has `work/<name>` as its `BENTOML_HOME`."""

    cluster: RealCluster
    offset: int
    names: list[str] = field(default_factory=list)

    def home(self, name: str) -> Path:
        """Return a node's BENTOML_HOME."""
        return self.cluster.work / name

    def start(
        self, name: str, cpus: float, environment: Mapping[str, str] | None = None, labels: str | None = None
    ) -> None:
        """Start a worker node with an empty Bento store, and wait until the cluster has it; `labels` is like `a=b`."""
        self.home(name).mkdir()
        before = self.alive()
        number = len(self.names)
        self.names.append(name)
        settings = self.cluster.local
        command = [
            str(Path(sys.executable).with_name("ray")),
            "start",
            f"--address=127.0.0.1:{settings.port}",
            "--node-ip-address=127.0.0.1",
            f"--num-cpus={cpus:g}",
            f"--memory={10 * 2**30}",
            "--object-store-memory=100000000",
            # Of a node's own, not of the range that the head takes its ports from.
            "--min-worker-port=0",
            "--max-worker-port=0",
            f"--dashboard-agent-listen-port={27365 + self.offset + 100 * number}",
            "--disable-usage-stats",
            *([f"--labels={labels}"] if labels else []),
        ]
        own = {**settings.settings(), "BENTOML_HOME": str(self.home(name)), NODE: name, **(environment or {})}
        done = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        wait_for(lambda: self.alive() == before + 1, f"node {name} is there")

    def alive(self) -> int:
        """Return how many nodes the cluster counts."""
        from ray_canary.serving.cluster import Cluster

        return len(Cluster(self.cluster.local.address).sizes())

    def kill(self, name: str) -> None:
        """Kill all processes of a worker node at once, as when its machine goes."""
        before = self.alive()
        self.signal(name, signal.SIGKILL)
        wait_for(lambda: self.alive() == before - 1, f"node {name} has gone", 90)

    def signal(self, name: str, what: signal.Signals) -> None:
        """Send a signal to all processes of a worker node, and wait for nothing."""
        for process in self.processes(name):
            try:
                process.send_signal(what)
            except psutil.NoSuchProcess:
                continue

    def processes(self, name: str) -> list[psutil.Process]:
        """Return a node's processes; the head's name is empty."""
        found = []
        for process in local.processes_of(self.cluster.local.name):
            try:
                if process.environ().get(NODE, "") == name:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found
