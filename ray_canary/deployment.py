"""What Python callers use: `bentoml.deployment`'s names and semantics, on a Ray cluster of your own.

from ray_canary import deployment

live = deployment.apply(config_file="configs/summarization.yaml")
live.wait_until_ready()
"""

import builtins
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ray_canary import config, edits, sources
from ray_canary.bentos import BentoStore, store_path
from ray_canary.description import describe
from ray_canary.errors import ClusterError, ConfigError, Conflict, NotFound, Problem
from ray_canary.instances import Catalogue
from ray_canary.legal import did_you_mean
from ray_canary.places import Kind, kind
from ray_canary.plan import MAIN, Plan
from ray_canary.promotion import check_promotable, is_promoted, promoted
from ray_canary.requirements import Environment
from ray_canary.resolving import resolve
from ray_canary.serving import fitting, rollout, supply, ways
from ray_canary.serving.adoption import adopt, restore
from ray_canary.serving.cluster import Cluster
from ray_canary.serving.lease import Lease
from ray_canary.serving.release import Release
from ray_canary.serving.revisions import Revision, Revisions
from ray_canary.serving.rollout import Options, Report, Rollout
from ray_canary.serving.settings import IngressSettings
from ray_canary.serving.state import Live, OnCluster
from ray_canary.serving.supply import Shipping
from ray_canary.splitter import least_move, moved_share

ConfigFile = str | Path
#: Told in a sentence what a caller should know meanwhile.
Notice = Callable[[str], None]
#: Given a Deployment's name, what keeps its revisions.
Keeper = Callable[[str], Revisions]


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
    with _changing(cluster, name, "terminate", notice):
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
    with _changing(cluster, name, "delete", notice) as keeper:
        live = find(cluster, name)
        if keeper is not None and not live.rejected:
            _kept(live, keeper)
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
) -> "WeightChange":
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
    _checked_weights(weights, accepted(find(cluster, name)).settings.split.weights)
    cause = f"weights {' '.join(f'{key}={weight}' for key, weight in weights.items())}"
    with _changing(cluster, name, cause, notice) as revisions:
        before = cluster.state()
        live = accepted(_found(before, name))
        versions = live.settings.split.weights
        merged = {**versions, **_checked_weights(weights, versions)}
        release = _base(live, revisions).with_weights(merged)
        options = Options(at_once=at_once, whole=False, timeout_s=timeout)
        Rollout(cluster, report, revisions).put(release, before, cause, options)
    return _weight_change(live, release.settings)


def promote(
    name: str,
    version: str,
    address: str | None = None,
    *,
    at_once: bool = False,
    timeout: float = 3600,
    report: Report = lambda _: None,
    notice: Notice = lambda _: None,
) -> "WeightChange":
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
        return _weight_change(live, live.settings)
    with _changing(cluster, name, f"promote {version}", notice) as revisions:
        before = cluster.state()
        live = accepted(_found(before, name))
        check_promotable(live, version)
        base = _base(live, revisions)
        # One that was killed after its last but one step has left main's old version behind.
        release = base if is_promoted(live, version) else promoted(base, live, version)
        options = Options(at_once=at_once, whole=False, timeout_s=timeout)
        Rollout(cluster, report, revisions).put(release, before, f"promote {version}", options)
    return _weight_change(live, release.settings)


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
    with _changing(cluster, name, f"rollback{f' to {to}' if to else ''}", notice, needed=True) as revisions:
        assert revisions is not None
        before = cluster.state()
        live = before.live().get(name)
        now = _kept(live, revisions) if live else None
        wanted = _goal(name, revisions(name), to, now.number if now else None)
        release = restore(wanted.release, before)
        fitting.check_release(release, before)
        Rollout(cluster, report, revisions).put(
            release, before, f"rollback to {wanted.number}", Options(at_once=at_once, timeout_s=timeout)
        )
    return wanted


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


def settle(file: config.DeploymentFile, notice: Notice = lambda _: None) -> dict[str, str]:
    """Build or fetch every `bento:` that is a path or a URL into this machine's Bento store, and return their tags.

    Paths are relative to the working directory, as for `bentoml deploy`. Raises PlanError.
    """
    return sources.settle(file, BentoStore(store_path()), Path.cwd(), notice)


