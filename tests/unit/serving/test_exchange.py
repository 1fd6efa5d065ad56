"""One request through an ASGI app: the response comes off piece by piece, and an app that goes wrong is contained."""

import asyncio
import gc
import logging
import sys
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from ray_canary.serving.exchange import MAX_WAITING, Exchange, Incomplete
from ray_canary.serving.http import Receive, Scope, Send
from ray_canary.serving.wire import MAX_PIECE, Head
from tests.unit.serving.fakes import App, body_message, others, request, run, settle, start_message


def exchange(app: App, body: bytes = b"") -> Any:
    return Exchange(request(body=body)).run(app, "s:1")


async def collect(response: AsyncIterator[Head | bytes]) -> tuple[Head, list[bytes]]:
    first, *rest = [part async for part in response]
    assert isinstance(first, Head)
    return first, [part for part in rest if isinstance(part, bytes)]


async def cut_short(response: AsyncIterator[Head | bytes]) -> tuple[list[Head | bytes], str]:
    """Return what came of an incomplete response, and what is said about it."""
    parts: list[Head | bytes] = []
    try:
        async for part in response:
            parts.append(part)
    except Incomplete as error:
        return parts, str(error)
    raise AssertionError("it came to its end")


def plain(body: bytes, *more: bytes) -> App:
    """Return an app that sends these bodies, without waiting for anything in between."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message())
        for part in (body, *more)[:-1]:
            await send(body_message(part, more=True))
        await send(body_message((body, *more)[-1]))

    return app


# What comes out -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"x", b"\x00\xff" * 1000, bytes(MAX_PIECE)])
def test_a_plain_response_is_one_message(body: bytes) -> None:
    assert run(collect(exchange(plain(body)))) == (Head(200, [], "s:1", body, False), [])


def test_status_and_headers_come_out_as_the_app_sent_them() -> None:
    headers = [(b"set-cookie", b"a"), (b"set-cookie", b"b"), (b"x", b"\xff")]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(418, headers))
        await send({"type": "http.response.body"})

    assert run(collect(exchange(app))) == (Head(418, headers, "s:1", b"", False), [])


def test_the_app_gets_the_request() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        assert scope["path"] == "/summarize"
        assert not message["more_body"]
        await plain(message["body"])(scope, receive, send)

    assert run(collect(exchange(app, b"body")))[0].body == b"body"


@pytest.mark.parametrize(
    ("sizes", "came"),
    [
        ([MAX_PIECE + 1], [MAX_PIECE, 1]),
        ([3 * MAX_PIECE], [MAX_PIECE] * 3),
        ([1, 2 * MAX_PIECE + 1, 0, 5], [1, MAX_PIECE, MAX_PIECE, 1, 5]),
        ([0, 0, 0], [0]),
        ([0, 1, 0], [0, 1]),
    ],
)
def test_pieces_over_1_mib_are_cut_and_empty_ones_are_left_out(sizes: list[int], came: list[int]) -> None:
    first, rest = run(collect(exchange(plain(*(bytes(size) for size in sizes)))))
    assert [len(first.body), *(len(piece) for piece in rest)] == came
    assert first.more


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=20), min_size=1, max_size=20))
def test_no_byte_is_lost_or_moved(parts: list[bytes]) -> None:
    first, rest = run(collect(exchange(plain(*parts))))
    assert b"".join([first.body, *rest]) == b"".join(parts)
    assert first.more == (len(parts) > 1)


def test_bytearrays_and_memoryviews_are_bodies_too() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message())
        await send({"type": "http.response.body", "body": bytearray(b"one"), "more_body": True})
        await send({"type": "http.response.body", "body": memoryview(b"two")})

    assert run(collect(exchange(app))) == (Head(200, [], "s:1", b"one", True), [b"two"])


# When it comes out ----------------------------------------------------------------------------------------------------


def test_each_piece_comes_out_before_the_next_one_exists() -> None:
    async def test() -> None:
        gates = [asyncio.Event() for _ in range(4)]

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(start_message())
            for number, gate in enumerate(gates):
                await gate.wait()
                await send(body_message(b"%d" % number, more=True))
            await send(body_message(b""))

        response = exchange(app)
        assert await anext(response) == Head(200, [], "s:1", b"", True)
        for number, gate in enumerate(gates):
            gate.set()
            assert await anext(response) == b"%d" % number
        with pytest.raises(StopAsyncIteration):
            await anext(response)

    run(test())


def test_a_first_piece_that_is_there_comes_with_the_head_and_nothing_waits_for_the_second() -> None:
    async def test() -> None:
        gate = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(start_message())
            await send(body_message(b"one", more=True))
            await gate.wait()
            await send(body_message(b"two"))

        response = exchange(app)
        assert await anext(response) == Head(200, [], "s:1", b"one", True)
        gate.set()
        assert await anext(response) == b"two"
        await response.aclose()

    run(test())


def test_the_app_runs_ahead_of_a_slow_client_by_the_bytes_that_may_wait_and_no_more() -> None:
    async def test() -> None:
        taken = 0

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal taken
            await send(start_message())
            for _ in range(20):
                await send(body_message(bytes(MAX_PIECE), more=True))
                taken += 1
            await send(body_message(b""))

        response = exchange(app)
        await anext(response)
        allowed = MAX_WAITING // MAX_PIECE
        for read in range(1, 10):
            await settle()
            assert taken == read + allowed, "the piece in the client's hands, and those that wait"
            assert len(await anext(response)) == MAX_PIECE
        rest = [len(piece) async for piece in response]
        assert rest == [MAX_PIECE] * 10
        assert taken == 20

    run(test())


def test_one_piece_larger_than_all_that_may_wait_gets_through() -> None:
    first, rest = run(collect(exchange(plain(bytes(2 * MAX_WAITING + 1), b"end"))))
    assert len(first.body) + sum(map(len, rest)) == 2 * MAX_WAITING + 4


# An app that goes wrong -----------------------------------------------------------------------------------------------


def failing(*messages: Any, error: BaseException | None = None) -> App:
    """Return an app that sends these messages and then raises."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        if error is not None:
            raise error

    return app


