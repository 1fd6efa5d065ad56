"""A websocket between a client, the ingress and an app: both halves of the real thing, on a real connection."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from ray_canary.serving import switchboard, websocket
from ray_canary.serving.frames import Conversation, Frame, Kind
from ray_canary.serving.http import Message, Receive, Scope, Send
from ray_canary.serving.switchboard import Switchboard
from ray_canary.serving.transport import Broken
from ray_canary.serving.websocket_host import Socket
from ray_canary.serving.wire import Head, Line, Request

LOCAL = "127.0.0.1"
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def live(test: Callable[[Switchboard], Awaitable[None]]) -> None:
    """Run a test with a switchboard of its own, on the event loop of Serve's replicas."""

    async def whole() -> None:
        board = Switchboard(LOCAL)
        try:
            async with asyncio.timeout(10):
                await test(board)
        finally:
            await board.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())


class Served:
    """A websocket of an app, as the ingress has it."""

    def __init__(self, head: Head, parts: Any, conversation: Conversation | None) -> None:
        self.head = head
        self.parts = parts
        self._conversation = conversation

    @property
    def conversation(self) -> Conversation:
        assert self._conversation is not None
        return self._conversation

    async def ended(self) -> None:
        async for _ in self.parts:
            pass


@asynccontextmanager
async def serve(board: Switchboard, app: App, *subprotocols: str) -> AsyncIterator[Served]:
    async with board.line(subprotocols) as (line, connected):
        request = Request("GET", "/ws", b"/ws", b"", [], b"", line=line)
        parts = Socket(request, "s:1").run(app)
        head: Any = await anext(parts)
        yield Served(head, parts, await connected if head.status == 101 else None)
        await parts.aclose()  # type: ignore[attr-defined]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", "subprotocol": next(iter(scope["subprotocols"]), None), "headers": []})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
    SEEN.append(message)


SEEN: list[Message] = []


def test_text_and_bytes_go_there_and_back() -> None:
    async def test(board: Switchboard) -> None:
        async with serve(board, echo, "chat") as served:
            assert (served.head.status, served.head.headers) == (101, [(b"sec-websocket-protocol", b"chat")])
            for frame in (Frame(Kind.TEXT, "ü".encode()), Frame(Kind.BYTES, b""), Frame(Kind.BYTES, bytes(5_000_000))):
                await served.conversation.write(frame)
                assert await served.conversation.read() == frame

    live(test)


@pytest.mark.parametrize(("said", "heard"), [(Frame.close(4004, "bye"), (4004, "bye")), (None, (1006, ""))])
def test_an_app_hears_how_its_client_went(said: Frame | None, heard: tuple[int, str]) -> None:
    async def test(board: Switchboard) -> None:
        SEEN.clear()
        async with serve(board, echo) as served:
            if said is not None:
                await served.conversation.write(said)
            served.conversation.end()
            await served.ended()
        assert [(message["type"], message["code"], message["reason"]) for message in SEEN] == [
            ("websocket.disconnect", *heard)
        ]

    live(test)


