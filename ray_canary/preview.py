"""What deploying a file would change on a cluster, before it does."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray_canary.errors import DoesNotFit
from ray_canary.plan import Plan, leaf_differences
from ray_canary.serving import fitting, rollout, supply
from ray_canary.serving.adoption import adopt
from ray_canary.serving.changes import Change, restarts
from ray_canary.serving.cluster import Cluster
from ray_canary.serving.state import Live, OnCluster
from ray_canary.weights import WeightChange


@dataclass(frozen=True)
class Preview:
    """What a plan would do to one cluster.

    `plan` has its targets where the same already runs. `drift` holds where the file differs from what is deployed: the
    key, its value on the cluster, and in the file; None where there is nothing. `too_small` says what doesn't fit, and
    `stuck` which update has no room to begin, and `missing` which nodes lack a Bento.
    """

    plan: Plan
    changes: tuple[Change, ...] = ()
    weights: WeightChange | None = None
    drift: tuple[tuple[str, Any, Any], ...] = ()
    too_small: str | None = None
    stuck: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        changes = [
            {
                "application": one.application,
                "deployment": one.deployment,
                "effect": one.effect.value,
                "because": list(one.because),
            }
            for one in self.changes
        ]
        return {
            **self.plan.to_dict(),
            "changes": changes,
            "keys_that_move": {"moved": self.weights.moved, "least": self.weights.least} if self.weights else None,
            "drift": [{"path": path, "cluster": there, "file": here} for path, there, here in self.drift],
            "does_not_fit": self.too_small,
            "has_to_wait": list(self.stuck),
            "missing_on_nodes": list(self.missing),
        }


def preview(plan: Plan, cluster: Cluster, notice: Callable[[str], None] = lambda _: None) -> Preview:
    """Return what deploying `plan` would do; `notice` is told what can't be asked.

    Raises:
        Conflict: somebody else has its name or route.
        ClusterError: the cluster doesn't say.
    """
    state = cluster.state()
    placed = adopt(plan, state)
    fitting.check_conflicts(placed, state)
    live = state.live().get(plan.name)
    live = live if live and not live.rejected else None
    found = rollout.preview(plan, state)
    return Preview(
        placed,
        found,
        _weights(placed, live) if live else None,
        tuple(leaf_differences(live.file(), plan.file)) if live else (),
        _too_small(placed, state, cluster),
        fitting.stuck(placed, state, cluster.sizes(), found),
        supply.missing(placed, cluster, state, notice),
    )


def _weights(plan: Plan, live: Live) -> WeightChange:
    before = live.settings
    arms = {before.targets[key].arm: weight for key, weight in before.split.shares().items()}
    after = {key: weight for key, weight in plan.weights().items() if key != "main"}
    return WeightChange(arms, plan.arms(), before.split.shares(), after)


def _too_small(plan: Plan, state: OnCluster, cluster: Cluster) -> str | None:
    try:
        fitting.check_fit(plan, state, cluster.sizes())
    except DoesNotFit as error:
        return str(error)
    return None


def restarts_in_words(found: tuple[Change, ...]) -> str:
    """Say in which applications replicas restart."""
    restarting = sorted({change.application for change in found if restarts(found, change.application)})
    if not restarting:
        return "No replica restarts."
    return f"Replicas restart in: {', '.join(restarting)}. No other version is touched."


def weights_in_words(change: WeightChange) -> str:
    """Say which weights move, and what that does to users."""
    keys = dict.fromkeys((*change.before, *change.after))
    moves = [
        f"{key} {change.before.get(key, 0)} -> {change.after.get(key, 0)}"
        for key in keys
        if change.before.get(key, 0) != change.after.get(key, 0)
    ]
    if not moves and not change.moved:
        return "Weights: no change."
    return (
        f"Weights: {', '.join(moves) or 'no change'}. Of all keys, {change.moved:.1%} change their version "
        f"(under any scheme at least {change.least:.1%})."
    )
