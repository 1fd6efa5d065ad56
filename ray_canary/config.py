"""What the user wrote: the Deployment file, in the words of BentoCloud."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from ray_canary import legal, rules, yamlfile
from ray_canary.errors import ConfigError
from ray_canary.fields import (
    AboveZero,
    Amount,
    ApplicationName,
    Backlog,
    BentoSource,
    BentoStoreUrl,
    Block,
    Cpu,
    Dependencies,
    EnvName,
    EnvValue,
    Flag,
    Free,
    Gpus,
    GpuType,
    LabelKey,
    LabelSelector,
    Many,
    Memory,
    Name,
    Natural,
    Percent,
    PerNode,
    Port,
    Positive,
    RoutePrefix,
    RouteType,
    Scalar,
    Seconds,
    SecretName,
    SecretPath,
    SecretType,
    ServiceName,
    Strategy,
    Text,
    TransportName,
    VersionKey,
    Window,
    Workers,
)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Env(_Model):
    """An environment variable."""

    name: EnvName = Field(description="The variable's name.")
    value: EnvValue = Field(description="The variable's value: text, or a whole number, which becomes text.")


class Label(_Model):
    """A label of the Deployment; it has no meaning here."""

    key: Text = Field(description="The label's key.")
    value: Scalar = Field(description="The label's value.")


class Policy(_Model):
    """How eagerly replicas come and go."""

    scale_up_stabilization_window: Window | None = Field(
        default=None, description="How many seconds the load must stay up before replicas are added, 0 to 3600."
    )
    scale_down_stabilization_window: Window | None = Field(
        default=None, description="How many seconds the load must stay down before replicas are removed, 0 to 3600."
    )
    scale_up_behavior: Text | None = Field(default=None, description="Accepted for BentoCloud's sake, and ignored.")
    scale_down_behavior: Text | None = Field(default=None, description="Accepted for BentoCloud's sake, and ignored.")
    metrics: Many[Free] = Field(default=(), description="Accepted for BentoCloud's sake, and ignored.")


class Scaling(_Model):
    """How many replicas a Bento service has."""

    min_replicas: Natural | None = Field(
        default=None, description="The least number of replicas; 0 lets the service scale to zero."
    )
    max_replicas: Positive | None = Field(default=None, description="The greatest number of replicas.")
    policy: Policy | None = Field(default=None, description="How eagerly replicas come and go.")


class Traffic(_Model):
    """How much traffic a replica takes."""

    timeout: Seconds | None = Field(
        default=None, description="How many seconds a request may take until the first byte of its response."
    )
    max_concurrency: Positive | None = Field(
        default=None, description="How many requests a replica takes at once before it answers 429."
    )
    concurrency: Positive | None = Field(
        default=None, description="How many requests in progress a replica is good for; scaling aims at it."
    )
    external_queue: Flag | None = Field(
        default=None,
        description="Whether requests above `concurrency` wait in a queue outside of the replicas; the entry service's "
        "only, and `max_concurrency` has no effect then.",
    )


class Resources(_Model):
    """What a replica needs, where no instance type says so."""

    cpu: Cpu | None = Field(default=None, description="CPU cores, like 500m or 2.")
    memory: Memory | None = Field(default=None, description="Memory, like 512Mi; a bare number is in Gi.")
    gpu: Gpus | None = Field(default=None, description="The number of GPUs.")
    gpu_type: GpuType | None = Field(default=None, description="The kind of GPU, like nvidia-l4.")
    tpu_type: Text | None = Field(default=None, description="The kind of TPU.")


class ConfigOverrides(_Model):
    """Overrides what the Bento gives to `@bentoml.service(...)`."""

    traffic: Traffic | None = Field(default=None, description="How much traffic a replica takes.")
    resources: Resources | None = Field(
        default=None, description="What a replica needs; used only where there is no `instance_type`."
    )
    workers: Workers | None = Field(
        default=None,
        description="Has no effect: a replica is one process. `max_concurrency` and `concurrency` count per replica "
        "and are not divided by it. For more processes, multiply `min_replicas` and `max_replicas`.",
    )
    threads: Positive | None = Field(default=None, description="How many synchronous API calls a replica runs at once.")
    replicate_process: Flag | None = Field(default=None, description="Passed to BentoML as it is.")
    backlog: Backlog | None = Field(default=None, description="Passed to BentoML as it is.")
    extra_ports: Many[Port] = Field(default=(), description="Passed to BentoML as they are.")
    max_runner_connections: Positive | None = Field(default=None, description="Passed to BentoML as it is.")
    runner_connection: Free | None = Field(default=None, description="Passed to BentoML as it is.")
    metrics: Free | None = Field(default=None, description="BentoML's own metrics, passed on as they are.")
    logging: Free | None = Field(default=None, description="BentoML's access log, passed on as it is.")
    ssl: Free | None = Field(default=None, description="Passed to BentoML as it is.")
    http: Free | None = Field(default=None, description="BentoML's HTTP server, CORS included, passed on as it is.")
    grpc: Free | None = Field(default=None, description="Passed to BentoML as it is.")
    runner_probe: Free | None = Field(default=None, description="Passed to BentoML as it is.")
    tracing: Free | None = Field(default=None, description="BentoML's tracing, passed on as it is.")
    monitoring: Free | None = Field(default=None, description="BentoML's monitoring, passed on as it is.")
    endpoints: Free | None = Field(default=None, description="The paths of the health endpoints.")


class ServiceConfig(_Model):
    """How one Bento service runs."""

    instance_type: Text | None = Field(default=None, description="The instance type that each replica gets.")
    scaling: Scaling | None = Field(default=None, description="How many replicas there are.")
    envs: Many[Env] = Field(default=(), description="This service's environment variables; they win over the target's.")
    config_overrides: ConfigOverrides | None = Field(
        default=None, description="Overrides what the Bento gives to `@bentoml.service(...)`."
    )
    deployment_strategy: Strategy | None = Field(default=None, description="How replicas are replaced by new ones.")
    cold_start_timeout: Positive | None = Field(
        default=None, description="How many seconds a request may wait for the first replica of a service at zero."
    )
    extras: Free | None = Field(default=None, description="Accepted for BentoCloud's sake, and ignored.")


Services = Block[dict[ServiceName, ServiceConfig]]


class Version(_Model):
    """A canary version: a Bento that takes a part of the traffic. What it leaves out is as in main."""

    bento: BentoSource = Field(
        description="The Bento: a tag, or what it is built or fetched from on deploy, as "
        "[here](operations.md#bentos-on-the-nodes)."
    )
    weight: Percent = Field(description="The part of the traffic, in whole percent.")
    services: Services = Field(default={}, description="How its Bento services run, where not as in main.")
    envs: Many[Env] = Field(default=(), description="Environment variables of all its services; they win over main's.")
    secrets: Many[SecretName] = Field(
        default=(), description="Names of secrets that its services get, in addition to main's."
    )


class Canary(_Model):
    """Which part of the traffic goes to which canary version; main gets the rest."""

    route_type: RouteType | None = Field(
        default=None, description="What decides: chance, a header's value, or a query parameter's value."
    )
    route_by: Text | None = Field(default=None, description="The name of that header or query parameter.")
    versions: Block[dict[VersionKey, Version]] = Field(default={}, description="The canary versions, by their keys.")


class Http(_Model):
    """Where Serve listens."""

    host: Text = Field(default="127.0.0.1", description="The address that Serve's proxies listen on.")
    port: Port = Field(default=8000, description="The port that Serve's proxies listen on.")


class Ingress(_Model):
    """The deployment in front, which splits the traffic."""

    num_replicas: Positive = Field(
        default=rules.INGRESS_DEFAULTS["num_replicas"],
        description="The number of ingress replicas; the least, where `max_replicas` is greater.",
    )
    max_replicas: Positive | None = Field(
        default=None,
        description="The greatest number of ingress replicas: Serve adds and removes them with the load. Each has its "
        "part of a version's capacity, reckoned by this number.",
    )
    target_ongoing_requests: AboveZero = Field(
        default=rules.INGRESS_DEFAULTS["target_ongoing_requests"],
        description="How many requests in progress an ingress replica is good for; scaling aims at it, where "
        "`max_replicas` is greater than `num_replicas`.",
    )
    max_replicas_per_node: PerNode | None = Field(
        default=None, description="How many ingress replicas one node has at most; 1 spreads them over the nodes."
    )
    node_labels: Block[dict[LabelKey, LabelSelector]] = Field(
        default={}, description="Which nodes ingress replicas may go to, by the nodes' labels."
    )
    num_cpus: Amount = Field(default=0.25, description="The CPU cores that each ingress replica reserves.")
    max_ongoing_requests: Positive = Field(
        default=rules.INGRESS_DEFAULTS["max_ongoing_requests"],
        description="How many requests an ingress replica takes at once.",
    )
    max_body_bytes: Positive = Field(
        default=100_000_000, description="The greatest request body in bytes; a greater one is answered with 413."
    )
    target_wait_s: Seconds = Field(
        default=0.25,
        description="How many seconds a request may wait for a version that has lost its last replica, before it goes "
        "to main; for main itself it then gets a 503.",
    )
    transport: TransportName = Field(
        default="auto",
        description="How requests travel to a version: `auto` is over HTTP to its replicas' ports where Serve has "
        "opened them (HAProxy mode), `handle` is always by Serve handles.",
    )
    access_log: Flag = Field(
        default=False,
        description="Whether the ingress logs every request. The version's replica always does, with the same request "
        "id, and the ingress always logs what no version answers.",
    )

    @property
    def most_replicas(self) -> int:
        """How many ingress replicas there are at most."""
        return max(self.num_replicas, self.max_replicas or 0)


class Hosts(_Model):
    """The deployments that run Bento services."""

    max_ongoing_requests: Positive = Field(default=1000, description="How many requests a host takes at once.")
    graceful_shutdown_timeout_s: Seconds = Field(
        default=600, description="How many seconds a host that goes may take to finish the requests it has."
    )
    enforce_memory: Flag = Field(
        default=False,
        description="Whether a host that takes more memory than it reserves ends, as a pod does at its limit. One that "
        "reserves none has no limit.",
    )


class Queue(_Model):
    """The queues of targets with `external_queue`."""

    max_depth: Positive = Field(
        default=10_000, description="How many requests may wait in a target's queue; one more is answered with 429."
    )


class Secret(_Model):
    """How a secret reaches the Bentos that name it. The folder of its name on the node holds a file for each key."""

    type: SecretType = Field(
        default="env", description="Whether its keys become environment variables, or its folder a part of the files."
    )
    keys: Many[EnvName] = Field(
        default=(),
        description="With `env`: the keys that are taken, all of which have to be there; where the node has no folder, "
        "its environment variables of these names.",
    )
    path: SecretPath | None = Field(
        default=None, description="With `file`: where the folder stands under the replica's `$BENTOML_HOME`."
    )


class Placement(_Model):
    """Which nodes the replicas of a target may go to."""

    node_labels: Block[dict[LabelKey, LabelSelector]] = Field(
        default={},
        description="What labels a node must have, beside what the instance type says; the same label here wins.",
    )
    max_replicas_per_node: PerNode | None = Field(
        default=None, description="How many replicas of one service of the target a node has at most."
    )


class RayBlock(_Model):
    """What BentoCloud has no words for."""

    route_prefix: RoutePrefix = Field(default="/", description="The path under which the Deployment answers.")
    http: Block[Http] = Field(default=Http(), description="Where Serve listens.")
    ingress: Block[Ingress] = Field(default=Ingress(), description="The deployment in front.")
    queue: Block[Queue] = Field(default=Queue(), description="The queues of targets with `external_queue`.")
    hosts: Block[Hosts] = Field(default=Hosts(), description="The deployments that run Bento services.")
    applications: Block[dict[str, ApplicationName]] = Field(
        default={}, description="The Serve application that serves a target, where it isn't the one of its role."
    )
    secrets: Block[dict[SecretName, Block[Secret]]] = Field(
        default={}, description="How secrets reach the Bentos, where not as environment variables from their folders."
    )
    dependencies: Dependencies = Field(
        default="shared",
        description="Whether a version runs in the cluster's Python environment or in one of its own, built from its "
        "Bento's requirements. In a mapping by target, those that aren't named share.",
    )
    placement: Block[dict[str, Block[Placement]]] = Field(
        default={}, description="Which nodes the replicas of a target may go to."
    )
    arms: Block[dict[str, Text]] = Field(
        default={}, description="What seeds a target's hash, where it isn't its key: `promote` moves it with the users."
    )
    bento_store: BentoStoreUrl | None = Field(
        default=None,
        description="Where `--push` keeps Bentos, and replicas fetch them from: a folder that all nodes share, or a "
        "URL that fsspec knows. `--store` and `$RAY_CANARY_BENTO_STORE` win over it.",
    )
    standalone: Many[Text] = Field(
        default=(), description="The versions that inherit nothing from main; `promote` keeps the others as they were."
    )

    def isolated(self, target: str) -> bool:
        """Return whether a target runs in a Python environment of its own."""
        said = self.dependencies
        return (said.get(target) if isinstance(said, dict) else said) == "isolated"


class DeploymentFile(_Model):
    """A Deployment: a main Bento, canary versions, and how traffic is split between them."""

    name: Name = Field(description="The Deployment's name; it can't be changed later.")
    bento: BentoSource = Field(
        description="The main Bento: a tag, or what it is built or fetched from on deploy, as "
        "[here](operations.md#bentos-on-the-nodes)."
    )
    cluster: Text | None = Field(default=None, description="Accepted for BentoCloud's sake, and ignored.")
    access_authorization: Flag = Field(
        default=False, description="Whether every request needs an access token (`ray-canary token create`)."
    )
    envs: Many[Env] = Field(default=(), description="Environment variables of all services of all versions.")
    secrets: Many[SecretName] = Field(
        default=(),
        description="Names of secrets that all services of all versions get; each is looked up on the node where a "
        "replica starts.",
    )
    labels: Many[Label] = Field(default=(), description="Accepted for BentoCloud's sake, and ignored.")
    services: Services = Field(default={}, description="How each Bento service runs, by its name.")
    canary: Canary | None = Field(default=None, description="The canary versions; without them, main gets everything.")
    dev: Flag = Field(default=False, description="Accepted for BentoCloud's sake, and ignored.")
    description: Text | None = Field(default=None, description="Accepted for BentoCloud's sake, and ignored.")
    ray: Block[RayBlock] = Field(default=RayBlock(), description="What BentoCloud has no words for, and ignores.")

    @model_validator(mode="wrap")
    @classmethod
    def _every_mistake(cls, data: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Raise what the fields and what the rules refuse in one ConfigError."""
        problems = list(rules.problems(data))
        try:
            file = handler(data)
        except ValidationError as error:
            problems = [*legal.problems(error, cls), *problems]
        if problems:
            raise ConfigError(legal.once(problems))
        return file

    def warnings(self) -> tuple[str, ...]:
        """Return a sentence, with its path, for every key that is accepted but does nothing."""
        return tuple(rules.warnings(self.to_dict()))

    def to_dict(self) -> dict[str, Any]:
        """Return what the user set, and nothing else, in BentoCloud's order of keys."""
        return self.model_dump(mode="json", exclude_unset=True)


