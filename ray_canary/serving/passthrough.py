"""The thin ASGI pass-through: bytes in, bytes out, both ways (decision 12)."""

import logging
import time
from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Final

from ray_canary.serving import websocket
from ray_canary.serving.access import VERSION_HEADER, Gate
from ray_canary.serving.dispatch import Answer, Dispatcher, Reason, Unanswered
from ray_canary.serving.http import (
    HOP_BY_HOP,
    BodyTooLarge,
    Disconnected,
    Receive,
    Refused,
    Scope,
    Send,
    end_to_end,
    read_beginning,
    read_body,
    relay,
    send_alive,
    send_error,
    while_connected,
    without_prefix,
)
from ray_canary.serving.journal import Journal, Passing, Served
from ray_canary.serving.transport import Broken
from ray_canary.serving.wire import HeaderList, Request
from ray_canary.tokens import carries_token

logger = logging.getLogger("ray.serve")

TAG_HEADER: Final = b"x-bento-tag"
SPLIT_HEADER: Final = b"x-bento-split"
#: Headers of a response that a Bento can't set.
_OURS: Final = HOP_BY_HOP | {VERSION_HEADER, TAG_HEADER, SPLIT_HEADER}

#: By this header a client asks Serve not to notice when it leaves.
_DISCONNECT_DISABLED: Final = b"x-request-disconnect-disabled"


def _spellings(name: str) -> set[bytes]:
    """Return every way to write `name` with `-` or `_`, which Serve takes for the same in some headers."""
    parts = name.split("-")
    return {
        "".join(part + joint for part, joint in zip(parts, (*joints, ""), strict=True)).encode()
        for joints in product("-_", repeat=len(parts) - 1)
    }


#: Headers by which a client could steer Serve itself; none gets through (facts/ray_serve.md section 7).
_SERVES_OWN: Final = frozenset(
    {
        b"x-request-timeout-seconds",
        _DISCONNECT_DISABLED,
        b"x-request-id",
        *_spellings("serve-multiplexed-model-id"),
        *_spellings("x-session-id"),
    }
)


@cache
def _not_passed(keep: bytes) -> frozenset[bytes]:
    """Return the headers of a request that no version sees, for a split that goes by the header `keep`."""
    return HOP_BY_HOP | (_SERVES_OWN - {keep}) | {VERSION_HEADER}


#: Bytes of a body that are read before the request is sent on; of a larger one the rest follows as it comes.
BEGINNING: Final = 256 * 1024

#: Digits of a Content-Length from which a body may be larger than that.
_LARGE: Final = len(str(BEGINNING))

#: A Content-Length of more digits is no size of anything.
_MAX_DIGITS: Final = 20


class CutOff(Exception):
    """A replica broke after its response had begun: the connection is closed without a proper end."""


async def read_request(
    scope: Scope, receive: Receive, max_body_bytes: int, request_id: str, keep: bytes, *, enough: int | None = None
) -> Request:
    """Read one HTTP request: its body whole, or, where it is large and may be, the beginning of it.

    `request_id` is Serve's own id of the request, passed on as `X-Request-ID`; `keep` is a header that is passed on
    though it is one of Serve's own, because the split goes by it. Of a body of more than `enough` bytes the rest is
    left to be read while it is sent on; None reads all of it.

    Raises:
        Refused: the body is larger than `max_body_bytes` (413), or its Content-Length is none (400).
        Disconnected: the client left.
    """
    # The server adds to its own list what the client says in trailers, behind the body: those are no headers.
    headers: HeaderList = list(scope["headers"])
    if _declared_size(headers) > max_body_bytes:
        raise _too_large(max_body_bytes)
    try:
        if enough is None:
            body, rest = await read_body(receive, max_body_bytes), None
        else:
            body, rest = await read_beginning(receive, max_body_bytes, enough)
    except BodyTooLarge:
        raise _too_large(max_body_bytes) from None
    path, raw_path = without_prefix(scope)
    passed_on = end_to_end(headers, _not_passed(keep))
    if any(name == b"authorization" for name, _ in passed_on):
        passed_on = [each for each in passed_on if each[0] != b"authorization" or not carries_token(each[1])]
    if keep != b"x-request-id":
        passed_on.append((b"x-request-id", request_id.encode()))
    request = Request(scope["method"], path, raw_path, scope["query_string"], passed_on, body, scope.get("client"))
    request.rest = rest
    return request


