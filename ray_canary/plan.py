"""The Deployment fully resolved: no defaults left to guess."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from ray_canary import inheritance
from ray_canary.bentos import BentoInfo, BentoStore, required_envs
from ray_canary.config import DeploymentFile, RayBlock, ServiceConfig, Version
from ray_canary.errors import BentoError, ConfigError, PlanError, Problem
from ray_canary.instances import Catalogue, bento_resources
from ray_canary.legal import did_you_mean
from ray_canary.splitter import SCHEME

MAIN: Final = "main"

#: Surge and batch of each strategy in percent, after the operator's maxSurge and maxUnavailable
#: (facts/bentocloud.md section 2). Serve rounds the surge up and the batch to at least one replica.
_STRATEGIES: Final[Mapping[str, tuple[int, float]]] = {
    "RollingUpdate": (25, 0.25),
    "Recreate": (0, 1.0),
    "RampedSlowRollout": (1, 0.01),
    "BestEffortControlledRollout": (0, 0.2),
}
_BENTOML_TIMEOUT_S: Final = 60.0
_COLD_START_TIMEOUT_S: Final = 300.0


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Default(_Model):
    """A choice that the file leaves to us: where, what, and why."""

    path: str = Field(description="The key in the file that would change it.")
    value: str = Field(description="What is used.")
    reason: str = Field(description="Why.")


class ScalingPlan(_Model):
    """How many replicas there are, in Serve's terms."""

    min_replicas: int = Field(description="At least.")
    initial_replicas: int = Field(description="At first; at least 1, so that a broken Bento never looks healthy.")
    max_replicas: int = Field(description="At most.")
    target_ongoing_requests: float = Field(description="Requests at once per replica that scaling aims at.")
    upscale_delay_s: float = Field(description="Seconds of higher load before replicas are added.")
    downscale_delay_s: float = Field(description="Seconds of lower load before replicas are removed.")


class RolloutPlan(_Model):
    """How replicas are replaced, in Serve's terms."""

    strategy: str = Field(description="BentoCloud's name of it.")
    max_surge_percent: int = Field(description="Replicas that may be there in addition, percent, rounded up.")
    rolling_update_percentage: float = Field(description="Replicas replaced at a time, as a share; at least one.")


class ServicePlan(_Model):
    """One Bento service of one target: one Serve deployment."""

    name: str = Field(description="The Bento service, and the Serve deployment.")
    depends: tuple[str, ...] = Field(description="The Bento services that it calls.")
    instance_type: str | None = Field(description="The instance type, where one is named.")
    resources: dict[str, Any] = Field(description="What a replica reserves, in Ray's terms; memory in bytes.")
    envs: dict[str, str] = Field(description="Environment variables.")
    config_overrides: dict[str, Any] = Field(description="What replaces `@bentoml.service(...)` settings.")
    scaling: ScalingPlan
    rollout: RolloutPlan
    max_ongoing_requests: int = Field(description="Requests at once that Serve gives to a replica.")
    graceful_shutdown_timeout_s: float = Field(description="Seconds that a replica may take to end what it has begun.")


class TargetPlan(_Model):
    """main or one canary version: one Serve application."""

    key: str = Field(description="`main`, or the version's key.")
    label: str = Field(description="Its name in metrics and pages, as on BentoCloud.")
    application: str = Field(description="The Serve application that serves it.")
    arm: str = Field(description="What seeds its hash.")
    weight: int = Field(description="Percent of requests.")
    asked_for: str = Field(description="The Bento as the file names it.")
    bento: str = Field(description="The Bento, pinned.")
    entry_service: str = Field(description="The Bento service that requests go to.")
    services: dict[str, ServicePlan] = Field(description="All its Bento services.")
    timeout_s: float = Field(description="Seconds to the first byte of a response.")
    capacity: int = Field(description="Requests at once that a replica takes before others should wait.")
    cold_start_timeout_s: float = Field(description="Seconds that a request may wait for a first replica.")


