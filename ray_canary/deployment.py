"""What Python callers use: `bentoml.deployment`'s names and semantics, on a Ray cluster of your own.

from ray_canary import deployment

live = deployment.apply(config_file="configs/summarization.yaml")
live.wait_until_ready()
"""

import builtins
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ray_canary import config
from ray_canary.bentos import BentoStore, store_path
from ray_canary.errors import ConfigError, Conflict, NotFound, Problem
from ray_canary.instances import Catalogue
from ray_canary.legal import did_you_mean
from ray_canary.plan import MAIN, Plan, resolve
from ray_canary.requirements import Environment
from ray_canary.serving.cluster import Cluster
from ray_canary.serving.rollout import Report, Rollout
from ray_canary.serving.state import Live
from ray_canary.splitter import least_move, moved_share

ConfigFile = str | Path


@dataclass(frozen=True)
class Deployment:
    """A Deployment on a cluster."""

    name: str
    cluster: Cluster = field(repr=False)

    @property
    def live(self) -> Live:
        """What the cluster has of it now. Raises NotFound."""
        return _find(self.cluster, self.name)

    def get_status(self) -> str:
        """Return its status in BentoCloud's words, such as `running`, `deploying`, `unhealthy` or `failed`."""
        return self.live.status

    def get_config(self) -> dict[str, Any]:
        """Return its Deployment file, with the weights that are in force."""
        return accepted(self.live).file()

    def get_bento(self) -> str:
        """Return the main Bento's tag."""
        return accepted(self.live).settings.targets[MAIN].bento

    def get_endpoint_urls(self) -> builtins.list[str]:
        """Return where it answers."""
        return [self.live.url]

    def wait_until_ready(self, timeout: float = 3600, check_interval: float = 1) -> int:
        """Wait until it runs; return 0, or 1 when it failed or `timeout` seconds are over."""
        deadline = time.monotonic() + timeout
        while (status := self.get_status()) not in ("running", "scaled-to-zero"):
            if status in ("failed", "unhealthy", "terminated", "terminating") or time.monotonic() > deadline:
                return 1
            time.sleep(check_interval)
        return 0

    def to_dict(self) -> dict[str, Any]:
        """Return what there is to know about it, in BentoCloud's shape with `targets` beside."""
        return describe(self.live)


def create(
    *,
    config_file: ConfigFile | None = None,
    config_dict: Mapping[str, Any] | None = None,
    address: str | None = None,
    wait: bool = True,
    timeout: float = 3600,
) -> Deployment:
    """Deploy a new Deployment. Raises Conflict if there is one of that name, and what `apply` raises."""
    file = read(config_file, config_dict)
    cluster = Cluster(address)
    if file.name in cluster.state().live():
        raise Conflict(f"name: Deployment {file.name!r} is there already; use update or apply")
    return apply_plan(plan(file), cluster, wait=wait, timeout=timeout)


def apply(
    *,
    config_file: ConfigFile | None = None,
    config_dict: Mapping[str, Any] | None = None,
    address: str | None = None,
    wait: bool = True,
    timeout: float = 3600,
) -> Deployment:
    """Make a Deployment what the file says, whether it is there or not.

    Raises:
        ConfigError: the file is wrong; nothing was touched.
        Conflict, DoesNotFit: the cluster has no place for it; nothing was touched.
        DeployFailed: a version failed, or `timeout` seconds were over.
        ClusterError: the cluster can't be reached, or refused.
    """
    return apply_plan(plan(read(config_file, config_dict)), Cluster(address), wait=wait, timeout=timeout)


def update(
    name: str | None = None,
    *,
    config_file: ConfigFile | None = None,
    config_dict: Mapping[str, Any] | None = None,
    address: str | None = None,
    wait: bool = True,
    timeout: float = 3600,
) -> Deployment:
    """Merge a partial file into a live Deployment: mappings key by key, lists whole, `canary: null` removes the canary.

    Raises:
        NotFound: there is no such Deployment; and what `apply` raises.
    """
    patch = _patch(config_file, config_dict)
    wanted = name or str(patch.get("name") or "")
    if not wanted:
        raise ConfigError.of("is required: which Deployment is to be updated?", path="name")
    cluster = Cluster(address)
    merged = config.deep_merge(accepted(_find(cluster, wanted)).file(), {**patch, "name": wanted})
    return apply_plan(plan(config.parse(merged, str(config_file or "<dict>"))), cluster, wait=wait, timeout=timeout)


