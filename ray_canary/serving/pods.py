"""Pods of a Ray cluster on Kubernetes: containers, probes, draining, and what they may not do. Plain data, no Ray."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ray_canary.plan import DEFAULT_SECRETS_DIR, Plan
from ray_canary.serving.local import haproxy_settings
from ray_canary.serving.workers import DEFAULT, INGRESS_CPUS, Size, Workers

Manifest = dict[str, Any]

#: The user that cluster/Dockerfile makes, and its BENTOML_HOME.
USER_ID: Final = 1000
BENTOML_HOME: Final = "/home/ray/bentoml"

#: What a worker's pod has beside the room for replicas and `INGRESS_CPUS`: memory for Ray's own processes, HAProxy, and
#: ingress replicas, which reserve none (0.15 GiB each as measured); then Ray's object store, which large requests by
#: handle pass.
_OVERHEAD_BYTES: Final = 2 * 2**30
_OBJECT_STORE_BYTES: Final = 512 * 2**20

#: Seconds that a replica which takes a draining one's place has to start: twice the default `cold_start_timeout`.
#: An option and not the file's `cold_start_timeout`, since an edit of a version must not touch the pods.
DRAIN_S: Final = 600
#: Seconds of the grace period that are left to Ray for ending.
_END_S: Final = 30

GCS_PORT: Final = 6379
CLIENT_PORT: Final = 10001
DASHBOARD_PORT: Final = 8265
#: Of Ray's agent on each node, which knows whether its Raylet and its GCS live.
AGENT_PORT: Final = 52365
METRICS_PORT: Final = 8080
HAPROXY_METRICS_PORT: Final = 9101
#: Both of the head.
DASHBOARD_METRICS_PORT: Final = 44227
AUTOSCALER_METRICS_PORT: Final = 44217
METRICS_PORTS: Final = (METRICS_PORT, HAPROXY_METRICS_PORT, DASHBOARD_METRICS_PORT, AUTOSCALER_METRICS_PORT)

#: Ports that users can't have, since somebody in a pod listens there.
_TAKEN: Final[Mapping[range, str]] = {
    **{
        range(port, port + 1): whose
        for port, whose in (
            (GCS_PORT, "GCS's"),
            (METRICS_PORT, "that of Ray's metrics"),
            (DASHBOARD_PORT, "the dashboard's"),
            (8404, "that of HAProxy's statistics"),
            (8500, "that of Serve's own proxy"),
            (HAPROXY_METRICS_PORT, "that of HAProxy's metrics"),
            (CLIENT_PORT, "that of Ray's client"),
            (AUTOSCALER_METRICS_PORT, "that of the autoscaler's metrics"),
            (DASHBOARD_METRICS_PORT, "that of the dashboard's metrics"),
            (AGENT_PORT, "that of Ray's agent"),
        )
    },
    range(10002, 20000): "one of those of Ray's workers",
    range(30000, 31001): "one of those of replicas",
}
TAKEN_TEXT: Final = ", ".join(
    str(ports[0]) if len(ports) == 1 else f"{ports[0]} to {ports[-1]}" for ports in sorted(_TAKEN, key=min)
)


@dataclass(frozen=True)
class Pods:
    """What a cluster's pods are like. Nothing in here depends on a canary version, but for secrets that it names.

    `drain_s`: seconds that replicas have to start elsewhere before Serve stops those of a worker that goes.
    """

    image: str
    workers: tuple[Workers, ...] = (DEFAULT,)
    head: Size = Size(2, 8 * 2**30)
    secrets: tuple[str, ...] = ()
    bentos: str | None = "bentos"
    autoscale: bool = False
    drain_s: int = DRAIN_S


def taken(port: int) -> str:
    """Say whose a port is in a pod; nothing, if users can have it."""
    return next((whose for ports, whose in _TAKEN.items() if port in ports), "")


def head(plan: Plan, pods: Pods) -> Manifest:
    """Return the head's pod template. It has no replica and no user: while it is away, everybody else goes on."""
    ports = {"gcs-server": GCS_PORT, "dashboard": DASHBOARD_PORT, "client": CLIENT_PORT, **_ports(plan)}
    ports["dash-metrics"] = DASHBOARD_METRICS_PORT
    if pods.autoscale:
        ports["as-metrics"] = AUTOSCALER_METRICS_PORT
    size = _size(pods.head.cpus, pods.head.memory_bytes)
    container = {
        **_container("ray-head", plan, pods, size, ports),
        "livenessProbe": _probe("/api/healthz", AGENT_PORT, delay_s=30, timeout_s=5, failures=120),
        "readinessProbe": _probe("/api/healthz", AGENT_PORT, delay_s=10, timeout_s=5, failures=10),
    }
    return _pod(plan, container, pods, grace_s=30, token=pods.autoscale)


