"""What crosses between the ingress and a version's replica: one request there, one response back."""

import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Final

#: The largest piece of a body that goes into one message, bytes. A gRPC message of Serve ends at 4 MiB.
MAX_PIECE: Final = 1024 * 1024

HeaderList = list[tuple[bytes, bytes]]


class Withdrawn(Exception):
    """Raised when a request is about to be sent that the ingress has taken back; inside Serve's router, for one."""


@dataclass(frozen=True, slots=True)
class Line:
    """Where the replica that takes a websocket connects back to, and the secret that it says there, once."""

    host: str
    port: int
    secret: bytes
    subprotocols: tuple[str, ...]


#: What of a body is still to come, in pieces.
Rest = AsyncIterator[bytes]


class Request:
    """One HTTP request, or a websocket's handshake, and whether any of it has been sent.

    `body` is the whole body, or its beginning, and `rest` then is what the client is still sending. `replica` is the
    only one that may take it (its id within its deployment); None: any. `line` makes it a websocket.

    Serve serializes a request at the moment it sends it to a replica and not before. `__reduce__` therefore marks the
    request as sent; who writes it to a socket does so by `begin()`. `withdraw()` says, exactly, whether it may still be
    answered elsewhere: either the request is withdrawn and can never be sent again, or it has been sent and stays where
    it is. `sent_at` is in seconds of `time.monotonic()`, which is also the clock of asyncio's loops.
    """

    __slots__ = (
        "_lock",
        "_withdrawn",
        "body",
        "client",
        "headers",
        "line",
        "method",
        "path",
        "query",
        "raw_path",
        "replica",
        "rest",
        "sent_at",
    )

    def __init__(
        self,
        method: str,
        path: str,
        raw_path: bytes,
        query: bytes,
        headers: HeaderList,
        body: bytes,
        client: tuple[str, int] | None = None,
        replica: str | None = None,
        line: Line | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.raw_path = raw_path
        self.query = query
        self.headers = headers
        self.body = body
        self.client = client
        self.replica = replica
        self.line = line
        self.rest: Rest | None = None
        self.sent_at: float | None = None
        self._withdrawn = False
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        assert self.rest is None, "the whole body must have been read"
        self.begin()
        return Request, self._parts()

    def begin(self) -> None:
        """Note that the request is being sent from now on. Raises `Withdrawn`."""
        with self._lock:
            if self._withdrawn:
                raise Withdrawn
            self.sent_at = self.sent_at or time.monotonic()

    def withdraw(self) -> bool:
        """Take the request back if nothing of it was sent; return whether that was so."""
        with self._lock:
            if self.sent_at is None:
                self._withdrawn = True
            return self._withdrawn

    def again(self) -> "Request":
        """Return a copy that can be sent, for a request that was withdrawn."""
        copy = Request(*self._parts())
        copy.rest = self.rest
        return copy

    async def read_whole(self) -> None:
        """Wait until the whole body is in `body`. Raises what `rest` raises."""
        if self.rest is not None:
            self.body = b"".join([self.body, *[piece async for piece in self.rest]])
            self.rest = None

    def _parts(self) -> tuple[Any, ...]:
        line = (self.replica, self.line)
        return (self.method, self.path, self.raw_path, self.query, self.headers, self.body, self.client, *line)

    def scope(self) -> dict[str, Any]:
        """Return the ASGI scope in which a Bento sees this request: no prefix, as if it stood at the root."""
        if self.line is not None:
            kind = {
                "type": "websocket",
                "scheme": "ws",
                "subprotocols": list(self.line.subprotocols),
                "extensions": {"websocket.http.response": {}},
            }
        else:
            kind = {"type": "http", "scheme": "http", "method": self.method}
        return {
            **kind,
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "path": self.path,
            "raw_path": self.raw_path,
            "query_string": self.query,
            "root_path": "",
            "headers": self.headers,
            "client": self.client,
            "server": ("ray-canary", 80),
            "state": {},
        }


@dataclass(slots=True)
class Head:
    """The beginning of a response: what the Bento answered, which Bento it was, and the first piece of the body.

    `more` is False when `body` is the whole body, so that a plain response is one message.
    """

    status: int
    headers: HeaderList
    tag: str
    body: bytes
    more: bool


def pieces(body: bytes) -> Iterator[bytes]:
    """Cut `body` into pieces of at most `MAX_PIECE` bytes; an empty body has none."""
    for start in range(0, len(body), MAX_PIECE):
        yield body[start : start + MAX_PIECE]
