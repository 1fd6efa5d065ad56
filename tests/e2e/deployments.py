"""Deployment files for the tests, as plain data."""

import os
from typing import Any

#: Added to every port, so that two runs on one machine don't meet.
OFFSET = int(os.environ.get("RAY_CANARY_TEST_OFFSET", "0"))
HTTP_PORT = 28000 + OFFSET

#: Secrets that the cluster's node has in its environment, as with Kubernetes' `envFrom`.
NODE_SECRETS = {"PROBE_NODE_TOKEN": "value-from-the-node-4b1d9e", "PROBE_NODE_KEY": 'with "quotes" & $HOME-7f3a'}


def probe(
    weights: dict[str, int],
    *,
    name: str = "probe",
    route_type: str = "query",
    route_by: str | None = "feature",
    envs: dict[str, dict[str, str]] | None = None,
    ingress_replicas: int = 2,
    route_prefix: str = "/",
    port: int = HTTP_PORT,
    bentos: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Return a Deployment of the `probe` Bento; `envs` are each target's own, `weights` the versions'."""
    envs = envs or {}
    bentos = {"main": "probe:v1", "a": "probe:v2", "b": "probe:v3", **(bentos or {})}
    canary: dict[str, Any] = {"route_type": route_type, "versions": {}}
    if route_by:
        canary["route_by"] = route_by
    for key, weight in weights.items():
        canary["versions"][key] = {
            "bento": bentos.get(key, "probe:v3"),
            "weight": weight,
            "envs": _envs({"PROBE_NAME": key, **envs.get(key, {})}),
        }
    small = {"config_overrides": {"resources": {"cpu": "100m"}}, "scaling": {"min_replicas": 1, "max_replicas": 1}}
    return {
        "name": name,
        "bento": bentos["main"],
        "envs": _envs({"PROBE_NAME": "main", **envs.get("main", {})}),
        "services": {"Probe": small, "Letters": small},
        "canary": canary,
        "ray": {
            "route_prefix": route_prefix,
            "http": {"port": port},
            "ingress": {"num_replicas": ingress_replicas, "num_cpus": 0.1},
        },
    }


def _envs(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values.items()]
