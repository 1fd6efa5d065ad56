"""What there is to know about a live Deployment, as plain data: what `get` and `list` show. Pure."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ray_canary.plan import MAIN
from ray_canary.serving.state import ApplicationState, Live


def describe(live: Live, travels: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return what there is to know about a live Deployment, as plain data; `travels` is what `Deployment.ways` says."""
    if live.rejected:
        return {
            "name": live.name,
            "status": {"status": live.status, "updated_at": live.ingress.deployed_at},
            "endpoint_urls": [live.url],
            "split": {"rejected": live.rejected},
            "ingress": {"replicas": _replicas(live.ingress.deployments.get("Ingress"))},
        }
    effective = live.effective()
    split = live.settings.split
    return {
        "name": live.name,
        "bento": live.settings.targets[MAIN].bento,
        "config": live.file(),
        "status": {"status": live.status, "updated_at": live.ingress.deployed_at},
        "endpoint_urls": [live.url],
        "split": {"route_type": split.route_type, "route_by": split.route_by, "scheme": split.scheme},
        "targets": {
            key: {
                "bento": target.settings.bento,
                "application": target.settings.application or live.name,
                "status": target.status,
                "ready": target.ready,
                "weight": target.weight,
                "effective_weight": effective[key],
                "replicas": _replicas(target.entry),
                "transport": (travels or {}).get(key),
                "secrets": _secret_names(live, key, target.application),
                "message": target.application.failure or target.application.trouble if target.application else None,
            }
            for key, target in live.targets.items()
        },
        "ingress": {"replicas": _replicas(live.ingress.deployments.get("Ingress"))},
        "revision": live.settings.revision,
        "beside": [
            {"application": one.name, "status": one.status, "message": one.failure or one.trouble}
            for one in live.beside
        ],
    }


def _replicas(deployment: Any) -> list[dict[str, Any]]:
    if deployment is None:
        return []
    return [asdict(one) for one in deployment.replicas]


def _secret_names(live: Live, key: str, application: ApplicationState | None) -> list[str]:
    """Return the names of the secrets that a target's replicas look up."""
    args = (application.config if application else None) or {}
    args = args.get("args") or {}
    if not live.single:
        return [secret["name"] for secret in args.get("secrets") or ()]
    versions = (args.get("canary") or {}).get("versions") or {}
    own = (versions.get(key) or {}).get("secrets") or ()
    return [*dict.fromkeys((*(args.get("secrets") or ()), *own))]
