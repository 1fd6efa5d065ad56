"""How one Bento service reaches another: a Unix socket in the caller's replica, answered over a Serve handle.

`bentoml.depends()` dials URLs, and the replicas of inner services have none. The socket lies in a folder that only
this user can enter, since inner services unpickle what they are sent.
"""

import asyncio
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import uvicorn

from ray_canary.serving.http import Disconnected, Receive, Scope, Send, end_to_end, read_body, relay, send_error
from ray_canary.serving.transport import Broken, NotSent, Transport
from ray_canary.serving.wire import Request

#: Seconds that a caller waits for a replica of an inner service before it gets a 503.
INNER_WAIT_S = 60.0


class Bridge:
    """Unix sockets for the services that one replica depends on."""

    def __init__(self, transports: Mapping[str, Transport]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ray-canary-"))
        self._transports = transports
        self._servers: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []

    def runner_map(self) -> dict[str, str]:
        """Return the URL of every service, as BentoML's runner map wants it."""
        return {name: self._socket(number).as_uri() for number, name in enumerate(self._transports)}

    def _socket(self, number: int) -> Path:
        return self._folder / f"{number}.sock"

    async def start(self) -> None:
        """Open the sockets."""
        for number, transport in enumerate(self._transports.values()):
            config = uvicorn.Config(
                _Forward(transport), uds=str(self._socket(number)), lifespan="off", log_config=None, access_log=False
            )
            server = uvicorn.Server(config)
            # The replica's process has its own signal handlers.
            server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
            task = asyncio.get_running_loop().create_task(server._serve())
            self._servers.append((server, task))
            while not server.started and not task.done():
                await asyncio.sleep(0.01)
            if task.done():
                await task

    async def stop(self) -> None:
        """Close the sockets and remove them."""
        for server, task in self._servers:
            server.should_exit = True
            await task
        for number in range(len(self._transports)):
            self._socket(number).unlink(missing_ok=True)
        os.rmdir(self._folder)


class _Forward:
    """An ASGI app that answers every request from one inner service."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(receive, None)
        except Disconnected:
            return
        headers = end_to_end(scope["headers"])
        request = Request(scope["method"], scope["path"], scope["raw_path"], scope["query_string"], headers, body)
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
        finally:
            waiting.cancel()
        await relay(head, end_to_end(head.headers), call, send)
