"""What became of a Deployment: its changes, and its replicas that started, ended and failed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ray_canary.errors import ClusterError
from ray_canary.serving import actors
from ray_canary.serving.cluster import Cluster
from ray_canary.serving.revisions import Revisions
from ray_canary.serving.state import Live

#: What Ray says of a replica that Serve has ended on purpose.
_ON_PURPOSE = ("ray.kill", "exit_actor", "INTENDED", "intended")


@dataclass(frozen=True, slots=True)
class Event:
    """One event: when (seconds since 1970), of which version, and whether it is something to look at."""

    at: float
    version: str
    message: str
    warning: bool = False

    @property
    def line(self) -> str:
        """The message in one line: the last of a traceback says what it was."""
        return next((line for line in reversed(self.message.splitlines()) if line.strip()), "")

    def plain(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "time": self.at,
            "type": "Warning" if self.warning else "Normal",
            "version": self.version,
            "message": self.message,
        }


def events_of(cluster: Cluster, live: Live, owners: Mapping[str, str]) -> list[Event]:
    """Return the events of a Deployment, the oldest first; `owners` says which version an application is.

    Raises:
        ClusterError: the cluster doesn't say what its actors are.
    """
    found = [*_changes(cluster, live), *_replicas(cluster, owners), *_troubles(live, owners)]
    return sorted(found, key=lambda one: one.at)


def _changes(cluster: Cluster, live: Live) -> Iterator[Event]:
    try:
        revisions = Revisions(cluster.store(), live.name).all()
    except ClusterError:
        return  # Revisions can't be read from everywhere; the rest can.
    for one in revisions:
        shares = ", ".join(f"{key} {share} %" for key, share in one.release.settings.split.shares().items())
        yield Event(one.created_at, "-", f"revision {one.number} by {one.created_by}: {one.cause} ({shares})")


def _replicas(cluster: Cluster, owners: Mapping[str, str]) -> Iterator[Event]:
    for one in actors.replicas(cluster, frozenset(owners)):
        version = owners[one.application]
        if one.began:
            yield Event(one.began, version, f"replica {one.id} of {one.deployment} started, process {one.pid}")
        if one.ended:
            on_purpose = any(word in one.why for word in _ON_PURPOSE)
            why = one.why.splitlines()[0] if one.why else "Ray gives no reason"
            ended = "ended" if on_purpose else "died"
            yield Event(one.ended, version, f"replica {one.id} of {one.deployment} {ended}: {why}", not on_purpose)


def _troubles(live: Live, owners: Mapping[str, str]) -> Iterator[Event]:
    """Yield what is wrong now; when it began Serve doesn't say, so it has the time of the last deploy."""
    for name, version in owners.items():
        application = live.applications.get(name)
        said = (application.failure or application.trouble) if application else None
        if application is not None and said:
            yield Event(application.deployed_at, version, said, True)
