"""The local Ray: it starts with all that a Deployment wants, and ends without a trace, and no other with it."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest

from ray_canary.errors import ClusterError
from ray_canary.serving import local
from ray_canary.serving.cluster import Cluster
from tests.e2e.deployments import OFFSET
from tests.e2e.harness import PATIENCE, wait_for


def settings(number: int) -> local.Local:
    """Return a cluster of the tests' own; each number has its own ports."""
    base = OFFSET + 10 * number
    return local.Local(
        name=f"ray-canary-tests-local-{OFFSET}-{number}",
        cpus=4,
        memory_bytes=4 * 2**30,
        port=26400 + base,
        dashboard_port=28300 + base,
        client_port=26050 + base,
        http_port=28050 + base,
        arguments=(f"--dashboard-agent-listen-port={26370 + base}", f"--object-store-memory={100 * 2**20}"),
        environment={
            local.HAPROXY_STATS_PORT: str(28450 + base),
            local.HAPROXY_METRICS_PORT: str(29150 + base),
            local.FALLBACK_PORT: str(8900 + base),
            "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(9900 + base),
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(30500 + base),
            "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(40500 + base),
        },
    )


@pytest.fixture
def ended() -> Iterator[None]:
    """No cluster of these tests before and after."""
    for number in (1, 2):
        local.down(settings(number).name)
    yield
    for number in (1, 2):
        local.down(settings(number).name)


def processes(number: int) -> list[psutil.Process]:
    return list(local.processes_of(settings(number).name))


def names(number: int) -> set[str]:
    found = set()
    for process in processes(number):
        try:
            found.add(process.name())
        except psutil.NoSuchProcess:
            continue
    return found


def start_serve(number: int) -> None:
    """Start Serve, with which HAProxy comes."""
    config = {"http_options": {"host": "127.0.0.1", "port": settings(number).http_port}, "applications": []}
    Cluster(settings(number).address).submit(config)
    if settings(number).haproxy:
        wait_for(lambda: any("haproxy" in name for name in names(number)), "HAProxy runs", 60)


@pytest.mark.usefixtures("ended")
def test_two_clusters_live_side_by_side_and_each_ends_alone_and_wholly() -> None:
    one, two = settings(1), replace(settings(2), haproxy=False)
    for again in (False, True):
        local.up(one)
        assert local.runs(one.name)
        assert Cluster(one.address).sizes()[0].resources["CPU"] == 4
        if not again:
            start_serve(1)
            local.up(two)
        others = {process.pid for process in processes(2)}
        assert others
        before = processes(1)
        assert {"gcs_server", "raylet"} <= names(1)
        assert local.down(one.name) >= len(before)
        assert not local.runs(one.name)
        _, alive = psutil.wait_procs(before, timeout=5 * PATIENCE)
        assert not alive
        assert not [port for port in one.ports() if listens(port)]
        assert others <= {process.pid for process in processes(2)}, "the other cluster goes on"
        assert Cluster(two.address).sizes()[0].resources["CPU"] == 4
    assert local.down(one.name) == 0, "there is nothing left to end"
    assert local.down(two.name) > 0
    assert not local.runs(two.name)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("which", ["port", "dashboard_port", "client_port", "http_port", "stats", "metrics"])
def test_a_port_that_is_taken_is_named_with_its_holder_before_anything_starts(which: str) -> None:
    one = settings(1)
    named = {"stats": one.environment[local.HAPROXY_STATS_PORT], "metrics": one.environment[local.HAPROXY_METRICS_PORT]}
    port = int(named[which]) if which in named else getattr(one, which)
    script = (
        f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); print('up', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "up\n"
        with pytest.raises(ClusterError) as raised:
            local.up(one)
        holder.kill()
    assert f"{port} (" in str(raised.value)
    assert f", taken by {psutil_name()}, pid {holder.pid})" in str(raised.value)
    assert not local.runs(one.name)


def psutil_name() -> str:
    return psutil.Process().name() if "python" in psutil.Process().name() else "python"


@pytest.mark.usefixtures("ended")
def test_a_ray_that_does_not_start_says_why_and_leaves_nothing() -> None:
    wrong = replace(settings(1), arguments=("--no-such-option",))
    with pytest.raises(ClusterError, match="No such option.*--no-such-option"):
        local.up(wrong)
    assert not local.runs(wrong.name)
    slow = settings(1)
    began = time.monotonic()
    with pytest.raises(ClusterError, match=r"did not end within 0\.2 s"):
        local.up(slow, timeout_s=0.2)
    assert time.monotonic() - began < 30
    assert not local.runs(slow.name)
    assert json.dumps([process.pid for process in processes(1)]) == "[]"
