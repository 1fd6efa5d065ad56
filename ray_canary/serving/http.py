"""Small pieces of ASGI and HTTP that everything that passes bytes along has in common."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, Final, Self
from urllib.parse import quote, unquote_to_bytes

from ray_canary.serving.transport import Call
from ray_canary.serving.wire import Head, HeaderList

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: RFC 9110 section 7.6.1: these concern one connection and are not passed on.
HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


class Disconnected(Exception):
    """The client left before its request was complete."""


class BodyTooLarge(Exception):
    """A request body is larger than the limit."""


class Refused(Exception):
    """A request that is answered without asking a target."""

    def __init__(self, status: int, sentence: str, headers: HeaderList | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = headers


async def read_body(receive: Receive, limit: int | None) -> bytes:
    """Read a whole request body of at most `limit` bytes (None: no limit).

    Raises:
        BodyTooLarge: it is larger; the rest is left unread.
        Disconnected: the client left.
    """
    parts = [part async for part in BodyRest(receive, limit)]
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def read_beginning(receive: Receive, limit: int | None, enough: int) -> tuple[bytes, "BodyRest | None"]:
    """Read a request body until it ends, or until there are `enough` bytes of it; return what is still to come.

    Raises:
        BodyTooLarge: it is larger than `limit` (None: no limit); the rest is left unread.
        Disconnected: the client left.
    """
    rest = BodyRest(receive, limit)
    parts: list[bytes] = []
    async for part in rest:
        parts.append(part)
        if rest.size >= enough and not rest.over:
            return b"".join(parts), rest
    return parts[0] if len(parts) == 1 else b"".join(parts), None


class BodyRest:
    """A request body as it comes in, piece by piece. Raises what `read_beginning` raises."""

    def __init__(self, receive: Receive, limit: int | None) -> None:
        self._receive = receive
        self._limit = limit
        self.size = 0
        self.over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self.over:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            self.over = not message.get("more_body", False)
            if part := message.get("body", b""):
                self.size += len(part)
                if self._limit is not None and self.size > self._limit:
                    raise BodyTooLarge
                return bytes(part)
        raise StopAsyncIteration


async def while_connected(answering: Coroutine[None, None, None], receive: Receive) -> None:
    """Run `answering`, and cancel it when the client leaves; the request's body must have been read."""
    task = asyncio.ensure_future(answering)
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
    finally:
        task.cancel()
        leaving.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def end_to_end(headers: HeaderList, away: frozenset[bytes] = HOP_BY_HOP) -> HeaderList:
    """Return the headers that travel on: neither in `away`, which has HOP_BY_HOP in it, nor named in Connection.

    Names are compared in lower case: a Bento may answer in capitals, though ASGI says otherwise.
    """
    kept = [header for header in headers if header[0].lower() not in away]
    if len(kept) == len(headers):
        return kept
    named = {
        token.strip().lower() for name, value in headers if name.lower() == b"connection" for token in value.split(b",")
    }
    return [header for header in kept if header[0].lower() not in named] if named else kept


def without_prefix(scope: Scope) -> tuple[str, bytes]:
    """Return path and raw path as a Bento sees them: without the Deployment's route prefix (decision 24).

    A path that only begins with the same letters as the prefix is not under it, and stays as it is.
    """
    prefix: str = scope.get("root_path", "").rstrip("/")
    path: str = scope["path"]
    raw: bytes = (scope.get("raw_path") or quote(path).encode()).split(b"?", 1)[0]
    if prefix and f"{path}/".startswith(f"{prefix}/"):
        path = path[len(prefix) :]
        raw = _after(raw, prefix.encode()) or quote(path).encode()
    return path or "/", raw or b"/"


def _after(raw: bytes, prefix: bytes) -> bytes:
    """Return what follows `prefix` in a percent-encoded path, encoded as it was; nothing if it begins otherwise."""
    if b"%" not in raw:
        return raw.removeprefix(prefix) if raw.startswith(prefix) else b""
    start = re.match(rb"(?:%%[0-9A-Fa-f]{2}|.){%d}" % len(prefix), raw, re.DOTALL)
    return raw[start.end() :] if start and unquote_to_bytes(start[0]) == prefix else b""


def nobody(size: int) -> None:
    """Take no note of a piece that was sent."""


async def relay(head: Head, headers: HeaderList, call: Call, send: Send, sent: Callable[[int], None] = nobody) -> None:
    """Send a response that has begun, each piece when it comes; end the call if it can't be sent to its end.

    `sent` is told the size of each piece once it has been sent.

    Raises:
        Broken: the replica broke in the middle.
    """
    complete = not head.more
    try:
        await send({"type": "http.response.start", "status": head.status, "headers": headers})
        if complete or head.body:
            await send({"type": "http.response.body", "body": head.body, "more_body": head.more})
            sent(len(head.body))
        if head.more:
            async for piece in call.body():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                sent(len(piece))
            complete = True
            await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        if not complete:
            call.cancel()


def error_body(sentence: str) -> tuple[HeaderList, bytes]:
    """Return the headers and the body of an error in BentoML's shape: `{"error": "..."}`."""
    body = json.dumps({"error": sentence}).encode()
    return [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())], body


async def send_error(send: Send, status: int, sentence: str, headers: HeaderList | None = None) -> None:
    """Answer in BentoML's shape: `{"error": "..."}`."""
    own, body = error_body(sentence)
    if status == 503:
        own.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": [*own, *(headers or [])]})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def send_alive(send: Send, headers: HeaderList) -> None:
    """Answer `/livez` as BentoML does."""
    own = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"1")]
    await send({"type": "http.response.start", "status": 200, "headers": [*own, *headers]})
    await send({"type": "http.response.body", "body": b"\n", "more_body": False})
