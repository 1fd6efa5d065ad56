"""The small pieces of HTTP: bodies with a limit, the headers that travel on, responses piece by piece, errors."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_canary.serving.http import (
    HOP_BY_HOP,
    BodyTooLarge,
    Disconnected,
    Message,
    end_to_end,
    read_body,
    relay,
    send_error,
)
from ray_canary.serving.transport import Broken
from ray_canary.serving.wire import Head, HeaderList
from tests.unit.serving.fakes import Client, FakeCall, Script, head, request, run

# Request bodies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [(), (b"",), (b"abc",), (b"a", b"bc"), (b"", b"abc", b""), (b"x",) * 1000])
@pytest.mark.parametrize("limit", [None, 1000])
def test_a_body_is_the_sum_of_its_parts(parts: tuple[bytes, ...], limit: int | None) -> None:
    assert run(read_body(Client(*parts).receive, limit)) == b"".join(parts)


@pytest.mark.parametrize("parts", [(b"1234",), (b"12", b"34"), (b"", b"1", b"2", b"3", b"4")])
def test_a_body_of_exactly_the_limit_is_read_and_one_byte_more_is_refused(parts: tuple[bytes, ...]) -> None:
    assert run(read_body(Client(*parts).receive, 4)) == b"1234"
    with pytest.raises(BodyTooLarge):
        run(read_body(Client(*parts, b"5").receive, 4))


def test_a_limit_of_0_lets_an_empty_body_through() -> None:
    assert run(read_body(Client(b"", b"").receive, 0)) == b""
    with pytest.raises(BodyTooLarge):
        run(read_body(Client(b"1").receive, 0))


def test_what_follows_a_body_that_is_too_large_is_left_unread() -> None:
    client = Client(b"12", b"345", b"6", b"7")
    with pytest.raises(BodyTooLarge):
        run(read_body(client.receive, 4))
    assert client.unread == 2


@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_client_that_leaves_before_its_body_is_complete_is_reported(before: int) -> None:
    messages: list[Message] = [{"type": "http.request", "body": b"x", "more_body": True} for _ in range(before)]
    messages.append({"type": "http.disconnect"})

    async def receive() -> Message:
        return messages.pop(0)

    with pytest.raises(Disconnected):
        run(read_body(receive, None))


def test_a_request_message_may_leave_everything_out() -> None:
    async def receive() -> Message:
        return {"type": "http.request"}

    assert run(read_body(receive, None)) == b""


# Headers --------------------------------------------------------------------------------------------------------------


def test_repeated_headers_travel_on_in_their_order() -> None:
    headers = [(b"set-cookie", b"a=1"), (b"x", b""), (b"set-cookie", b"b=2"), (b"x", b"\xff")]
    assert end_to_end(headers) == headers


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP))
def test_a_hop_by_hop_header_stays_behind_whatever_its_capitals(name: bytes) -> None:
    assert end_to_end([(name, b"x"), (b"a", b"1"), (name.title(), b"y"), (name.upper(), b"z")]) == [(b"a", b"1")]


@pytest.mark.parametrize(
    "connection",
    [
        [(b"connection", b"x-one, X-Two")],
        [(b"connection", b"close"), (b"connection", b"x-two,x-one")],
        [(b"Connection", b" X-ONE ,, x-two,")],
    ],
)
def test_headers_named_in_connection_stay_behind(connection: HeaderList) -> None:
    headers = [(b"x-one", b"1"), (b"X-Two", b"2"), (b"x-three", b"3"), (b"x-one", b"4")]
    assert end_to_end([*headers, *connection]) == [(b"x-three", b"3")]


def test_dropped_headers_stay_behind_whatever_their_capitals() -> None:
    headers = [(b"x-bento-tag", b"1"), (b"X-Bento-Tag", b"2"), (b"x-bento-tags", b"3")]
    assert end_to_end(headers, HOP_BY_HOP | {b"x-bento-tag"}) == [(b"x-bento-tags", b"3")]


NAMES = st.sampled_from([b"a", b"b", b"connection", b"te", b"upgrade", b"X-C"])
VALUES = st.lists(st.sampled_from([b"a", b"x-c", b"close", b""])).map(b", ".join)


@given(st.lists(st.tuples(NAMES, VALUES)))
def test_passing_headers_on_twice_is_the_same_as_once(headers: HeaderList) -> None:
    once = end_to_end(headers)
    assert end_to_end(once) == once
    assert [header for header in headers if header in once] == once


# Responses ------------------------------------------------------------------------------------------------------------


async def relayed(answer: Head, script: Script, client: Client) -> FakeCall:
    call = FakeCall(request(), script)
    await relay(answer, [(b"x", b"1")], call, client.send)
    return call


def test_a_plain_response_is_one_start_and_one_body() -> None:
    client = Client()
    call = run(relayed(head(b"all", status=201), Script(), client))
    assert client.sent == [
        {"type": "http.response.start", "status": 201, "headers": [(b"x", b"1")]},
        {"type": "http.response.body", "body": b"all", "more_body": False},
    ]
    assert not call.cancelled


@pytest.mark.parametrize("status", [200, 204, 304])
def test_a_response_without_a_body_still_ends(status: int) -> None:
    client = Client()
    run(relayed(head(b"", status=status), Script(), client))
    assert (client.status, client.body, len(client.sent)) == (status, b"", 2)


@pytest.mark.parametrize("first", [b"", b"first"])
@pytest.mark.parametrize("parts", [(), (b"one",), (b"one", b"two"), (b"x",) * 100])
def test_a_stream_is_passed_on_piece_by_piece(first: bytes, parts: tuple[bytes, ...]) -> None:
    client = Client()
    call = run(relayed(head(first, more=True), Script(parts=parts), client))
    bodies = [message["body"] for message in client.sent[1:]]
    assert bodies == [*([first] if first else []), *parts, b""]
    assert [message["more_body"] for message in client.sent[1:]] == [True] * (len(bodies) - 1) + [False]
    assert not call.cancelled


def test_a_piece_is_passed_on_before_the_next_one_comes() -> None:
    async def test() -> None:
        client, gates = Client(), [asyncio.Event() for _ in range(3)]
        script = Script(parts=[gates[0], b"one", gates[1], b"two", gates[2]])
        sending = asyncio.ensure_future(relayed(head(b"", more=True), script, client))
        await client.got(1)
        gates[0].set()
        await client.got(2)
        assert client.sent[-1]["body"] == b"one"
        gates[1].set()
        await client.got(3)
        assert client.sent[-1] == {"type": "http.response.body", "body": b"two", "more_body": True}
        gates[2].set()
        await sending

    run(test())


@pytest.mark.parametrize("parts", [(), (b"one",), (b"one", b"two")])
def test_a_stream_that_breaks_is_cancelled_and_has_no_end(parts: tuple[bytes, ...]) -> None:
    async def test() -> None:
        client, call = Client(), FakeCall(request(), Script(parts=[*parts, Broken("gone")]))
        with pytest.raises(Broken):
            await relay(head(b"first", more=True), [], call, client.send)
        assert call.cancelled
        assert len(client.sent) == 2 + len(parts)
        assert client.sent[-1]["more_body"]

    run(test())


@pytest.mark.parametrize(("more", "cancelled"), [(True, True), (False, False)])
def test_a_client_that_can_not_be_reached_cancels_what_is_not_complete(more: bool, cancelled: bool) -> None:
    async def send(message: Message) -> None:
        raise OSError("gone")

    async def test() -> None:
        call = FakeCall(request(), Script(parts=[b"x"]))
        with pytest.raises(OSError, match="gone"):
            await relay(head(b"first", more=more), [], call, send)
        assert call.cancelled == cancelled

    run(test())


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 403, 413, 502, 504])
def test_an_error_has_bentomls_shape(status: int) -> None:
    client = Client()
    run(send_error(client.send, status, 'no "ü"', [(b"x-bento-version", b"a")]))
    assert client.status == status
    assert json.loads(client.body) == {"error": 'no "ü"'}
    assert client.header(b"content-type") == [b"application/json"]
    assert client.header(b"content-length") == [str(len(client.body)).encode()]
    assert client.header(b"x-bento-version") == [b"a"]
    assert client.header(b"retry-after") == []


def test_a_503_says_when_to_come_again() -> None:
    client = Client()
    run(send_error(client.send, 503, "busy"))
    assert client.header(b"retry-after") == [b"1"]
