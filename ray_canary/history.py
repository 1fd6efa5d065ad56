"""What was deployed, and what differs between two times."""

from dataclasses import dataclass, field
from typing import Any

from ray_canary import edits
from ray_canary.errors import NotFound
from ray_canary.lookup import find
from ray_canary.plan import MAIN, leaf_differences
from ray_canary.serving.cluster import Cluster
from ray_canary.serving.revisions import Revision, Revisions
from ray_canary.serving.state import Live


def history_of(name: str, address: str | None = None) -> "History":
    """Return the revisions of a Deployment. Raises NotFound if there is none."""
    cluster = Cluster(address)
    kept = Revisions(cluster.store(), name)
    live = cluster.state().live().get(name)
    found = kept.all()
    if live is None and not found:
        find(cluster, name)
    active = kept.active(live) if live and not live.rejected else None
    return History(tuple(found), active.number if active else None, live)


@dataclass(frozen=True)
class History:
    """The revisions of one Deployment: which there are, and which of them is deployed."""

    revisions: tuple[Revision, ...]
    active: int | None
    live: Live | None = field(repr=False)

    def find(self, number: int) -> Revision:
        """Return one of them. Raises NotFound."""
        for one in self.revisions:
            if one.number == number:
                return one
        kept = [one.number for one in self.revisions]
        raise NotFound(f"There is no revision {number}; {f'there are {kept[0]} to {kept[-1]}' if kept else 'none'}")

    def pair(self, before: int | None, after: int | None) -> tuple[Revision, Revision]:
        """Return two revisions to compare; without `after` the second is what is deployed. Raises NotFound."""
        if after is None and self.active is None:
            raise NotFound("What is on the cluster is no revision; name two, as in `diff NAME 1 2`")
        new = self.find(after if after is not None else self.active or 0)
        earlier = [one for one in self.revisions if one.number < new.number]
        if before is None and not earlier:
            raise NotFound(f"There is no revision before {new.number}")
        return (earlier[-1] if before is None else self.find(before)), new


def differences(before: Revision, after: Revision) -> tuple[tuple[str, Any, Any], ...]:
    """Return what differs between two revisions, in the words of the Deployment file: path, before, after.

    A Bento is named as it was pinned, and `ray.applications` and `ray.arms` as they are.
    """
    return tuple(leaf_differences(_in_words(before), _in_words(after)))


def _in_words(revision: Revision) -> dict[str, Any]:
    settings = revision.release.settings
    file = edits.with_weights(settings.file or {}, settings.split.weights)
    file["bento"] = settings.targets[MAIN].bento
    for key, version in ((file.get("canary") or {}).get("versions") or {}).items():
        if key in settings.targets:
            version["bento"] = settings.targets[key].bento
    places = {
        "applications": {key: target.application for key, target in settings.targets.items()},
        "arms": {key: target.arm for key, target in settings.targets.items()},
    }
    return {**file, "ray": {**(file.get("ray") or {}), **places}}
