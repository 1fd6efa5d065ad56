"""The Deployment file and the Bentos -> the plan: every default is chosen here, with its reason."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from pydantic import BaseModel

from ray_canary import inheritance, requirements
from ray_canary.bentos import BentoInfo, BentoStore, required_envs
from ray_canary.config import DeploymentFile, Placement, Secret, ServiceConfig, Version
from ray_canary.errors import BentoError, ConfigError, PlanError, Problem
from ray_canary.instances import Catalogue, bento_resources, gpu_warning
from ray_canary.legal import did_you_mean
from ray_canary.places import Kind, kind
from ray_canary.plan import (
    MAIN,
    Default,
    DependenciesPlan,
    Plan,
    RolloutPlan,
    ScalingPlan,
    SecretPlan,
    ServicePlan,
    TargetPlan,
    application_name,
    free_name,
)
from ray_canary.requirements import Difference, Environment

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


def resolve(
    file: DeploymentFile,
    store: BentoStore,
    catalogue: Catalogue,
    environment: Environment | None = None,
    pinned: Mapping[str, str] | None = None,
) -> Plan:
    """Resolve a Deployment file.

    `environment` is what the Bentos' Python requirements are compared with; without one, nothing is. `pinned` has the
    tag of every `bento:` that is a path or a URL: what `sources.settle` returns.

    Raises:
        PlanError: with every mistake that shows only against the Bentos and the catalogue: a Bento that isn't there,
            services that no Bento has, required environment variables that nothing sets, unknown instance types.
    """
    return _Resolver(file, store, catalogue, environment, pinned or {}).plan()


class _Resolver:
    """Resolves one file; collects the problems and the defaults on its way."""

    def __init__(
        self,
        file: DeploymentFile,
        store: BentoStore,
        catalogue: Catalogue,
        environment: Environment | None,
        pinned: Mapping[str, str],
    ) -> None:
        self._file = file
        self._store = store
        self._catalogue = catalogue
        self._environment = environment
        self._pinned = pinned
        self._warnings: list[str] = []
        self._problems: list[Problem] = []
        self._defaults: dict[str, Default] = {}

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
            access_authorization=self._file.access_authorization,
            targets={target.key: target for target in targets if target},
            ray=self._file.ray,
            file=self._file.to_dict(),
            warnings=(*self._file.warnings(), *dict.fromkeys(self._warnings)),
            defaults=tuple(self._defaults.values()),
        )

    def _target(self, key: str, version: Version | None, weight: int) -> TargetPlan | None:
        asked_for = version.bento if version else self._file.bento
        place = f"canary.versions.{key}." if version else ""
        tag = self._pinned.get(asked_for, asked_for)
        if (what := kind(tag)) is not Kind.TAG:
            self._problem(f"{place}bento", f"a {what.value} can't be built or fetched here", "give a Bento's tag")
            return None
        try:
            bento = self._store.get(tag)
        except BentoError as error:
            self._problems.append(Problem(f"{place}bento", str(error)))
            return None
        self._check_services(place, version.services if version else self._file.services, bento)
        services = {name: self._placed(key, self._service(place, version, name, bento)) for name in bento.services}
        secrets = tuple(self._secret(name) for name in inheritance.secrets(self._file, version))
        self._check_envs(key, place, services[bento.entry_service], secrets, bento)
        entry = services[bento.entry_service]
        if bento.has_tasks and (warning := _task_warning(key, f"{place}services.{entry.name}.scaling", entry.scaling)):
            self._warnings.append(warning)
        prefix = self._file.ray.route_prefix
        if bento.has_tasks and prefix != "/" and _prefix_warning(prefix) not in self._warnings:
            self._warnings.append(_prefix_warning(prefix))
        return TargetPlan(
            deployment=self._file.name,
            key=key,
            label=self._file.name if key == MAIN else f"{self._file.name}-canary-{key}",
            application=self._place(self._file.ray.applications, key, partial(application_name, self._file.name)),
            arm=self._place(self._file.ray.arms, key, str),
            weight=weight,
            asked_for=asked_for,
            bento=bento.tag,
            entry_service=bento.entry_service,
            services=services,
            secrets=secrets,
            timeout_s=float(_traffic(entry, bento).get("timeout") or _BENTOML_TIMEOUT_S),
            capacity=_concurrency(entry, bento) or entry.max_ongoing_requests,
            cold_start_timeout_s=self._cold_start_timeout(version, entry.name),
            max_queue_depth=self._file.ray.queue.max_depth
            if _queued(entry.config_overrides, bento.services[entry.name].config)
            else None,
            dependencies=self._dependencies(key, place, bento),
        )

    def _dependencies(self, key: str, place: str, bento: BentoInfo) -> DependenciesPlan:
        wanted = requirements.read(bento.requirements)
        isolated = self._file.ray.isolated(key)
        found: tuple[Difference, ...] = ()
        clashing: tuple[str, ...] = ()
        if self._environment is not None:
            clashing = requirements.clashes(wanted, self._environment)
            first = (one.name for one in requirements.read(bento.asked_for).wanted)
            found = requirements.differences(wanted, bento.python_version, self._environment, first)
        if isolated and (files := wanted.only_in_image()):
            message = (
                f"Bento {bento.tag} needs {', '.join(files)}, which can't be installed into an environment of its own"
            )
            self._problem(f"{place}bento", message, "name packages of an index instead, or let it share the cluster's")
        self._warnings += (
            f"{place}bento: {said}" for said in requirements.warnings(bento.tag, wanted, found, clashing, key, isolated)
        )
        if not isolated:
            return DependenciesPlan(differences=found)
        return DependenciesPlan(kind="isolated", packages=wanted.to_install(), locked=wanted.locked, differences=found)

    def _place(self, said: Mapping[str, str], key: str, usual: Callable[[str], str]) -> str:
        """Return what the file says for a target, else the usual, with a number if another target has that."""
        others = {name for other, name in said.items() if other != key}
        if key in said or usual(key) not in others:
            return said.get(key) or usual(key)
        versions = self._file.canary.versions if self._file.canary else {}
        return free_name(usual(key), others | {usual(other) for other in (MAIN, *versions)})

    def _cold_start_timeout(self, version: Version | None, entry: str) -> float:
        config = inheritance.service_config(self._file, version, entry)
        return float(config.cold_start_timeout or _COLD_START_TIMEOUT_S)

    def _check_services(self, place: str, services: Mapping[str, ServiceConfig], bento: BentoInfo) -> None:
        for name in services:
            if name not in bento.services:
                hint = did_you_mean(name, bento.services) or f"it has {', '.join(bento.services)}"
                self._problem(f"{place}services.{name}", f"Bento {bento.tag} has no such service", hint)

    def _secret(self, name: str) -> SecretPlan:
        said = self._file.ray.secrets.get(name, Secret())
        path = (said.path or name) if said.type == "file" else None
        return SecretPlan(name=name, type=said.type, keys=said.keys, path=path)

    def _check_envs(
        self, key: str, place: str, entry: ServicePlan, secrets: tuple[SecretPlan, ...], bento: BentoInfo
    ) -> None:
        given = {*entry.envs, *(name for secret in secrets for name in secret.keys)}
        missing = ", ".join(name for name in required_envs(bento) if name not in given)
        unknown = ", ".join(secret.name for secret in secrets if secret.type == "env" and not secret.keys)
        if missing and unknown:
            self._warnings.append(
                f"{place}secrets: Bento {bento.tag} requires {missing}; whether {unknown} has it shows only when a "
                "replica starts, unless ray.secrets names the keys"
            )
        elif missing:
            message = f"Bento {bento.tag} requires {missing}, which nothing sets for {key}"
            hint = "set it here, or in the envs of main or of the service, or name a secret that has it"
            self._problem(f"{place}envs", message, hint)

    def _service(self, place: str, version: Version | None, name: str, bento: BentoInfo) -> ServicePlan:
        place = f"{place}services.{name}"
        config = inheritance.service_config(self._file, version, name)
        overrides = _said(config.config_overrides)
        traffic = {**_mapping(bento.services[name].config.get("traffic")), **_mapping(overrides.get("traffic"))}
        hosts = self._file.ray.hosts
        # 429 is the Bento's answer to too many requests: Serve must not hold them back before.
        max_ongoing = max(hosts.max_ongoing_requests, 2 * int(traffic.get("max_concurrency") or 0))
        if _queued(overrides, bento.services[name].config):
            if name == bento.entry_service:
                max_ongoing = int(traffic["concurrency"])
                overrides = self._queue(place, overrides, traffic)
            else:
                self._no_queue(place)
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

    def _placed(self, key: str, service: ServicePlan) -> ServicePlan:
        """Return a target's service with the nodes that it may go to: its instance type's, and the target's own."""
        said = self._file.ray.placement.get(key, Placement())
        named = self._catalogue.types.get(service.instance_type or "")
        usual = named.node_labels if named else {}
        enforced = self._file.ray.hosts.enforce_memory
        placed = {
            "memory_limit_bytes": service.resources.get("memory") if enforced else None,
            "node_labels": {**usual, **said.node_labels},
            "max_replicas_per_node": said.max_replicas_per_node,
        }
        return service.model_copy(update=placed)

    def _queue(self, place: str, overrides: Mapping[str, Any], traffic: Mapping[str, Any]) -> dict[str, Any]:
        """Return `overrides` for a service with a queue: the Bento has nothing to refuse."""
        if "max_depth" not in _mapping((self._file.to_dict().get("ray") or {}).get("queue")):
            reason = "a queue that never drains must not fill the ingress's memory"
            self._default("ray.queue.max_depth", f"{self._file.ray.queue.max_depth}", reason)
        if not traffic.get("max_concurrency"):
            return dict(overrides)
        path = f"{place}.config_overrides.traffic.max_concurrency"
        self._warnings.append(f"{path}: has no effect: external_queue holds back what is above concurrency")
        return {**overrides, "traffic": {**_mapping(overrides.get("traffic")), "max_concurrency": None}}

    def _no_queue(self, place: str) -> None:
        path = f"{place}.config_overrides.traffic.external_queue"
        self._warnings.append(f"{path}: has no effect: only the entry service has a queue")

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
        if said := gpu_warning(wanted):
            self._warnings.append(f"{place}.resources: {said}")
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
            # Serve goes back to this number at every change of the deployment's options, whatever the load.
            initial_replicas=1 if least == 0 else None,
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


def _prefix_warning(prefix: str) -> str:
    """Say that BentoML's clients lose a task under a route prefix."""
    return (
        f"ray.route_prefix: BentoML's clients submit tasks without {prefix}, and don't find this Deployment's. Call "
        f"POST {prefix}/<task>/submit and GET {prefix}/<task>/status over HTTP, or deploy it at /"
    )


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


def _queued(overrides: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Whether somebody chose a queue for a service: in the file, or in the Bento by more than having a task.

    A Bento with tasks says `external_queue: true` and `concurrency: 1` by itself.
    """
    said = _mapping(overrides.get("traffic")).get("external_queue")
    if said is not None:
        return bool(said)
    traffic = _mapping(own.get("traffic"))
    return bool(traffic.get("external_queue")) and (traffic.get("concurrency") or 1) != 1


def _said(model: BaseModel | None) -> dict[str, Any]:
    return model.model_dump(mode="json", exclude_unset=True) if model else {}


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
