"""What is on the cluster, read off what Serve's REST API says. No Ray in here: plain data in, plain data out."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from ray_canary.metrics import effective_shares
from ray_canary.plan import MAIN
from ray_canary.serving import failures
from ray_canary.serving import settings as ingress_settings
from ray_canary.serving.compile import (
    INGRESS_DEPLOYMENT,
    INGRESS_IMPORT_PATH,
    SINGLE_IMPORT_PATH,
    VERSION_IMPORT_PATH,
    Config,
    single_prefix,
)
from ray_canary.serving.settings import IngressSettings, TargetSettings

OURS = (INGRESS_IMPORT_PATH, SINGLE_IMPORT_PATH, VERSION_IMPORT_PATH)


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """One replica; when it was started is in seconds since 1970, and None where Serve doesn't say."""

    id: str
    state: str
    pid: int | None
    node_id: str
    started_at: float | None = None


@dataclass(frozen=True, slots=True)
class DeploymentState:
    """One Serve deployment."""

    name: str
    status: str
    message: str
    target: int
    resources: Mapping[str, float]
    user_config: Mapping[str, Any] | None
    replicas: tuple[ReplicaState, ...]

    @property
    def running(self) -> int:
        """How many replicas can take requests."""
        return sum(replica.state == "RUNNING" for replica in self.replicas)

    @property
    def alive(self) -> bool:
        """Whether a replica that has started is there, also one that just now gets new settings."""
        return any(replica.state in ("RUNNING", "UPDATING", "PENDING_MIGRATION") for replica in self.replicas)

    @property
    def reserved(self) -> dict[str, float]:
        """What its replicas hold, in Ray's terms; one that waits for room holds nothing."""
        placed = sum(bool(replica.node_id) for replica in self.replicas)
        return {name: amount * placed for name, amount in self.resources.items()}

    @property
    def settled(self) -> bool:
        """Whether nothing starts or updates, and as many replicas run as should."""
        states = {replica.state for replica in self.replicas}
        return states <= {"RUNNING", "STOPPING", "PENDING_MIGRATION"} and self.running >= self.target

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "DeploymentState":
        """Read one deployment of Serve's REST reply."""
        replicas = tuple(
            ReplicaState(
                replica["replica_id"],
                replica["state"],
                replica.get("pid"),
                replica.get("node_id") or "",
                replica.get("start_time_s"),
            )
            for replica in data.get("replicas") or ()
        )
        return cls(
            name=data["name"],
            status=data["status"],
            message=data.get("message") or "",
            target=data.get("target_num_replicas") or 0,
            resources=data.get("required_resources") or {},
            user_config=(data.get("deployment_config") or {}).get("user_config"),
            replicas=replicas,
        )


@dataclass(frozen=True, slots=True)
class ApplicationState:
    """One Serve application."""

    name: str
    status: str
    message: str
    route_prefix: str | None
    config: Config | None
    deployed_at: float
    deployments: Mapping[str, DeploymentState]

    @property
    def import_path(self) -> str:
        """What the application was built from; empty if it was not deployed by a config."""
        return str((self.config or {}).get("import_path") or "")

    @property
    def going(self) -> bool:
        """Whether it is being deleted."""
        return self.status == "DELETING"

    @property
    def failure(self) -> str | None:
        """Why it failed, in the Bento's own words where there are any; None while it hasn't failed for good."""
        failed = [one for one in self.deployments.values() if one.status == "DEPLOY_FAILED"]
        if self.status != "DEPLOY_FAILED" and not failed:
            return None
        messages = [one.message for one in failed] + [self.message]
        found = [text for text in map(failures.find, messages) if text]
        return found[0] if found else next((text for text in messages if text), "Serve gives no reason")

    @property
    def trouble(self) -> str | None:
        """What a replica that failed to start said, in the Bento's own words, while Serve goes on trying."""
        found = [failures.find(one.message) for one in self.deployments.values() if one.message]
        return next((text for text in found if text), None)

    def part(self, prefix: str) -> "ApplicationState":
        """Return what of it concerns the deployments whose names begin with `prefix`, as if there were no others."""
        own = {name: one for name, one in self.deployments.items() if name.startswith(prefix)}
        others_failed = any(one.status == "DEPLOY_FAILED" for one in self.deployments.values()) and not any(
            one.status == "DEPLOY_FAILED" for one in own.values()
        )
        return replace(self, deployments=own, status="RUNNING" if others_failed else self.status)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "ApplicationState":
        """Read one application of Serve's REST reply."""
        config = data.get("deployed_app_config")
        return cls(
            name=data["name"],
            status=data["status"],
            message=data.get("message") or "",
            # Before it is built, Serve doesn't say; what a config leaves out is "/".
            route_prefix=data.get("route_prefix") or (config.get("route_prefix", "/") if config else None),
            config=config,
            deployed_at=float(data.get("last_deployed_time_s") or 0),
            deployments={name: DeploymentState.of(one) for name, one in (data.get("deployments") or {}).items()},
        )


