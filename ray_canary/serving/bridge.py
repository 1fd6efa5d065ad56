"""How one Bento service reaches another: a Unix socket in the caller's replica, answered over a Serve handle.

`bentoml.depends()` dials URLs, and the replicas of inner services have none. The socket lies in a folder that only
this user can enter, since inner services unpickle what they are sent.
"""

import asyncio
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import uvicorn

from ray_canary.serving.http import (
    Disconnected,
    Receive,
    Scope,
    Send,
    end_to_end,
    read_body,
    relay,
    send_error,
    while_connected,
)
from ray_canary.serving.transport import Broken, NotSent, Transport
from ray_canary.serving.wire import Request

#: Seconds that a caller waits for a replica of an inner service before it gets a 503.
INNER_WAIT_S: Final = 60.0
#: Seconds that calls which are still under way have to end once the bridge stops.
_LAST_CALLS_S: Final = 5
#: Seconds that an idle connection is kept: longer than any caller keeps one (BentoML's 15, its older runners' 1800).
#: The bridge may not be who closes first: a call that is being sent at that moment would fail.
_KEEP_ALIVE_S: Final = 86_400


class Bridge:
    """Unix sockets for the services that one replica depends on."""

    def __init__(self, folder: Path, inner: Mapping[str, Transport]) -> None:
        """Prepare sockets in `folder`, which is made; `inner` has the way to each service."""
        self._folder = folder
        self._inner = inner
        self._servers: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []

    def runner_map(self) -> dict[str, str]:
        """Return the URL of every service, as BentoML's runner map wants it."""
        return {name: self._socket(number).as_uri() for number, name in enumerate(self._inner)}

    def _socket(self, number: int) -> Path:
        return self._folder / f"{number}.sock"

    async def start(self) -> None:
        """Open the sockets; a caller may connect at once."""
        self._folder.mkdir(mode=0o700)
        for number, transport in enumerate(self._inner.values()):
            server = _Server(
                uvicorn.Config(
                    Forward(transport),
                    lifespan="off",
                    log_config=None,
                    access_log=False,
                    server_header=False,
                    timeout_graceful_shutdown=_LAST_CALLS_S,
                    timeout_keep_alive=_KEEP_ALIVE_S,
                )
            )
            serving = server.serve([_listen(self._socket(number))])
            self._servers.append((server, asyncio.get_running_loop().create_task(serving)))

    async def stop(self) -> None:
        """Close the sockets."""
        for server, _ in self._servers:
            server.should_exit = True
        await asyncio.gather(*(serving for _, serving in self._servers))


class _Server(uvicorn.Server):
    """A server that leaves the signals to the replica's process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def _listen(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    listening.listen(2048)
    return listening


class Forward:
    """An ASGI app that answers every request from one inner service; a caller that leaves cancels its call."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            body = await read_body(receive, None)
        except Disconnected:
            return
        headers = end_to_end(scope["headers"])
        request = Request(scope["method"], scope["path"], scope["raw_path"], scope["query_string"], headers, body)
        await while_connected(self._answer(request, send), receive)

    async def _answer(self, request: Request, send: Send) -> None:
        call = self._transport.send(request)
        waiting = asyncio.get_running_loop().call_later(
            INNER_WAIT_S, lambda: call.cancel() if request.withdraw() else None
        )
        try:
            head = await call.head()
        except NotSent as error:
            await send_error(send, 503, f"Service Unavailable: {error}")
            return
        except Broken as error:
            await send_error(send, 502, f"Bad Gateway: {error}")
            return
        except asyncio.CancelledError:
            call.cancel()
            raise
        finally:
            waiting.cancel()
        await relay(head, end_to_end(head.headers), call, send)
