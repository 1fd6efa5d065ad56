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


#: Modules of tests that take a cluster as another one has left it, with nothing on it. They come first, on one and the
#: same: to start one and Serve takes half a minute of both cores. Not those that read what a cluster keeps of a
#: Deployment that has gone, which can have the same name: its metrics, logs, revisions and events.
SHARING = tuple(
    f"tests.e2e.test_{name}"
    for name in ("cli", "clients", "dependencies", "from_zero", "ingress_scaling", "kuberay", "lifecycle", "playground")
)


def _module(item: pytest.Item) -> str:
    return str(item.module.__name__) if isinstance(item, pytest.Function) else ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the modules that share a cluster come before the other end-to-end tests, each in its own order."""
    ours = [index for index, item in enumerate(items) if _module(item).startswith("tests.e2e.")]
    in_order = sorted((items[index] for index in ours), key=lambda item: _module(item) not in SHARING)
    for index, item in zip(ours, in_order, strict=True):
        items[index] = item


class Clusters:
    """Starts clusters, and keeps the one that modules share from one of them to the next."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request
        self._kept: RealCluster | None = None

    def take(self) -> RealCluster:
        """Return the one behind HAProxy that modules share."""
        if self._kept is None:
            self._kept = self.start(haproxy=True)
        return self._kept

    def start(self, *, haproxy: bool, drain_s: int = REPLICA_DRAIN_S) -> RealCluster:
        """Start one."""
        self.leave()
        home: Path = self._request.getfixturevalue("bentos")
        work = self._request.getfixturevalue("tmp_path_factory").mktemp("work")
        settings = settings_of(home, work, haproxy=haproxy, drain_s=drain_s)
        local.down(settings.name)
        local.up(settings)
        return RealCluster(home, work, settings)

    def leave(self) -> None:
        """End the one that modules share."""
        kept, self._kept = self._kept, None
        if kept is not None:
            end(kept)


def end(cluster: RealCluster) -> None:
    """End a cluster, and remove its folder."""
    local.down(cluster.local.name, grace_s=2)
    shutil.rmtree(cluster.work)


@pytest.fixture(scope="session")
def clusters(request: pytest.FixtureRequest) -> Iterator[Clusters]:
    """What starts the tests' clusters."""
    found = Clusters(request)
    yield found
    found.leave()


@pytest.fixture(scope="module", autouse=True)
def _nobody_elses(request: pytest.FixtureRequest, clusters: Clusters) -> None:
    """A module that doesn't share a cluster has the machine to itself, and the same ports."""
    if request.module.__name__ not in SHARING:
        clusters.leave()


@pytest.fixture(scope="module", params=["haproxy", "proxy"])
def either(request: pytest.FixtureRequest, clusters: Clusters) -> Iterator[RealCluster]:
    """A cluster behind HAProxy, and then one behind Serve's own proxy."""
    cluster = clusters.start(haproxy=request.param == "haproxy")
    yield cluster
    end(cluster)


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest, clusters: Clusters) -> Iterator[RealCluster]:
    """A cluster behind HAProxy, for all tests of a module."""
    if request.module.__name__ in SHARING:
        cluster = clusters.take()
        yield cluster
        try:
            cluster.clear()
        except BaseException:
            clusters.leave()  # The next module gets another one.
            raise
        return
    cluster = clusters.start(haproxy=True, drain_s=getattr(request.module, "REPLICA_DRAIN_S", REPLICA_DRAIN_S))
    yield cluster
    end(cluster)


@pytest.fixture
def cluster(shared: RealCluster) -> Iterator[RealCluster]:
    """The module's cluster, with nothing on it at first and at last."""
    yield shared
    shared.clear()
