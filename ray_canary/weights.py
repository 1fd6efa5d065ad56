"""Weights that change, and what that does to users."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ray_canary.errors import ConfigError, Problem
from ray_canary.legal import did_you_mean
from ray_canary.plan import MAIN
from ray_canary.serving.settings import IngressSettings
from ray_canary.serving.state import Live
from ray_canary.splitter import least_move, moved_share


@dataclass(frozen=True)
class WeightChange:
    """What a change of weights does to users."""

    arms_before: Mapping[str, int] = field(repr=False)
    arms_after: Mapping[str, int] = field(repr=False)
    before: Mapping[str, int]
    versions_after: Mapping[str, int]

    @property
    def after(self) -> dict[str, int]:
        """Every target's weight after it, main's first."""
        return {MAIN: 100 - sum(self.versions_after.values()), **self.versions_after}

    @property
    def moved(self) -> float:
        """The share of keys that change their version, 0 to 1."""
        return moved_share(self.arms_before, self.arms_after)

    @property
    def least(self) -> float:
        """The share of keys that would have to move under any scheme, 0 to 1."""
        return least_move(self.arms_before, self.arms_after)


def weight_change(live: Live, after: IngressSettings) -> WeightChange:
    """Return what it does to the users of a live Deployment to go on with other settings."""
    before = live.settings
    weights = after.split.weights
    return WeightChange(_arms(before), _arms(after), before.split.shares(), weights)


def _arms(settings: IngressSettings) -> dict[str, int]:
    return {settings.targets[key].arm: share for key, share in settings.split.shares().items()}


def checked_weights(weights: Mapping[str, int], versions: Mapping[str, int]) -> Mapping[str, int]:
    """Return new weights of some of the `versions`. Raises ConfigError if they can't have them."""
    found = []
    for key, weight in weights.items():
        if key == MAIN:
            found.append(Problem("main", "gets what the versions leave of 100", hint="give the versions' weights"))
        elif key not in versions:
            hint = did_you_mean(key, versions) or f"the versions are {', '.join(versions) or 'none'}"
            found.append(Problem(key, "is not a version of this Deployment", hint=hint))
        elif not 0 <= weight <= 100:
            found.append(Problem(key, f"{weight} is not a whole number from 0 to 100", weight))
    if not found and (total := sum({**versions, **weights}.values())) > 100:
        given = ", ".join(f"{key}={weight}" for key, weight in {**versions, **weights}.items())
        found.append(Problem("", f"the weights add up to {total}, which is over 100: {given}", total))
    if found:
        raise ConfigError(found)
    return weights
