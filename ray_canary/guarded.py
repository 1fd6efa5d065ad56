"""A change of a Deployment: who may make it, one after the other, and what is kept of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from ray_canary.errors import ClusterError, Conflict, NotFound
from ray_canary.lookup import accepted
from ray_canary.serving.cluster import Cluster
from ray_canary.serving.lease import Lease
from ray_canary.serving.release import Release
from ray_canary.serving.revisions import Revision, Revisions
from ray_canary.serving.state import Live, OnCluster

#: Told in a sentence what a caller should know meanwhile.
Notice = Callable[[str], None]
#: Given a Deployment's name, what keeps its revisions.
Keeper = Callable[[str], Revisions]


@contextmanager
def changing(
    cluster: Cluster, name: str, verb: str, notice: Notice, *, needed: bool = False
) -> Iterator[Keeper | None]:
    """Have the right to change a Deployment meanwhile, and yield what keeps its revisions.

    From where the cluster's store can't be reached, a change is possible all the same unless `needed`: it is then said
    that it leaves no revision and keeps nobody else out.
    """
    check_owner(cluster.state(), name, verb)
    try:
        store = cluster.store()
    except ClusterError as error:
        if needed:
            raise
        notice(f"{error}. The change leaves no revision, and keeps out nobody who changes {name} at the same time.")
        yield None
        return
    with Lease(store, name, verb, waiting=notice):
        yield partial(Revisions, store)


def check_owner(state: OnCluster, name: str, verb: str) -> None:
    """Refuse a change that somebody else's next one would undo (decision 20).

    A RayService sends its whole config whenever that changes, and whenever KubeRay's operator starts again.

    Raises:
        Conflict: with who keeps the config, and what to do instead.
    """
    owners = sorted({owner for live in state.live().values() if (owner := live.owner)})
    if owners:
        raise Conflict(
            f"{owners[0]} keeps this cluster's Serve config: its next change, or a restart of KubeRay's operator, "
            f"would undo `{verb}` of {name}. Nothing was changed. Edit the Deployment file, then run `ray-canary "
            "render --kuberay -f FILE -o rayservice.yaml` and `kubectl apply -f rayservice.yaml`: weights, versions "
            "and their settings change in place"
        )


def deployed_release(live: Live, keeper: Keeper | None) -> Release:
    """Return the release that is deployed, without what a rollout that was killed left raised."""
    return deployed_revision(live, keeper).release if keeper else Release.of_live(live)


def deployed_revision(live: Live, keeper: Keeper) -> Revision:
    """Return the revision that is deployed; what was deployed by other means becomes one, so that one can go back."""
    kept = keeper(live.name)
    there = kept.there(accepted(live))
    return kept.active(live) or kept.halfway(live) or kept.get(kept.add(there, "found on the cluster"))


def wanted_revision(name: str, kept: Revisions, to: int | None, active: int | None) -> Revision:
    """Return revision `to`, or the one before the `active` one. Raises NotFound."""
    if to is not None:
        return kept.get(to)
    revisions = kept.all()
    if not revisions:
        raise NotFound(f"There is no Deployment {name!r}, and no revision of one")
    earlier = [one for one in revisions if active is None or one.number < active]
    if not earlier:
        raise NotFound("There is no earlier revision to go back to")
    return earlier[-1]
