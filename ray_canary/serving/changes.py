"""What a new Serve config would do to what is running: which replicas restart, and why.

The rules are Serve's own (ray 2.60.0, facts/ray_serve.md 1.1 and 1.2): a change of an application's `args`,
`import_path` or `runtime_env`, or of the presence or policy of certain blocks, restarts all of its deployments; a
change of a deployment's actor options restarts that deployment; everything else restarts nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ray_canary.serving.compile import Config

_RESTARTS_ALL = ("import_path", "args", "runtime_env", "autoscaling_policy")
_RESTARTS_ONE = (
    "ray_actor_options",
    "placement_group_bundles",
    "placement_group_strategy",
    "max_replicas_per_node",
    "gang_scheduling_config",
)


class Effect(StrEnum):
    """What happens to an application or a deployment."""

    NONE = "unchanged"
    LIVE = "changes live"
    RESTART = "restarts"
    ADD = "is added"
    REMOVE = "is removed"


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one deployment of one application."""

    application: str
    deployment: str
    effect: Effect
    because: tuple[str, ...] = ()


def changes(before: Mapping[str, Config], after: Mapping[str, Config]) -> tuple[Change, ...]:
    """Compare two sets of applications by name; `after` leaves out what would be deleted."""
    found: list[Change] = []
    for name in dict.fromkeys((*before, *after)):
        found += _application(name, before.get(name), after.get(name))
    return tuple(found)


def restarts(found: tuple[Change, ...], application: str) -> bool:
    """Return whether any deployment of an application restarts."""
    return any(change.effect is Effect.RESTART for change in found if change.application == application)


def _application(name: str, before: Config | None, after: Config | None) -> Iterator[Change]:
    olds, news = _deployments(before), _deployments(after)
    if before is None or after is None:
        effect = Effect.ADD if before is None else Effect.REMOVE
        yield from (Change(name, deployment, effect) for deployment in {**olds, **news})
        return
    whole = [key for key in _RESTARTS_ALL if (before.get(key) or None) != (after.get(key) or None)]
    if _hashed_blocks(olds) != _hashed_blocks(news):
        whole.append("blocks of its deployments")
    for deployment in dict.fromkeys((*olds, *news)):
        old, new = olds.get(deployment, {}), news.get(deployment, {})
        if not old or not new:
            yield Change(name, deployment, Effect.REMOVE if old else Effect.ADD)
            continue
        changed = tuple(key for key in dict.fromkeys((*old, *new)) if old.get(key) != new.get(key))
        own = tuple(key for key in changed if key in _RESTARTS_ONE)
        if whole or own:
            yield Change(name, deployment, Effect.RESTART, (*whole, *own))
        else:
            yield Change(name, deployment, Effect.LIVE if changed else Effect.NONE, changed)


def _deployments(application: Config | None) -> dict[str, dict[str, Any]]:
    return {deployment["name"]: deployment for deployment in (application or {}).get("deployments") or ()}


def _hashed_blocks(deployments: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """Return what of the deployments' options goes into the application's code version."""
    policies = [
        deployment["autoscaling_config"].get("policy")
        for deployment in deployments.values()
        if isinstance(deployment.get("autoscaling_config"), Mapping)
    ]
    routers = _blocks(deployments, "request_router_config", Mapping)
    return [policies, routers, _blocks(deployments, "deployment_actors", list)]


def _blocks(deployments: Mapping[str, Mapping[str, Any]], key: str, kind: type) -> list[Any]:
    return [one[key] for one in deployments.values() if isinstance(one.get(key), kind)]
