"""A version's replica as HTTP server for the ingress: the other end of `http_connection.py`.

In HAProxy mode Serve opens a port for every replica of a version's entry service, and counts, limits and drains what
comes there as it does with calls of a handle. Nobody but an ingress gets in: each request says a secret that the
replica gives out over Serve handles only.
"""

import asyncio
import hmac
import logging
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from ray_canary.serving.exchange import Incomplete, keep
from ray_canary.serving.http import Message, Receive, Scope, Send, send_error, without_prefix
from ray_canary.serving.http_connection import GOES, INTRODUCTION, OURS
from ray_canary.serving.wire import HeaderList

logger = logging.getLogger("ray.serve")

#: Seconds after which we begin to look whether the client has left: most requests are answered before that.
_LOOK_AFTER_S: Final = 0.05
#: Pieces of a body that are read to see what comes behind them, before the app wants them.
_STORED: Final = 16

_START: Final = "http.response.start"
_BODY: Final = "http.response.body"
_EMPTY: Final = (b"content-length", b"0")


class Door:
    """Lets an ingress's requests in to one Bento's ASGI app."""

    def __init__(self, drains: Callable[[], bool]) -> None:
        """`drains` says whether the replica is about to go."""
        self.secret = secrets.token_hex(32).encode()
        self._drains = drains

    async def answer(self, app: Any, tag: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request through `app`, if it is an ingress's."""
        said = self._said(scope["headers"]) if scope["type"] == "http" else None
        if said is None:
            await _refuse(scope, receive, send)
            return
        own, port, host = said
        if own == INTRODUCTION:
            await send({"type": _START, "status": 200, "headers": [*self.before(), (OURS, b"0 -"), _EMPTY]})
            await send({"type": _BODY, "body": b""})
            return
        path, raw_path = without_prefix(scope)
        inside = {
            **scope,
            "scheme": "http",
            "path": path,
            "raw_path": raw_path,
            "headers": scope["headers"][int(own) :],
            "client": None if host == b"-" else (host.decode("latin-1"), int(port)),
            "server": ("ray-canary", 80),
            "root_path": "",
            "state": {},
        }
        await Passage(app, tag, self.before, inside, receive, send).run()

    def before(self) -> HeaderList:
        """Return the headers that stand before all others: a replica that is about to go says so."""
        return [GOES] if self._drains() else []

    def _said(self, headers: HeaderList) -> list[bytes] | None:
        """Return what an ingress says of a request; None if it isn't one that asks."""
        name, value = headers[0] if headers else (b"", b"")
        if name != OURS:
            return None
        secret, *said = value.split(b" ", 3)
        return said if len(said) == 3 and hmac.compare_digest(secret, self.secret) else None


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    await send_error(send, 403, "Forbidden: requests come to a version through the ingress only")


class Passage:
    """One request and its response, through an ASGI app and out again as the app sends it."""

    def __init__(
        self, app: Any, tag: str, before: Callable[[], HeaderList], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """`before` returns what stands before all other headers of the response."""
        self._app = app
        self._before = before
        self._scope = scope
        self._tag = tag.encode()
        self._take = receive
        self._pass_on = send
        self._stored: deque[Message] = deque()
        #: Held by whoever waits in the server's `receive`: of two, the wrong one would get the next piece.
        self._taking = asyncio.Lock()
        #: Whether the app has had the whole body.
        self._whole = False
        self._due: str | None = _START
        #: Whether the client has left, and whether nobody takes what the app still sends.
        self._gone = False
        self._left = False
        #: Set once the response is complete, the app has ended, or the client has left.
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Answer; return when the response is complete.

        What the app does after that goes on by itself. When the client leaves before, the app is cancelled.

        Raises:
            Incomplete: the app ended before its response did.
        """
        loop = asyncio.get_running_loop()
        # It may have waited long for its place here, and its client may have left since.
        first = await self._take()
        if first["type"] == "http.disconnect":
            return
        self._stored.append(first)
        running = loop.create_task(self._run())
        keep(running)
        self._watch = loop.call_later(_LOOK_AFTER_S, self._look)
        try:
            await self._over.wait()
        finally:
            self._watch.cancel()
            if self._due is not None:
                self._left = True
                running.cancel()
            self._over.set()
        if self._due is not None and not self._gone:
            where = "without a response" if self._due == _START else "in the middle of its response"
            raise Incomplete(f"The Bento ended {where}.")

    async def _run(self) -> None:
        try:
            await self._app(self._scope, self._receive, self._send)
        except (Exception, SystemExit):
            # The app has answered 500 where it still could; what is left is to say why. A SystemExit would end the
            # replica's event loop, and with it everybody else's requests.
            logger.exception("The Bento raised an exception.")
        finally:
            self._over.set()

    # The client's leaving. ------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Wait in the server's `receive`, which is how an ASGI app learns that its client has left."""
        looking = asyncio.get_running_loop().create_task(self._look_for_the_end())
        keep(looking)

    async def _look_for_the_end(self) -> None:
        while not self._over.is_set():
            if len(self._stored) >= _STORED:
                await asyncio.sleep(_LOOK_AFTER_S)
                continue
            async with self._taking:
                message = await self._take()
                if message["type"] != "http.disconnect":
                    self._stored.append(message)
                    continue
            if self._due is not None:
                self._gone = True
                self._over.set()
            return

    # What the app calls. --------------------------------------------------------------------------------------------

    async def _receive(self) -> Message:
        if not self._stored and self._whole:
            await self._over.wait()
            return {"type": "http.disconnect"}
        if self._stored:
            message = self._stored.popleft()
        else:
            async with self._taking:
                message = self._stored.popleft() if self._stored else await self._take()
        if message["type"] == "http.disconnect":
            self._gone = True
            self._over.set()
        elif not message.get("more_body", False):
            self._whole = True
        return message

    async def _send(self, message: Message) -> None:
        if self._left:
            return
        kind = message["type"]
        if kind != self._due:
            due = f"{self._due!r} is due" if self._due else "the response is complete"
            raise RuntimeError(f"Unexpected ASGI message {kind!r}: {due}.")
        if kind == _START:
            self._due = _BODY
            headers = list(message.get("headers", ()))
            ours = (OURS, b"%d %b" % (len(headers), self._tag))
            message = {**message, "headers": [*self._before(), ours, *headers]}
            await self._pass_on(message)
            return
        more = message.get("more_body", False)
        await self._pass_on(message)
        if not more:
            self._due = None
            self._over.set()
