"""The pass-through from a client's ASGI request to the response it gets."""

import json
import logging
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_canary.serving.http import Message, without_prefix
from ray_canary.serving.journal import Served
from ray_canary.serving.passthrough import CutOff
from ray_canary.serving.transport import Broken
from ray_canary.serving.wire import HeaderList, Request
from tests.unit.serving.fakes import (
    BREAKS,
    Client,
    FakeTransport,
    Script,
    World,
    head,
    http_scope,
    run,
    target_config,
    user_config,
)


def world(*scripts: Script, **given: Any) -> World:
    """Return a Deployment of main only."""
    return World({"main": FakeTransport(*scripts)}, user_config({}, **given))


def keyed_by(header: str) -> World:
    return world(split={"route_type": "header", "route_by": header})


def received(here: World, target: str = "main") -> Request:
    """Return the one request that a target received."""
    (call,) = here.transports[target].calls
    assert call.received is not None
    return call.received


async def post(here: World, client: Client, **scope: Any) -> Client:
    await here.app(http_scope(**scope), client.receive, client.send)
    return client


def error(client: Client) -> tuple[int, str]:
    assert client.header(b"content-type") == [b"application/json"]
    return client.status, json.loads(client.body)["error"]


# What the Bento gets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"])
def test_any_method_gets_through(method: str) -> None:
    here = world()
    client = run(here.get(method=method))
    assert client.status == 200
    assert received(here).method == method


@pytest.mark.parametrize("parts", [(), (b"abc",), (b"\x00\xff", b"", b"\r\n"), (b"x" * 65_536,) * 40])
def test_a_body_gets_through_as_it_is(parts: tuple[bytes, ...]) -> None:
    here = world()
    assert run(post(here, Client(*parts))).status == 200
    assert received(here).body == b"".join(parts)


def test_query_client_and_path_get_through() -> None:
    here = world()
    run(here.get(path="/a b", raw_path=b"/a%20b", query_string=b"x=%20&x=+", client=("10.0.0.1", 5)))
    got = received(here)
    assert (got.path, got.raw_path, got.query, got.client) == ("/a b", b"/a%20b", b"x=%20&x=+", ("10.0.0.1", 5))


def test_an_unknown_client_gets_through() -> None:
    here = world()
    run(here.get(client=None))
    assert received(here).client is None


def test_repeated_headers_get_through_and_those_of_one_connection_do_not() -> None:
    here = world()
    sent = [(b"accept", b"a"), (b"accept", b"b"), (b"te", b"trailers"), (b"x-private", b"1"), (b"x", b"\xff")]
    run(here.get(headers=[*sent, (b"connection", b"keep-alive, X-Private")]))
    assert received(here).headers == [
        (b"accept", b"a"),
        (b"accept", b"b"),
        (b"x", b"\xff"),
        (b"x-request-id", b"serves-id"),
    ]


SERVES_OWN = (
    b"x-request-timeout-seconds",
    b"x-request-disconnect-disabled",
    b"serve_multiplexed_model_id",
    b"x-session-id",
    b"x-request-id",
)


def test_what_a_client_says_behind_its_body_is_no_header_and_no_key() -> None:
    """Uvicorn adds trailers to the list of headers of a request that is being read."""
    here = keyed_by("x-user-id")
    headers: HeaderList = [(b"host", b"me")]
    asking = Client(b"part", b"end")

    async def receive() -> Message:
        message = await asking.receive()
        if not message["more_body"]:
            headers.extend([(b"x-user-id", b"from-trailer"), (b"x-forwarded-user", b"admin")])
        return message

    run(here.app(http_scope(headers=headers), receive, asking.send))
    assert received(here).headers == [(b"host", b"me"), (b"x-request-id", b"serves-id")]
    assert here.records == [("main", "no-key", 200)]