def _declared_size(headers: HeaderList) -> int:
    """Return what Content-Length says, or 0 if there is none.

    Raises:
        Refused: it is no number, or there are several that differ (RFC 9110, section 8.6).
    """
    given = [value for name, value in headers if name == b"content-length"]
    if not given:
        return 0
    sizes = {value.strip() for value in given}
    size = sizes.pop()
    if sizes or not size.isdigit() or len(size) > _MAX_DIGITS:
        raise Refused(400, "Bad Request: the Content-Length header is not a number of bytes")
    return int(size)


def _may_be_large(headers: HeaderList) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and len(value) >= _LARGE) for name, value in headers
    )


def _too_large(limit: int) -> Refused:
    return Refused(413, f"Request body is larger than {limit} bytes")


class PassThrough:
    """Answers HTTP requests by the dispatcher in force."""

    def __init__(
        self,
        dispatcher: Callable[[], Dispatcher],
        request_id: Callable[[], str],
        journal: Journal,
        gate: Gate,
        address: Callable[[], str] = lambda: "127.0.0.1",
        hold_back: Callable[[Receive], None] = lambda _: None,
    ) -> None:
        """`address` tells where replicas reach this process; they do for websockets.

        `hold_back` makes the server read no further ahead than a few pieces of a body.
        """
        self._hold_back = hold_back
        self._sockets = websocket.Sockets(address)
        self._dispatcher = dispatcher
        self._gate = gate
        self._request_id = request_id
        self._journal = journal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI request, or carry one websocket."""
        arrived = time.monotonic()
        dispatcher = self._dispatcher()
        if scope["type"] == "websocket":
            await self._websocket(dispatcher, scope, receive, send)
            return
        try:
            pinned = self._gate.admit(scope["headers"], dispatcher.settings, dispatcher.targets)
            unnoticed = any(name == _DISCONNECT_DISABLED for name, _ in scope["headers"])
            # Who watches for the client's leaving waits for it in `receive`, where no body may come any more.
            enough = None if unnoticed else BEGINNING
            if not unnoticed and _may_be_large(scope["headers"]):
                self._hold_back(receive)
            request = await self._read(dispatcher, scope, receive, enough)
        except Refused as error:
            await _refuse(send, error.status, str(error), error.headers)
            return
        except Disconnected:
            return
        if dispatcher.lives(request) and pinned is None:
            await send_alive(send, [(SPLIT_HEADER, Reason.SYSTEM.encode())])
            return
        answering = self._answer(dispatcher, request, arrived, pinned, send)
        if unnoticed:
            await while_connected(answering, receive)
        else:
            await answering  # Serve cancels it when the client leaves.

    async def _answer(
        self, dispatcher: Dispatcher, request: Request, arrived: float, pinned: str | None, send: Send
    ) -> None:
        try:
            answer = await dispatcher.answer(request, arrived, pinned)
        except Unanswered as error:
            served = self._unanswered(dispatcher, error, arrived)
            await _refuse(send, error.status, str(error), _headers_of(error))
            self._journal.ended(served, time.monotonic() - arrived, 0)
        except BodyTooLarge:
            refused = _too_large(dispatcher.settings.max_body_bytes)
            await _refuse(send, refused.status, str(refused))
        except Disconnected:
            return
        else:
            await self._relay(answer, self._answered(dispatcher, answer, arrived), arrived, send)

    def _answered(self, dispatcher: Dispatcher, answer: Answer, arrived: float) -> Served:
        """Note that an answer begins."""
        split = dispatcher.settings.split
        served = Served(answer.target.key, answer.head.tag, split.route_type, answer.head.status)
        self._journal.request(served, answer.reason, time.monotonic() - arrived)
        return served

    def _unanswered(self, dispatcher: Dispatcher, error: Unanswered, arrived: float) -> Served:
        """Note that a target answers nothing, and the ingress in its place."""
        settings = dispatcher.settings
        served = Served(error.target, settings.targets[error.target].bento, settings.split.route_type, error.status)
        self._journal.request(served, error.reason, time.monotonic() - arrived)
        return served

    async def _relay(self, answer: Answer, served: Served, arrived: float, send: Send) -> None:
        passing = Passing(self._journal, served, arrived)
        try:
            passing.streams = _streams(answer)
            await relay(answer.head, _headers(answer), answer.call, send, passing.sent)
        except Broken as error:
            self._journal.cut_off(served.target)
            raise CutOff(f"{answer.target.key} broke in the middle of a response: {error}") from error
        finally:
            answer.end()
            passing.ended()

    async def _websocket(self, dispatcher: Dispatcher, scope: Scope, receive: Receive, send: Send) -> None:
        """Carry one websocket; its handshake is read, and let in, as any request is."""
        arrived = time.monotonic()
        await receive()
        try:
            pinned = self._gate.admit(scope["headers"], dispatcher.settings, dispatcher.targets)
            request = await self._read(dispatcher, {**scope, "method": "GET"}, websocket.no_body)
        except Refused as error:
            await websocket.deny(scope, send, error.status, str(error), error.headers)
            return
        async with self._sockets.switchboard.line(websocket.subprotocols(scope)) as (request.line, connected):
            try:
                answer = await dispatcher.answer(request, arrived, pinned)
            except Unanswered as error:
                self._unanswered(dispatcher, error, arrived)
                await websocket.deny(scope, send, error.status, str(error), _headers_of(error))
                return
            self._answered(dispatcher, answer, arrived)
            if answer.head.status == websocket.ACCEPTED:
                try:
                    await websocket.converse(answer, _headers(answer), connected, receive, send)
                except Broken as error:
                    self._journal.cut_off(answer.target.key)
                    sentence = f"Bad Gateway: {answer.target.key} broke: {error}"
                    await websocket.deny(scope, send, 502, sentence, _split_headers(answer.target.key, answer.reason))
            else:
                await websocket.deny_as(scope, send, answer, _headers(answer))

    async def _read(self, dispatcher: Dispatcher, scope: Scope, receive: Receive, enough: int | None = None) -> Request:
        settings = dispatcher.settings
        if settings.terminated:
            raise Refused(503, f"Service Unavailable: Deployment {settings.deployment} is terminated")
        return await read_request(
            scope, receive, settings.max_body_bytes, self._request_id(), dispatcher.header_name, enough=enough
        )


async def _refuse(send: Send, status: int, sentence: str, headers: HeaderList | None = None) -> None:
    """Answer a request that no version answers. The log of no version has it, so it is in ours."""
    logger.log(logging.ERROR if status == 502 else logging.INFO, "%d %s", status, sentence)
    await send_error(send, status, sentence, headers)


def _streams(answer: Answer) -> bool:
    return answer.head.more and all(name.lower() != b"content-length" for name, _ in answer.head.headers)


def _headers_of(error: Unanswered) -> HeaderList:
    again = [] if error.retry_after_s is None else [(b"retry-after", str(error.retry_after_s).encode())]
    return [*again, *_split_headers(error.target, error.reason)]


def _headers(answer: Answer) -> HeaderList:
    ours = [*_split_headers(answer.target.key, answer.reason), (TAG_HEADER, answer.head.tag.encode())]
    return [*end_to_end(answer.head.headers, _OURS), *ours]


def _split_headers(target: str, reason: str) -> HeaderList:
    return [(VERSION_HEADER, target.encode()), (SPLIT_HEADER, reason.encode())]