async def closes(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": 4321, "reason": "enough"})


async def returns(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.accept"})


async def raises(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.accept"})
    raise RuntimeError("broken")


@pytest.mark.parametrize(("app", "code"), [(closes, 4321), (returns, 1000), (raises, 1011)])
def test_an_app_that_ends_closes_with_a_code(app: App, code: int) -> None:
    async def test(board: Switchboard) -> None:
        async with serve(board, app) as served:
            frame = await served.conversation.read()
            assert frame is not None
            assert frame.message("websocket.close")["code"] == code
            await served.ended()

    live(test)


def test_an_app_that_sends_to_a_client_that_has_gone_meets_no_error() -> None:
    ended = asyncio.Event()
    gone: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await receive()
        gone.append(await receive())
        for _ in range(100):
            await send({"type": "websocket.send", "text": "for nobody"})
            await asyncio.sleep(0)
        ended.set()

    async def test(board: Switchboard) -> None:
        async with serve(board, app) as served:
            served.conversation.cut()
            await ended.wait()
            await served.ended()

    live(test)
    assert [message["type"] for message in gone] == ["websocket.disconnect"]


class Dying:
    """The call of a replica that dies once its connection has ended."""

    way = "handle"

    async def head(self) -> Head:
        raise AssertionError

    async def body(self) -> AsyncIterator[bytes]:
        await asyncio.sleep(0.01)
        raise Broken("it died")
        yield b""

    def cancel(self) -> None:
        raise AssertionError("nothing is left to cancel")


@pytest.mark.parametrize(
    ("last", "code", "warnings"),
    [
        (Frame.close(4321, "enough"), 4321, []),
        (None, 1011, ["A replica of a broke in the middle of a websocket"]),
    ],
)
def test_a_replica_that_ends_without_a_close_is_warned_of_though_the_client_has_gone_by_then(
    last: Frame | None, code: int, warnings: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    closed = asyncio.Event()
    sent: list[Message] = []

    async def receive() -> Message:
        await closed.wait()
        return {"type": "websocket.disconnect", "code": 1011}

    async def send(message: Message) -> None:
        """As uvicorn does it: who closes waits for the client's answer, which `receive` returns meanwhile."""
        sent.append(message)
        if message["type"] == "websocket.close":
            closed.set()
            for _ in range(10):
                await asyncio.sleep(0)

    async def test(board: Switchboard) -> None:
        target = SimpleNamespace(key="a", in_flight=1)
        answer: Any = SimpleNamespace(target=target, call=Dying(), end=lambda: None)
        async with board.line(()) as (line, connected):
            replica = await switchboard.connect(line)
            if last is not None:
                await replica.write(last)
            replica.end()
            await websocket.converse(answer, [], connected, receive, send)

    live(test)
    assert (sent[-1]["type"], sent[-1]["code"]) == ("websocket.close", code)
    assert [record.getMessage() for record in caplog.records] == warnings


class Lost(Dying):
    """The call of a replica whose node vanishes, and closes no connection."""


class Unconnected(Dying):
    """The call of a replica that accepts, and never connects back."""

    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


async def silent() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


def test_a_replica_whose_node_vanishes_ends_its_websocket_with_1011(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "LAST_WORDS_S", 0.05)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def test(board: Switchboard) -> None:
        answer: Any = SimpleNamespace(target=SimpleNamespace(key="a"), call=Lost(), end=lambda: None)
        async with board.line(()) as (line, connected):
            replica = await switchboard.connect(line)
            await replica.write(Frame(Kind.TEXT, b"last words"))
            await websocket.converse(answer, [], connected, silent, send)
            replica.end()

    live(test)
    assert [message.get("text") or message.get("code") for message in sent[1:]] == ["last words", 1011]


@pytest.mark.parametrize("leaves", [False, True], ids=["it is given up", "its client leaves"])
def test_a_replica_that_never_connects_back_keeps_no_place(leaves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "CONNECT_S", 60 if leaves else 0.05)
    call, places = Unconnected(), [1]

    async def test(board: Switchboard) -> None:
        answer: Any = SimpleNamespace(target=SimpleNamespace(key="a"), call=call, end=places.pop)
        async with board.line(()) as (_, connected):
            carried = asyncio.ensure_future(websocket.converse(answer, [], connected, silent, nothing))
            await asyncio.sleep(0)
            if leaves:
                carried.cancel()
            with pytest.raises(asyncio.CancelledError if leaves else Broken):
                await carried

    live(test)
    assert (call.cancelled, places) == (True, [])


async def nothing(message: Message) -> None:
    raise AssertionError(f"nothing may be said to the client: {message}")


def test_an_app_is_told_when_the_server_can_hear_its_client_no_more() -> None:
    async def receive() -> Message:
        raise RuntimeError("the server failed")

    async def test(board: Switchboard) -> None:
        SEEN.clear()
        async with board.line(()) as (line, connected):
            parts = Socket(Request("GET", "/ws", b"/ws", b"", [], b"", line=line), "s:1").run(echo)
            assert (await anext(parts)).status == 101  # type: ignore[union-attr]
            call = SimpleNamespace(body=lambda: parts, cancel=lambda: None)
            answer: Any = SimpleNamespace(target=SimpleNamespace(key="a"), call=call, end=lambda: None)
            with pytest.raises(RuntimeError, match="the server failed"):
                await websocket.converse(answer, [], connected, receive, accepted)
        assert [message["code"] for message in SEEN] == [1006]

    live(test)


async def accepted(message: Message) -> None:
    assert message["type"] == "websocket.accept"


async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.close", "code": 1000})


async def denies(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.http.response.start", "status": 418, "headers": [(b"a", b"b")]})
    await send({"type": "websocket.http.response.body", "body": b"tea", "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b"pot"})


async def fails(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("broken")


@pytest.mark.parametrize(("app", "status", "body"), [(refuses, 403, b""), (denies, 418, b"teapot"), (fails, 500, None)])
def test_an_app_that_does_not_accept_has_a_status(app: App, status: int, body: bytes | None) -> None:
    async def test(board: Switchboard) -> None:
        async with serve(board, app) as served:
            assert (served.head.status, served.head.more) == (status, False)
            assert body in (None, served.head.body)

    live(test)


def test_an_app_that_gives_up_waiting_tears_no_message() -> None:
    async def impatient(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(receive(), 0.01)
        await send({"type": "websocket.send", "text": "now"})
        await send({**(await receive()), "type": "websocket.send"})

    async def test(board: Switchboard) -> None:
        async with serve(board, impatient) as served:
            await served.conversation.read()
            await served.conversation.write(Frame(Kind.TEXT, b"whole"))
            assert await served.conversation.read() == Frame(Kind.TEXT, b"whole")

    live(test)


@pytest.mark.parametrize("said", [b"", b"x" * 32, b"GET / HTTP/1.1\r\nHost: somebody\r\n\r\n"])
def test_who_does_not_say_the_secret_is_cut_off(said: bytes) -> None:
    async def test(board: Switchboard) -> None:
        async with board.line(()) as (line, connected):
            reader, writer = await asyncio.open_connection(line.host, line.port)
            writer.write(said)
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
            assert not connected.done()

    live(test)


def test_a_secret_is_good_once_and_only_as_long_as_its_handshake() -> None:
    async def cut_off(line: Line) -> None:
        second = await switchboard.connect(line)
        assert await second.read() is None
        second.end()

    async def test(board: Switchboard) -> None:
        async with board.line(()) as (line, connected):
            first = await switchboard.connect(line)
            await connected
            await cut_off(line)
            first.end()
        async with board.line(()) as (late, _):
            pass
        await cut_off(late)

    live(test)


@pytest.mark.parametrize("extension", [True, False])
def test_a_refusal_is_an_http_response_where_the_server_can_send_one(extension: bool) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {"extensions": {"websocket.http.response": {}} if extension else {}}
    asyncio.run(websocket.deny(scope, send, 401, "Unauthorized"))
    kinds = [message["type"] for message in sent]
    if extension:
        assert kinds == ["websocket.http.response.start", "websocket.http.response.body"]
        assert sent[0]["status"] == 401
    else:
        assert kinds == ["websocket.close"]