def pinned(live: Live) -> dict[str, Any]:
    """Return a live Deployment's file, with the tags of Bentos that were built or fetched."""
    return edits.pinned(live.file(), {key: target.bento for key, target in live.settings.targets.items()})


def known(live: Live) -> dict[str, str]:
    """Return, like `settle`, the tags of those paths and URLs that a live Deployment was deployed with."""
    file, tags = live.file(), live.settings.targets
    said = {MAIN: file, **((file.get("canary") or {}).get("versions") or {})}
    return {str(one["bento"]): tags[key].bento for key, one in said.items() if kind(str(one["bento"])) is not Kind.TAG}


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
    with _changing(cluster, planned.name, "deploy", notice) as keeper:
        state = cluster.state()
        live = state.live().get(planned.name)
        if live is not None and keeper is not None and not live.rejected:
            _kept(live, keeper)
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


def find(cluster: Cluster, name: str) -> Live:
    """Return a Deployment as the cluster has it. Raises NotFound."""
    return _found(cluster.state(), name)


def _found(state: OnCluster, name: str) -> Live:
    there = state.live()
    if name not in there:
        hint = did_you_mean(name, there) or (f"there are {', '.join(sorted(there))}" if there else "there is none")
        raise NotFound(f"The cluster has no Deployment {name!r}; {hint}")
    return there[name]


@contextmanager
def _changing(
    cluster: Cluster, name: str, verb: str, notice: Notice, *, needed: bool = False
) -> Iterator[Keeper | None]:
    """Have the right to change a Deployment meanwhile, and yield what keeps its revisions.

    From where the cluster's store can't be reached, a change is possible all the same unless `needed`: it is then said
    that it leaves no revision and keeps nobody else out.
    """
    _check_owner(cluster.state(), name, verb)
    try:
        store = cluster.store()
    except ClusterError as error:
        if needed:
            raise
        notice(f"{error}. The change leaves no revision, and keeps out nobody who changes {name} at the same time.")
        yield None
        return
    with Lease(store, name, verb, waiting=notice):
        yield partial(Revisions, store)


def _check_owner(state: OnCluster, name: str, verb: str) -> None:
    """Refuse a change that somebody else's next one would undo (decision 20).

    A RayService sends its whole config whenever that changes, and whenever KubeRay's operator starts again.

    Raises:
        Conflict: with who keeps the config, and what to do instead.
    """
    owners = sorted({owner for live in state.live().values() if (owner := live.owner)})
    if owners:
        raise Conflict(
            f"{owners[0]} keeps this cluster's Serve config: its next change, or a restart of KubeRay's operator, "
            f"would undo `{verb}` of {name}. Nothing was changed. Edit the Deployment file, then run `ray-canary "
            "render --kuberay -f FILE -o rayservice.yaml` and `kubectl apply -f rayservice.yaml`: weights, versions "
            "and their settings change in place"
        )


def _base(live: Live, keeper: Keeper | None) -> Release:
    """Return the release that is deployed, without what a rollout that was killed left raised."""
    return _kept(live, keeper).release if keeper else Release.of_live(live)


def _kept(live: Live, keeper: Keeper) -> Revision:
    """Return the revision that is deployed; what was deployed by other means becomes one, so that one can go back."""
    kept = keeper(live.name)
    there = kept.there(accepted(live))
    return kept.active(live) or kept.halfway(live) or kept.get(kept.add(there, "found on the cluster"))


def _goal(name: str, kept: Revisions, to: int | None, active: int | None) -> Revision:
    if to is not None:
        return kept.get(to)
    revisions = kept.all()
    if not revisions:
        raise NotFound(f"There is no Deployment {name!r}, and no revision of one")
    earlier = [one for one in revisions if active is None or one.number < active]
    if not earlier:
        raise NotFound("There is no earlier revision to go back to")
    return earlier[-1]


def _weight_change(live: Live, after: IngressSettings) -> "WeightChange":
    before = live.settings
    weights = after.split.weights
    return WeightChange(_arms(before), _arms(after), before.split.shares(), weights)


def _arms(settings: IngressSettings) -> dict[str, int]:
    return {settings.targets[key].arm: share for key, share in settings.split.shares().items()}


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
