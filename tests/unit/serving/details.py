"""Replies of Serve's REST API, in the shape that ray 2.60.0 gives them."""

from collections.abc import Mapping
from typing import Any

from ray_canary.serving.compile import INGRESS_DEPLOYMENT, Config
from ray_canary.serving.state import OnCluster


def replica(state: str = "RUNNING", id: str = "r1", pid: int | None = 7, node_id: str | None = "n") -> dict[str, Any]:
    """Return one replica; one that waits for room has neither pid nor node."""
    return {
        "replica_id": id,
        "state": state,
        "pid": pid,
        "node_id": node_id,
        "node_ip": "127.0.0.1",
        "actor_id": "a",
        "actor_name": f"SERVE_REPLICA::{id}",
        "worker_id": "w",
        "log_file_path": f"/serve/replica_{id}.log",
        "start_time_s": 1.0,
    }


def pending(id: str = "p1") -> dict[str, Any]:
    """Return a replica that waits for room."""
    return replica("STARTING", id, None, None)


def deployment(
    name: str = "S",
    *replicas: dict[str, Any],
    status: str = "HEALTHY",
    message: str = "",
    target: int | None = None,
    resources: Mapping[str, float] | None = None,
    user_config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return one deployment."""
    return {
        "name": name,
        "status": status,
        "status_trigger": "CONFIG_UPDATE_COMPLETED",
        "message": message,
        "deployment_config": {"name": name, "user_config": user_config, "max_ongoing_requests": 10},
        "target_num_replicas": len(replicas) if target is None else target,
        "required_resources": dict(resources or {"CPU": 1.0}),
        "replicas": list(replicas),
    }


def application(
    name: str,
    *deployments: dict[str, Any],
    config: Config | None = None,
    status: str = "RUNNING",
    message: str = "",
    route_prefix: str | None = None,
) -> dict[str, Any]:
    """Return one application; without a `config` it was deployed by `serve.run`."""
    return {
        "name": name,
        "route_prefix": route_prefix,
        "docs_path": None,
        "status": status,
        "message": message,
        "last_deployed_time_s": 100.0,
        "deployed_app_config": config,
        "source": "declarative" if config else "imperative",
        "deployments": {one["name"]: one for one in deployments},
    }


def details(*applications: dict[str, Any], serving: bool = True) -> dict[str, Any]:
    """Return the whole reply."""
    return {
        "controller_info": {"actor_id": "c" if serving else None, "node_id": "n"},
        "proxy_location": "EveryNode",
        "http_options": {"host": "127.0.0.1", "port": 8000},
        "grpc_options": {"port": 9000, "grpc_servicer_functions": []},
        "target_capacity": None,
        "applications": {one["name"]: one for one in applications},
    }


def deployed(config: Config, *more: dict[str, Any], **instead: dict[str, Any]) -> OnCluster:
    """Return a cluster on which all of a compiled Deployment runs, one replica each, and `more` beside.

    `instead` holds applications to put in the place of some, with `_` for `-` in their names.
    """
    found = []
    for number, one in enumerate(config["applications"]):
        parts = [
            deployment(
                part["name"],
                replica(id=f"{one['name']}-{part['name']}", pid=100 + number),
                user_config=part.get("user_config") if part["name"] == INGRESS_DEPLOYMENT else None,
                resources={"CPU": float(part["ray_actor_options"].get("num_cpus", 0))},
            )
            for part in one["deployments"]
        ]
        made = application(one["name"], *parts, config=one, route_prefix=one["route_prefix"])
        found.append(instead.get(one["name"].replace("-", "_"), made))
    return OnCluster.of(details(*found, *more))
