"""How many replicas a version needs for its new share, so that a weight jump never lands on too few. Pure."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ray_canary.serving.compile import Config
from ray_canary.serving.release import FLOORS, Release
from ray_canary.serving.state import Live

#: Serve averages the load over 30 s before it scales. A version whose window for scaling down is shorter than this many
#: seconds could lose its new replicas again before its new load has been seen.
SEEN_AFTER_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Need:
    """How many replicas one deployment of a version needs before its share may grow."""

    application: str
    deployment: str
    replicas: int
    running: int

    @property
    def short(self) -> bool:
        """Whether it has fewer."""
        return self.running < self.replicas


def growing(live: Live, release: Release) -> frozenset[str]:
    """Return the applications whose share of requests grows."""
    before = _shares(live)
    return frozenset(name for name, share in release.shares().items() if share > before.get(name, 0))


def needs(live: Live, release: Release) -> tuple[Need, ...]:
    """Return what every deployment of a growing version needs for its new share.

    All versions together carry the load with the replicas that they have, sum of replicas x
    `target_ongoing_requests`; a share of the requests needs that share of it, rounded up, within min_replicas and
    max_replicas. Where replicas idle at their minimum this is more than is needed, never less.
    """
    before, shares = _shares(live), release.shares()
    found = []
    for name in sorted(growing(live, release)):
        for deployment in (release.version(name) or {}).get("deployments") or ():
            scaling = _scaling(deployment)
            load = _load(live, deployment["name"])
            if load is None:
                running = _running(live, name, deployment["name"])
                wanted = running * shares[name] / before[name] if before.get(name) else 1
            else:
                wanted = load * shares[name] / 100 / _aim(scaling)
            least, most = int(scaling.get("min_replicas", 1)), int(scaling.get("max_replicas", 1))
            replicas = min(max(math.ceil(wanted - 1e-9), least, 1), most)
            found.append(Need(name, deployment["name"], replicas, _running(live, name, deployment["name"])))
    return tuple(found)


def raised(applications: list[Config], found: tuple[Need, ...]) -> list[Config]:
    """Return applications with the floors that make Serve start the replicas which are short.

    One whose own least number is enough stays as it is: Serve takes every change for a reason to try again.
    """
    by_place = {(need.application, need.deployment): need.replicas for need in found if need.short}
    changed = copy.deepcopy(applications)
    for application in changed:
        for deployment in application.get("deployments") or ():
            floor = by_place.get((application["name"], deployment["name"]), 0)
            if floor > int(_scaling(deployment).get("min_replicas", 1)):
                scaling = deployment["autoscaling_config"]
                scaling.update({key: max(int(scaling.get(key) or 0), floor) for key in FLOORS})
    return changed


def kept(applications: list[Config], found: tuple[Need, ...]) -> list[Config]:
    """Return applications without floors, but so that the replicas which these have brought stay.

    Serve sets a deployment back to its `initial_replicas` at every change of its options, if it has any: those have to
    be as many. Without, it goes on with as many as there are. From then on its window for scaling down counts.
    """
    by_place = {(need.application, need.deployment): need.replicas for need in found if need.short}
    changed = copy.deepcopy(applications)
    for application in changed:
        for deployment in application.get("deployments") or ():
            scaling = deployment.get("autoscaling_config") or {}
            if scaling.get("initial_replicas") is not None:
                floor = by_place.get((application["name"], deployment["name"]), 0)
                scaling["initial_replicas"] = max(scaling["initial_replicas"], floor)
    return changed


def sinks_quickly(release: Release, found: tuple[Need, ...]) -> bool:
    """Whether Serve could take the new replicas away again before it has seen the load that they are for."""
    short = {(need.application, need.deployment) for need in found if need.short}
    return any(
        float(_scaling(deployment).get("downscale_delay_s", 600)) < SEEN_AFTER_S
        for application in release.versions
        for deployment in application.get("deployments") or ()
        if (application["name"], deployment["name"]) in short
    )


def _shares(live: Live) -> dict[str, int]:
    """Return the share that every application has.

    One that isn't ready has it too: whoever changes another version's weight shouldn't have to wait for it.
    """
    return {
        target.settings.application: target.weight for target in live.targets.values() if target.settings.application
    }


def _load(live: Live, deployment: str) -> float | None:
    """Return how many requests at once all versions together have replicas for; None if none has this deployment."""
    found = [
        state.running * _aim(_scaling(_options(target.application.config, deployment)))
        for target in live.targets.values()
        if target.weight and target.application and (state := target.application.deployments.get(deployment))
    ]
    return sum(found) if found else None


def _running(live: Live, application: str, deployment: str) -> int:
    state = live.applications.get(application)
    there = state.deployments.get(deployment) if state and not state.going else None
    return there.running if there else 0


def _options(application: Config | None, deployment: str) -> Mapping[str, Any]:
    options = (application or {}).get("deployments") or ()
    return next((one for one in options if one["name"] == deployment), {})


def _scaling(deployment: Mapping[str, Any]) -> dict[str, Any]:
    return dict(deployment.get("autoscaling_config") or {})


def _aim(scaling: Mapping[str, Any]) -> float:
    return float(scaling.get("target_ongoing_requests") or 2)