WITHOUT = "The Bento ended without a response."
MIDDLE = "The Bento ended in the middle of its response."


@pytest.mark.parametrize("error", [None, ValueError("oops"), SystemExit(3)])
@pytest.mark.parametrize(
    ("messages", "came", "sentence"),
    [
        ([], [], WITHOUT),
        ([start_message()], [], MIDDLE),
        ([start_message(), body_message(b"one", more=True)], [Head(200, [], "s:1", b"one", True)], MIDDLE),
        (
            [start_message(), body_message(b"one", more=True), body_message(b"two", more=True)],
            [Head(200, [], "s:1", b"one", True), b"two"],
            MIDDLE,
        ),
    ],
)
def test_an_app_that_ends_before_its_response_is_reported_after_what_it_sent(
    messages: list[Any], came: list[Head | bytes], sentence: str, error: BaseException | None
) -> None:
    parts, said = run(cut_short(exchange(failing(*messages, error=error))))
    assert [part for part in parts if part != Head(200, [], "s:1", b"", True)] == came
    assert said == sentence


@pytest.mark.parametrize("error", [ValueError("oops"), SystemExit(3)])
def test_an_app_that_raises_after_its_response_was_complete_has_answered(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    app = failing(start_message(500), body_message(b"Internal Server Error"), error=error)
    assert run(collect(exchange(app))) == (Head(500, [], "s:1", b"Internal Server Error", False), [])
    assert caplog.messages == ["The Bento raised an exception."]


def test_what_an_app_raises_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "ray.serve"):
        run(cut_short(exchange(failing(error=ValueError("oops")))))
    assert "ValueError: oops" in caplog.text


