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

from ray_canary import config, sources
from ray_canary.bentos import BentoStore, store_path
from ray_canary.description import describe
from ray_canary.errors import ClusterError, ConfigError, Conflict
from ray_canary.guarded import Notice, changing, deployed_release, deployed_revision, wanted_revision
from ray_canary.instances import Catalogue
from ray_canary.lookup import accepted, find, found_in, pinned
from ray_canary.plan import MAIN, Plan
from ray_canary.promotion import check_promotable, is_promoted, promoted
from ray_canary.requirements import Environment
from ray_canary.resolving import resolve
from ray_canary.serving import fitting, rollout, supply, ways
from ray_canary.serving.adoption import adopt, restore
from ray_canary.serving.cluster import Cluster
from ray_canary.serving.revisions import Revision
from ray_canary.serving.rollout import Options, Report, Rollout
from ray_canary.serving.state import Live, OnCluster
from ray_canary.serving.supply import Shipping
from ray_canary.weights import WeightChange, checked_weights, weight_change

ConfigFile = str | Path


@dataclass(frozen=True)
class Deployment:
    """A Deployment on a cluster."""

    name: str
    cluster: Cluster = field(repr=False)

    @property
    def live(self) -> Live:
        """What the cluster has of it now. Raises NotFound."""
        return find(self.cluster, self.name)

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
        return describe(self.live, self.ways())

    def ways(self) -> dict[str, str]:
        """Return how each target's requests travel, `direct` or by `handle`; empty if it can't be known from here."""
        try:
            return ways.asked(self.cluster.store(), self.name)
        except ClusterError:
            return {}


def create(
    *,
    config_file: ConfigFile | None = None,
    config_dict: Mapping[str, Any] | None = None,
    address: str | None = None,
    wait: bool = True,
    timeout: float = 3600,
    push: bool = False,
    store: str | None = None,
) -> Deployment:
    """Deploy a new Deployment. Raises Conflict if there is one of that name, and what `apply` raises."""
    file = read(config_file, config_dict)
    cluster = Cluster(address)
    if file.name in cluster.state().live():
        raise Conflict(f"name: Deployment {file.name!r} is there already; use update or apply")
    return apply_plan(plan(file, pinned=settle(file)), cluster, wait=wait, timeout=timeout, ship=Shipping(push, store))


def apply(
    *,
    config_file: ConfigFile | None = None,
    config_dict: Mapping[str, Any] | None = None,
    address: str | None = None,
    wait: bool = True,
    timeout: float = 3600,
    push: bool = False,
    store: str | None = None,
) -> Deployment:
    """Make a Deployment what the file says, whether it is there or not.

    A `bento:` that is a path or a URL is built or fetched first. `push` ships Bentos to `store`, by default where
    `$RAY_CANARY_BENTO_STORE` or the file says.

    Raises:
        ConfigError: the file is wrong; nothing was touched.
        Conflict, DoesNotFit: the cluster has no place for it; nothing was touched.
        NotOnNodes: nodes lack a Bento; nothing was touched.
        DeployFailed: a version failed, or `timeout` seconds were over.
        ClusterError: the cluster can't be reached, or refused.
    """
    file = read(config_file, config_dict)
    planned = plan(file, pinned=settle(file))
    return apply_plan(planned, Cluster(address), wait=wait, timeout=timeout, ship=Shipping(push, store))


def update(
    name: str | None = None,
    *,
    config_file: ConfigFile | None = None,
    config_dict: Mapping[str, Any] | None = None,
    address: str | None = None,
    wait: bool = True,
    timeout: float = 3600,
    push: bool = False,
    store: str | None = None,
) -> Deployment:
    """Merge a partial file into a live Deployment: mappings key by key, lists whole, `canary: null` removes the canary.

    A Bento that was built or fetched stays the one that runs, unless the patch names one.

    Raises:
        NotFound: there is no such Deployment; and what `apply` raises.
    """
    patch = _patch(config_file, config_dict)
    wanted = name or str(patch.get("name") or "")
    if not wanted:
        raise ConfigError.of("is required: which Deployment is to be updated?", path="name")
    cluster = Cluster(address)
    merged = config.deep_merge(pinned(accepted(find(cluster, wanted))), {**patch, "name": wanted})
    file = config.parse(merged, str(config_file or "<dict>"))
    return apply_plan(plan(file, pinned=settle(file)), cluster, wait=wait, timeout=timeout, ship=Shipping(push, store))


