"""Plans and clusters of a small Deployment `d`: main, a and b, each with a Bento of its own."""

from pathlib import Path
from typing import Any

from ray_canary import config
from ray_canary.bentos import BentoStore
from ray_canary.instances import Catalogue
from ray_canary.plan import Plan
from ray_canary.resolving import resolve
from ray_canary.serving import compile
from ray_canary.serving.state import Live, OnCluster
from tests.unit.bento_store import write_bento
from tests.unit.serving import details as shape


def bentos(root: Path) -> BentoStore:
    """Write Bentos s:1 to s:4, alike but for their tags."""
    for version in "1234":
        write_bento(root, f"s:{version}", {"S": {}})
    return BentoStore(root)


def plan(store: BentoStore, main: str = "s:1", ray: dict[str, Any] | None = None, **versions: str) -> Plan:
    """Return a plan; `versions` name each version's Bento, and each has 20 percent."""
    said = {key: {"bento": bento, "weight": 20} for key, bento in versions.items()}
    canary = {"canary": {"route_type": "random", "versions": said}} if said else {}
    data = {"name": "d", "bento": main, **canary, "ray": ray or {}}
    return resolve(config.parse(data), store, Catalogue.default())


def deployed(plan: Plan, *more: dict[str, Any], **instead: dict[str, Any]) -> OnCluster:
    """Return a cluster on which all of a plan runs."""
    return shape.deployed(compile.serve_config(plan), *more, **instead)


def live(plan: Plan) -> Live:
    """Return a plan's Deployment, on a cluster on which all of it runs."""
    return deployed(plan).live()[plan.name]
