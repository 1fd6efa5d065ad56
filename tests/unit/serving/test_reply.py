"""A call by handle: one message where the response is one, a connection back where it streams. Both ends are real."""

import asyncio
import pickle
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest

from ray_canary.serving.exchange import Exchange
from ray_canary.serving.http import Receive, Scope, Send
from ray_canary.serving.reply import send_back
from ray_canary.serving.serve_private import WholeCall
from ray_canary.serving.switchboard import Switchboard
from ray_canary.serving.transport import Broken, NotSent
from ray_canary.serving.wire import Head, Request

App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Response:
    """What a Serve handle returns: it can be awaited, and cancelled."""

    def __init__(self, answering: Awaitable[Head | None]) -> None:
        self._task = asyncio.ensure_future(answering)
        self._replica_result_future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._replica_result_future.set_result(self)
        self._actor_id = "the replica"

    def __await__(self) -> Generator[Any, None, Head | None]:
        return self._await().__await__()

    async def _await(self) -> Head | None:
        try:
            return await asyncio.shield(self._task)
        except asyncio.CancelledError:
            raise RuntimeError("RequestCancelledError") from None

    def cancel(self) -> None:
        self._task.cancel()


class Handle:
    """A Serve handle to one replica with an app, which answers as `BentoHost.answer_whole` does."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.ended = asyncio.Event()
        self.failure: Exception | None = None

    def remote(self, request: Request) -> Response:
        if self.failure is not None:
            return Response(self._fail(self.failure))
        return Response(self._answer(pickle.loads(pickle.dumps(request))))

    async def _fail(self, error: Exception) -> Head | None:
        raise error

    async def _answer(self, request: Request) -> Head | None:
        assert request.back is not None
        parts: Any = Exchange(request).run(self._app, "s:1")
        try:
            head = await anext(parts)
            if not head.more:
                return Head(**{name: getattr(head, name) for name in Head.__slots__})
            await send_back(request.back, head, parts)
            return None
        finally:
            await parts.aclose()
            self.ended.set()


def run(app: App, test: Callable[[WholeCall, Handle, Switchboard], Awaitable[None]]) -> None:
    async def whole() -> None:
        board = Switchboard("127.0.0.1")
        handle: Any = Handle(app)
        transport: Any = None
        try:
            async with asyncio.timeout(10):
                await test(WholeCall(request(), handle, transport, board), handle, board)
        finally:
            await board.close()

    asyncio.run(whole())


def request() -> Request:
    return Request("GET", "/", b"/", b"", [], b"")


async def start(send: Send, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"a", b"b")]})


async def plain(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send, 201)
    await send({"type": "http.response.body", "body": b"answer"})


async def pieces(call: WholeCall) -> list[bytes]:
    return [piece async for piece in call.body()]


def test_a_plain_response_is_one_message_and_leaves_nothing_behind() -> None:
    async def test(call: WholeCall, handle: Handle, board: Switchboard) -> None:
        head = await call.head()
        assert (head.status, head.headers, head.tag, head.body, head.more) == (
            201,
            [(b"a", b"b")],
            "s:1",
            b"answer",
            False,
        )
        assert (call.actor_id, call.decided) == ("the replica", True)
        assert board._expected == {}

    run(plain, test)


def test_a_stream_comes_piece_by_piece_while_the_call_lasts() -> None:
    go_on = asyncio.Semaphore(0)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        for number in range(50):
            await send({"type": "http.response.body", "body": b"%d;" % number, "more_body": True})
            await go_on.acquire()
        await send({"type": "http.response.body", "body": b""})

    async def test(call: WholeCall, handle: Handle, board: Switchboard) -> None:
        head = await call.head()
        assert head.more
        got = [head.body] if head.body else []
        if got:
            go_on.release()
        async for piece in call.body():
            assert not handle.ended.is_set()
            got.append(piece)
            go_on.release()
        assert [piece for piece in got if piece] == [b"%d;" % number for number in range(50)]
        await handle.ended.wait()
        assert board._expected == {}

    run(app, test)


@pytest.mark.parametrize("size", [3_000_000, 20_000_000])
def test_a_response_that_is_too_large_for_a_message_comes_whole(size: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await send({"type": "http.response.body", "body": bytes(size)})

    async def test(call: WholeCall, handle: Handle, board: Switchboard) -> None:
        head = await call.head()
        assert len(head.body) + sum(map(len, await pieces(call))) == size

    run(app, test)


def test_a_stream_that_is_over_at_once_is_not_missed() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"b"})

    async def again(call: WholeCall, handle: Handle, board: Switchboard) -> None:
        for _ in range(100):
            each: Any = WholeCall(request(), handle, None, board)  # type: ignore[arg-type]
            head = await each.head()
            assert head.body + b"".join(await pieces(each) if head.more else []) == b"ab"

    run(app, again)


@pytest.mark.parametrize("begun", [False, True])
def test_cancelling_ends_the_apps_work(begun: bool) -> None:
    at_work = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if begun:
            await start(send)
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
        at_work.set()
        await asyncio.sleep(100)

    async def test(call: WholeCall, handle: Handle, board: Switchboard) -> None:
        waiting = asyncio.ensure_future(call.head())
        await at_work.wait()
        if begun:
            await waiting
        call.cancel()
        if not begun:
            with pytest.raises(Broken):
                await waiting
        await handle.ended.wait()
        assert board._expected == {}

    run(app, test)


def test_a_stream_that_breaks_is_broken() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await asyncio.sleep(0.01)
        raise RuntimeError("broken")

    async def test(call: WholeCall, handle: Handle, board: Switchboard) -> None:
        await call.head()
        with pytest.raises(Broken):
            await pieces(call)

    run(app, test)


def test_an_app_that_ends_without_a_response_is_broken() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        return

    async def test(call: WholeCall, handle: Handle, board: Switchboard) -> None:
        with pytest.raises(Broken):
            await call.head()
        assert board._expected == {}

    run(app, test)


def test_what_could_not_be_sent_may_go_elsewhere() -> None:
    async def test(call: WholeCall, handle: Handle, board: Switchboard) -> None:
        handle.failure = RuntimeError("DeploymentUnavailableError")
        with pytest.raises(NotSent):
            await call.head()
        assert board._expected == {}

    run(plain, test)