def get(name: str, address: str | None = None) -> Deployment:
    """Return a Deployment that is on the cluster. Raises NotFound."""
    cluster = Cluster(address)
    find(cluster, name)
    return Deployment(name, cluster)


def list(address: str | None = None) -> builtins.list[Deployment]:
    """Return every Deployment on the cluster."""
    cluster = Cluster(address)
    return [Deployment(name, cluster) for name in sorted(cluster.state().live())]


def terminate(
    name: str,
    address: str | None = None,
    *,
    wait: bool = False,
    timeout: float = 3600,
    notice: Notice = lambda _: None,
) -> Deployment:
    """Take all versions down; name and route stay taken and answer 503 until it is deployed again or deleted."""
    cluster = Cluster(address)
    live = find(cluster, name)
    if live.single:
        raise Conflict(f"{name} is in the single-application form, which can't be terminated; delete it")
    rollout = Rollout(cluster)
    with changing(cluster, name, "terminate", notice):
        rollout.terminate(accepted(find(cluster, name)))
    if wait:
        rollout.until_gone(frozenset(live.version_applications), timeout)
    return Deployment(name, cluster)


def delete(
    name: str,
    address: str | None = None,
    *,
    wait: bool = False,
    timeout: float = 3600,
    notice: Notice = lambda _: None,
) -> None:
    """Take a Deployment off the cluster. Its revisions are kept, so that `rollback` can bring it back."""
    cluster = Cluster(address)
    live = find(cluster, name)
    rollout = Rollout(cluster)
    with changing(cluster, name, "delete", notice) as keeper:
        live = find(cluster, name)
        if keeper is not None and not live.rejected:
            deployed_revision(live, keeper)
        rollout.delete(live)
    if wait:
        rollout.until_gone(frozenset({name, *live.version_applications}), timeout)


def set_weights(
    name: str,
    weights: Mapping[str, int],
    address: str | None = None,
    *,
    at_once: bool = False,
    timeout: float = 600,
    report: Report = lambda _: None,
    notice: Notice = lambda _: None,
) -> WeightChange:
    """Change the weights of some versions of a live Deployment; the others keep theirs, and main gets the rest.

    A version whose share grows first gets the replicas that this needs, unless `at_once`. Returns when every ingress
    replica has the new weights. No replica restarts.

    Raises:
        NotFound: there is no such Deployment.
        ConfigError: a version isn't there, or the weights don't fit; nothing was touched.
        Busy: somebody else is changing it.
        DeployFailed: the replicas didn't become ready within `timeout` seconds; the weights are what they were.
    """
    cluster = Cluster(address)
    checked_weights(weights, accepted(find(cluster, name)).settings.split.weights)
    cause = f"weights {' '.join(f'{key}={weight}' for key, weight in weights.items())}"
    with changing(cluster, name, cause, notice) as revisions:
        before = cluster.state()
        live = accepted(found_in(before, name))
        versions = live.settings.split.weights
        merged = {**versions, **checked_weights(weights, versions)}
        release = deployed_release(live, revisions).with_weights(merged)
        options = Options(at_once=at_once, whole=False, timeout_s=timeout)
        Rollout(cluster, report, revisions).put(release, before, cause, options)
    return weight_change(live, release.settings)


def promote(
    name: str,
    version: str,
    address: str | None = None,
    *,
    at_once: bool = False,
    timeout: float = 3600,
    report: Report = lambda _: None,
    notice: Notice = lambda _: None,
) -> WeightChange:
    """Make a canary version the main one. It gets main's share beside its own, and main's old version goes.

    None of its replicas restarts, and its users stay on it: the ingress is pointed at the application that already
    runs it. Every other version runs on as it does. Promoting what is main already changes nothing.

    Raises:
        NotFound: there is no such Deployment.
        ConfigError: there is no such version; nothing was touched.
        Conflict: the Deployment is in the single-application form.
        Busy: somebody else is changing it.
        DeployFailed: its replicas for the new share didn't become ready within `timeout` seconds.
    """
    cluster = Cluster(address)
    live = accepted(find(cluster, name))
    check_promotable(live, version)
    if is_promoted(live, version) and not live.beside:
        return weight_change(live, live.settings)
    with changing(cluster, name, f"promote {version}", notice) as revisions:
        before = cluster.state()
        live = accepted(found_in(before, name))
        check_promotable(live, version)
        base = deployed_release(live, revisions)
        # One that was killed after its last but one step has left main's old version behind.
        release = base if is_promoted(live, version) else promoted(base, live, version)
        options = Options(at_once=at_once, whole=False, timeout_s=timeout)
        Rollout(cluster, report, revisions).put(release, before, f"promote {version}", options)
    return weight_change(live, release.settings)


