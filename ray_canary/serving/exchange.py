"""Runs one request through an ASGI app in this process, and takes the response off it piece by piece."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final

from ray_canary.serving.http import Message
from ray_canary.serving.wire import Head, Request, pieces

logger = logging.getLogger("ray.serve")

#: Bytes of a response that wait here for a slow client before the app has to wait.
MAX_WAITING: Final = 4 * 1024 * 1024


#: Apps that are running: the event loop itself holds tasks by weak references only.
_running: Final[set[asyncio.Task[None]]] = set()

_START: Final = "http.response.start"
_BODY: Final = "http.response.body"


class Incomplete(Exception):
    """The app ended before its response did."""


def keep(task: asyncio.Task[None]) -> None:
    """Keep an app that runs from being forgotten, until it has ended."""
    _running.add(task)
    task.add_done_callback(_running.discard)


async def all_done() -> None:
    """Wait until every app that runs has ended, what it does after its response included: BentoML's tasks."""
    while _running:
        await asyncio.wait(set(_running))


class Exchange:
    """One request and its response, on their way through an ASGI app."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._given = False
        self._out: deque[Message] = deque()
        self._waiting = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._ended = False
        #: The message that the app has to send next; None once its response is complete.
        self._due: str | None = _START
        #: Set once nobody waits for the app any more: its response is complete, or the client has left.
        self._over = asyncio.Event()

    async def run(self, app: Any, tag: str) -> AsyncIterator[Head | bytes]:
        """Yield a `Head`, then the rest of the body in pieces as they come.

        Closing the iterator early cancels the app, unless it has answered and is at what it does afterwards.

        Raises:
            Incomplete: the app ended before its response did.
        """
        running = asyncio.get_running_loop().create_task(self._run(app))
        keep(running)
        try:
            start = await self._next()
            # A plain response is complete by now, and becomes one message.
            body, more = self._body_of(self._take()) if self._out else (b"", True)
            first, *rest = list(pieces(body)) or [b""]
            yield Head(start["status"], list(start.get("headers", ())), tag, first, more or bool(rest))
            while True:
                for piece in rest:
                    yield piece
                if not more:
                    return
                body, more = self._body_of(await self._next())
                rest = list(pieces(body))
        finally:
            if self._due is not None:
                running.cancel()
            self._over.set()
            self._room.set()

    async def _run(self, app: Any) -> None:
        try:
            await app(self._request.scope(), self._receive, self._send)
        except (Exception, SystemExit):
            # The app has answered 500 where it still could; what is left is to say why. A SystemExit would end the
            # replica's event loop, and with it everybody else's requests.
            logger.exception("The Bento raised an exception.")
        finally:
            self._ended = True
            self._news.set()

    async def _receive(self) -> Message:
        if not self._given:
            self._given = True
            return {"type": "http.request", "body": self._request.body, "more_body": False}
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._over.is_set() and self._due is not None:
            return  # The client has left.
        if message["type"] != self._due:
            due = f"{self._due!r} is due" if self._due else "the response is complete"
            raise RuntimeError(f"Unexpected ASGI message {message['type']!r}: {due}.")
        self._due = _BODY if self._due == _START or message.get("more_body", False) else None
        if self._due is None:
            self._over.set()
        self._out.append(message)
        self._waiting += len(message.get("body", b""))
        self._news.set()
        if self._waiting > MAX_WAITING:
            self._room.clear()
            await self._room.wait()

    async def _next(self) -> Message:
        while not self._out:
            if self._ended:
                where = "without a response" if self._due == _START else "in the middle of its response"
                raise Incomplete(f"The Bento ended {where}.")
            self._news.clear()
            await self._news.wait()
        return self._take()

    def _take(self) -> Message:
        message = self._out.popleft()
        self._waiting -= len(message.get("body", b""))
        if self._waiting <= MAX_WAITING:
            self._room.set()
        return message

    @staticmethod
    def _body_of(message: Message) -> tuple[bytes, bool]:
        return bytes(message.get("body", b"")), bool(message.get("more_body", False))
