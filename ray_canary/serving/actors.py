"""Every replica that Ray knows of a Deployment, those that have died too, and what they logged.

Ray's state API is public, but says neither when an actor started nor when it ended; the dashboard's own list does.
Checked against ray 2.60.0; `tests/e2e/test_logs.py` fails when it moves.
"""

import codecs
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ray_canary.serving.cluster import Cluster

#: What Serve calls the actor of a replica: the application, the deployment and the replica's own id follow.
_NAME: Final = "SERVE_REPLICA::"


@dataclass(frozen=True, slots=True)
class ReplicaActor:
    """One replica, dead or alive. Times are seconds since 1970, 0 for what hasn't been."""

    application: str
    deployment: str
    id: str
    actor: str
    node: str
    pid: int
    alive: bool
    began: float
    ended: float
    why: str

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "ReplicaActor | None":
        """Read one actor of the dashboard's list; None if it is no replica."""
        application, _, rest = str(data.get("name") or "").removeprefix(_NAME).partition("#")
        deployment, _, replica = rest.partition("#")
        if not str(data.get("name")).startswith(_NAME) or not replica:
            return None
        return cls(
            application,
            deployment,
            replica,
            str(data["actorId"]),
            str((data.get("address") or {}).get("nodeId") or ""),
            int(data.get("pid") or 0),
            data.get("state") != "DEAD",
            float(data.get("startTime") or 0) / 1000,
            float(data.get("endTime") or 0) / 1000,
            str(data.get("exitDetail") or "").strip("-").strip(),
        )


def replicas(cluster: Cluster, applications: frozenset[str]) -> list[ReplicaActor]:
    """Return the replicas of these applications, the oldest first. Raises ClusterError."""
    found = map(ReplicaActor.of, cluster.actors())
    return sorted((one for one in found if one and one.application in applications), key=lambda one: one.began)


def files(replica: ReplicaActor) -> dict[str, dict[str, str]]:
    """Return how to ask for what a replica has logged: Serve's own file, its standard output and error."""
    serves = f"serve/replica_{replica.application}_{replica.deployment}_{replica.id}.log"
    return {
        "log": {"node_id": replica.node, "filename": serves},
        "out": {"actor_id": replica.actor, "suffix": "out"},
        "err": {"actor_id": replica.actor, "suffix": "err"},
    }


def read(cluster: Cluster, file: Mapping[str, str], tail: int, *, follow: bool = False) -> Iterator[str]:
    """Yield pieces of a file: its last `tail` lines (-1: all), and what is added to it if it is followed.

    Raises:
        ClusterError: there is no such file, or its node is gone.
    """
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    for piece in cluster.log({**file, "lines": str(tail)}, follow=follow):
        yield decode(piece)
