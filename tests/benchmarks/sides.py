"""The sides on Ray: a local cluster of their own, and where each application answers."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx

from ray_canary.serving import local, ways
from ray_canary.serving.cluster import Cluster
from ray_canary.serving.compile import INGRESS_DEPLOYMENT, Config
from tests.benchmarks import applications
from tests.benchmarks.meter import Side
from tests.benchmarks.settings import ROOT
from tests.e2e.harness import AUTH, EVEN, wait_for

#: Added to the ports of the end-to-end tests.
OFFSET = 200
HTTP_PORT = 28000 + OFFSET
#: Where replicas listen in HAProxy mode: out of reach of the end-to-end tests', which end at 31000.
_REPLICA_PORTS = 31200, 41200
_NAME = "ray-canary-benchmarks"
_READY_S = 300


class OnRay:
    """A cluster on which applications run; `way` is how ray-canary's requests should travel there."""

    def __init__(self, cluster: Cluster, way: str) -> None:
        self._cluster = cluster
        self._way = way

    def canary(self, name: str, versions: Iterable[str], way: str | None = None) -> Side:
        """Return a Deployment of ray-canary, once its requests travel the way that they should."""
        store, expected = self._cluster.store(), {way or self._way}
        wait_for(lambda: set(ways.asked(store, name).values()) == expected, f"{name} goes {expected}", 60)
        return self.side(name, versions)

    def side(self, name: str, versions: Iterable[str] = (), ingress: str = INGRESS_DEPLOYMENT) -> Side:
        """Return the side that answers under `/<name>`, whatever it is.

        The processes of its deployment called `ingress` are the ingress; all others of its application, and those of
        the applications that `versions` names, are versions.
        """
        own = self._pids(name)
        others = [pid for one in versions for pids in self._pids(one).values() for pid in pids]
        front = own.pop(ingress, [])
        rest = [pid for pids in own.values() for pid in pids]
        return Side(f"http://127.0.0.1:{HTTP_PORT}/{name}", tuple(front), (*rest, *others))

    def _pids(self, application: str) -> dict[str, list[int]]:
        deployments = self._cluster.state().applications[application].deployments
        return {
            name: [replica.pid for replica in one.replicas if replica.state == "RUNNING" and replica.pid]
            for name, one in deployments.items()
        }

    def ready(self, names: Iterable[str]) -> bool:
        """Return whether every replica of these applications runs. Raises RuntimeError if one has failed for good."""
        found = self._cluster.state().applications
        if failures := [f"{name}: {one.failure}" for name, one in found.items() if one.failure]:
            raise RuntimeError("; ".join(failures))
        return all(
            name in found
            and found[name].deployments
            and all(one.settled and one.running for one in found[name].deployments.values())
            for name in names
        )


@contextmanager
def serving(home: Path, configs: list[Config], *, haproxy: bool) -> Iterator[OnRay]:
    """Start a Ray with these applications, and end it with everything on it."""
    settings = _settings(home, haproxy=haproxy)
    local.down(_NAME)
    local.up(settings)
    try:
        cluster = Cluster(settings.address)
        cluster.submit(applications.whole(configs, HTTP_PORT))
        on_ray = OnRay(cluster, "direct" if haproxy else "handle")
        names = [config["name"] for config in configs]
        wait_for(lambda: on_ray.ready(names), f"{', '.join(names)} run", _READY_S, 0.5)
        routes = [config["route_prefix"] for config in configs if config["route_prefix"]]
        for route in routes:
            wait_for(partial(_answers, route), f"{route} answers", 60)
        yield on_ray
    finally:
        local.down(_NAME, grace_s=2)


def _answers(route: str) -> bool:
    """Return whether the app behind a route answers; HAProxy has a 404 of its own for what isn't there."""
    url = f"http://127.0.0.1:{HTTP_PORT}{route}"
    try:
        with httpx.Client(timeout=5) as client:
            codes = client.get(f"{url}/ok").status_code, client.post(f"{url}/count", json={"text": ""}).status_code
    except httpx.HTTPError:
        return False
    return 200 in codes


def _settings(home: Path, *, haproxy: bool) -> local.Local:
    http, grpc = _REPLICA_PORTS
    return local.Local(
        name=_NAME,
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
            **EVEN,  # As nginx, wrk and `bentoml serve` have it.
            "PYTHONPATH": str(ROOT),
            "BENTOML_HOME": str(home),
            "BENTOML_DO_NOT_TRACK": "True",
            local.HAPROXY_STATS_PORT: str(28404 + OFFSET),
            local.HAPROXY_METRICS_PORT: str(29101 + OFFSET),
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(http),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(http + 500),
            "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(grpc),
            "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(grpc + 500),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(8700 + OFFSET),
            "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(9700 + OFFSET),
        },
    )