class Plan(_Model):
    """What a Deployment file means, given a Bento store and an instance catalogue."""

    name: str = Field(description="The Deployment.")
    scheme: int = Field(default=SCHEME, description="Version of the hash.")
    route_type: Literal["random", "header", "query"] = Field(description="What a request is split by.")
    route_by: str | None = Field(description="The header or query parameter.")
    targets: dict[str, TargetPlan] = Field(description="main first, then the versions as in the file.")
    ray: RayBlock = Field(description="What the `ray:` block says, with its defaults.")
    file: dict[str, Any] = Field(description="The file itself.")
    warnings: tuple[str, ...] = Field(description="Keys that have no effect here.")
    defaults: tuple[Default, ...] = Field(description="What the file leaves to us, with reasons.")

    def weights(self) -> dict[str, int]:
        """Return every target's weight in percent."""
        return {key: target.weight for key, target in self.targets.items()}

    def arms(self) -> dict[str, int]:
        """Return every arm's weight in percent."""
        return {target.arm: target.weight for target in self.targets.values()}

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data, ready for JSON or YAML."""
        return self.model_dump(mode="json")

    def differences(self, other: "Plan") -> tuple[tuple[str, Any, Any], ...]:
        """Return what `other` has otherwise: path, value here, value there; None where there is nothing."""
        here, there = dict(_leaves("", self.to_dict())), dict(_leaves("", other.to_dict()))
        paths = dict.fromkeys((*here, *there))
        return tuple((path, here.get(path), there.get(path)) for path in paths if here.get(path) != there.get(path))


def resolve(file: DeploymentFile, store: BentoStore, catalogue: Catalogue) -> Plan:
    """Resolve a Deployment file.

    Raises:
        PlanError: with every mistake that shows only against the Bentos and the catalogue: a Bento that isn't there,
            services that no Bento has, required environment variables that nothing sets, unknown instance types.
    """
    return _Resolver(file, store, catalogue).plan()


class _Resolver:
    """Resolves one file; collects the problems and the defaults on its way."""

    def __init__(self, file: DeploymentFile, store: BentoStore, catalogue: Catalogue) -> None:
        self._file = file
        self._store = store
        self._catalogue = catalogue
        self._problems: list[Problem] = []
        self._defaults: dict[str, Default] = {}
        self._task_warnings: list[str] = []

    def plan(self) -> Plan:
        versions: dict[str, Version] = dict(self._file.canary.versions) if self._file.canary else {}
        canary = self._file.canary
        targets = [self._target(MAIN, None, 100 - sum(version.weight for version in versions.values()))]
        targets += [self._target(key, version, version.weight) for key, version in versions.items()]
        self._common_defaults()
        if self._problems:
            raise PlanError(self._problems)
        return Plan(
            name=self._file.name,
            route_type=(canary.route_type if canary else None) or "random",
            route_by=canary.route_by if canary and canary.route_type != "random" else None,
            targets={target.key: target for target in targets if target},
            ray=self._file.ray,
            file=self._file.to_dict(),
            warnings=(*self._file.warnings(), *self._task_warnings),
            defaults=tuple(self._defaults.values()),
        )

    def _target(self, key: str, version: Version | None, weight: int) -> TargetPlan | None:
        asked_for = version.bento if version else self._file.bento
        place = f"canary.versions.{key}." if version else ""
        try:
            bento = self._store.get(asked_for)
        except BentoError as error:
            self._problems.append(Problem(f"{place}bento", str(error)))
            return None
        self._check_services(place, version.services if version else self._file.services, bento)
        services = {name: self._service(place, version, name, bento) for name in bento.services}
        self._check_envs(key, place, services[bento.entry_service], bento)
        entry = services[bento.entry_service]
        if bento.has_tasks and (warning := _task_warning(key, f"{place}services.{entry.name}.scaling", entry.scaling)):
            self._task_warnings.append(warning)
        return TargetPlan(
            key=key,
            label=self._file.name if key == MAIN else f"{self._file.name}-canary-{key}",
            application=self._file.ray.applications.get(key) or application_name(self._file.name, key),
            arm=key,
            weight=weight,
            asked_for=asked_for,
            bento=bento.tag,
            entry_service=bento.entry_service,
            services=services,
            timeout_s=float(_traffic(entry, bento).get("timeout") or _BENTOML_TIMEOUT_S),
            capacity=_concurrency(entry, bento) or entry.max_ongoing_requests,
            cold_start_timeout_s=self._cold_start_timeout(version, entry.name),
        )

    def _cold_start_timeout(self, version: Version | None, entry: str) -> float:
        config = inheritance.service_config(self._file, version, entry)
        return float(config.cold_start_timeout or _COLD_START_TIMEOUT_S)

    def _check_services(self, place: str, services: Mapping[str, ServiceConfig], bento: BentoInfo) -> None:
        for name in services:
            if name not in bento.services:
                hint = did_you_mean(name, bento.services) or f"it has {', '.join(bento.services)}"
                self._problem(f"{place}services.{name}", f"Bento {bento.tag} has no such service", hint)

    def _check_envs(self, key: str, place: str, entry: ServicePlan, bento: BentoInfo) -> None:
        if missing := [name for name in required_envs(bento) if name not in entry.envs]:
            message = f"Bento {bento.tag} requires {', '.join(missing)}, which nothing sets for {key}"
            self._problem(f"{place}envs", message, "set it here, or in the envs of main or of the service")

    def _service(self, place: str, version: Version | None, name: str, bento: BentoInfo) -> ServicePlan:
        place = f"{place}services.{name}"
        config = inheritance.service_config(self._file, version, name)
        overrides = _said(config.config_overrides)
        traffic = {**_mapping(bento.services[name].config.get("traffic")), **_mapping(overrides.get("traffic"))}
        hosts = self._file.ray.hosts
        # 429 is the Bento's answer to too many requests: Serve must not hold them back before.
        max_ongoing = max(hosts.max_ongoing_requests, 2 * int(traffic.get("max_concurrency") or 0))
        plan = ServicePlan(
            name=name,
            depends=bento.services[name].depends,
            instance_type=config.instance_type,
            resources=self._resources(
                self._says_type(place, version, name), config, overrides, bento.services[name].config
            ),
            envs=inheritance.envs(self._file, version, name),
            config_overrides=overrides,
            scaling=self._scaling(place, config),
            rollout=self._rollout(place, config),
            max_ongoing_requests=max_ongoing,
            graceful_shutdown_timeout_s=hosts.graceful_shutdown_timeout_s,
        )
        concurrency = _concurrency(plan, bento) or self._target_default(place)
        return plan.model_copy(
            update={"scaling": plan.scaling.model_copy(update={"target_ongoing_requests": float(concurrency)})}
        )

    def _says_type(self, place: str, version: Version | None, name: str) -> str:
        """Return where in the file a target's instance type stands: a mistake that is inherited is main's."""
        own = version.services.get(name) if version else None
        mains = self._file.services.get(name)
        inherited = mains and mains.instance_type is not None and not (own and own.instance_type is not None)
        return f"services.{name}" if inherited else place

    def _resources(
        self, place: str, config: ServiceConfig, overrides: Mapping[str, Any], bentos: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return what a replica reserves: by instance type, else by `resources` in the file, else by the Bento's."""
        try:
            if config.instance_type is not None:
                return self._catalogue.resources(self._catalogue.get(config.instance_type))
            wanted = _mapping(overrides.get("resources")) or _mapping(bentos.get("resources"))
            found = bento_resources(wanted)
        except ConfigError as error:
            for problem in error.problems:
                self._problem(f"{place}.{problem.path}", problem.message, problem.hint)
            return {}
        if "num_cpus" not in found:
            self._default(f"{place}.instance_type", "1 CPU", "no instance type and no resources are named; Ray's own")
        return {"num_cpus": 1.0, **found}

    def _scaling(self, place: str, config: ServiceConfig) -> ScalingPlan:
        scaling = config.scaling
        least = scaling.min_replicas if scaling else None
        most = scaling.max_replicas if scaling else None
        policy = scaling.policy if scaling else None
        up = policy.scale_up_stabilization_window if policy else None
        down = policy.scale_down_stabilization_window if policy else None
        if least is None:
            self._default(f"{place}.scaling.min_replicas", "1", "as on BentoCloud")
            least = 1
        if most is None:
            most = max(least, 1)
            self._default(f"{place}.scaling.max_replicas", str(most), "as on BentoCloud: no more than min_replicas")
        elif most < least:
            message = f"{least} is more than max_replicas, which is {most}, once main's scaling is inherited"
            self._problem(f"{place}.scaling.min_replicas", message, None)
        if up is None:
            self._default(f"{place}.scaling.policy.scale_up_stabilization_window", "30", "Serve's own; in seconds")
        if down is None:
            self._default(f"{place}.scaling.policy.scale_down_stabilization_window", "600", "Serve's own; in seconds")
        return ScalingPlan(
            min_replicas=least,
            initial_replicas=max(least, 1),
            max_replicas=most,
            target_ongoing_requests=1,
            upscale_delay_s=30.0 if up is None else float(up),
            downscale_delay_s=600.0 if down is None else float(down),
        )

    def _rollout(self, place: str, config: ServiceConfig) -> RolloutPlan:
        strategy = config.deployment_strategy
        if strategy is None:
            strategy = "RollingUpdate"
            reason = "BentoCloud's default, Recreate, would take the version down for every change"
            self._default(f"{place}.deployment_strategy", strategy, reason)
        surge, batch = _STRATEGIES[strategy]
        return RolloutPlan(strategy=strategy, max_surge_percent=surge, rolling_update_percentage=batch)

    def _target_default(self, place: str) -> int:
        reason = "BentoCloud then scales by CPU, which Serve can't; 2 requests at once per replica are Serve's own aim"
        self._default(f"{place}.config_overrides.traffic.concurrency", "2 for scaling", reason)
        return 2

    def _common_defaults(self) -> None:
        ray = self._file.ray
        said = self._file.to_dict().get("ray") or {}
        reasons = (
            ("ingress", "num_replicas", "with 2, one answers while the other takes a new split"),
            ("ingress", "num_cpus", "an ingress only passes bytes on"),
            ("ingress", "max_ongoing_requests", "Serve's 5 would make requests wait in front of the ingress"),
            ("ingress", "target_wait_s", "so that nobody waits for a version that is starting or going"),
            ("hosts", "max_ongoing_requests", "`bentoml serve` has no limit but max_concurrency; Serve's is 5"),
            ("hosts", "graceful_shutdown_timeout_s", "Serve's 20 s would cut a long stream off"),
        )
        for block, key, reason in reasons:
            if key not in (said.get(block) or {}):
                self._default(f"ray.{block}.{key}", f"{getattr(getattr(ray, block), key):g}", reason)

    def _problem(self, path: str, message: str, hint: str | None) -> None:
        problem = Problem(path, message, hint=hint)
        if problem not in self._problems:
            self._problems.append(problem)

    def _default(self, path: str, value: str, reason: str) -> None:
        self._defaults.setdefault(path, Default(path=path, value=value, reason=reason))