def test_headers_that_steer_serve_do_not_get_through_and_the_request_id_is_serves() -> None:
    here = world()
    run(here.get(headers=[(name, b"forged") for name in SERVES_OWN] * 2))
    assert received(here).headers == [(b"x-request-id", b"serves-id")]


@pytest.mark.parametrize("name", SERVES_OWN)
def test_the_header_that_the_split_goes_by_gets_through_even_if_it_is_serves_own(name: bytes) -> None:
    here = keyed_by(name.decode().title())
    client = run(here.get(headers=[(other, b"forged") for other in SERVES_OWN]))
    headers = [(name, b"forged")] if name == b"x-request-id" else [(name, b"forged"), (b"x-request-id", b"serves-id")]
    assert received(here).headers == headers
    assert client.header(b"x-bento-split") == [b"keyed"]


def test_a_split_by_request_id_never_takes_serves_own_id_for_a_key() -> None:
    here = keyed_by("X-Request-ID")
    assert run(here.get()).header(b"x-bento-split") == [b"no-key"]
    assert received(here).headers == []


# What the client gets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 204, 301, 304, 400, 404, 422, 500, 503])
def test_the_bentos_own_status_is_passed_on_and_recorded(status: int) -> None:
    here = world(Script(answer=head(b"" if status in (204, 304) else b"body", status=status)))
    client = run(here.get())
    assert client.status == status
    assert here.records == [("main", "random", status)]
    assert here.in_flight == 0


def test_a_response_says_which_version_and_bento_answered_and_why() -> None:
    here = World({"main": FakeTransport(), "a": FakeTransport()})
    client = run(here.get())
    assert client.headers == [
        (b"x-bento-version", b"a"),
        (b"x-bento-split", b"random"),
        (b"x-bento-tag", b"summarization:fake"),
    ]


def test_a_response_in_place_of_another_target_says_so() -> None:
    here = World({"main": FakeTransport(), "a": FakeTransport(routable=0)})
    client = run(here.get())
    assert client.header(b"x-bento-version") == [b"main"]
    assert client.header(b"x-bento-split") == [b"failover"]
    assert here.records == [("main", "failover", 200)]


def test_repeated_response_headers_get_through_and_forged_ones_do_not() -> None:
    headers = [
        (b"set-cookie", b"a=1"),
        (b"x-bento-version", b"forged"),
        (b"X-Bento-Tag", b"forged"),
        (b"x-bento-split", b"forged"),
        (b"X-BENTO-SPLIT", b"forged"),
        (b"transfer-encoding", b"chunked"),
        (b"Connection", b"close, x-private"),
        (b"X-Private", b"1"),
        (b"set-cookie", b"b=2"),
    ]
    client = run(world(Script(answer=head(headers=headers))).get())
    assert client.headers == [
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"x-bento-version", b"main"),
        (b"x-bento-split", b"random"),
        (b"x-bento-tag", b"summarization:fake"),
    ]


def test_headers_in_lists_of_two_are_headers_too() -> None:
    listed: Any = [[b"a", b"1"], [b"te", b"x"]]
    client = run(world(Script(answer=head(headers=listed))).get())
    assert client.header(b"a") == [b"1"]
    assert client.header(b"te") == []


def test_the_answer_to_head_keeps_its_content_length_and_has_no_body() -> None:
    client = run(world(Script(answer=head(b"", headers=[(b"content-length", b"1000")]))).get(method="HEAD"))
    assert client.header(b"content-length") == [b"1000"]
    assert client.body == b""


def test_a_stream_gets_through() -> None:
    here = world(Script(answer=head(b"one ", more=True), parts=[b"two ", b"three"]))
    client = run(here.get())
    assert client.body == b"one two three"
    assert here.in_flight == 0


