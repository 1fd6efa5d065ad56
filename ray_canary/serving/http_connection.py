"""One kept-alive HTTP/1.1 connection to a version's replica: a request there, a response back, as its bytes come.

Both ends are ours, so it is small: the other one is `host_http.py`, behind the server that Serve opens for each replica
in HAProxy mode. Parsing is httptools', the parser of uvicorn.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final, cast

import httptools

from ray_canary.serving.peers import notice_a_lost_peer
from ray_canary.serving.transport import Broken
from ray_canary.serving.wire import Head, HeaderList, Request

#: The first header of a request: the replica's secret, how many headers stand before the client's own, and where the
#: client is. Of a response: how many headers of the Bento follow it, and the Bento's tag. What servers add stands
#: outside of these.
OURS: Final = b"x-ray-canary"

#: Before `OURS`: the replica is about to go, and the connection isn't used again. The ingress closes it: a server that
#: does so while a part of the request is unread takes the end of its response away from whoever reads it.
GOES: Final = (b"x-ray-canary-goes", b"1")

#: How many headers a request claims that only asks whether it would be let in.
INTRODUCTION: Final = b"0"

#: By this header Serve leaves it to the app to notice that its client has left, which saves two tasks a request.
_DISCONNECT_DISABLED: Final = b"x-request-disconnect-disabled: ?1"
_CHUNKED: Final = b"transfer-encoding: chunked"
#: How many headers that makes, without the framing of a body that the client has framed otherwise.
_OWN: Final = 2
#: Between two replicas these mean nothing, or something else than to the client.
_NOT_PASSED: Final = frozenset({b"content-length", b"expect"})

#: Bytes of a response that wait here for a slow client before the replica has to wait.
MAX_WAITING: Final = 1024 * 1024
#: Seconds for which the head of a response whose size is known waits for its body, so that they travel as one.
TOGETHER_S: Final = 0.001


def request_head(request: Request, secret: bytes) -> bytes:
    """Return the request line and the headers of a request, for the replica that has this secret.

    Raises:
        ValueError: it has a line break or a blank in it that would make something else of it, or its path is none.
    """
    target = request.raw_path + b"?" + request.query if request.query else request.raw_path
    declared = declared_size(request)
    framing = _framing(request, declared)
    own = _OWN + (bool(framing) and declared is None)
    lines = [
        b"%b %b HTTP/1.1" % (request.method.encode(), target),
        b"%b: %b %d %b" % (OURS, secret, own, _address(request.client)),
        _DISCONNECT_DISABLED,
        *framing,
        *[b"%b: %b" % header for header in request.headers if header[0] not in _NOT_PASSED],
    ]
    block = b"\r\n".join(lines)
    breaks = len(lines) - 1
    whole = target.startswith(b"/") and b" " not in target
    if block.count(b"\n") != breaks or block.count(b"\r") != breaks or not whole:
        raise ValueError("a request's line or header is none")
    return block + b"\r\n\r\n"


def declared_size(request: Request) -> bytes | None:
    """Return what the client says of its body's size, if it does."""
    for name, value in request.headers:
        if name == b"content-length":
            return value
    return None


def introduction(secret: bytes) -> bytes:
    """Return a request that asks a replica whether whoever has this secret is let in."""
    return b"GET / HTTP/1.1\r\n%b: %b %b 0 -\r\n\r\n" % (OURS, secret, INTRODUCTION)


def _framing(request: Request, declared: bytes | None) -> list[bytes]:
    if request.rest is not None:
        return [_CHUNKED] if declared is None else [b"content-length: %b" % declared]
    if request.body or declared is not None:
        return [b"content-length: %d" % len(request.body)]
    return []


def _address(client: tuple[str, int] | None) -> bytes:
    # What stands in `X-Forwarded-For` may be any text, so it comes last.
    return b"%d %b" % (client[1], client[0].encode("latin-1", "replace")) if client else b"0 -"


def framed(piece: bytes, chunked: bool) -> bytes:
    """Return a piece of a body as it is sent; an empty one ends a chunked body."""
    return b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece


