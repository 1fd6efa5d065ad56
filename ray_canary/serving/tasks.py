"""Where a BentoML task is: what its id says, and which requests are about one.

A task lives in the one replica that took it: BentoML keeps tasks and results in that replica's own SQLite file. So the
id says where that is, and every request about the task finds its way, whatever the split says by then. Clients treat
ids as opaque; this one needs no escaping in a URL.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from ray_canary.keys import query_key
from ray_canary.serving.wire import Request

#: The requests that BentoML takes about a task: method, and the last part of the path.
_ABOUT: Final = frozenset({("GET", "status"), ("GET", "get"), ("POST", "retry"), ("PUT", "cancel")})
_ID: Final = re.compile(rb"([A-Za-z0-9_-]+)\.[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Place:
    """One replica: its Serve application, its deployment, and its own id among the deployment's replicas."""

    application: str
    deployment: str
    replica: str

    def prefix(self) -> str:
        """Return what the ids of this replica's tasks begin with, up to the dot before BentoML's own id."""
        packed = "\0".join((self.application, self.deployment, self.replica)).encode()
        return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True)
class Task:
    """A task that somebody asks for: the id as it was given, and the place that it names."""

    id: str
    place: Place


def bentos_own(task_id: str) -> str:
    """Return BentoML's own id: what follows the place."""
    return task_id.rpartition(".")[2]


def asked_for(request: Request) -> Task | None:
    """Return the task that a request is about, or None if it is about none.

    An id that no replica of ours can have made is none: an app that a Bento mounts may use `task_id` for its own ends.
    """
    if (request.method, request.path.rpartition("/")[2]) not in _ABOUT:
        return None
    given = query_key(request.query, b"task_id")
    match = _ID.fullmatch(given) if given else None
    place = _unpacked(match[1]) if match else None
    return Task(given.decode(), place) if given and place else None


def _unpacked(packed: bytes) -> Place | None:
    try:
        parts = base64.urlsafe_b64decode(packed + b"=" * (-len(packed) % 4)).decode().split("\0")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return Place(*parts) if len(parts) == 3 and all(parts) else None
