"""The Serve applications of each side, as a Serve config names them.

ray-canary's come out of its own plan and compiler. Several Deployments stand in front of the same version applications,
so that what differs between two of them is the ingress.
"""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ray_canary import config
from ray_canary.bentos import BentoStore
from ray_canary.instances import Catalogue
from ray_canary.plan import Plan
from ray_canary.resolving import resolve
from ray_canary.serving import compile
from ray_canary.serving.compile import Config
from tests.benchmarks import decision

BENTO = "bench:v1"
SERVICE = "Bench"
#: Logical: what Ray lets a replica reserve. The machine's two cores are for whoever needs them.
CPUS = 0.1
_APPS = "tests.benchmarks.apps"


def deployment(
    name: str,
    versions: int,
    *,
    route_type: str = "random",
    ingress_replicas: int = 2,
    transport: str = "auto",
    kind: str = "bento",
) -> dict[str, Any]:
    """Return a Deployment file; its versions are the applications `<kind>-<key>`."""
    keys = decision.keys(versions)
    weights = decision.weights(keys)
    small = {"config_overrides": {"resources": {"cpu": f"{CPUS * 1000:g}m"}}, "scaling": {"max_replicas": 1}}
    route_by = {"header": "X-User", "query": "user"}.get(route_type)
    canary = {"route_type": route_type, **({"route_by": route_by} if route_by else {})}
    return {
        "name": name,
        "bento": BENTO,
        "services": {SERVICE: small},
        "canary": {**canary, "versions": {key: {"bento": BENTO, "weight": weights[key]} for key in keys[1:]}},
        "ray": {
            "route_prefix": f"/{name}",
            "ingress": {"num_replicas": ingress_replicas, "num_cpus": CPUS, "transport": transport},
            "applications": {key: f"{kind}-{key}" for key in keys},
        },
    }


def plan(home: Path, file: dict[str, Any]) -> Plan:
    """Resolve a Deployment file against the Bentos in `home`."""
    return resolve(config.parse(file), BentoStore(home / "bentos"), Catalogue.default())


def ingress(plan: Plan) -> Config:
    """Return ray-canary's ingress."""
    return compile.ingress_application(plan)


def unmetered(plan: Plan) -> Config:
    """Return ray-canary's ingress without metrics."""
    return {**ingress(plan), "import_path": f"{_APPS}:unmetered"}


def ingress_sharing(plan: Plan, count: int) -> Config:
    """Return the same where no more than `count` applications serve all of the versions; no file could say that."""
    application = copy.deepcopy(ingress(plan))
    targets = application["deployments"][0]["user_config"]["targets"]
    used = [target["application"] for target in targets.values()][:count]
    for index, target in enumerate(targets.values()):
        target["application"] = used[index % count]
    return application


def versions(plan: Plan) -> list[Config]:
    """Return ray-canary's versions."""
    return [compile.version_application(target) for target in plan.targets.values()]


def trivial_versions(plan: Plan) -> list[Config]:
    """Return the same with a trivial app in the place of the Bento."""
    place = {"import_path": f"{_APPS}:trivial_version", "args": {"service": SERVICE}}
    return [{**one, **place, "deployments": [_without(one, "user_config")]} for one in versions(plan)]


def _without(version: Config, *keys: str) -> Config:
    """Return the options of a version's only deployment, less those that only a `BentoHost` knows what to do with."""
    (options,) = version["deployments"]
    return {key: value for key, value in options.items() if key not in keys}


def plain(plan: Plan, replicas: int, name: str = "plain") -> Config:
    """Return one plain Serve deployment that hosts the Bento, with the options of a version, and no split."""
    return _plain(plan, name, "plain_bento", {"bento": BENTO, "service": SERVICE}, replicas)


def hosted(plan: Plan, replicas: int, name: str = "hosted") -> Config:
    """Return the same, where the deployment hosts the Bento as a version does."""
    return _plain(plan, name, "hosted_bento", {"bento": BENTO, "service": SERVICE}, replicas)


def plain_trivial(plan: Plan, replicas: int, name: str = "plain") -> Config:
    """Return one plain Serve deployment of the trivial app, with the options of a version, and no split."""
    return _plain(plan, name, "plain_trivial", {"service": SERVICE}, replicas)


def _plain(plan: Plan, name: str, builder: str, args: dict[str, str], replicas: int) -> Config:
    version = versions(plan)[0]
    fixed = _without(version, "autoscaling_config", "user_config") | {"num_replicas": replicas}
    place = {"name": name, "route_prefix": f"/{name}", "import_path": f"{_APPS}:{builder}", "args": args}
    return {**version, **place, "deployments": [fixed]}


def naive(kind: str) -> Config:
    """Return an ingress as anyone would write it, in front of two deployments of the `bento` or the `trivial` app."""
    args = {"kind": kind, "bento": BENTO, "num_cpus": CPUS}
    return {"name": "naive", "route_prefix": "/naive", "import_path": f"{_APPS}:naive", "args": args}


def whole(applications: Iterable[Config], port: int) -> Config:
    """Return a Serve config of these applications."""
    http = {"host": "127.0.0.1", "port": port}
    return {"proxy_location": "EveryNode", "http_options": http, "applications": list(applications)}