@dataclass(frozen=True)
class TargetState:
    """One target of a live Deployment."""

    key: str
    settings: TargetSettings
    weight: int
    application: ApplicationState | None
    entry: DeploymentState | None
    terminated: bool = False

    @property
    def ready(self) -> bool:
        """Whether the target gets its own requests (decision 17), as far as the controller knows."""
        if self.entry is None:
            return False
        asleep = self.settings.scales_to_zero and self.entry.target == 0 and self.entry.status == "HEALTHY"
        return self.entry.running > 0 or asleep

    @property
    def status(self) -> str:
        """One word: running, scaled-to-zero, updating, deploying, failed, failed-update, terminated or missing."""
        if self.application is None or self.application.going:
            return "terminated" if self.terminated else "missing"
        if self.application.failure and not self.ready:
            return "failed"
        if not self.ready:
            return "deploying"
        if self.application.failure:
            return "failed-update"
        if self.entry and not self.entry.settled:
            return "updating"
        return "running" if self.entry and self.entry.running else "scaled-to-zero"


@dataclass(frozen=True)
class Live:
    """A Deployment on the cluster: its ingress application, and what that points to."""

    ingress: ApplicationState
    applications: Mapping[str, ApplicationState] = field(repr=False)
    http: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The Deployment's name, which is the ingress application's."""
        return self.ingress.name

    @property
    def single(self) -> bool:
        """Whether all versions share the ingress's application."""
        return self.ingress.import_path == SINGLE_IMPORT_PATH

    @cached_property
    def user_config(self) -> Mapping[str, Any]:
        """The ingress's `user_config` as it was submitted."""
        for deployment in (self.ingress.config or {}).get("deployments") or ():
            if deployment.get("name") == INGRESS_DEPLOYMENT and deployment.get("user_config"):
                return dict(deployment["user_config"])
        entry = self.ingress.deployments.get(INGRESS_DEPLOYMENT)
        return dict(entry.user_config or {}) if entry else {}

    @cached_property
    def rejected(self) -> str | None:
        """Why the ingress refuses its `user_config`; it then goes on with the one before. None if it doesn't."""
        try:
            IngressSettings.model_validate(self.user_config)
        except ValidationError as error:
            return ingress_settings.problems(error)
        return None

    @property
    def owner(self) -> str | None:
        """Who keeps the Serve config and would undo a change of it, even if the ingress refuses the rest."""
        owner = self.user_config.get("owner")
        return str(owner) if owner else None

    @cached_property
    def settings(self) -> IngressSettings:
        """What the ingress reads per request.

        Raises:
            ValidationError: it is rejected.
        """
        return IngressSettings.model_validate(self.user_config)

    @cached_property
    def referred(self) -> tuple[str, ...]:
        """The versions' applications that its `user_config` names and that are there, even if it is rejected."""
        targets = self.user_config.get("targets")
        named = [one.get("application") for one in targets.values() if one] if isinstance(targets, Mapping) else []
        there = (name for name in named if name in self.applications)
        return tuple(name for name in there if self.applications[name].import_path == VERSION_IMPORT_PATH)

    @cached_property
    def version_applications(self) -> tuple[str, ...]:
        """The applications that its versions run in, beside the ingress's own.

        Those that an interrupted deploy left behind are among them: a version says whose it is.
        """
        left = (name for name, state in self.applications.items() if _is_version_of(self.name, state))
        return tuple(dict.fromkeys((*self.referred, *left)))

    @property
    def beside(self) -> tuple[ApplicationState, ...]:
        """The versions' applications that no request goes to: those that a deploy has begun with, or left behind."""
        used = {target.application for target in self.settings.targets.values()}
        return tuple(self.applications[name] for name in self.version_applications if name not in used)

    @cached_property
    def targets(self) -> dict[str, TargetState]:
        """Every target with a share, main first."""
        return {key: self._target(key, weight) for key, weight in self.settings.split.shares().items()}

    def _target(self, key: str, weight: int) -> TargetState:
        settings = self.settings.targets[key]
        application = self.applications.get(settings.application or self.ingress.name)
        if application is not None and settings.application is None:
            application = application.part(single_prefix(key))
        entry = application.deployments.get(settings.deployment) if application else None
        return TargetState(key, settings, weight, application, entry, self.settings.terminated)

    def effective(self) -> dict[str, int]:
        """Return the share that every target gets now, in percent."""
        if self.settings.terminated:
            return dict.fromkeys(self.targets, 0)
        configured = {key: target.weight for key, target in self.targets.items()}
        return effective_shares(configured, {key: target.ready for key, target in self.targets.items()})

    @property
    def status(self) -> str:
        """The Deployment's status in BentoCloud's words."""
        if self.ingress.going:
            return "terminating"
        entry = self.ingress.deployments.get(INGRESS_DEPLOYMENT)
        if self.rejected:
            return "unhealthy" if entry and entry.alive else "failed"
        if self.settings.terminated:
            return "terminated"
        statuses = {target.status for target in self.targets.values()}
        if self.ingress.failure or self.targets[MAIN].status in ("failed", "missing"):
            return "failed"
        if statuses & {"failed", "failed-update", "missing"}:
            return "unhealthy"
        if entry is None or not entry.running or statuses & {"deploying", "updating"}:
            return "deploying"
        return "scaled-to-zero" if statuses == {"scaled-to-zero"} else "running"

    @property
    def url(self) -> str:
        """Where the Deployment answers."""
        host = self.http.get("host") or "127.0.0.1"
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        prefix = (self.ingress.route_prefix or "/").rstrip("/")
        return f"http://{shown}:{self.http.get('port') or 8000}{prefix}"

    def file(self) -> dict[str, Any]:
        """Return the Deployment file that is live: as it was deployed, with the weights that are in force."""
        stored = copy.deepcopy(dict(self.settings.file or (self.ingress.config or {}).get("args") or {}))
        versions = (stored.get("canary") or {}).get("versions")
        if versions:
            weights = self.settings.split.weights
            stored["canary"]["versions"] = {
                key: {**version, "weight": weights[key]} for key, version in versions.items() if key in weights
            }
        return stored


