"""A websocket in a version's replica: runs it through the Bento's app, with the ingress at the other end."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, Final

from ray_canary.serving import exchange
from ray_canary.serving.frames import ABNORMAL, INTERNAL_ERROR, Frame, Kind
from ray_canary.serving.http import Message, error_body
from ray_canary.serving.switchboard import connect
from ray_canary.serving.wire import Head, Request

logger = logging.getLogger("ray.serve")

#: Seconds that an app has to end after it was told that its client has gone; then it is cancelled.
GRACE_S: Final = 10.0


class Socket:
    """One websocket on its way through an ASGI app in this process."""

    def __init__(self, request: Request, tag: str) -> None:
        self._request = request
        self._tag = tag
        self._opened = False
        self._answered: asyncio.Future[Head] = asyncio.get_running_loop().create_future()
        #: The client's next message. No more than one waits here: the rest waits with the client.
        self._inbox: asyncio.Queue[Frame] = asyncio.Queue(1)
        self._denial: Message | None = None
        self._disconnect: Message | None = None
        self._closed = False

    async def run(self, app: Any) -> AsyncIterator[Head | bytes]:
        """Yield a `Head` when the app has accepted (status 101) or refused; end when the app has ended.

        Closing the iterator early tells the app that its client has gone.
        """
        assert self._request.line is not None
        self._conversation = await connect(self._request.line)
        running = asyncio.get_running_loop().create_task(self._run(app))
        reading = asyncio.get_running_loop().create_task(self._read())
        exchange.keep(running)
        running.add_done_callback(lambda _: reading.cancel())
        try:
            head = await self._answered
            yield head
            if head.more:
                await asyncio.shield(running)
        finally:
            # Nobody is at the other end any more.
            self._conversation.end()
            if not running.done():
                if not self._answered.done() or self._answered.cancelled():
                    running.cancel()
                else:
                    asyncio.get_running_loop().call_later(GRACE_S, running.cancel)

    async def _run(self, app: Any) -> None:
        code = 1000
        try:
            await app(self._request.scope(), self._receive, self._send)
        except (Exception, SystemExit):
            code = INTERNAL_ERROR
            logger.exception("The Bento raised an exception in a websocket.")
        finally:
            if not self._answered.done():
                self._answered.set_result(self._failed())
            elif not self._closed:
                await self._write(Frame.close(code))
            self._conversation.end()

    async def _receive(self) -> Message:
        if not self._opened:
            self._opened = True
            return {"type": "websocket.connect"}
        if self._disconnect is None:
            frame = await self._inbox.get()
            if frame.kind is not Kind.CLOSE:
                return frame.message("websocket.receive")
            self._disconnect = frame.message("websocket.disconnect")
        return self._disconnect

    async def _read(self) -> None:
        """Read frames: an app may give up a `receive()` in the middle, which must not tear a frame."""
        while True:
            frame = await self._conversation.read() or Frame.close(ABNORMAL)
            await self._inbox.put(frame)
            if frame.kind is Kind.CLOSE:
                return

    async def _send(self, message: Message) -> None:
        match message["type"]:
            case "websocket.accept" if not self._answered.done():
                self._answered.set_result(self._head(101, message, b"", more=True))
            case "websocket.close" if not self._answered.done():
                self._answered.set_result(self._head(403, {}, b"", more=False))
                self._closed = True
            case "websocket.http.response.start" if not self._answered.done():
                self._denial = {**message, "body": b""}
            case "websocket.http.response.body" if self._denial is not None and not self._answered.done():
                self._denial["body"] += message.get("body", b"")
                if not message.get("more_body", False):
                    head = self._head(self._denial["status"], self._denial, self._denial["body"], more=False)
                    self._answered.set_result(head)
                    self._closed = True
            case "websocket.send" if self._answered.done() and not self._closed:
                await self._write(Frame.of(message))
            case "websocket.close" if not self._closed:
                self._closed = True
                await self._write(Frame.of(message))
            case other:
                raise RuntimeError(f"Unexpected ASGI message {other!r}.")

    async def _write(self, frame: Frame) -> None:
        try:
            await self._conversation.write(frame)
        except OSError:
            # The client has gone. The app hears of it when it next receives; to an ASGI app, sending is no error.
            logger.debug("A websocket's message was for a client that has gone.")

    def _head(self, status: int, message: Message, body: bytes, *, more: bool) -> Head:
        headers = [(bytes(name), bytes(value)) for name, value in message.get("headers") or ()]
        if subprotocol := message.get("subprotocol"):
            headers.append((b"sec-websocket-protocol", subprotocol.encode()))
        return Head(status, headers, self._tag, body, more)

    def _failed(self) -> Head:
        headers, body = error_body("An unexpected error has occurred, please check the server log.")
        return Head(500, headers, self._tag, body, False)
