"""A local Ray with the right settings: HAProxy where it exists, room for the file, Serve and dashboard on loopback."""

import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from ray_canary.errors import ClusterError
from ray_canary.plan import Plan
from ray_canary.serving import fitting

#: Seconds for which a port may be taken by nobody: the last threads of a process that was ended still let go of it.
CLOSING_S: Final = 5.0
#: Every process of a local cluster has this in its environment, so that `down` ends those and no others.
MARK: Final = "RAY_CANARY_LOCAL"

HAPROXY_METRICS_PORT: Final = "RAY_SERVE_HAPROXY_METRICS_PORT"
HAPROXY_STATS_PORT: Final = "RAY_SERVE_HAPROXY_STATS_PORT"
FALLBACK_PORT: Final = "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"


def haproxy_settings(graceful_shutdown_timeout_s: float = 600) -> dict[str, str]:
    """Return the environment variables with which Serve is fast, and long streams whole."""
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Every change of an ingress replica makes Serve start a new HAProxy; the old one ends its streams, and is
        # killed after this many seconds. Serve's 120 would cut longer streams off.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(math.ceil(graceful_shutdown_timeout_s) + 30),
    }


@dataclass(frozen=True)
class Local:
    """What a local cluster is started with.

    `cpus` and `memory_bytes` are logical: what Ray lets replicas reserve, not what the machine has. `environment` is
    given to every process of the cluster, `arguments` to `ray start`.
    """

    name: str = "local"
    cpus: float = 8
    memory_bytes: int = 16 * 2**30
    haproxy: bool = True
    port: int = 6379
    dashboard_port: int = 8265
    client_port: int = 10001
    http_port: int = 8000
    environment: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """The dashboard's address."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    def command(self) -> list[str]:
        """Return the `ray start` command."""
        return [
            str(Path(sys.executable).with_name("ray")),
            "start",
            "--head",
            "--node-ip-address=127.0.0.1",
            f"--port={self.port}",
            f"--dashboard-port={self.dashboard_port}",
            "--dashboard-host=127.0.0.1",
            f"--ray-client-server-port={self.client_port}",
            f"--num-cpus={int(self.cpus)}",
            f"--memory={self.memory_bytes}",
            "--disable-usage-stats",
            *self.arguments,
        ]

    def settings(self) -> dict[str, str]:
        """Return the environment variables that Serve must find when Ray starts."""
        return {**(haproxy_settings() if self.haproxy else {}), **self.environment, MARK: self.name}

    def ports(self) -> dict[int, str]:
        """Return the ports that must be free, and what each is for."""
        found = {
            self.port: "Ray",
            self.dashboard_port: "Ray's dashboard",
            self.client_port: "Ray's client server",
            self.http_port: "Serve",
        }
        if self.haproxy:
            found[int(self.environment.get(HAPROXY_STATS_PORT, 8404))] = "HAProxy's statistics"
            found[int(self.environment.get(HAPROXY_METRICS_PORT, 9101))] = "HAProxy's metrics"
            # Several clusters can have this one at once, and would answer each other's requests.
            found[int(self.environment.get(FALLBACK_PORT, 8500))] = "Serve's fallback proxy"
        return found


def sized(
    plan: Plan | None,
    num_cpus: int | None = None,
    memory_gib: float | None = None,
    haproxy: bool | None = None,
) -> Local:
    """Return a local cluster with room for every replica that `plan` may have, surge included."""
    needs = fitting.needs(plan, most=True) if plan else {}
    return Local(
        cpus=num_cpus or max(8, math.ceil(needs.get("CPU", 0))),
        memory_bytes=int((memory_gib or 0) * 2**30) or max(16 * 2**30, math.ceil(needs.get("memory", 0))),
        haproxy=haproxy_exists() if haproxy is None else haproxy,
        http_port=plan.ray.http.port if plan else 8000,
    )


def runs(name: str = "local") -> bool:
    """Return whether a local cluster of ours runs."""
    return any(processes_of(name))


def token_mode() -> bool:
    """Return whether a Ray started here asks for a token: where Ray has made one before, it does."""
    return os.environ.get("RAY_AUTH_MODE", "token" if token_exists() else "disabled") == "token"


def token_exists() -> bool:
    """Return whether there is a token of Ray's for this user."""
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or (Path.home() / ".ray" / "auth_token").exists()