# Refusals and failures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "parts"),
    [
        ([(b"content-length", b"11")], (b"12345678901",)),
        ([(b"content-length", b"11"), (b"content-length", b"11")], ()),
        ([(b"content-length", b"99999999999999999999")], ()),
        ([(b"transfer-encoding", b"chunked")], (b"12345", b"678901")),
        ([], (b"12345678901",)),
        ([(b"content-length", b"5")], (b"12345", b"678901")),
    ],
)
def test_a_body_over_the_limit_is_a_413_whatever_its_length_is_said_to_be(
    headers: HeaderList, parts: tuple[bytes, ...]
) -> None:
    here = world(max_body_bytes=10)
    client = run(post(here, Client(*parts), headers=headers))
    assert error(client) == (413, "Request body is larger than 10 bytes")
    assert not here.transports["main"].calls
    assert here.records == []


def test_a_body_that_is_said_to_be_too_large_is_not_read() -> None:
    client = Client(b"x", b"y")
    run(post(world(max_body_bytes=10), client, headers=[(b"content-length", b"11")]))
    assert client.unread == 2


@pytest.mark.parametrize("headers", [[(b"content-length", b"10")], [(b"transfer-encoding", b"chunked")], []])
def test_a_body_of_exactly_the_limit_gets_through(headers: HeaderList) -> None:
    here = world(max_body_bytes=10)
    assert run(post(here, Client(b"12345", b"67890"), headers=headers)).status == 200
    assert received(here).body == b"1234567890"


@pytest.mark.parametrize(
    "values",
    [
        [b"abc"],
        [b""],
        [b"-1"],
        [b"+1"],
        [b"1.0"],
        [b"1_0"],
        [b"0x10"],
        [b"1e3"],
        ["١".encode()],
        [b"\xb2"],
        [b"1, 1"],
        [b"1", b"2"],
        [b"1", b"abc"],
        [b"9" * 5000],
    ],
)
def test_a_content_length_that_is_no_length_is_a_400(values: list[bytes]) -> None:
    here = world()
    client = run(here.get(headers=[(b"content-length", value) for value in values]))
    assert error(client) == (400, "Bad Request: the Content-Length header is not a number of bytes")
    assert not here.transports["main"].calls


@pytest.mark.parametrize("values", [[b"3"], [b"3", b"3"], [b" 3 "], [b"003"]])
def test_a_content_length_that_is_a_length_gets_through(values: list[bytes]) -> None:
    here = world()
    assert run(post(here, Client(b"abc"), headers=[(b"content-length", value) for value in values])).status == 200


def test_a_terminated_deployment_answers_503_without_reading_the_body() -> None:
    here, client = world(terminated=True), Client(b"x")
    assert error(run(post(here, client))) == (503, "Service Unavailable: Deployment d is terminated")
    assert client.unread == 1
    assert client.header(b"retry-after") == [b"1"]


def test_a_503_names_the_target_and_why() -> None:
    here = World({"main": FakeTransport(routable=0), "a": FakeTransport(routable=0)})
    client = run(here.get())
    assert client.status == 503
    assert client.header(b"x-bento-version") == [b"a"]
    assert client.header(b"x-bento-split") == [b"failover"]
    assert client.header(b"retry-after") == [b"1"]
    assert here.records == [("a", "failover", 503)]


def test_a_502_is_answered_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    here = world(BREAKS)
    with caplog.at_level(logging.ERROR, "ray.serve"):
        client = run(here.get())
    assert error(client) == (502, "Bad Gateway: main broke: ActorDiedError: gone")
    assert here.records == [("main", "random", 502)]
    assert caplog.messages == ["502 Bad Gateway: main broke: ActorDiedError: gone"]
    assert here.in_flight == 0


def test_who_counts_is_told_of_an_answer_when_it_begins_and_when_it_has_ended() -> None:
    here = world(Script(answer=head(b"four")))
    run(here.get())
    served = Served("main", "summarization:fake", "random", 200)
    ((begun, reason, first_s),) = here.journal.begun
    assert (begun, reason) == (served, "random")
    ((ended, whole_s, size),) = here.journal.over
    assert (ended, size) == (served, 4)
    assert 0 <= first_s <= whole_s < 10
    assert not here.journal.gaps


