"""Every deploy is kept as a revision, so that it can be deployed again (decision 20).

Revisions are in the cluster's store, beside Serve: a plain `serve deploy`, a restart of Serve or of its controller, and
`delete` leave them alone. They hold names of secrets, never values.
"""

import time
from dataclasses import dataclass
from typing import Any, Final

from ray_canary.errors import NotFound
from ray_canary.serving.lease import whoami
from ray_canary.serving.release import Release
from ray_canary.serving.state import Live
from ray_canary.serving.store import Record, Store

#: How many revisions of a Deployment are kept; the oldest go first.
KEPT: Final = 100


@dataclass(frozen=True)
class Revision:
    """A release that was deployed, or was about to be."""

    number: int
    created_at: float
    created_by: str
    cause: str
    release: Release

    @classmethod
    def of(cls, record: Record) -> "Revision":
        """Read a record."""
        about = {key: record[key] for key in ("number", "created_at", "created_by", "cause")}
        return cls(**about, release=Release.from_record(record["release"]))

    def record(self) -> dict[str, Any]:
        """Return it as plain data."""
        about = {key: getattr(self, key) for key in ("number", "created_at", "created_by", "cause")}
        return {**about, "release": self.release.record()}


class Revisions:
    """The revisions of one Deployment."""

    def __init__(self, store: Store, deployment: str) -> None:
        self._store = store
        self._deployment = deployment
        self._prefix = f"revision/{deployment}/"
        self._raised = f"raised/{deployment}"
        self._begun = f"begun/{deployment}"

    def all(self) -> list[Revision]:
        """Return every revision that is kept, the oldest first."""
        return [Revision.of(record) for record in self._store.items(self._prefix).values()]

    def get(self, number: int) -> Revision:
        """Return one revision. Raises NotFound."""
        record = self._store.get(self._key(number))
        if record is None:
            kept = [one.number for one in self.all()]
            there = f"there are {kept[0]} to {kept[-1]}" if kept else "there is none"
            raise NotFound(f"{self._deployment} has no revision {number}; {there}")
        return Revision.of(record)

    def active(self, live: Live) -> Revision | None:
        """Return the revision that is deployed; None if what is there was never deployed by us.

        The number in the ingress's settings says which, unless somebody has changed something since, by a plain
        `serve deploy` for one; then the newest one that asks for what is there.
        """
        there = self.there(live)
        revisions = self.all()
        numbered = [one for one in revisions if one.number == live.settings.revision]
        return next((one for one in [*numbered, *reversed(revisions)] if one.release.same_as(there)), None)

    def begin(self, live: Live, half: Release) -> None:
        """Keep what a change makes of `live` in its first step, until it is `done`."""
        self._store.put(self._begun, {"release": half.record(), "after": self._before(live)})

    def _before(self, live: Live) -> int:
        """Return the number of the revision that a change of `live` starts from; 0 if there is none."""
        if broken_off := self.halfway(live):
            return broken_off.number - 1
        found = self.active(live) or self._newest()
        return found.number if found else 0

    def done(self) -> None:
        """Note that a change has got beyond its first step."""
        self._store.delete(self._begun)

    def halfway(self, live: Live) -> Revision | None:
        """Return what is deployed if it is what a change that was broken off has left: no revision to go back to.

        It has the number that the change's own would have had, so the one before it is the one before the change.
        """
        begun = self._store.get(self._begun)
        there = self.there(live)
        if begun is None or not Release.from_record(begun["release"]).same_as(there):
            return None
        return _made(int(begun["after"]) + 1, "a change that was broken off", there)

    def _newest(self) -> Revision | None:
        revisions = self.all()
        return revisions[-1] if revisions else None

    def there(self, live: Live) -> Release:
        """Return what is deployed, without the floors that a rollout has raised, or left behind when it was killed."""
        return Release.of_live(live).with_floors((self._store.get(self._raised) or {}).get("floors") or {})

    def raising(self, release: Release) -> None:
        """Keep the numbers that a release itself asks for, before a rollout raises them for a while."""
        self._store.put(self._raised, {"floors": release.floors()})

    def lowered(self) -> None:
        """Note that no floor is raised any more."""
        self._store.delete(self._raised)

    def add(self, release: Release, cause: str) -> int:
        """Keep a release as the next revision, and return its number; the newest one is not kept twice."""
        revisions = self.all()
        if revisions and revisions[-1].release.same_as(release):
            return revisions[-1].number
        number = (revisions[-1].number if revisions else 0) + 1
        while not self._store.add(self._key(number), _made(number, cause, release).record()):
            number += 1
        for old in revisions[: max(0, len(revisions) + 1 - KEPT)]:
            self._store.delete(self._key(old.number))
        return number

    def _key(self, number: int) -> str:
        return f"{self._prefix}{number:08d}"


def _made(number: int, cause: str, release: Release) -> Revision:
    return Revision(number, time.time(), whoami(), cause, release.numbered(None))
