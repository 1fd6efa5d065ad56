"""Puts a plan on the cluster, step by step, and watches until it stands. Every step is a complete, valid state."""

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ray_canary.errors import DeployFailed, NotFound
from ray_canary.plan import Plan
from ray_canary.serving import compile, fitting
from ray_canary.serving.changes import Change, Effect, changes
from ray_canary.serving.cluster import Cluster
from ray_canary.serving.compile import INGRESS_DEPLOYMENT, Config
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


def preview(plan: Plan, cluster: OnCluster) -> tuple[Change, ...]:
    """Return what deploying `plan` would do to its applications; nobody else's change."""
    names = {plan.name, *(target.application for target in plan.targets.values()), *leftovers(plan, cluster)}
    before = {
        name: state.config
        for name, state in cluster.applications.items()
        if name in names and state.config and not state.going
    }
    return changes(before, {application["name"]: application for application in wanted(plan, cluster)})


def wanted(plan: Plan, cluster: OnCluster) -> list[Config]:
    """Return the applications that deploying `plan` asks Serve for.

    Serve does nothing about an application that failed and is submitted again as it was. Whoever deploys it again means
    it to be tried again, so such a version gets the number of the attempt into its `args`, and keeps it from then on.
    """
    applications: list[Config] = compile.serve_config(plan)["applications"]
    for application in applications:
        there = cluster.applications.get(application["name"])
        if there is None or there.config is None or application["import_path"] != compile.VERSION_IMPORT_PATH:
            continue
        args = dict(there.config.get("args") or {})
        attempt = int(args.pop("attempt", 0))
        if args == application["args"]:
            attempt += there.status == "DEPLOY_FAILED" and _same_deployments(there.config, application)
            application["args"] = {**application["args"], **({"attempt": attempt} if attempt else {})}
    return applications


def _same_deployments(one: Config, other: Config) -> bool:
    return bool(one.get("deployments") == other.get("deployments"))


def leftovers(plan: Plan, cluster: OnCluster) -> frozenset[str]:
    """Return the applications of this Deployment's versions that `plan` has no use for."""
    wanted = {target.application for target in plan.targets.values()}
    there = cluster.versions_of(plan.name)
    return frozenset(name for name in there - wanted if not cluster.applications[name].going)


class Rollout:
    """Changes what is on one cluster."""

    def __init__(self, cluster: Cluster, report: Report = lambda _: None) -> None:
        self._cluster = cluster
        self._report = report

    def deploy(self, plan: Plan, *, check_fit: bool = True, wait: bool = True, timeout_s: float = 3600) -> None:
        """Deploy a plan: new versions up, the split over, versions that are no longer wanted gone.

        A version that goes leaves the split first: its application is deleted only when every ingress replica has
        the new split.

        Raises:
            Conflict, DoesNotFit: before anything is touched.
            DeployFailed: a version failed, or the time ran out; the others go on serving.
        """
        before = self._cluster.state()
        fitting.check_conflicts(plan, before)
        if check_fit:
            fitting.check_fit(plan, before, self._cluster.resources())
        found = preview(plan, before)
        applications = wanted(plan, before)
        config = {key: value for key, value in compile.serve_config(plan).items() if key != "applications"}
        deadline = time.monotonic() + timeout_s
        self._cluster.submit(before.merged(applications, **config))
        if going := leftovers(plan, before):
            self._until_in_force(plan.name, applications[0], deadline)
            self._cluster.submit(self._cluster.state().merged(applications, going, **config))
        if wait:
            self._until_ready(plan, _Watch(plan, applications, before, found), deadline)

    def set_weights(self, live: Live, weights: Mapping[str, int], timeout_s: float = 30) -> None:
        """Change the weights of a live Deployment and wait until every ingress replica has them.

        Raises:
            ValidationError: they can't be; nothing was touched.
            DeployFailed: they are not in force in time.
        """
        split = live.settings.split.model_copy(update={"weights": dict(weights)})
        settings = live.settings.model_copy(update={"split": split})
        self._submit_settings(live, type(settings).model_validate(settings.model_dump()), timeout_s)

    def terminate(self, live: Live, timeout_s: float = 30) -> None:
        """Take all versions down. The ingress stays, keeps name and route, and answers 503."""
        self._submit_settings(live, live.settings.model_copy(update={"terminated": True}), timeout_s)
        state = self._cluster.state()
        self._cluster.submit(state.merged([], frozenset(live.version_applications)))

    def delete(self, live: Live) -> None:
        """Take a Deployment off the cluster, and leave everything else as it is."""
        state = self._cluster.state()
        self._cluster.submit(state.merged([], frozenset({live.name, *live.version_applications})))

    def until_gone(self, names: frozenset[str], timeout_s: float) -> None:
        """Wait until no application of `names` is on the cluster. Raises DeployFailed when the time runs out."""
        deadline = time.monotonic() + timeout_s
        while left := names & set(self._cluster.state().applications):
            if time.monotonic() > deadline:
                raise DeployFailed(f"Still there after {timeout_s:g} s, most likely ending requests: {_list(left)}")
            time.sleep(LOOK_EVERY_S)

    def _submit_settings(self, live: Live, settings: Any, timeout_s: float) -> None:
        application = copy.deepcopy(live.ingress.config) or {}
        deployments = application.setdefault("deployments", [])
        if all(deployment["name"] != INGRESS_DEPLOYMENT for deployment in deployments):
            # The single-application form may leave all options to its builder.
            deployments.append({"name": INGRESS_DEPLOYMENT})
        for deployment in deployments:
            if deployment["name"] == INGRESS_DEPLOYMENT:
                deployment["user_config"] = settings.model_dump(mode="json")
        self._cluster.submit(self._cluster.state().merged([application]))
        self._until_in_force(live.name, application, time.monotonic() + timeout_s)

    def _until_in_force(self, name: str, application: Config, deadline: float) -> None:
        submitted = _user_config(application)
        while True:
            state = self._cluster.state().applications.get(name)
            if state is None or state.going or _user_config(state.config or {}) != submitted:
                raise DeployFailed(f"Somebody else changed {name} in the meantime; see `ray-canary get {name}`")
            if _in_force(state, application):
                return
            if time.monotonic() > deadline:
                raise DeployFailed(f"The ingress of {name} doesn't have the new split; see `ray-canary get {name}`")
            time.sleep(LOOK_EVERY_S / 5)

    def _until_ready(self, plan: Plan, watch: "_Watch", deadline: float) -> None:
        while True:
            progress = tuple(watch.look(self._cluster.state()))
            self._report(progress)
            if all(part.over for part in progress):
                break
            if time.monotonic() > deadline:
                late = [f"{part.part} ({part.running} of {part.wanted} replicas)" for part in progress if not part.over]
                raise DeployFailed(f"Not ready in time: {', '.join(late)}")
            time.sleep(LOOK_EVERY_S)
        if failed := [part for part in progress if part.status == "failed"]:
            raise DeployFailed("\n".join(_failure(part, plan) for part in failed))