def haproxy_exists() -> bool:
    """Return whether Ray's HAProxy runs here, which it does on Linux."""
    return sys.platform == "linux"


def machine() -> tuple[int, int]:
    """Return this machine's cores and its memory in bytes."""
    return os.cpu_count() or 1, int(psutil.virtual_memory().total)


def up(local: Local, timeout_s: float = 120) -> None:
    """Start a local cluster and wait until its dashboard answers.

    Raises:
        ClusterError: a port is taken, or Ray doesn't start.
    """
    _check_ports(local)
    environment = {**os.environ, **local.settings()}
    try:
        done = subprocess.run(local.command(), env=environment, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        down(local.name)
        raise ClusterError(f"`{' '.join(local.command())}` did not end within {timeout_s:g} s.") from None
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise ClusterError("\n".join([f"`{' '.join(local.command())}` failed:", *said[-6:]]))
    deadline = time.monotonic() + timeout_s
    while not _listens(local.dashboard_port):
        if time.monotonic() > deadline:
            raise ClusterError(f"Ray's dashboard doesn't answer at {local.address} after {timeout_s:g} s.")
        time.sleep(0.1)


def down(name: str = "local", grace_s: float = 3) -> int:
    """End every process of a local cluster, HAProxy included, and return how many there were.

    What can end by itself does so within `grace_s`. Ray's own processes never do, since each waits for another.
    """
    processes = list(processes_of(name))
    ended: set[int] = set()
    deadline = time.monotonic() + grace_s
    while processes:
        for process in processes:
            ended.add(process.pid)
            _signal(process, kill=time.monotonic() > deadline)
        psutil.wait_procs(processes, timeout=1)
        processes = list(processes_of(name))
    _forget(ended)
    return len(ended)


def processes_of(name: str) -> Iterator[psutil.Process]:
    """Yield the processes of a local cluster, by the mark in their environment."""
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == name and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def _signal(process: psutil.Process, *, kill: bool) -> None:
    try:
        if kill:
            process.kill()
        else:
            process.terminate()
    except psutil.NoSuchProcess:
        return


def _forget(ended: set[int]) -> None:
    """Remove the file by which Ray finds its last cluster, unless another cluster runs."""
    current = Path("/tmp/ray/ray_current_cluster")
    if not ended or not current.exists():
        return
    if not any(process.info["name"] == "gcs_server" for process in psutil.process_iter(["name"])):
        current.unlink(missing_ok=True)


def _check_ports(local: Local) -> None:
    """Refuse ports that somebody has; wait for those that nobody has any more."""
    deadline = time.monotonic() + CLOSING_S
    while taken := _taken(local):
        if all(taken.values()) or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    if taken:
        told = [f"{port} ({local.ports()[port]}{holder})" for port, holder in taken.items()]
        raise ClusterError(
            f"A local Ray can't start, since these ports are taken: {', '.join(told)}. "
            "End what has them (`ray-canary down` ends a cluster of ours; a HAProxy that `ray stop` left behind keeps "
            "its ports), or choose others."
        )


def _taken(local: Local) -> dict[int, str]:
    """Return the ports on which somebody listens, each with who that is; empty if no process says so."""
    return {port: _holder(port) for port in local.ports() if _listens(port)}


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _holder(port: int) -> str:
    for process in psutil.process_iter(["name"]):
        try:
            connections = process.net_connections("tcp")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in connections):
            return f", taken by {process.info['name']}, pid {process.pid}"
    return ""
