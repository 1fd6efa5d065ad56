"""A local Ray of the tests' own in each mode, and real Bentos for it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_canary.serving import local
from tests.e2e.deployments import HTTP_PORT, NODE_SECRETS, OFFSET
from tests.e2e.harness import AUTH, EVEN, RealCluster, build_bento

#: Seconds for which a replica that goes still answers, until its routers know. Shorter than Serve's own 30, so that a
#: test does not wait half a minute for each; a module that holds more has its own `REPLICA_DRAIN_S`.
REPLICA_DRAIN_S = 2

#: Behind HAProxy each replica listens on a port of its own, and the port of one that has gone is soon another's: with
#: the same range, one cluster's HAProxy sends requests to another cluster's replica.
DIRECT_PORTS = (30500 + OFFSET, 30999 + OFFSET)


@pytest.fixture(scope="session")
def bentos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BENTOML_HOME with the test Bentos: three builds of `probe`, and one that fails to import."""
    home = tmp_path_factory.mktemp("bentoml")
    for version in ("v1", "v2", "v3"):
        build_bento(home, "probe", version)
    return home


def settings_of(home: Path, work: Path, *, haproxy: bool, drain_s: int = REPLICA_DRAIN_S) -> local.Local:
    """Return what the tests' cluster is started with, where `home` is its node's BENTOML_HOME."""
    return local.Local(
        name=f"ray-canary-tests-{OFFSET}",
        cpus=32,
        memory_bytes=200 * 2**30,
        haproxy=haproxy,
        port=26379 + OFFSET,
        dashboard_port=28265 + OFFSET,
        client_port=26001 + OFFSET,
        http_port=HTTP_PORT,
        arguments=(f"--dashboard-agent-listen-port={26365 + OFFSET}",),
        environment={
            **AUTH,
            **EVEN,
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(drain_s),
            "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": str(drain_s),
            # Ray tries three times to build an environment, for each of Serve's three tries, and copies a virtual
            # environment each time.
            "RUNTIME_ENV_RETRY_TIMES": "1",
            # Ray's GCS keeps a record of each of the last 100,000 tasks, some 3 KB each, which takes more than an hour
            # to fill; with fewer, whatever else grew would show.
            "RAY_task_events_max_num_task_in_gcs": "5000",
            "BENTOML_HOME": str(home),
            "BENTOML_DO_NOT_TRACK": "True",
            # Where the cluster's one node keeps its secrets; `NODE_SECRETS` are in the environment of its Ray.
            "RAY_CANARY_SECRETS_DIR": str(work / "secrets"),
            **NODE_SECRETS,
            local.HAPROXY_STATS_PORT: str(28404 + OFFSET),
            local.HAPROXY_METRICS_PORT: str(29101 + OFFSET),
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(DIRECT_PORTS[0]),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(DIRECT_PORTS[1]),
            "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(40500 + OFFSET),
            "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(40999 + OFFSET),
            # HAProxy's last resort while an application has no replica; two clusters would share these ports too.
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(8700 + OFFSET),
            "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(9700 + OFFSET),
        },
    )


def _start(home: Path, work: Path, *, haproxy: bool, drain_s: int = REPLICA_DRAIN_S) -> RealCluster:
    settings = settings_of(home, work, haproxy=haproxy, drain_s=drain_s)
    local.down(settings.name)
    local.up(settings)
    return RealCluster(home, work, settings)


@pytest.fixture(scope="module", params=["haproxy", "proxy"])
def either(
    request: pytest.FixtureRequest, bentos: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealCluster]:
    """A cluster behind HAProxy, and then one behind Serve's own proxy."""
    work = tmp_path_factory.mktemp("work")
    cluster = _start(bentos, work, haproxy=request.param == "haproxy")
    yield cluster
    local.down(cluster.local.name, grace_s=2)
    shutil.rmtree(work)


@pytest.fixture(scope="module")
def shared(
    request: pytest.FixtureRequest, bentos: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealCluster]:
    """A cluster behind HAProxy, for all tests of a module."""
    work = tmp_path_factory.mktemp("work")
    drain_s = getattr(request.module, "REPLICA_DRAIN_S", REPLICA_DRAIN_S)
    cluster = _start(bentos, work, haproxy=True, drain_s=drain_s)
    yield cluster
    local.down(cluster.local.name, grace_s=2)
    shutil.rmtree(work)


@pytest.fixture
def cluster(shared: RealCluster) -> Iterator[RealCluster]:
    """The module's cluster, with nothing on it at first and at last."""
    yield shared
    shared.clear()
