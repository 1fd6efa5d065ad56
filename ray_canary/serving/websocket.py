"""Websockets in the ingress: the handshake goes the way of every request, then messages pass along as they come."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from ray_canary.serving.dispatch import Answer
from ray_canary.serving.frames import ABNORMAL, INTERNAL_ERROR, Conversation, Frame, Kind
from ray_canary.serving.http import Message, Receive, Scope, Send, send_error
from ray_canary.serving.switchboard import Switchboard
from ray_canary.serving.transport import Broken
from ray_canary.serving.wire import HeaderList

logger = logging.getLogger("ray.serve")

#: The status by which a replica says that its app has accepted: 101 Switching Protocols.
ACCEPTED: Final = 101

#: Seconds that a replica may take to connect back, which it does before its app accepts.
CONNECT_S: Final = 5.0
#: Seconds for which a replica that has gone may still be heard.
LAST_WORDS_S: Final = 5.0

_SUBPROTOCOL: Final = b"sec-websocket-protocol"
#: Said to the client when there is no close code of the app's to say: RFC 6455, section 7.4.1.
_BROKE: Final = {"type": "websocket.close", "code": INTERNAL_ERROR, "reason": "the replica broke"}


class Sockets:
    """The websockets of one ingress replica."""

    def __init__(self, address: Callable[[], str]) -> None:
        """`address` tells this node's address, as other nodes reach it."""
        self._address = address
        self._switchboard: Switchboard | None = None

    @property
    def switchboard(self) -> Switchboard:
        """Where replicas connect back to."""
        if self._switchboard is None:
            self._switchboard = Switchboard(self._address())
        return self._switchboard


def subprotocols(scope: Scope) -> tuple[str, ...]:
    """Return the subprotocols that a client offers, its favourite first."""
    return tuple(scope.get("subprotocols") or ())


async def no_body() -> Message:
    """Receive the body of a handshake: none."""
    return {"type": "http.request", "body": b"", "more_body": False}


def denial(scope: Scope, send: Send) -> Send:
    """Return a `send` that answers a handshake with a plain HTTP response, or with 403 if the server can't do that."""
    can = "websocket.http.response" in (scope.get("extensions") or {})
    refused = False

    async def answer(message: Message) -> None:
        nonlocal refused
        if can:
            await send({**message, "type": f"websocket.{message['type']}"})
        elif not refused:
            refused = True
            await send({"type": "websocket.close", "code": 1008, "reason": ""})

    return answer


async def deny(scope: Scope, send: Send, status: int, sentence: str, headers: HeaderList | None = None) -> None:
    """Refuse a handshake, in BentoML's shape where the server can carry it."""
    await send_error(denial(scope, send), status, sentence, headers)


async def deny_as(scope: Scope, send: Send, answer: Answer, headers: HeaderList) -> None:
    """Refuse a handshake as the app refused it."""
    pass_on = denial(scope, send)
    try:
        await pass_on({"type": "http.response.start", "status": answer.head.status, "headers": headers})
        await pass_on({"type": "http.response.body", "body": answer.head.body, "more_body": False})
    finally:
        answer.end()


async def converse(
    answer: Answer,
    headers: HeaderList,
    connected: "asyncio.Future[Conversation]",
    receive: Receive,
    send: Send,
) -> None:
    """Accept, and pass messages along until one side closes. Three ways lead out:

    1. The app closes, or ends: the client gets its code.
    2. The client closes, or has gone: the app gets `websocket.disconnect` with the code, and may end in peace.
    3. The replica breaks: the client gets 1011.

    Raises:
        Broken: the replica never connected. Nothing was said to the client.
    """
    ours = [header for header in headers if header[0] != _SUBPROTOCOL]
    chosen = next((value.decode() for name, value in headers if name == _SUBPROTOCOL), None)
    ended: asyncio.Future[None] | None = None
    upwards: asyncio.Future[Any] | None = None
    downwards: asyncio.Future[Message] | None = None
    conversation: Conversation | None = None
    complete = False
    try:
        conversation = await _conversation(connected)
        ended = asyncio.ensure_future(_end(answer, conversation))
        await send({"type": "websocket.accept", "subprotocol": chosen, "headers": ours})
        upwards = asyncio.ensure_future(_upwards(receive, conversation))
        downwards = asyncio.ensure_future(_downwards(conversation, send))
        await asyncio.wait({upwards, downwards}, return_when=asyncio.FIRST_COMPLETED)
        if not downwards.done():
            # The client has gone; what the app still says is read, so that it can end, and goes nowhere.
            downwards.cancel()
            await _drain(conversation, ended)
            await upwards
        else:
            closing = await downwards
            if closing is _BROKE:
                # Said before the client is told: once it has gone, Serve may cancel us.
                logger.warning("A replica of %s broke in the middle of a websocket", answer.target.key)
            if not upwards.done():
                await send(closing)
        await ended
        complete = True
    finally:
        for each in (upwards, downwards, ended):
            if each is not None:
                each.cancel()
        if not complete:
            answer.call.cancel()
        if conversation is not None:
            conversation.end()
        answer.end()


async def _conversation(connected: "asyncio.Future[Conversation]") -> Conversation:
    try:
        async with asyncio.timeout(CONNECT_S):
            return await connected
    except TimeoutError:
        raise Broken(f"the replica did not connect back within {CONNECT_S:g} seconds") from None


async def _upwards(receive: Receive, conversation: Conversation) -> None:
    """Pass the client's messages to the app, the one that says that it has gone last."""
    last = False
    try:
        while not last:
            message = await receive()
            last = message["type"] == "websocket.disconnect"
            if message["type"] == "websocket.connect":
                continue
            with suppress(OSError):
                await conversation.write(Frame.of(message))
    except Exception:
        # Whatever the server has raised, its client won't be heard any more.
        with suppress(OSError):
            await conversation.write(Frame.close(ABNORMAL))
        raise


async def _downwards(conversation: Conversation, send: Send) -> Message:
    """Pass the app's messages to the client, and return the one that closes.

    Not sent here: a server that closes waits for its client to close too, and then it would seem to have left.
    """
    while True:
        frame = await conversation.read()
        if frame is None:
            return _BROKE
        if frame.kind is Kind.CLOSE:
            return frame.message("websocket.close")
        await send(frame.message("websocket.send"))


async def _drain(conversation: Conversation, ended: "asyncio.Future[None]") -> None:
    reading = asyncio.ensure_future(_read_all(conversation))
    both: set[asyncio.Future[Any]] = {reading, ended}
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    reading.cancel()


async def _read_all(conversation: Conversation) -> None:
    while await conversation.read() is not None:
        pass


async def _end(answer: Answer, conversation: Conversation) -> None:
    """Wait until the app has ended, or its replica, or until Serve has cancelled the call of a client that has gone."""
    try:
        async for _ in answer.call.body():
            pass
    except Broken:
        # A replica that dies closes its connections; a node that vanishes closes none.
        asyncio.get_running_loop().call_later(LAST_WORDS_S, conversation.cut)