def get(name: str, address: str | None = None) -> Deployment:
    """Return a Deployment that is on the cluster. Raises NotFound."""
    cluster = Cluster(address)
    _find(cluster, name)
    return Deployment(name, cluster)


def list(address: str | None = None) -> builtins.list[Deployment]:
    """Return every Deployment on the cluster."""
    cluster = Cluster(address)
    return [Deployment(name, cluster) for name in sorted(cluster.state().live())]


def terminate(name: str, address: str | None = None, *, wait: bool = False, timeout: float = 3600) -> Deployment:
    """Take all versions down; name and route stay taken and answer 503 until it is deployed again or deleted."""
    cluster = Cluster(address)
    live = _find(cluster, name)
    if live.single:
        raise Conflict(f"{name} is in the single-application form, which can't be terminated; delete it")
    rollout = Rollout(cluster)
    rollout.terminate(accepted(live))
    if wait:
        rollout.until_gone(frozenset(live.version_applications), timeout)
    return Deployment(name, cluster)


def delete(name: str, address: str | None = None, *, wait: bool = False, timeout: float = 3600) -> None:
    """Take a Deployment off the cluster."""
    cluster = Cluster(address)
    live = _find(cluster, name)
    rollout = Rollout(cluster)
    rollout.delete(live)
    if wait:
        rollout.until_gone(frozenset({name, *live.version_applications}), timeout)


def set_weights(name: str, weights: Mapping[str, int], address: str | None = None) -> "WeightChange":
    """Change the weights of some versions of a live Deployment; the others keep theirs, and main gets the rest.

    Returns when every ingress replica has them. No replica restarts.

    Raises:
        NotFound: there is no such Deployment.
        ConfigError: a version isn't there, or the weights don't fit; nothing was touched.
    """
    cluster = Cluster(address)
    live = accepted(_find(cluster, name))
    versions = live.settings.split.weights
    merged = {**versions, **_checked_weights(weights, versions)}
    change = WeightChange(_by_arm(live, versions), _by_arm(live, merged), live.settings.split.shares(), merged)
    try:
        Rollout(cluster).set_weights(live, merged)
    except ValidationError as error:
        message = "; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())
        raise ConfigError.of(message, path="weights") from None
    return change


@dataclass(frozen=True)
class WeightChange:
    """What a change of weights does to users."""

    arms_before: Mapping[str, int] = field(repr=False)
    arms_after: Mapping[str, int] = field(repr=False)
    before: Mapping[str, int]
    versions_after: Mapping[str, int]

    @property
    def after(self) -> dict[str, int]:
        """Every target's weight after it, main's first."""
        return {MAIN: 100 - sum(self.versions_after.values()), **self.versions_after}

    @property
    def moved(self) -> float:
        """The share of keys that change their version, 0 to 1."""
        return moved_share(self.arms_before, self.arms_after)

    @property
    def least(self) -> float:
        """The share of keys that would have to move under any scheme, 0 to 1."""
        return least_move(self.arms_before, self.arms_after)


# What the command line uses too. -------------------------------------------------------------------------------------


def read(config_file: ConfigFile | None, config_dict: Mapping[str, Any] | None = None) -> config.DeploymentFile:
    """Read a whole Deployment file from a path or a mapping. Raises ConfigError."""
    if config_file is not None:
        return config.load(config_file)
    return config.parse(config_dict or {}, "<dict>")


def plan(file: config.DeploymentFile, instance_types: str | Path | None = None) -> Plan:
    """Resolve a Deployment file against this machine's Bento store. Raises ConfigError."""
    return resolve(file, BentoStore(store_path()), Catalogue.find(instance_types), Environment.here())


