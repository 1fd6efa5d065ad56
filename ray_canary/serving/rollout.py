"""Puts a release on the cluster, step by step, and watches until it stands. Every step is a complete, valid state."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from ray_canary.errors import DeployFailed, NotFound
from ray_canary.plan import MAIN, Plan
from ray_canary.serving import capacity, compile, fitting
from ray_canary.serving.adoption import adopt
from ray_canary.serving.changes import Change, Effect, changes
from ray_canary.serving.cluster import Cluster
from ray_canary.serving.compile import INGRESS_DEPLOYMENT, Config, user_config
from ray_canary.serving.release import Release
from ray_canary.serving.revisions import Revisions
from ray_canary.serving.state import ApplicationState, Live, OnCluster

#: Seconds between two looks at the cluster.
LOOK_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one part of a Deployment is: `main`, a version's key, or `ingress`.

    `serves` says of a part that failed whether its replicas from before still answer.
    """

    part: str
    status: str
    running: int
    wanted: int
    trouble: str | None = None
    serves: bool = False

    @property
    def over(self) -> bool:
        """Whether nothing more is to be waited for."""
        return self.status in ("ready", "failed")


Report = Callable[[tuple[Progress, ...]], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How a release is put on the cluster.

    `at_once` moves the weights without waiting for the replicas that they need; `whole` tries versions again that
    failed, and waits until every part is ready, not only until the split is in force; `wait` waits for anything at all.
    `timeout_s` is for everything.
    """

    wait: bool = True
    at_once: bool = False
    whole: bool = True
    timeout_s: float = 3600


def preview(plan: Plan, cluster: OnCluster) -> tuple[Change, ...]:
    """Return what deploying `plan` would do to its applications; nobody else's change."""
    return _changes(Release.of(adopt(plan, cluster)), cluster)


def _changes(release: Release, cluster: OnCluster) -> tuple[Change, ...]:
    names = {*(one["name"] for one in release.applications), *leftovers(release, cluster)}
    before = {
        name: state.config
        for name, state in cluster.applications.items()
        if name in names and state.config and not state.going
    }
    return changes(before, {application["name"]: application for application in wanted(release, cluster)})


def wanted(release: Release, cluster: OnCluster, *, again: bool = True) -> list[Config]:
    """Return the applications that deploying `release` asks Serve for, the ingress's first.

    Serve does nothing about an application that failed and is submitted again as it was. Whoever deploys it again means
    it to be tried again, so such a version gets the number of the attempt into its `args`, and keeps it from then on.
    Who only moves weights doesn't mean that: without `again` none is tried again.
    """
    return [release.ingress, *(_with_attempt(one, cluster, again) for one in release.versions)]


def _with_attempt(application: Config, cluster: OnCluster, again: bool) -> Config:
    there = cluster.applications.get(application["name"])
    if there is None or there.config is None or application["import_path"] != compile.VERSION_IMPORT_PATH:
        return application
    args = dict(there.config.get("args") or {})
    attempt = int(args.pop("attempt", 0))
    bare = {key: value for key, value in application["args"].items() if key != "attempt"}
    if args != bare:
        return {**application, "args": bare}
    attempt += again and there.status == "DEPLOY_FAILED" and _same_deployments(there.config, application)
    return {**application, "args": {**bare, **({"attempt": attempt} if attempt else {})}}


def _same_deployments(one: Config, other: Config) -> bool:
    return bool(one.get("deployments") == other.get("deployments"))


def leftovers(release: Release, cluster: OnCluster) -> frozenset[str]:
    """Return the applications of this Deployment's versions that `release` has no use for."""
    used = {application["name"] for application in release.versions}
    there = cluster.versions_of(release.name)
    return frozenset(name for name in there - used if not cluster.applications[name].going)


class Rollout:
    """Changes what is on one cluster."""

    def __init__(
        self, cluster: Cluster, report: Report = lambda _: None, revisions: Callable[[str], Revisions] | None = None
    ) -> None:
        """`revisions` keeps what is deployed; without it nothing is kept."""
        self._cluster = cluster
        self._report = report
        self._revisions = revisions

    def deploy(
        self, plan: Plan, *, check_fit: bool = True, wait: bool = True, timeout_s: float = 3600, cause: str = "deploy"
    ) -> None:
        """Deploy a plan; see `put`.

        Raises:
            Conflict, DoesNotFit: before anything is touched.
            DeployFailed: a version failed, or the time ran out; the others go on serving.
        """
        before = self._cluster.state()
        plan = adopt(plan, before)
        fitting.check_conflicts(plan, before)
        if check_fit:
            fitting.check_fit(plan, before, self._cluster.sizes())
        self.put(Release.of(plan), before, cause, Options(wait=wait, timeout_s=timeout_s))

    def put(self, release: Release, before: OnCluster, cause: str, options: Options) -> None:
        """Put a release on the cluster, where `before` is now.

        A Deployment that serves already is changed in three steps:

        1. New and changed versions, with as many replicas as their new share needs. It is waited for those whose share
           grows; until then nobody's share changes.
        2. The split. It is waited until every ingress replica has it.
        3. Versions that are no longer wanted go: nobody sends them anything any more.

        Raises:
            DeployFailed: a version failed, or the time ran out. In the first step the split is still what it was.
        """
        deadline = time.monotonic() + options.timeout_s
        found = _changes(release, before)
        release = replace(release, versions=tuple(wanted(release, before, again=options.whole)[1:]))
        live = before.live().get(release.name)
        serves = live is not None and _serves(live)
        floors: tuple[capacity.Need, ...] = ()
        if live is not None and serves and options.wait and not options.at_once:
            floors = capacity.needs(live, release)
            self._versions_first(release, live, before, floors, found, deadline)
            release = replace(release, versions=tuple(capacity.kept(list(release.versions), floors)))
        if self._revisions is not None:
            release = release.numbered(self._revisions(release.name).add(release, cause))
        slowly = capacity.sinks_quickly(release, floors)
        self._submit(release, floors if slowly else ())
        if self._revisions is not None:
            self._revisions(release.name).done()
        going = leftovers(release, before)
        if going or (options.wait and (serves or not options.whole)):
            self._until_in_force(release.name, release.ingress, deadline)
        if going:
            self._cluster.submit(self._cluster.state().merged([], going, **release.options))
        if slowly:
            # Until Serve has seen the load that the new replicas are for.
            time.sleep(min(capacity.SEEN_AFTER_S, max(0.0, deadline - time.monotonic())))
            self._submit(release)
        self._lowered(release)
        if options.wait and options.whole:
            self._until_ready(release, _Watch(release, release.applications, before, found), deadline)

    def _versions_first(
        self,
        release: Release,
        live: Live,
        before: OnCluster,
        floors: tuple[capacity.Need, ...],
        found: tuple[Change, ...],
        deadline: float,
    ) -> None:
        versions = capacity.raised(list(release.versions), floors)
        short = any(need.short for need in floors)
        if not short and all(_there(before, one) for one in versions):
            return
        if self._revisions is not None:
            self._revisions(release.name).begin(live, Release.of_live(live).with_versions(release.versions))
        raised = versions != list(release.versions)
        if raised and self._revisions is not None:
            self._revisions(release.name).raising(release)
        self._cluster.submit(before.merged(versions, **release.options))
        if grows := frozenset(need.application for need in floors):
            watch = _Watch(release, versions, before, found, only=grows)
            try:
                self._until_ready(release, watch, deadline, consequence="the split stays as it was")
            except DeployFailed:
                if raised:
                    # Nobody gets the share that the floors were for, so Serve needn't go on trying to reach them.
                    self._cluster.submit(self._cluster.state().merged(list(release.versions)))
                    self._lowered(release)
                raise

    def _lowered(self, release: Release) -> None:
        if self._revisions is not None:
            self._revisions(release.name).lowered()

    def _submit(self, release: Release, floors: tuple[capacity.Need, ...] = ()) -> None:
        applications = capacity.raised(release.applications, floors)
        self._cluster.submit(self._cluster.state().merged(applications, **release.options))

    def terminate(self, live: Live, timeout_s: float = 30) -> None:
        """Take all versions down. The ingress stays, keeps name and route, and answers 503."""
        release = Release.of_live(live)
        release = release.with_settings(live.settings.model_copy(update={"terminated": True}))
        self._cluster.submit(self._cluster.state().merged([release.ingress]))
        self._until_in_force(live.name, release.ingress, time.monotonic() + timeout_s)
        self._cluster.submit(self._cluster.state().merged([], frozenset(live.version_applications)))

    def delete(self, live: Live) -> None:
        """Take a Deployment off the cluster, and leave everything else as it is."""
        state = self._cluster.state()
        self._cluster.submit(state.merged([], frozenset({live.name, *live.version_applications})))

    def until_gone(self, names: frozenset[str], timeout_s: float) -> None:
        """Wait until no application of `names` is on the cluster. Raises DeployFailed when the time runs out."""
        deadline = time.monotonic() + timeout_s
        looked_at = time.monotonic()
        while left := names & set(self._cluster.state().applications):
            if time.monotonic() > deadline:
                raise DeployFailed(f"Still there after {timeout_s:g} s, most likely ending requests: {_list(left)}")
            looked_at = _rest(LOOK_EVERY_S, looked_at, deadline)

    def _until_in_force(self, name: str, application: Config, deadline: float) -> None:
        submitted = user_config(application)
        looked_at = time.monotonic()
        while True:
            state = self._cluster.state().applications.get(name)
            if state is None or state.going or user_config(state.config or {}) != submitted:
                raise DeployFailed(f"Somebody else changed {name} in the meantime; see `ray-canary get {name}`")
            if _in_force(state, application):
                return
            if time.monotonic() > deadline:
                raise DeployFailed(f"The ingress of {name} doesn't have the new split; see `ray-canary get {name}`")
            looked_at = _rest(LOOK_EVERY_S / 5, looked_at, deadline)

    def _until_ready(self, release: Release, watch: "_Watch", deadline: float, consequence: str | None = None) -> None:
        looked_at = time.monotonic()
        while True:
            progress = tuple(watch.look(self._cluster.state()))
            self._report(progress)
            if all(part.over for part in progress):
                break
            if time.monotonic() > deadline:
                late = [f"{part.part} ({part.running} of {part.wanted} replicas)" for part in progress if not part.over]
                then = f"; {consequence}" if consequence else ""
                raise DeployFailed(f"Not ready in time: {', '.join(late)}{then}")
            looked_at = _rest(LOOK_EVERY_S, looked_at, deadline)
        if failed := [part for part in progress if part.status == "failed"]:
            raise DeployFailed("\n".join(_failure(part, release, consequence) for part in failed))


def _rest(every_s: float, looked_at: float, deadline: float) -> float:
    """Wait until the next look, or until the deadline, and return the moment (monotonic s).

    Serve's controller answers a look, which takes the longer the more it runs. No more than half of the time goes into
    looks: production needs that controller too.
    """
    now = time.monotonic()
    time.sleep(min(max(every_s, now - looked_at), max(0.0, deadline - now)))
    return time.monotonic()


class _Watch:
    """Tells how far each part of a release is, given what was there before."""

    def __init__(
        self,
        release: Release,
        applications: list[Config],
        before: OnCluster,
        found: tuple[Change, ...],
        only: frozenset[str] | None = None,
    ) -> None:
        """`only` names the applications to look at; without it, all are."""
        targets = release.settings.targets
        parts = {release.name: ("ingress", INGRESS_DEPLOYMENT)}
        parts |= {target.application: (key, target.deployment) for key, target in targets.items() if target.application}
        self._parts = {name: part for name, part in parts.items() if only is None or name in only}
        self._before = before
        self._restarts = {(one.application, one.deployment) for one in found if one.effect is Effect.RESTART}
        self._applications = {application["name"]: application for application in applications}

    def look(self, now: OnCluster) -> Iterator[Progress]:
        """Yield the progress of the ingress and of every target."""
        for name, (part, entry) in self._parts.items():
            yield self._progress(name, part, entry, now.applications.get(name))

    def _progress(self, name: str, part: str, entry: str, state: ApplicationState | None) -> Progress:
        wanted = self._applications[name]
        floors = {one["name"]: _floor(one) for one in wanted["deployments"]}
        if state is None or state.going:
            return Progress(part, "waiting", 0, len(floors))
        deployments = [state.deployments.get(name) for name in floors]
        running = sum(one.running for one in deployments if one)
        target = sum(max(one.target, floors[one.name]) if one else 1 for one in deployments)
        # The application's own status changes with the PUT; its deployments show what was before for a moment.
        if state.status == "DEPLOY_FAILED" and self._is_new(name, state):
            first = state.deployments.get(entry)
            return Progress(part, "failed", running, target, state.failure, bool(first and first.running))
        # Where the replicas from before are what is wanted (after an update that failed), none is replaced.
        done = state.status == "RUNNING" and self._is_new(name, state)
        ready = all(
            one
            and one.settled
            and one.running >= floors[one.name]
            and (done or not self._old_ones_left(name, one.name, state))
            for one in deployments
        )
        if part == "ingress":
            ready = ready and _in_force(state, wanted)
        return Progress(part, "ready" if ready else "starting", running, target, state.trouble)

    def _is_new(self, name: str, state: ApplicationState) -> bool:
        """Whether what the state says is about this deploy, and not about the one before."""
        before = self._before.applications.get(name)
        return before is None or state.deployed_at > before.deployed_at

    def _old_ones_left(self, application: str, deployment: str, state: ApplicationState) -> bool:
        if (application, deployment) not in self._restarts:
            return False
        before = self._before.applications[application].deployments.get(deployment)
        old = {replica.id for replica in before.replicas} if before else set()
        return any(r.id in old and r.state != "STOPPING" for r in state.deployments[deployment].replicas)


def _floor(deployment: Config) -> int:
    """Return how many replicas a deployment has at least, once it stands."""
    return int((deployment.get("autoscaling_config") or {}).get("min_replicas") or 0)


def _serves(live: Live) -> bool:
    """Whether a Deployment answers, so that a change of it has something to disturb."""
    entry = live.ingress.deployments.get(INGRESS_DEPLOYMENT)
    return not (live.rejected or live.single or live.ingress.going or live.settings.terminated) and bool(
        entry and entry.running
    )


def _there(cluster: OnCluster, application: Config) -> bool:
    """Whether an application is on the cluster exactly so."""
    state = cluster.applications.get(application["name"])
    if state is None or state.going or not state.config or state.status == "DEPLOY_FAILED":
        return False
    return all(one.effect is Effect.NONE for one in changes({state.name: state.config}, {state.name: application}))


def _in_force(state: ApplicationState | None, application: Config) -> bool:
    """Whether every ingress replica has the `user_config` of `application`."""
    if state is None:
        raise NotFound(f"The cluster has no application {application['name']}")
    entry = state.deployments.get(INGRESS_DEPLOYMENT)
    if entry is None or entry.user_config != user_config(application):
        return False
    # The controller shows a new user_config at once, and the deployment as UPDATING until every replica has it.
    return entry.status == "HEALTHY" and entry.settled and entry.running > 0


def _failure(part: Progress, release: Release, consequence: str | None) -> str:
    if part.part == "ingress":
        return f"The ingress failed:\n{part.trouble}"
    settings = release.settings
    share = settings.split.shares()[part.part]
    rest = (
        "requests to it get 503" if part.part == MAIN else f"its {share} % of requests go to main until it is healthy"
    )
    if part.serves:
        rest = "its replicas from before go on serving"
    return f"{part.part} ({settings.targets[part.part].bento}) failed; {consequence or rest}:\n{part.trouble}"


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