@pytest.mark.parametrize(
    "messages",
    [
        [body_message(b"no start")],
        [{"type": "http.response.trailers"}],
        [start_message(), start_message(500), body_message(b"second")],
        [start_message(), body_message(b"one", more=True), start_message(500), body_message(b"second")],
    ],
)
def test_a_message_out_of_turn_is_refused_so_no_response_gets_a_second_status(
    messages: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    parts, _ = run(cut_short(exchange(failing(*messages))))
    assert all(part.status == 200 if isinstance(part, Head) else part == b"one" for part in parts)
    assert "Unexpected ASGI message" in caplog.text


def test_nothing_follows_a_complete_response(caplog: pytest.LogCaptureFixture) -> None:
    app = failing(start_message(), body_message(b"all"), *[body_message(bytes(MAX_WAITING), more=True)] * 3)
    assert run(collect(exchange(app))) == (Head(200, [], "s:1", b"all", False), [])
    assert "the response is complete" in caplog.text


# A client that leaves -------------------------------------------------------------------------------------------------


class Endless:
    """An app that waits for ever, before or in the middle of its response, and notes how it ended."""

    def __init__(self, *messages: Any, ending: Iterable[Any] = ()) -> None:
        self.waiting = asyncio.Event()
        self.cancelled = False
        self.ended = False
        self._messages = messages
        self._ending = ending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            for message in self._messages:
                await send(message)
            self.waiting.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            for message in self._ending:
                await send(message)
            self.ended = True


@pytest.mark.parametrize("pieces", [0, 1, 2, 10])
def test_closing_the_iterator_cancels_the_app(pieces: int) -> None:
    async def test() -> None:
        app = Endless(start_message(), *[body_message(b"x", more=True)] * pieces)
        response = exchange(app)
        for _ in range(max(1, pieces)):
            await anext(response)
        await app.waiting.wait()
        await response.aclose()
        await settle()
        assert app.cancelled
        assert not others()

    run(test())


def test_cancelling_who_waits_for_the_head_cancels_the_app() -> None:
    async def test() -> None:
        app = Endless()
        waiting = asyncio.ensure_future(anext(exchange(app)))
        await app.waiting.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await settle()
        assert app.cancelled
        assert not others()

    run(test())


def test_an_app_that_waits_for_a_slow_client_can_still_say_its_last_words_when_the_client_has_left() -> None:
    async def test() -> None:
        pieces = [body_message(bytes(MAX_PIECE), more=True)] * 10
        app = Endless(start_message(), *pieces, ending=[body_message(b"last", more=True), body_message(b"words")])
        response = exchange(app)
        await anext(response)
        await settle()
        assert not app.waiting.is_set()
        await response.aclose()
        await settle()
        assert (app.cancelled, app.ended) == (True, True)
        assert not others()

    run(test())


def test_an_app_that_will_not_be_cancelled_hears_that_the_client_has_left() -> None:
    async def test() -> None:
        heard: list[str] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send(start_message())
            try:
                await receive()
            except asyncio.CancelledError:
                heard.append((await receive())["type"])

        response = exchange(app)
        await anext(response)
        await response.aclose()
        await settle()
        assert heard == ["http.disconnect"]
        assert not others()

    run(test())


def test_a_response_that_is_never_asked_for_starts_no_app() -> None:
    async def test() -> None:
        app = Endless()
        await exchange(app).aclose()
        await settle()
        assert not app.waiting.is_set()

    run(test())


# What an app does after its response ----------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("read_to_its_end", [False, True])
def test_a_background_task_runs_to_its_end_after_the_response(streamed: bool, read_to_its_end: bool) -> None:
    async def test() -> None:
        may_end, ended = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            await may_end.wait()
            ended.set()

        async def words() -> AsyncIterator[str]:
            yield "one"
            yield "two"

        background = BackgroundTask(work)
        answer: Response = StreamingResponse(words(), background=background)
        if not streamed:
            answer = PlainTextResponse("one", background=background)
        response = exchange(answer)
        first = await anext(response)
        assert isinstance(first, Head)
        if read_to_its_end:
            assert [part async for part in response] == ([b"two"] if streamed else [])
        else:
            await settle()
            await response.aclose()
        gc.collect()
        may_end.set()
        await asyncio.wait_for(ended.wait(), 5)

    run(test())


def test_an_app_that_waits_for_the_client_to_leave_is_told_once_its_response_is_complete() -> None:
    async def test() -> None:
        heard: list[str] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            heard.append((await receive())["type"])
            await plain(b"all")(scope, receive, send)
            heard.append((await receive())["type"])

        await collect(exchange(app))
        await settle()
        assert heard == ["http.request", "http.disconnect"]
        assert not others()

    run(test())


def test_starlettes_middleware_that_listens_for_a_disconnect_does_not_disturb_a_stream() -> None:
    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        async def words() -> AsyncIterator[str]:
            for word in ("one", "two", "three"):
                await asyncio.sleep(0)
                yield word

        await StreamingResponse(words())(scope, receive, send)

    async def dispatch(asked: Any, call_next: Any) -> Response:
        response: Response = await call_next(asked)
        return response

    first, rest = run(collect(exchange(BaseHTTPMiddleware(endpoint, dispatch))))
    assert b"".join([first.body, *rest]) == b"onetwothree"


@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_many_exchanges_at_once_do_not_mix(count: int) -> None:
    async def test() -> list[tuple[Head, list[bytes]]]:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            body = (await receive())["body"]
            await send(start_message())
            for _ in range(3):
                await asyncio.sleep(0)
                await send(body_message(body, more=True))
            await send(body_message(b""))

        return await asyncio.gather(*(collect(exchange(app, b"%d," % number)) for number in range(count)))

    came = run(test())
    assert [b"".join([first.body, *rest]) for first, rest in came] == [b"%d," % number * 3 for number in range(count)]


def test_an_app_is_held_only_as_long_as_it_runs() -> None:
    async def test() -> None:
        app = plain(b"all")
        before = sys.getrefcount(app)
        await collect(exchange(app))
        await settle()
        gc.collect()
        assert sys.getrefcount(app) == before

    run(test())