@dataclass(frozen=True)
class OnCluster:
    """Everything that Serve runs."""

    applications: Mapping[str, ApplicationState]
    instance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, details: Mapping[str, Any]) -> "OnCluster":
        """Read Serve's REST reply."""
        applications = {name: ApplicationState.of(one) for name, one in (details.get("applications") or {}).items()}
        return cls(applications, details)

    def versions_of(self, deployment: str) -> frozenset[str]:
        """Return the applications that the versions of a Deployment run in, whether its ingress is there or not."""
        live = self.live().get(deployment)
        left = (name for name, state in self.applications.items() if _is_version_of(deployment, state))
        return frozenset((*(live.referred if live else ()), *left))

    @property
    def serving(self) -> bool:
        """Whether Serve has been started."""
        return bool((self.instance.get("controller_info") or {}).get("actor_id"))

    def live(self) -> dict[str, Live]:
        """Return every Deployment of ours, by name."""
        http = self.instance.get("http_options") or {}
        ours = (INGRESS_IMPORT_PATH, SINGLE_IMPORT_PATH)
        return {
            name: Live(application, self.applications, http)
            for name, application in self.applications.items()
            if application.import_path in ours
        }

    def merged(self, applications: list[Config], without: frozenset[str] = frozenset(), **fresh: Any) -> Config:
        """Return a whole Serve config: `applications` put into what is there, less those named in `without`.

        Serve deletes what a config leaves out, so everybody else's applications are in it, as they were submitted.
        `fresh` holds the instance's options for when Serve doesn't run yet; they can't change while it does.
        """
        new = {application["name"]: application for application in applications}
        kept = {
            name: state.config
            for name, state in self.applications.items()
            if state.config and not state.going and name not in without
        }
        config: Config = {"applications": list({**kept, **new}.values())}
        if not self.serving:
            return {**fresh, **config}
        options = ("proxy_location", "http_options", "grpc_options", "target_capacity")
        return {**{key: self.instance[key] for key in options if self.instance.get(key) is not None}, **config}


def _is_version_of(deployment: str, application: ApplicationState) -> bool:
    """Return whether an application says that it is a version of `deployment`."""
    args = (application.config or {}).get("args") or {}
    return application.import_path == VERSION_IMPORT_PATH and args.get("deployment") == deployment