def worker(plan: Plan, pods: Pods, group: Workers) -> Manifest:
    """Return the pod template of a group of workers."""
    memory = group.size.memory_bytes + _OVERHEAD_BYTES + _OBJECT_STORE_BYTES
    size = _size(group.size.cpus + INGRESS_CPUS, memory)
    if group.gpus:
        size[_gpu(group.accelerator_type)] = str(group.gpus)
    # Serve stops what still drains when only its graceful shutdown timeout is left.
    deadline_s = pods.drain_s + math.ceil(plan.ray.hosts.graceful_shutdown_timeout_s)
    drain = ["python", "-m", "ray_canary.serving.drain", f"--seconds={deadline_s}"]
    container = {
        **_container("ray-worker", plan, pods, size, _ports(plan)),
        # Of the Raylet. What KubeRay would put here asks the same with wget, which an image may not have.
        "livenessProbe": _probe("/api/healthz", AGENT_PORT, delay_s=30, timeout_s=2, failures=120),
        # Of the HAProxy: a worker gets users' requests while it has an ingress replica to send them to. Two failures:
        # an edit takes each ingress replica out for a moment.
        "readinessProbe": _probe("/-/healthz", "serve", delay_s=10, timeout_s=2, failures=2),
        # Replicas move to other workers and finish what they have begun, before the pod ends.
        "lifecycle": {"preStop": {"exec": {"command": drain}}},
    }
    container["env"].append({"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
    volumes, mounts = _secrets(pods), _secret_mounts(pods)
    if pods.bentos:
        volumes.append({"name": "bentos", "persistentVolumeClaim": {"claimName": pods.bentos, "readOnly": True}})
        mounts += [
            {"name": "bentos", "mountPath": f"{BENTOML_HOME}/{part}", "subPath": part, "readOnly": True}
            for part in ("bentos", "models")
        ]
    if mounts:
        container["volumeMounts"] = mounts
    template = _pod(plan, container, pods, grace_s=deadline_s + _END_S, token=False)
    if volumes:
        template["spec"]["volumes"] = volumes
    return template


def late_starts(plan: Plan, pods: Pods) -> tuple[str, ...]:
    """Return a sentence for every version whose file says that it may take longer to start than a drain gives it."""
    slow = [target for target in plan.targets.values() if target.cold_start_timeout_s > pods.drain_s]
    return tuple(
        f"{target.key}: services.{target.entry_service}.cold_start_timeout is {target.cold_start_timeout_s:g} s, and "
        f"when a worker goes, Serve stops its replicas after --drain {pods.drain_s} s, whether others have started "
        f"by then or not; --drain {math.ceil(target.cold_start_timeout_s)} gives them the time (it changes all pods)"
        for target in slow
    )


def head_params() -> dict[str, str]:
    """Return the head's arguments of `ray start`."""
    # Replicas of a user's code have no place beside GCS.
    return {"num-cpus": "0", "dashboard-host": "0.0.0.0", "disable-usage-stats": "true"}


def worker_params(group: Workers) -> dict[str, str]:
    """Return a worker's arguments of `ray start`: the room for replicas, and CPUs for ingress replicas."""
    found = {
        "num-cpus": str(group.size.cpus + INGRESS_CPUS),
        "memory": str(group.size.memory_bytes),
        "object-store-memory": str(_OBJECT_STORE_BYTES),
    }
    if group.gpus:
        found["num-gpus"] = str(group.gpus)
    if group.accelerator_type:
        # Ray finds it on a worker by itself. The autoscaler has to know it of workers that are not there yet.
        found["resources"] = f"'{{\"accelerator_type:{group.accelerator_type}\": 1}}'"
    return found


def container_security() -> Manifest:
    """Return what a container may not do: the `restricted` Pod Security Standard, but for the pod's part of it."""
    return {"allowPrivilegeEscalation": False, "privileged": False, "capabilities": {"drop": ["ALL"]}}


def labels_of(plan: Plan) -> dict[str, str]:
    """Return the labels that all pods of a Deployment's cluster have."""
    return {"app.kubernetes.io/part-of": plan.name}


def _pod(plan: Plan, container: Manifest, pods: Pods, *, grace_s: int, token: bool) -> Manifest:
    labels = labels_of(plan)
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels},
    }
    return {
        "metadata": {"labels": labels},
        "spec": {
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER_ID,
                "runAsGroup": USER_ID,
                "fsGroup": USER_ID,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            # Only Ray's autoscaler, beside the head, speaks to Kubernetes.
            "automountServiceAccountToken": token,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": grace_s,
            "topologySpreadConstraints": [spread],
            "containers": [container],
        },
    }


