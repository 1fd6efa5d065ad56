"""The replica that our code runs in: private corners of Serve and its HTTP server, around one request.

Checked against ray 2.60.0 and uvicorn 0.54.0. The id of the request under way has no public reader. Serve reads a
request's body ahead of us without bounds. Nobody tells an app that its replica is being ended. Serve's access log can
be switched off only once a record has been made, and uvicorn writes the head and the body of a response one by one.
`tests/unit/serving/test_serve_replica.py` fails when these move.
"""

import asyncio
import logging
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import ray
from ray import serve
from ray._private import worker
from ray.serve._private import replica
from ray.serve._private.constants import RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD
from ray.serve._private.direct_ingress_http_util import ASGIDIReceiveProxy
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

#: Pieces of a body that Serve may read before we take them; uvicorn's are 64 kB or so.
AHEAD: Final = 8


def request_id() -> str:
    """Return Serve's id of the request under way: the client's `X-Request-ID` where it is sound, else a new one."""
    return str(serve.context._get_serve_request_context().request_id)


def drains() -> bool:
    """Whether Serve has begun to end this replica: it answers as before, and closes its connections in a while."""
    return bool(_replica()._shutting_down)


@cache
def _replica() -> Any:
    return worker.global_worker.actors[worker.global_worker.actor_id]._replica_impl


def hold_back(receive: Any) -> None:
    """Let Serve read only a few pieces of a request's body ahead of us.

    In direct-ingress mode it reads the whole body into a queue without bounds, however slowly it is taken off. Where it
    runs our code in a thread of its own it can't be made to wait.
    """
    if isinstance(receive, ASGIDIReceiveProxy) and not RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD:
        read = receive.queue
        receive._queue = asyncio.Queue(max(AHEAD, read.qsize()))
        while not read.empty():
            receive._queue.put_nowait(read.get_nowait())


class AccessLog:
    """Whether Serve writes its access log in this process.

    Serve's own `enable_access_log: false` only drops each record once it has been made, which is most of the work.
    """

    def __init__(self) -> None:
        """Stand in for the logger of Serve's replica code."""
        self.wanted = True
        self._logger: logging.Logger = replica.logger
        replica.logger = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger, name)

    def info(self, message: str, *args: Any, extra: Mapping[str, Any] | None = None) -> None:
        """Log it, unless it is of an access log that nobody wants."""
        if self.wanted or not (extra and extra.get("serve_access_log")):
            self._logger.info(message, *args, extra=extra, stacklevel=2)


def write_together(receive: Any) -> None:
    """Let the head of a response leave in one piece with what is sent at once after it.

    uvicorn writes the two one after the other, which is a system call each, here and where they arrive. `receive` is
    what Serve calls the app with in direct-ingress mode; with any other one this does nothing.
    """
    inner = receive._receive if isinstance(receive, ASGIDIReceiveProxy) else receive
    cycle = getattr(inner, "__self__", None)
    if isinstance(cycle, RequestResponseCycle):
        _Together(cycle).stand_in()


class _Together:
    """Stands in for a connection's transport until the first write: that waits for a second one in the same turn."""

    def __init__(self, cycle: Any) -> None:
        self._cycle = cycle
        self._transport: asyncio.Transport = cycle.transport
        self._first: bytes | None = None

    def stand_in(self) -> None:
        """Be the transport of the cycle, which uses nothing of it but what is here."""
        self._cycle.transport = self

    def write(self, data: bytes) -> None:
        """Keep the first piece until the event loop comes round, or write it together with this one."""
        if self._first is None:
            self._first = data
            asyncio.get_running_loop().call_soon(self._flush)
        else:
            self._flush(data)

    def _flush(self, data: bytes = b"") -> None:
        """Write what was kept, and stand back."""
        if self._cycle.transport is self:
            self._cycle.transport = self._transport
            self._transport.write((self._first or b"") + data)

    def close(self) -> None:
        """Close the connection once all has been written."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether it is being closed."""
        return self._transport.is_closing()


def node_address() -> str:
    """Return this node's address, as the other nodes of the cluster reach it."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