class _Watch:
    """Tells how far each part of a plan is, given what was there before."""

    def __init__(self, plan: Plan, applications: list[Config], before: OnCluster, found: tuple[Change, ...]) -> None:
        self._entries = {plan.name: INGRESS_DEPLOYMENT} | {
            t.application: t.entry_service for t in plan.targets.values()
        }
        self._before = before
        self._restarts = {(one.application, one.deployment) for one in found if one.effect is Effect.RESTART}
        self._applications = {application["name"]: application for application in applications}
        self._parts = {plan.name: "ingress", **{t.application: t.key for t in plan.targets.values()}}

    def look(self, now: OnCluster) -> Iterator[Progress]:
        """Yield the progress of the ingress and of every target."""
        for name, part in self._parts.items():
            yield self._progress(name, part, now.applications.get(name))

    def _progress(self, name: str, part: str, state: ApplicationState | None) -> Progress:
        wanted = self._applications[name]
        names = [deployment["name"] for deployment in wanted["deployments"]]
        if state is None or state.going:
            return Progress(part, "waiting", 0, len(names))
        deployments = [state.deployments.get(name) for name in names]
        running = sum(one.running for one in deployments if one)
        target = sum(one.target if one else 1 for one in deployments)
        # The application's own status changes with the PUT; its deployments show what was before for a moment.
        if state.status == "DEPLOY_FAILED" and self._is_new(name, state):
            entry = state.deployments.get(self._entries[name])
            serves = bool(entry and entry.running)
            return Progress(part, "failed", running, target, state.failure, serves)
        # Where the replicas from before are what is wanted (after an update that failed), none is replaced.
        done = state.status == "RUNNING" and self._is_new(name, state)
        ready = all(
            one and one.settled and (done or not self._old_ones_left(name, one.name, state)) for one in deployments
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


def _user_config(application: Config) -> Any:
    """Return what the ingress of an application is given."""
    parts = (one for one in application.get("deployments") or () if one["name"] == INGRESS_DEPLOYMENT)
    return next((one.get("user_config") for one in parts), None)


def _in_force(state: ApplicationState | None, application: Config) -> bool:
    """Whether every ingress replica has the `user_config` of `application`."""
    if state is None:
        raise NotFound(f"The cluster has no application {application['name']}")
    entry = state.deployments.get(INGRESS_DEPLOYMENT)
    if entry is None or entry.user_config != _user_config(application):
        return False
    # The controller shows a new user_config at once, and the deployment as UPDATING until every replica has it.
    return entry.status == "HEALTHY" and entry.settled and entry.running > 0


def _failure(part: Progress, plan: Plan) -> str:
    if part.part == "ingress":
        return f"The ingress failed:\n{part.trouble}"
    share = plan.weights()[part.part]
    rest = (
        "requests to it get 503" if part.part == "main" else f"its {share} % of requests go to main until it is healthy"
    )
    if part.serves:
        rest = "its replicas from before go on serving"
    return f"{part.part} ({plan.targets[part.part].bento}) failed; {rest}:\n{part.trouble}"


def _list(names: frozenset[str] | set[str]) -> str:
    return ", ".join(sorted(names))
