"""One request on its direct way to a replica."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from ray_canary.serving.endpoint import Endpoint
from ray_canary.serving.http_connection import Connection, HttpExchange, declared_size, framed, request_head
from ray_canary.serving.transport import Broken, Call, NotSent
from ray_canary.serving.wire import Head, Request, Rest, Withdrawn

logger = logging.getLogger("ray.serve")

#: Seconds for which requests wait for the router to drop a replica that refuses connections, or closes them at once,
#: but still runs: it drains.
GONE_WITHIN_S: Final = 5.0

#: Finds another way for a request, by handle in the end, given the replica that can't be reached.
ByHandle = Callable[[Request, Endpoint | None], Awaitable[Call]]


def _failure(task: asyncio.Task[None]) -> BaseException | None:
    return task.exception() if task.done() and not task.cancelled() else None


class DirectCall:
    """One request on its direct way; to another replica, or by handle, where no connection can be had.

    A handle carries whole requests only, so what the client still sends is read first.
    """

    __slots__ = ("_by_handle", "_exchange", "_failed", "_request", "_upload", "endpoint", "otherwise")

    def __init__(
        self, request: Request, endpoint: Endpoint | None, by_handle: ByHandle, failed: Endpoint | None = None
    ) -> None:
        """Send to `endpoint`, or by handle if that is None or can't be reached, as `failed` could not."""
        self._request = request
        self._by_handle = by_handle
        self._exchange: HttpExchange | None = None
        self._failed = failed
        self._upload: asyncio.Task[None] | None = None
        self.endpoint = endpoint
        self.otherwise: Call | None = None
        if endpoint is not None:
            endpoint.in_flight += 1

    @property
    def way(self) -> str:
        """How it travels."""
        return "direct" if self.otherwise is None else self.otherwise.way

    async def head(self) -> Head:
        """Wait for the beginning of the response. Raises `NotSent` or `Broken`."""
        if self._exchange is None and self.endpoint is not None:
            await self._connected(self.endpoint)
        if self._exchange is None:
            await self._request.read_whole()
            self.otherwise = await self._by_handle(self._request, self._failed)
            return await self.otherwise.head()
        head: Head | None = None
        try:
            head = await self._exchange.head()
            if self._exchange.goes and self.endpoint is not None:
                self.endpoint.close()
        except Broken:
            if self._upload is not None and (error := _failure(self._upload)):
                raise error from None
            raise
        finally:
            if head is None or not head.more:
                self._release()
        return head

    def start(self) -> "DirectCall":
        """Send the request now if a connection is at hand, so that it need not be waited for."""
        if self.endpoint is not None and (connection := self.endpoint.take()) is not None:
            self._begin(self.endpoint, connection)
        return self

    async def _connected(self, endpoint: Endpoint) -> None:
        """Open a connection and send the request, or begin to. Raises `NotSent` if it was withdrawn meanwhile."""
        try:
            connection = await endpoint.connect()
            if not connection.usable:
                raise ConnectionError("the connection was lost at once")
        except OSError as error:
            logger.warning("%s can't be reached; nothing goes to it directly for a while: %r", endpoint.address, error)
            self._failed = endpoint
            if isinstance(error, ConnectionError) and endpoint.secret is not None:
                endpoint.goes_until = time.monotonic() + GONE_WITHIN_S
            self._release()
        except BaseException:
            self._release()
            raise
        else:
            self._begin(endpoint, connection)

    def _begin(self, endpoint: Endpoint, connection: Connection) -> None:
        """Send the request, or begin to; let go of the replica where it doesn't travel this way."""
        if endpoint.secret is None:
            # While this connection was made, another could not be: nothing goes there directly for a while.
            self._failed = endpoint
            connection.close()
            self._release()
            return
        request = self._request
        sent = False
        try:
            head = request_head(request, endpoint.secret)
            request.begin()
            sent = True
        except ValueError as error:
            logger.info("A request goes by handle: %s", error)
            return
        except Withdrawn:
            raise NotSent("it was withdrawn") from None
        finally:
            if not sent:
                endpoint.keep(connection)
                self._release()
        self._exchange = HttpExchange(connection, request.method)
        if request.rest is None:
            connection.begin(self._exchange, head, request.body)
        else:
            chunked = declared_size(request) is None
            first = framed(request.body, chunked) if request.body else b""
            connection.begin(self._exchange, head, first, uploading=True)
            self._upload = asyncio.get_running_loop().create_task(self._send_rest(connection, request.rest, chunked))
            self._upload.add_done_callback(_failure)  # Who waits for the response asks for it, if anybody still does.

    async def _send_rest(self, connection: Connection, rest: Rest, chunked: bool) -> None:
        """Send what the client is still sending. What it can't send to its end ends the exchange."""
        assert self._exchange is not None
        try:
            async for piece in rest:
                await connection.write(framed(piece, chunked))
            if chunked:
                await connection.write(framed(b"", chunked))
            connection.uploading = False
        except ConnectionError:
            return  # The replica has answered before it had read everything, or is gone: the exchange knows.
        except BaseException:
            self._exchange.cancel()
            raise

    async def body(self) -> AsyncIterator[bytes]:
        """Iterate over the rest of the body."""
        call: Any = self.otherwise or self._exchange
        try:
            async for piece in call.body():
                yield piece
        finally:
            self._release()

    def cancel(self) -> None:
        """End the work."""
        if self.otherwise is not None:
            self.otherwise.cancel()
        elif self._exchange is not None:
            self._exchange.cancel()
        self._release()

    def _release(self) -> None:
        if self._upload is not None and not self._upload.done():
            self._upload.cancel()
        if self.endpoint is not None:
            self.endpoint.in_flight -= 1
            self.endpoint = None