def rollback(
    name: str,
    to: int | None = None,
    address: str | None = None,
    *,
    at_once: bool = False,
    timeout: float = 3600,
    report: Report = lambda _: None,
    notice: Notice = lambda _: None,
) -> Revision:
    """Deploy a revision again: the one before the one that is deployed, or number `to`. Returns it.

    Versions that still run are kept as they are; those that are gone start first, and then get their share. No revision
    is deleted: going back makes a new one. A Deployment that was deleted comes back.

    Raises:
        NotFound: there is no such revision.
        Busy: somebody else is changing it.
        Conflict: somebody else has its name or route meanwhile.
        DeployFailed: a version failed, or `timeout` seconds were over.
    """
    cluster = Cluster(address)
    with changing(cluster, name, f"rollback{f' to {to}' if to else ''}", notice, needed=True) as revisions:
        assert revisions is not None
        before = cluster.state()
        live = before.live().get(name)
        now = deployed_revision(live, revisions) if live else None
        wanted = wanted_revision(name, revisions(name), to, now.number if now else None)
        release = restore(wanted.release, before)
        fitting.check_release(release, before)
        Rollout(cluster, report, revisions).put(
            release, before, f"rollback to {wanted.number}", Options(at_once=at_once, timeout_s=timeout)
        )
    return wanted


# What the command line uses too. -------------------------------------------------------------------------------------


def read(config_file: ConfigFile | None, config_dict: Mapping[str, Any] | None = None) -> config.DeploymentFile:
    """Read a whole Deployment file from a path or a mapping. Raises ConfigError."""
    if config_file is not None:
        return config.load(config_file)
    return config.parse(config_dict or {}, "<dict>")


def settle(file: config.DeploymentFile, notice: Notice = lambda _: None) -> dict[str, str]:
    """Build or fetch every `bento:` that is a path or a URL into this machine's Bento store, and return their tags.

    Paths are relative to the working directory, as for `bentoml deploy`. Raises PlanError.
    """
    return sources.settle(file, BentoStore(store_path()), Path.cwd(), notice)


def plan(
    file: config.DeploymentFile,
    instance_types: str | Path | None = None,
    pinned: Mapping[str, str] | None = None,
) -> Plan:
    """Resolve a Deployment file against this machine's Bento store, with what `settle` says. Raises ConfigError."""
    return resolve(file, BentoStore(store_path()), Catalogue.find(instance_types), Environment.here(), pinned)


def apply_plan(
    planned: Plan,
    cluster: Cluster,
    *,
    wait: bool = True,
    timeout: float = 3600,
    check_fit: bool = True,
    ship: Shipping = supply.NOTHING,
    report: Report = lambda _: None,
    notice: Notice = lambda _: None,
) -> Deployment:
    """Put a plan on a cluster; see `apply`."""
    with changing(cluster, planned.name, "deploy", notice) as keeper:
        state = cluster.state()
        live = state.live().get(planned.name)
        if live is not None and keeper is not None and not live.rejected:
            deployed_revision(live, keeper)
        if check_fit:
            fitting.check_conflicts(adopt(planned, state), state)
            fitting.check_fit(adopt(planned, state), state, cluster.sizes())
            for sentence in _stuck(planned, cluster, state):
                notice(sentence)
        planned = supply.supplied(planned, cluster, state, ship, notice)
        Rollout(cluster, report, keeper).deploy(planned, check_fit=check_fit, wait=wait, timeout_s=timeout)
    return Deployment(planned.name, cluster)


def _stuck(planned: Plan, cluster: Cluster, state: OnCluster) -> tuple[str, ...]:
    """Return which updates have no room to begin."""
    found = rollout.preview(planned, state)
    return fitting.stuck(adopt(planned, state), state, cluster.sizes(), found) if state.applications else ()


def _patch(config_file: ConfigFile | None, config_dict: Mapping[str, Any] | None) -> dict[str, Any]:
    if config_file is None:
        return dict(config_dict or {})
    from ray_canary import yamlfile

    loaded = yamlfile.load_mapping(yamlfile.read(config_file), str(config_file), "a part of a Deployment")
    if loaded.problems:
        raise ConfigError(loaded.problems, str(config_file))
    return dict(loaded.data)