def load(path: str | Path) -> DeploymentFile:
    """Read a Deployment file, or raise a ConfigError with every mistake in it."""
    return loads(yamlfile.read(path), str(path))


def loads(text: str, source: str = "<string>") -> DeploymentFile:
    """Read the text of a Deployment file; `source` is what mistakes call it."""
    loaded = yamlfile.load_mapping(text, source, "a Deployment, which has at least a name and a bento")
    found = list(loaded.problems)
    try:
        file = parse(loaded.data, source, loaded.lines)
    except ConfigError as error:
        known = {problem.path for problem in found}
        found += [problem for problem in error.problems if problem.path not in known]
    if found:
        raise ConfigError(sorted(found, key=lambda problem: problem.line or 0), source)
    return file


def parse(data: Mapping[str, Any], source: str = "<data>", lines: Mapping[str, int] | None = None) -> DeploymentFile:
    """Make a Deployment file of plain data; `lines` tells the line of each path, if there is a text."""
    try:
        return DeploymentFile.model_validate(dict(data))
    except ConfigError as error:
        raise ConfigError((problem.located(lines or {}) for problem in error.problems), source) from None


def deep_merge(live: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return `live` with `patch` over it, as `bentoml deployment update` does.

    Mappings are merged key by key, lists are replaced whole, and `canary: null` takes the canary versions out.
    """
    merged = _merge(live, patch)
    return {key: value for key, value in merged.items() if key != "canary" or value is not None}


def _merge(live: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(live)
    for key, value in patch.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