def application_name(deployment: str, key: str) -> str:
    """Return the Serve application that serves a target to begin with (decision 19)."""
    return f"{deployment}-main" if key == MAIN else f"{deployment}-canary-{key}"


def _task_warning(key: str, path: str, scaling: ScalingPlan) -> str | None:
    """Say what scaling does to the results of tasks, which are kept in the replica that took the task."""
    if scaling.min_replicas == scaling.max_replicas:
        return None
    return (
        f"{path}: {key} has tasks, and may scale from {scaling.max_replicas} to {scaling.min_replicas} replicas: one "
        "that goes ends its tasks, and takes their results with it. Fetch results soon, or set min_replicas to "
        "max_replicas"
    )


def _traffic(service: ServicePlan, bento: BentoInfo) -> dict[str, Any]:
    own = _mapping(bento.services[service.name].config.get("traffic"))
    return {**own, **_mapping(service.config_overrides.get("traffic"))}


def _concurrency(service: ServicePlan, bento: BentoInfo) -> int | None:
    """Return the `concurrency` that somebody chose.

    A Bento with tasks says 1 beside `external_queue` without anybody having chosen it (facts/bentocloud.md section 2).
    """
    said = _mapping(service.config_overrides.get("traffic")).get("concurrency")
    own = _mapping(bento.services[service.name].config.get("traffic"))
    if said is None and not (own.get("external_queue") and own.get("concurrency") == 1):
        said = own.get("concurrency")
    return int(said) if said else None


def _said(model: BaseModel | None) -> dict[str, Any]:
    return model.model_dump(mode="json", exclude_unset=True) if model else {}


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}" if path else str(key), inner)
    else:
        yield path, value