class Connection(asyncio.Protocol):
    """One connection; it carries one exchange at a time."""

    def __init__(self, ended: Callable[["Connection"], None]) -> None:
        """`ended` is told when an exchange is complete, and when the connection is lost."""
        self._ended = ended
        self._transport: asyncio.Transport | None = None
        self._exchange: HttpExchange | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        #: Whether a part of the request has yet to be sent.
        self.uploading = False
        self.idle_since = 0.0
        #: When (monotonic s) something last came, or a part of what had to wait was taken.
        self.heard_at = 0.0

    @property
    def usable(self) -> bool:
        """Whether the connection can carry another exchange."""
        return self._transport is not None and not self._transport.is_closing() and self._exchange is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection into use."""
        self._transport = cast(asyncio.Transport, transport)
        notice_a_lost_peer(transport.get_extra_info("socket"))

    def begin(self, exchange: "HttpExchange", head: bytes, body: bytes, *, uploading: bool = False) -> None:
        """Send a request, or the beginning of one; `exchange` is told of the response."""
        assert self._transport is not None
        self.uploading = uploading
        self._exchange = exchange
        self._parser = exchange.parser = httptools.HttpResponseParser(exchange)
        # One message for the system where that is cheap.
        if len(body) <= 65536:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    async def write(self, piece: bytes) -> None:
        """Send a piece of a body; wait while the replica is slower. Raises `ConnectionError` once nobody reads it."""
        await self._writable.wait()
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError("the connection is closed")
        self._transport.write(piece)

    def pause_writing(self) -> None:
        """Let whoever writes wait."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let whoever writes go on."""
        self.heard_at = time.monotonic()
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Read what has come."""
        self.heard_at = time.monotonic()
        exchange, parser = self._exchange, self._parser
        if exchange is None or parser is None:
            self.close()  # Nobody has asked for anything.
            return
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.close()
            if not exchange.complete:
                exchange.lost(f"the replica's answer is no HTTP: {error}")
                return
        if exchange.complete:
            self._exchange = self._parser = None
            if self.uploading or not exchange.keeps_alive:
                self.close()
            self._ended(self)
        exchange.read()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits for a response that there is none."""
        self._writable.set()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.lost("the connection to the replica was lost" + (f": {exc}" if exc else ""))
        self._ended(self)

    def pause(self) -> None:
        """Let the replica wait: who reads the response is slower."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on after `pause`."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def end(self, why: str) -> None:
        """Close it, and tell an exchange that is under way why."""
        exchange, self._exchange = self._exchange, None
        self.close()
        if exchange is not None:
            exchange.lost(why)

    def close(self) -> None:
        """Close it; an exchange that is under way is lost, and the replica ends its work."""
        if self._transport is not None:
            self._transport.abort()


class HttpExchange:
    """One response on its way; it is also what httptools tells about it."""

    def __init__(self, connection: Connection, method: str) -> None:
        self._connection = connection
        self.parser: httptools.HttpResponseParser | None = None
        self._without_body = method == "HEAD"
        self._loop = asyncio.get_running_loop()
        self._headers: HeaderList = []
        self._begun = False
        self._given = False
        self.complete = False
        self.keeps_alive = False
        #: Whether the replica is about to go.
        self.goes = False
        self.status = 0
        self._pieces: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._paused = False
        self._lost: str | None = None
        self._news: asyncio.Future[None] | None = None
        self._holding: asyncio.TimerHandle | None = None

    # What the parser says. ------------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a header."""
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Note that the head is complete."""
        self._begun = True
        assert self.parser is not None
        self.status = self.parser.get_status_code()
        # After HEAD the parser would wait for a body that never comes.
        self.keeps_alive = self.parser.should_keep_alive() and not self._without_body
        # Whatever an app that gets these wrong sends behind them must not meet the next request.
        self.keeps_alive = self.keeps_alive and self.status >= 200 and self.status not in (204, 304)
        self.keeps_alive = self.keeps_alive and GOES not in self._headers
        self.complete = self._without_body

    def on_body(self, body: bytes) -> None:
        """Note a piece of the body."""
        self._pieces.append(body)
        self._waiting_bytes += len(body)

    def on_message_complete(self) -> None:
        """Note the end."""
        self.complete = True

    # What the connection says. --------------------------------------------------------------------------------------

    def read(self) -> None:
        """Pass on what has been read."""
        if self._waiting_bytes > MAX_WAITING and not self._paused and not self.complete:
            self._paused = True
            self._connection.pause()
        if not self._given and self._begun and not (self.complete or self._pieces) and self._has_size():
            if self._holding is None:
                self._holding = self._loop.call_later(TOGETHER_S, self._wake)
            return
        if self._begun:
            self._wake()

    def lost(self, why: str) -> None:
        """Note that nothing more comes."""
        if not self.complete:
            self._lost = why
            self._wake()

    def _has_size(self) -> bool:
        return any(name.lower() == b"content-length" for name, _ in self._headers)

    def _wake(self) -> None:
        if self._holding is not None:
            self._holding.cancel()
            self._holding = None
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    # What the ingress asks. -----------------------------------------------------------------------------------------

    async def head(self) -> Head:
        """Wait for the beginning of the response. Raises `Broken`."""
        if not self._begun:
            await self._wait()
        if not self._begun:
            raise Broken(self._lost or "the replica gave no answer")
        ours, headers, tag = _bentos(self._headers, self.status)
        self.goes = GOES in ours
        self._given = True
        return Head(self.status, headers, tag, self._taken(), not self.complete)

    async def body(self) -> AsyncIterator[bytes]:
        """Iterate over the rest of the body, piece by piece as they come. Raises `Broken`."""
        while True:
            if self._pieces:
                yield self._taken()
            elif self.complete:
                return
            elif self._lost is not None:
                raise Broken(self._lost)
            else:
                await self._wait()

    def cancel(self) -> None:
        """End the exchange: the replica sees that its client has left."""
        if not self.complete and self._lost is None:
            self._connection.close()
            self.lost("cancelled")

    async def _wait(self) -> None:
        if self._lost is None:
            self._news = self._loop.create_future()
            await self._news

    def _taken(self) -> bytes:
        pieces = self._pieces
        taken = b"" if not pieces else pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._waiting_bytes = 0
        if self._paused:
            self._paused = False
            self._connection.resume()
        return taken


def _bentos(headers: HeaderList, status: int) -> tuple[HeaderList, HeaderList, str]:
    """Return what the replica said in the headers of a response, what the Bento did, and its tag.

    Raises:
        Broken: it wasn't a Bento's.
    """
    for index, (name, value) in enumerate(headers):
        if name == OURS:
            count, _, tag = value.partition(b" ")
            if not count.isdigit():
                break
            return headers[:index], headers[index + 1 : index + 1 + int(count)], tag.decode()
    raise Broken(f"the replica answered {status} by itself")
