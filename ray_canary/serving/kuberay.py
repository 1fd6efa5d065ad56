"""Plan -> a KubeRay RayService: one manifest for `kubectl apply`. Plain data, no Ray.

KubeRay sends `serveConfigV2` to Serve when it changes, which is what `serve deploy` does: replicas of what changed. A
change of `rayClusterConfig` is another thing: it takes a whole new RayCluster. So that nothing which touches a canary
ever does, `rayClusterConfig` is made from `Pods` and from the file's cluster-wide keys only, `upgradeStrategy` is None
unless a new RayCluster is asked for, and `in_place.makes_new_cluster` finds what would ask for one.
"""

import copy
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ray_canary.errors import ConfigError, Problem, path_text
from ray_canary.plan import Plan, SecretPlan
from ray_canary.serving import compile, pods
from ray_canary.serving.pods import Manifest, Pods
from ray_canary.serving.workers import counts

#: KubeRay's own limit: it makes names of Services from it.
_LONGEST_NAME: Final = 47
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LABEL = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
#: Of Kubernetes' Secrets, and of most of what it has.
_OBJECT_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
_OBJECT_FORM: Final = "lower-case letters, digits, - and ., with a letter or a digit at the ends"
#: One address, as Ray's `parse_address` and its schemes have it.
_REDIS = re.compile(r"(rediss?://)?([-a-zA-Z0-9_.]+|\[[0-9a-fA-F:.]+\]):(?P<port>[0-9]{1,5})")
#: The least port that a user other than root may open on every node; a Service may be at another one.
_LEAST_PORT: Final = 1024


@dataclass(frozen=True)
class Surroundings:
    """What a RayService needs of its namespace. Secrets are named; their values are nobody's business here.

    `redis` is the address of what keeps GCS's state, with the password under `password` of `redis_secret`; None: the
    state goes with the head. `token_secret` has Ray's own token, which guards the dashboard, under `auth_token`; None:
    nothing guards it.
    """

    namespace: str | None = None
    redis: str | None = "redis:6379"
    redis_secret: str = "redis"
    token_secret: str | None = "ray-token"


def named(name: str, what: str, option: str, off: str = "") -> str:
    """Return what an option names, if it can be the name of an object of Kubernetes; `off` is what to do without it.

    Raises:
        ConfigError: it can't, or there is none: an empty name would leave out what it is for.
    """
    given(name, option, off)
    if not _OBJECT_NAME.fullmatch(name) or (option == "--namespace" and not re.fullmatch(_LABEL, name)):
        raise ConfigError.of(f"{name!r} can't be the name of {what}: {_OBJECT_FORM}", option)
    return name


def given(value: str, option: str, off: str = "") -> str:
    """Return an option's value. Raises ConfigError if it is empty, or has spaces."""
    if not value:
        raise ConfigError.of("is empty, as where a shell variable isn't set", option, hint=off or None)
    if re.search(r"\s", value):
        raise ConfigError.of(f"{value!r} has spaces", option)
    return value


def redis_address(value: str, option: str, off: str) -> str:
    """Return the address of one Redis, as Ray reads it.

    Raises:
        ConfigError: it is none. The value is not said again: it may be what has a password in it.
    """
    given(value.strip(), option, off)
    found = _REDIS.fullmatch(value)
    if not found or not 1 <= int(found["port"]) <= 65535:
        hint = f"a password belongs into the Secret of --redis-secret; {off}"
        raise ConfigError.of("is not one HOST:PORT, like redis:6379", option, hint=hint)
    return value


def secrets_of(plan: Plan, more: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the names of the secrets to mount: the file's, main's and every version's, then `more`, of `--secret`.

    Raises:
        ConfigError: one can't be the name of a Kubernetes Secret.
    """
    what = "a Kubernetes Secret"
    extra = {named(name, what, "--secret") for name in more}
    places = {secret.name: _place(plan, key, secret.name) for key, secret in reversed(_secrets(plan))}
    wrong = [name for name in places if not _OBJECT_NAME.fullmatch(name)]
    if wrong:
        message = f"can't be the name of {what}: {_OBJECT_FORM}"
        raise ConfigError(Problem(places[name], f"{name!r} {message}", name) for name in reversed(wrong))
    return tuple(sorted({*places, *extra}))


def _secrets(plan: Plan) -> list[tuple[str, SecretPlan]]:
    return [(key, secret) for key, target in plan.targets.items() for secret in target.secrets]


def _place(plan: Plan, key: str, name: str) -> str:
    """Return where the file names a secret that a target has: among all versions' secrets, or among its own."""
    mains = list(plan.file.get("secrets") or ())
    if name in mains:
        return path_text(("secrets", mains.index(name)))
    return path_text(("canary", "versions", key, "secrets"))


def ray_service(
    plan: Plan, wanted: Pods, around: Surroundings, ray_version: str, *, new_cluster: bool = False
) -> Manifest:
    """Return the RayService of a Deployment.

    Raises:
        ConfigError: its name can't be a RayService's, or its port is taken in every pod.
        DoesNotFit: a replica is larger than every worker.
    """
    if not _NAME.fullmatch(plan.name) or len(plan.name) > _LONGEST_NAME:
        message = f"{plan.name!r} can't be the name of a RayService: at most {_LONGEST_NAME} characters, a letter first"
        raise ConfigError.of(message, path="name")
    if plan.ray.http.port < _LEAST_PORT:
        message = f"{plan.ray.http.port} is for root on many nodes, and no pod runs as root"
        hint = f"choose {_LEAST_PORT} or more; the Service or the Ingress in front may have any"
        raise ConfigError.of(message, path="ray.http.port", hint=hint)
    if who := pods.taken(plan.ray.http.port):
        message = f"{plan.ray.http.port} is {who} in each pod"
        raise ConfigError.of(message, path="ray.http.port", hint=f"choose another one, but none of {pods.TAKEN_TEXT}")
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": _metadata(plan, around),
        "spec": {
            "upgradeStrategy": {"type": "NewCluster" if new_cluster else "None"},
            # Seconds that the old RayCluster stays when a new one has taken over: its streams may end.
            "rayClusterDeletionDelaySeconds": math.ceil(plan.ray.hosts.graceful_shutdown_timeout_s) + 60,
            # The head can be lost without a user's request.
            "excludeHeadPodFromServeSvc": True,
            "serveConfigV2": serve_config(plan),
            "rayClusterConfig": _cluster(plan, wanted, around, ray_version),
        },
    }


