"""What is on the cluster, read off what Serve's REST API says. No Ray in here: plain data in, plain data out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from ray_canary.config import deep_merge
from ray_canary.metrics import effective_shares
from ray_canary.plan import MAIN
from ray_canary.serving import failures
from ray_canary.serving import settings as ingress_settings
from ray_canary.serving.compile import INGRESS_DEPLOYMENT, INGRESS_IMPORT_PATH, SINGLE_IMPORT_PATH, Config
from ray_canary.serving.settings import IngressSettings, TargetSettings

OURS = (INGRESS_IMPORT_PATH, SINGLE_IMPORT_PATH, "ray_canary:version")


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """One replica."""

    id: str
    state: str
    pid: int | None
    node_id: str


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
    def settled(self) -> bool:
        """Whether nothing starts or updates, and as many replicas run as should."""
        states = {replica.state for replica in self.replicas}
        return states <= {"RUNNING", "STOPPING", "PENDING_MIGRATION"} and self.running >= self.target

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "DeploymentState":
        """Read one deployment of Serve's REST reply."""
        replicas = tuple(
            ReplicaState(replica["replica_id"], replica["state"], replica.get("pid"), replica.get("node_id") or "")
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

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "ApplicationState":
        """Read one application of Serve's REST reply."""
        config = data.get("deployed_app_config")
        return cls(
            name=data["name"],
            status=data["status"],
            message=data.get("message") or "",
            route_prefix=data.get("route_prefix") or (config or {}).get("route_prefix"),
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

    @cached_property
    def settings(self) -> IngressSettings:
        """What the ingress reads per request.

        Raises:
            ValidationError: it is rejected.
        """
        return IngressSettings.model_validate(self.user_config)

    @cached_property
    def targets(self) -> dict[str, TargetState]:
        """Every target with a share, main first."""
        return {key: self._target(key, weight) for key, weight in self.settings.split.shares().items()}

    def _target(self, key: str, weight: int) -> TargetState:
        settings = self.settings.targets[key]
        application = self.applications.get(settings.application or self.ingress.name)
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
        if self.rejected:
            return "unhealthy"
        if self.settings.terminated:
            return "terminated"
        entry = self.ingress.deployments.get(INGRESS_DEPLOYMENT)
        statuses = {target.status for target in self.targets.values()}
        if self.ingress.failure or self.targets[MAIN].status == "failed":
            return "failed"
        if statuses & {"failed", "failed-update"}:
            return "unhealthy"
        if entry is None or not entry.running or statuses & {"deploying", "updating", "missing"}:
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
        stored: dict[str, Any] = dict(self.settings.file or (self.ingress.config or {}).get("args") or {})
        weights = self.settings.split.weights
        if not weights:
            return stored
        return deep_merge(stored, {"canary": {"versions": {key: {"weight": w} for key, w in weights.items()}}})


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
