"""Hosts one service of a Bento as a Serve replica does, but without Ray, and answers for it over HTTP.

`python bento_process.py SPEC`, where SPEC is JSON: `bento`, `service`, `overrides`, and `depends`, the URLs of inner
services by name. It says on stdout, one JSON object a line, either `port` or `failed`; on SIGTERM it shuts
down as Serve lets a replica shut down, and says `stopped`.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any, cast

import httpx
import uvicorn

from ray_canary.serving.bridge import Forward
from ray_canary.serving.host import BentoHost
from ray_canary.serving.sleeping import Inner
from ray_canary.serving.tasks import Place
from ray_canary.serving.transport import Call, NotSent
from ray_canary.serving.wire import Head, Request


class _Call:
    """A call that is an iterator over the response's parts."""

    def __init__(self, parts: AsyncGenerator[Head | bytes, None]) -> None:
        self._parts = parts

    async def head(self) -> Head:
        """Wait for the first part."""
        return cast(Head, await anext(self._parts))

    async def body(self) -> AsyncIterator[bytes]:
        """Iterate over the other parts."""
        async for part in self._parts:
            yield cast(bytes, part)

    way = "handle"

    def cancel(self) -> None:
        """Close the iterator, as Serve does."""
        self._closing = asyncio.ensure_future(self._parts.aclose())


class _Transport:
    routable = 1
    seen = True
    place = ("application", "deployment")

    def waits(self, by: int) -> None:
        """Nothing scales here."""


class LocalTransport(_Transport):
    """The way to a host in this process."""

    def __init__(self, host: BentoHost) -> None:
        self._host = host

    def send(self, request: Request) -> Call:
        """Start answering."""
        return _Call(cast("AsyncGenerator[Head | bytes, None]", self._host.answer(request)))


class HTTPTransport(_Transport):
    """The way to a host in another process."""

    def __init__(self, url: str) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=30)

    def send(self, request: Request) -> Call:
        """Start asking."""
        return _Call(self._parts(request))

    async def _parts(self, request: Request) -> AsyncGenerator[Head | bytes, None]:
        try:
            async with self._client.stream(
                request.method, request.raw_path.decode(), headers=request.headers, content=request.body
            ) as response:
                yield Head(response.status_code, response.headers.raw, "inner", b"", True)
                async for piece in response.aiter_raw():
                    yield piece
        except httpx.ConnectError as error:
            raise NotSent(str(error)) from error


class Host(BentoHost):
    """A host that reaches inner services over HTTP instead of Serve handles."""

    @staticmethod
    def connect(handle: Any) -> Inner:
        """Return the way to an inner service; `handle` is its URL."""
        return HTTPTransport(handle)

    @staticmethod
    def place() -> Place:
        """Return which replica this is."""
        return Place("application", "deployment", f"replica{os.getpid()}")


class Server(uvicorn.Server):
    """A server that says where it listens, and leaves the signals alone."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        say(port=self.servers[0].sockets[0].getsockname()[1])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


#: What the test reads; the Bento's own output goes to stderr.
_SAID = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def say(**words: Any) -> None:
    """Tell the test."""
    print(json.dumps(words), file=_SAID, flush=True)


async def main(bento: str, service: str, overrides: dict[str, Any], depends: dict[str, Any]) -> None:
    """Host until SIGTERM."""
    host = Host.__new__(Host)
    try:
        await host.__init__(bento, service, overrides, depends)  # type: ignore[misc]
    except BaseException as error:
        say(failed=type(error).__name__, message=str(error), trace=traceback.format_exc())
        return
    config = uvicorn.Config(Forward(LocalTransport(host)), port=0, lifespan="off", log_config=None, server_header=False)
    server = Server(config)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, setattr, server, "should_exit", True)
    await server.serve()
    try:
        await host.__del__()
    except Exception:
        # Like Serve, which ends the process whatever threads are left in it.
        traceback.print_exc()
        os._exit(1)
    say(stopped=True)


if __name__ == "__main__":
    asyncio.run(main(**json.loads(sys.argv[1])))