def serve_config(plan: Plan) -> str:
    """Return `serveConfigV2`: what `ray-canary build` makes, for a pod, and marked as the RayService's."""
    config = copy.deepcopy(compile.serve_config(plan))
    config["http_options"]["host"] = "0.0.0.0"
    compile.user_config(config["applications"][0])["owner"] = f"RayService {plan.name}"
    return compile.body(config, plan)


def network_policy(plan: Plan, around: Surroundings) -> Manifest:
    """Return who may reach the pods: users the port of Serve, KubeRay's operator the dashboard, anybody the metrics.

    Everything else is for the pods of the cluster: on most of Ray's ports, whoever reaches them can run code.
    """
    anywhere: Manifest = {"namespaceSelector": {}}
    operator = {**anywhere, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}}}
    own = {"podSelector": {"matchLabels": pods.labels_of(plan)}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(plan, around),
        "spec": {
            "podSelector": own["podSelector"],
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [own]},
                {"ports": _ports(plan.ray.http.port)},
                {"from": [operator], "ports": _ports(pods.DASHBOARD_PORT)},
                {"from": [anywhere], "ports": _ports(*pods.METRICS_PORTS)},
            ],
        },
    }


def _ports(*numbers: int) -> list[Manifest]:
    return [{"port": number, "protocol": "TCP"} for number in numbers]


def _metadata(plan: Plan, around: Surroundings) -> Manifest:
    labels = {"app.kubernetes.io/name": plan.name, "app.kubernetes.io/managed-by": "ray-canary"}
    namespace = {"namespace": around.namespace} if around.namespace else {}
    return {"name": plan.name, **namespace, "labels": labels}


def _cluster(plan: Plan, wanted: Pods, around: Surroundings, ray_version: str) -> Manifest:
    least, most = (counts(plan, wanted.workers, most=most) for most in (False, True))
    found: Manifest = {"rayVersion": ray_version, "enableInTreeAutoscaling": wanted.autoscale}
    if wanted.autoscale:
        found["autoscalerOptions"] = _autoscaler()
    if around.token_secret:
        found["authOptions"] = {"mode": "token", "secretName": around.token_secret}
    if around.redis:
        password = {"secretKeyRef": {"name": around.redis_secret, "key": "password"}}
        found["gcsFaultToleranceOptions"] = {
            "redisAddress": around.redis,
            "redisPassword": {"valueFrom": password},
        }
    found["headGroupSpec"] = {"rayStartParams": pods.head_params(), "template": pods.head(plan, wanted)}
    found["workerGroupSpecs"] = [
        {
            "groupName": group.name,
            "labels": dict(group.node().labels),
            "replicas": least[group.name] if wanted.autoscale else most[group.name],
            "minReplicas": least[group.name] if wanted.autoscale else most[group.name],
            "maxReplicas": most[group.name],
            "rayStartParams": pods.worker_params(group),
            "template": pods.worker(plan, wanted, group),
        }
        for group in wanted.workers
    ]
    return found


def _autoscaler() -> Manifest:
    size = {"cpu": "500m", "memory": "512Mi"}
    return {
        "version": "v2",
        "idleTimeoutSeconds": 300,
        "securityContext": pods.container_security(),
        "resources": {"requests": size, "limits": size},
    }


_HEAD = """\
# The RayService of Deployment {name}, made from {source} by
#
#   {command}
#
# Edit {source} and make this file again, rather than editing this one; what is nobody's business there, such as the
# nodes that the pods are for, goes into a patch (kustomize). It needs KubeRay 1.6 or newer. docs/operations.md,
# "Kubernetes", has what else a namespace needs. What an edit restarts:
#
#   serveConfigV2     what is said in there, in place, as with `serve deploy`; never another version.
#   rayClusterConfig  everything: it takes a new RayCluster. With upgradeStrategy None, KubeRay makes none, and the
#                     edit does nothing; `ray-canary render --new-cluster` lets it. New groups of workers at the end
#                     are added in place. Numbers of workers are those that a new RayCluster begins with.
"""


def to_yaml(manifests: Iterable[Manifest], name: str, source: str, command: str) -> str:
    """Write manifests as YAML; the same input gives the same text."""
    head = _HEAD.format(name=name, source=source, command=command)
    return head + "---\n".join(compile.dump(one) for one in manifests)