@pytest.mark.parametrize("sized", [True, False])
def test_the_pieces_of_a_stream_and_the_time_between_them_are_told_and_those_of_a_sized_body_are_not(
    sized: bool,
) -> None:
    headers = [(b"content-length", b"9")] if sized else []
    here = world(Script(answer=head(b"one", more=True, headers=headers), parts=[b"two", b"six"]))
    run(here.get())
    ((_, _, size),) = here.journal.over
    assert size == 9
    first, *gaps = here.journal.gaps or [None]
    assert first is None
    assert len(gaps) == (0 if sized else 2)
    assert all(gap is not None and 0 <= gap < 10 for gap in gaps)


def test_a_request_that_no_version_answers_is_told_with_the_bento_that_should_have() -> None:
    here = world(BREAKS)
    run(here.get())
    assert [served for served, _, _ in here.journal.begun] == [Served("main", "s:1", "random", 502)]
    assert [(served.status, size) for served, _, size in here.journal.over] == [(502, 0)]


def test_a_504_is_answered_in_time() -> None:
    here = world(Script(), targets={"main": target_config(timeout_s=0.01)})
    client = run(here.get())
    assert error(client) == (504, "Not able to process the request in 0.01 seconds")
    assert here.records == [("main", "random", 504)]
    assert here.in_flight == 0