def apply_plan(
    planned: Plan,
    cluster: Cluster,
    *,
    wait: bool = True,
    timeout: float = 3600,
    check_fit: bool = True,
    report: Report = lambda _: None,
) -> Deployment:
    """Put a plan on a cluster; see `apply`."""
    Rollout(cluster, report).deploy(planned, check_fit=check_fit, wait=wait, timeout_s=timeout)
    return Deployment(planned.name, cluster)


def describe(live: Live) -> dict[str, Any]:
    """Return what there is to know about a live Deployment, as plain data."""
    if live.rejected:
        return {
            "name": live.name,
            "status": {"status": live.status, "updated_at": live.ingress.deployed_at},
            "endpoint_urls": [live.url],
            "split": {"rejected": live.rejected},
            "ingress": {"replicas": _replicas(live.ingress.deployments.get("Ingress"))},
        }
    effective = live.effective()
    split = live.settings.split
    return {
        "name": live.name,
        "bento": live.settings.targets[MAIN].bento,
        "config": live.file(),
        "status": {"status": live.status, "updated_at": live.ingress.deployed_at},
        "endpoint_urls": [live.url],
        "split": {"route_type": split.route_type, "route_by": split.route_by, "scheme": split.scheme},
        "targets": {
            key: {
                "bento": target.settings.bento,
                "application": target.settings.application or live.name,
                "status": target.status,
                "ready": target.ready,
                "weight": target.weight,
                "effective_weight": effective[key],
                "replicas": _replicas(target.entry),
                "message": target.application.failure or target.application.trouble if target.application else None,
            }
            for key, target in live.targets.items()
        },
        "ingress": {"replicas": _replicas(live.ingress.deployments.get("Ingress"))},
    }


def _replicas(deployment: Any) -> builtins.list[dict[str, Any]]:
    if deployment is None:
        return []
    return [{"id": one.id, "state": one.state, "pid": one.pid, "node_id": one.node_id} for one in deployment.replicas]


def _find(cluster: Cluster, name: str) -> Live:
    there = cluster.state().live()
    if name not in there:
        hint = did_you_mean(name, there) or (f"there are {', '.join(sorted(there))}" if there else "there is none")
        raise NotFound(f"The cluster has no Deployment {name!r}; {hint}")
    return there[name]


def accepted(live: Live) -> Live:
    """Return `live`, unless its ingress refuses the `user_config` that would have to be changed."""
    if live.rejected:
        message = f"the ingress refuses its user_config: {live.rejected}"
        raise ConfigError.of(message, live.name, hint="deploy a right file, or delete the Deployment")
    return live


def _patch(config_file: ConfigFile | None, config_dict: Mapping[str, Any] | None) -> dict[str, Any]:
    if config_file is None:
        return dict(config_dict or {})
    from ray_canary import yamlfile

    loaded = yamlfile.load_mapping(yamlfile.read(config_file), str(config_file), "a part of a Deployment")
    if loaded.problems:
        raise ConfigError(loaded.problems, str(config_file))
    return dict(loaded.data)


def _checked_weights(weights: Mapping[str, int], versions: Mapping[str, int]) -> Mapping[str, int]:
    found = []
    for key, weight in weights.items():
        if key == MAIN:
            found.append(Problem("main", "gets what the versions leave of 100", hint="give the versions' weights"))
        elif key not in versions:
            hint = did_you_mean(key, versions) or f"the versions are {', '.join(versions) or 'none'}"
            found.append(Problem(key, "is not a version of this Deployment", hint=hint))
        elif not 0 <= weight <= 100:
            found.append(Problem(key, f"{weight} is not a whole number from 0 to 100", weight))
    if not found and (total := sum({**versions, **weights}.values())) > 100:
        given = ", ".join(f"{key}={weight}" for key, weight in {**versions, **weights}.items())
        found.append(Problem("", f"the weights add up to {total}, which is over 100: {given}", total))
    if found:
        raise ConfigError(found)
    return weights


def _by_arm(live: Live, versions: Mapping[str, int]) -> dict[str, int]:
    shares = {MAIN: 100 - sum(versions.values()), **versions}
    return {live.settings.targets[key].arm: weight for key, weight in shares.items()}