def _container(name: str, plan: Plan, pods: Pods, size: Manifest, ports: dict[str, int]) -> Manifest:
    envs = {**haproxy_settings(plan.ray.hosts.graceful_shutdown_timeout_s), "BENTOML_HOME": BENTOML_HOME}
    return {
        "name": name,
        "image": pods.image,
        "env": [{"name": key, "value": value} for key, value in envs.items()],
        "ports": [{"name": key, "containerPort": port} for key, port in ports.items()],
        "resources": {"requests": size, "limits": size},
        "securityContext": container_security(),
    }


def _ports(plan: Plan) -> dict[str, int]:
    return {"serve": plan.ray.http.port, "metrics": METRICS_PORT, "haproxy": HAPROXY_METRICS_PORT}


def _size(cpus: int, memory_bytes: int) -> Manifest:
    """Return an amount in Kubernetes' terms. Requests and limits are the same, so that no neighbour takes it away."""
    return {"cpu": str(cpus), "memory": _quantity(memory_bytes)}


def _gpu(kind: str | None) -> str:
    """Return what Kubernetes calls GPUs of a kind: each maker's device plugin has its own name."""
    return "amd.com/gpu" if (kind or "").startswith("AMD-") else "nvidia.com/gpu"


def _quantity(size: int) -> str:
    """Return bytes as Kubernetes writes them, rounded up to mebibytes."""
    mebibytes = math.ceil(size / 2**20)
    return f"{mebibytes}Mi" if mebibytes % 1024 else f"{mebibytes // 1024}Gi"


def _probe(path: str, port: int | str, *, delay_s: int, timeout_s: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": port},
        "initialDelaySeconds": delay_s,
        "periodSeconds": 5,
        "timeoutSeconds": timeout_s,
        "failureThreshold": failures,
    }


def _secrets(pods: Pods) -> list[Manifest]:
    # Optional: a Secret that isn't there yet fails the replicas that name it, and keeps no worker from starting.
    # Readable by the group, which `fsGroup` is.
    return [
        {"name": _volume(index), "secret": {"secretName": name, "optional": True, "defaultMode": 0o440}}
        for index, name in enumerate(pods.secrets)
    ]


def _secret_mounts(pods: Pods) -> list[Manifest]:
    return [
        {"name": _volume(index), "mountPath": f"{DEFAULT_SECRETS_DIR}/{name}", "readOnly": True}
        for index, name in enumerate(pods.secrets)
    ]


def _volume(index: int) -> str:
    # A volume's name is shorter than a Secret's may be, and has no dots.
    return f"secret-{index}"