def test_a_client_that_leaves_before_its_request_is_complete_gets_nothing_and_asks_nobody() -> None:
    messages: list[Message] = [{"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Message:
        return messages.pop(0)

    here, client = world(), Client()
    run(here.app(http_scope(), receive, client.send))
    assert client.sent == []
    assert not here.transports["main"].calls
    assert here.records == []


@pytest.mark.parametrize("parts", [(), (b"one",), (b"one", b"two")])
def test_a_started_response_that_breaks_gets_neither_an_end_nor_a_second_status(parts: tuple[bytes, ...]) -> None:
    async def test() -> None:
        here, client = world(Script(answer=head(b"first", more=True), parts=[*parts, Broken("gone")])), Client()
        with pytest.raises(CutOff, match="main broke in the middle of a response: gone"):
            await post(here, client)
        assert client.status == 200
        assert client.sent[-1]["more_body"]
        assert here.journal.broken == ["main"]
        assert here.in_flight == 0
        assert here.records == [("main", "random", 200)]

    run(test())


def test_a_response_that_can_not_be_passed_on_does_not_stay_in_flight() -> None:
    async def test() -> None:
        broken: Any = [(1, b"no name")]
        here = world(Script(answer=head(b"first", more=True, headers=broken)))
        with pytest.raises(AttributeError, match="lower"):
            await here.get()
        assert here.in_flight == 0

    run(test())


# Route prefixes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "raw", "path", "raw_path"),
    [
        ("", b"/", "/", b"/"),
        ("", b"", "/", b"/"),
        ("/", b"/summarize", "/summarize", b"/summarize"),
        ("", b"/summarize", "/summarize", b"/summarize"),
        ("", b"//summarize", "//summarize", b"//summarize"),
        ("/api", b"/api", "/", b"/"),
        ("/api", b"/api/", "/", b"/"),
        ("/api", b"/api/summarize", "/summarize", b"/summarize"),
        ("/api/", b"/api/summarize", "/summarize", b"/summarize"),
        ("/api", b"/api//summarize", "//summarize", b"//summarize"),
        ("/api", b"/api/api/api", "/api/api", b"/api/api"),
        ("/api", b"/api/a%2Fb%20c", "/a/b c", b"/a%2Fb%20c"),
        ("/api", b"/%61p%69/a%2Fb", "/a/b", b"/a%2Fb"),
        ("/api", b"/api%2Fsummarize", "/summarize", b"%2Fsummarize"),
        ("/api", b"/apis/summarize", "/apis/summarize", b"/apis/summarize"),
        ("/api", b"/api%20/summarize", "/api /summarize", b"/api%20/summarize"),
        ("/api", b"/other", "/other", b"/other"),
        ("/api", b"//api/x", "//api/x", b"//api/x"),
        ("/a/b", b"/a/b/c%25", "/c%", b"/c%25"),
        ("/a b", b"/a%20b/c", "/c", b"/c"),
        ("/größe", b"/gr%C3%B6%c3%9fe/%C3%BC", "/ü", b"/%C3%BC"),
        ("/api", b"/api/%zz%", "/%zz%", b"/%zz%"),
        ("/api", b"/api/\xff", "/�", b"/\xff"),
    ],
)
def test_a_bento_sees_paths_without_the_prefix(prefix: str, raw: bytes, path: str, raw_path: bytes) -> None:
    scope = {"root_path": prefix, "raw_path": raw, "path": unquote_to_bytes(raw).decode(errors="replace")}
    assert without_prefix(scope) == (path, raw_path)


def test_a_query_in_the_raw_path_is_cut_off() -> None:
    assert without_prefix({"path": "/x", "raw_path": b"/x?a=1"}) == ("/x", b"/x")


@pytest.mark.parametrize("raw", [{}, {"raw_path": None}, {"raw_path": b""}])
def test_a_missing_raw_path_is_made_from_the_path(raw: dict[str, Any]) -> None:
    assert without_prefix({"path": "/api/a b/ü", "root_path": "/api", **raw}) == ("/a b/ü", b"/a%20b/%C3%BC")


def test_a_raw_path_that_does_not_have_the_prefix_is_made_from_the_path() -> None:
    assert without_prefix({"path": "/api/a b", "root_path": "/api", "raw_path": b"/a%20b"}) == ("/a b", b"/a%20b")


@given(st.lists(st.text(alphabet="abc/% ü+?#", min_size=1).map(lambda text: text.replace("/", "") or "x")), st.text())
def test_stripping_a_prefix_undoes_adding_it(segments: list[str], rest: str) -> None:
    prefix, tail = "".join(f"/{segment}" for segment in segments), f"/{rest}"
    scope = {"root_path": prefix, "path": prefix + tail, "raw_path": quote(prefix + tail).encode()}
    assert without_prefix(scope) == (tail, quote(tail).encode())


def test_two_deployments_under_nested_prefixes_do_not_see_each_others() -> None:
    here = world()
    run(here.get(path="/api/v2/x", root_path="/api"))
    assert received(here).path == "/v2/x"


# Health ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/livez", "/healthz"])
def test_the_deployment_lives_though_main_does_not(path: str) -> None:
    async def test() -> None:
        here = World({"main": FakeTransport(routable=0, seen=False)}, user_config({}))
        answer = await here.get(path=path, method="GET")
        assert (answer.status, answer.header(b"x-bento-split")) == (200, [b"system"])
        assert not here.transports["main"].calls

    run(test())


def test_a_terminated_deployment_does_not_live() -> None:
    async def test() -> None:
        here = World({"main": FakeTransport()}, user_config({}, terminated=True))
        assert (await here.get(path="/livez", method="GET")).status == 503

    run(test())


def test_the_deployment_is_ready_when_main_is_whatever_a_canary_is() -> None:
    async def test() -> None:
        here = World({"main": FakeTransport(), "a": FakeTransport(routable=0)})
        assert (await here.get(path="/readyz", method="GET")).status == 200
        assert len(here.transports["main"].calls) == 1
        down = World({"main": FakeTransport(routable=0), "a": FakeTransport()})
        answer = await down.get(path="/readyz", method="GET")
        assert (answer.status, answer.header(b"content-type")) == (503, [b"application/json"])

    run(test())
