"""Who gets in, who may ask for a version, and how the ingress comes to know the tokens."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest

from ray_canary.serving.access import READ_EVERY_S, TokenWatch
from ray_canary.serving.http import Message
from ray_canary.serving.store import Record
from ray_canary.serving.wire import HeaderList
from ray_canary.tokens import Token, Tokens, Verdict, issue
from tests.unit.serving.fakes import Client, FakeTransport, World, http_scope, run, user_config

NOW = 1_800_000_000.0
RIGHT, RIGHT_TEXT = issue("right", ["d"], NOW, "me", NOW + 10)
ALL, ALL_TEXT = issue("for all", None, NOW, "me")
OTHERS, OTHERS_TEXT = issue("others", ["e"], NOW, "me")
OLD, OLD_TEXT = issue("old", ["d"], NOW - 10, "me", NOW)
_, REVOKED_TEXT = issue("revoked", None, NOW, "me")
TEXTS = (RIGHT_TEXT, ALL_TEXT, OTHERS_TEXT, OLD_TEXT, REVOKED_TEXT)

#: What every request without a right token gets.
REFUSED: Mapping[str, tuple[HeaderList, int, str]] = {
    "no token": ([], 401, "needs an access token"),
    "unknown": ([(b"authorization", f"Bearer {REVOKED_TEXT}".encode())], 401, "unknown, or revoked"),
    "expired": ([(b"authorization", f"Bearer {OLD_TEXT}".encode())], 401, "has expired"),
    "another Deployment's": ([(b"authorization", f"Bearer {OTHERS_TEXT}".encode())], 403, "for another Deployment"),
    "of another kind": ([(b"authorization", b"Basic eDp5")], 401, "is not Bearer and an access token"),
    "two": ([(b"authorization", f"Bearer {ALL_TEXT}".encode())] * 2, 401, "more than one Authorization header"),
}
refused = pytest.mark.parametrize(("headers", "status", "told"), REFUSED.values(), ids=REFUSED)


def test_a_replica_reads_the_tokens_twice_in_the_second_within_which_a_revoked_one_is_refused() -> None:
    assert READ_EVERY_S <= 0.5


def bearer(text: str) -> HeaderList:
    return [(b"authorization", f"Bearer {text}".encode())]


def world(*, closed: bool, **given: Any) -> World:
    """Return a Deployment `d` of main, and of `a` without weight."""
    transports = {"main": FakeTransport(), "a": FakeTransport()}
    here = World(transports, user_config({"a": 0}, access_authorization=closed, **given))
    here.tokens = Tokens([RIGHT, ALL, OTHERS, OLD])
    here.now = NOW
    return here


def calls(here: World) -> dict[str, int]:
    return {key: len(transport.calls) for key, transport in here.transports.items()}


def assert_refused(client: Client, status: int, told: str) -> None:
    assert client.status == status
    assert told in json.loads(client.body)["error"]
    assert client.header(b"content-type") == [b"application/json"]
    assert client.header(b"www-authenticate") == ([b"Bearer"] if status == 401 else [])
    said = b"".join([client.body, *(value for _, value in client.headers)]).decode()
    assert not any(text.split("_", 2)[2] in said for text in TEXTS)


# access_authorization -------------------------------------------------------------------------------------------------


@refused
@pytest.mark.parametrize("path", ["/summarize", "/", "/livez", "/readyz", "/metrics", "/schema.json"])
def test_without_a_right_token_nothing_is_answered(headers: HeaderList, status: int, told: str, path: str) -> None:
    here = world(closed=True)
    assert_refused(run(here.get(path=path, method="GET", headers=headers)), status, told)
    assert calls(here) == {"main": 0, "a": 0}


@pytest.mark.parametrize("text", [RIGHT_TEXT, ALL_TEXT])
def test_a_right_token_gets_in_and_the_bento_does_not_see_it(text: str) -> None:
    here = world(closed=True)
    assert run(here.get(headers=[*bearer(text), (b"x-mine", b"1")])).status == 200
    (call,) = here.transports["main"].calls
    assert (b"x-mine", b"1") in call.request.headers
    assert not any(b"rct_" in value for _, value in call.request.headers)


def test_the_body_of_who_may_not_come_in_is_not_read() -> None:
    here, client = world(closed=True), Client(b"x" * 100)
    run(here.app(http_scope(), client.receive, client.send))
    assert client.status == 401
    assert client.unread == 1


def test_that_a_deployment_is_terminated_is_told_to_who_may_come_in() -> None:
    here = world(closed=True, terminated=True)
    assert run(here.get()).status == 401
    assert run(here.get(headers=bearer(ALL_TEXT))).status == 503


def test_a_token_ends_when_its_time_is_over() -> None:
    here = world(closed=True)
    here.now = NOW + 9.9
    assert run(here.get(headers=bearer(RIGHT_TEXT))).status == 200
    here.now = NOW + 10
    assert_refused(run(here.get(headers=bearer(RIGHT_TEXT))), 401, "has expired")


def test_while_the_tokens_are_unknown_nobody_gets_in() -> None:
    here = world(closed=True)
    here.tokens = None
    client = run(here.get(headers=bearer(ALL_TEXT)))
    assert (client.status, client.header(b"retry-after")) == (503, [b"1"])
    assert calls(here) == {"main": 0, "a": 0}


def test_an_open_deployment_takes_everybody_tokens_known_or_not() -> None:
    here = world(closed=False)
    here.tokens = None
    for headers in ([], bearer(OLD_TEXT), [(b"authorization", b"Basic x")]):
        assert run(here.get(headers=headers)).status == 200


def test_an_open_deployment_passes_a_bentos_own_authorization_on_but_none_of_our_tokens() -> None:
    here = world(closed=False)
    own: HeaderList = [(b"authorization", b"Basic eDp5"), (b"authorization", b"Bearer eyJ.e30.x")]
    run(here.get(headers=[*own, *bearer(OLD_TEXT), (b"authorization", RIGHT_TEXT.encode())]))
    (call,) = here.transports["main"].calls
    assert [header for header in call.request.headers if header[0] == b"authorization"] == own


@refused
def test_a_websocket_without_a_right_token_is_closed_before_it_opens(
    headers: HeaderList, status: int, told: str
) -> None:
    here = world(closed=True)
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    plain: Any = {"type": "websocket", "headers": headers}
    run(here.app(plain, receive, send))
    (close,) = sent
    assert (close["type"], close["code"]) == ("websocket.close", 1008)

    sent.clear()
    run(here.app({**plain, "extensions": {"websocket.http.response": {}}}, receive, send))
    start, body = sent
    assert (start["type"], start["status"]) == ("websocket.http.response.start", status)
    assert told in body["body"].decode()


# Pinning --------------------------------------------------------------------------------------------------------------


def pin(version: bytes) -> HeaderList:
    return [(b"x-bento-version", version)]


@refused
@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("version", [b"a", b"main", b"nowhere"])
def test_without_a_right_token_no_version_is_had_and_none_is_named(
    headers: HeaderList, status: int, told: str, closed: bool, version: bytes
) -> None:
    here = world(closed=closed)
    client = run(here.get(headers=[*headers, *pin(version)]))
    assert_refused(client, status, told)
    assert not client.header(b"x-bento-version")
    assert calls(here) == {"main": 0, "a": 0}


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("version", ["a", "main"])
def test_a_right_token_selects_any_version_also_one_without_weight(closed: bool, version: str) -> None:
    here = world(closed=closed)
    client = run(here.get(headers=[*pin(version.encode()), *bearer(RIGHT_TEXT)]))
    assert client.header(b"x-bento-version") == [version.encode()]
    assert client.header(b"x-bento-split") == [b"pinned"]
    (call,) = here.transports[version].calls
    names = {name for name, _ in call.request.headers}
    assert not names & {b"x-bento-version", b"authorization"}
    assert sum(calls(here).values()) == 1


@pytest.mark.parametrize("version", [b"b", b"A", b"", b"a, main", "ä".encode(), b"x" * 10_000])
def test_a_version_that_is_not_there_is_404_with_those_that_are(version: bytes) -> None:
    here = world(closed=False)
    client = run(here.get(headers=[*pin(version), *bearer(ALL_TEXT)]))
    assert client.status == 404
    sentence = json.loads(client.body)["error"]
    assert sentence.endswith("is not a version of Deployment d; there are main, a")
    assert len(sentence) < 200
    assert calls(here) == {"main": 0, "a": 0}


def test_two_versions_at_once_are_refused() -> None:
    here = world(closed=False)
    client = run(here.get(headers=[*pin(b"a"), *pin(b"main"), *bearer(ALL_TEXT)]))
    assert client.status == 400
    assert calls(here) == {"main": 0, "a": 0}


def test_who_asks_for_a_version_gets_no_other() -> None:
    here = World({"main": FakeTransport(), "a": FakeTransport(routable=0)}, user_config({"a": 0}))
    here.tokens = Tokens([ALL])
    client = run(here.get(headers=[*pin(b"a"), *bearer(ALL_TEXT)]))
    assert (client.status, client.header(b"x-bento-split")) == (503, [b"pinned"])
    assert calls(here) == {"main": 0, "a": 0}


def test_while_the_tokens_are_unknown_no_version_is_had() -> None:
    here = world(closed=False)
    here.tokens = None
    assert run(here.get(headers=[*pin(b"a"), *bearer(ALL_TEXT)])).status == 503


# How the tokens are known ---------------------------------------------------------------------------------------------


class Kept:
    """What is in the store, and how often it was read; an exception in `records` is raised."""

    def __init__(self, *tokens: Token) -> None:
        self.reads = 0
        self.records: dict[str, Record] | Exception = {
            f"token/{token.id}": token.model_dump(mode="json") for token in tokens
        }

    def __call__(self) -> Mapping[str, Record]:
        self.reads += 1
        if isinstance(self.records, Exception):
            raise self.records
        return self.records


def verdict(watch: TokenWatch, text: str) -> Verdict | None:
    tokens = watch.tokens()
    return tokens.check([f"Bearer {text}".encode()], "d", NOW) if tokens is not None else None


def test_a_token_that_comes_or_goes_is_known_with_the_next_look() -> None:
    async def scenario() -> list[Verdict | None]:
        kept = Kept(ALL)
        watch = TokenWatch(kept)
        found = [verdict(watch, ALL_TEXT)]
        await watch.look()
        found.append(verdict(watch, ALL_TEXT))
        kept.records = {}
        await watch.look()
        return [*found, verdict(watch, ALL_TEXT)]

    assert run(scenario()) == [None, Verdict.OK, Verdict.UNKNOWN]


def test_a_store_that_fails_leaves_the_last_known_in_force_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept(ALL)
    watch = TokenWatch(kept)

    async def scenario() -> None:
        await watch.look()
        right = kept.records
        kept.records = RuntimeError("GCS is away")
        for _ in range(3):
            await watch.look()
        assert verdict(watch, ALL_TEXT) is Verdict.OK
        kept.records = right
        await watch.look()

    with caplog.at_level(logging.INFO, "ray.serve"):
        run(scenario())
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    assert "GCS is away" in caplog.text


def test_who_never_read_any_knows_none() -> None:
    kept = Kept()
    kept.records = RuntimeError("GCS is away")
    watch = TokenWatch(kept)
    run(watch.look())
    assert watch.tokens() is None


def test_a_record_that_is_none_is_left_out_and_logged_without_what_is_in_it(caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept(ALL)
    assert isinstance(kept.records, dict)
    kept.records["token/00000000"] = {"id": "00000000", "digest": "5ecret"}
    watch = TokenWatch(kept)
    run(watch.look())
    assert verdict(watch, ALL_TEXT) is Verdict.OK
    assert "token/00000000 is ignored" in caplog.text
    assert "5ecret" not in caplog.text


def test_the_tokens_are_read_again_and_again_and_never_on_the_event_loop() -> None:
    threads: set[int] = set()

    async def scenario() -> int:
        kept = Kept(ALL)

        def read() -> Mapping[str, Record]:
            threads.add(threading.get_ident())
            return kept()

        watch = TokenWatch(read, every_s=0)
        running = asyncio.ensure_future(watch.run())
        async with asyncio.timeout(10):
            await watch.first()
            while kept.reads < 3:
                await asyncio.sleep(0)
        running.cancel()
        return threading.get_ident()

    assert run(scenario()) not in threads


def test_a_replica_does_not_wait_for_ever_for_its_first_look(caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()

    def read() -> Mapping[str, Record]:
        release.wait(10)
        return {}

    async def scenario() -> float:
        watch = TokenWatch(read)
        running = asyncio.ensure_future(watch.run())
        began = time.monotonic()
        await watch.first(0.05)
        waited = time.monotonic() - began
        release.set()
        running.cancel()
        return waited

    assert 0.04 < run(scenario()) < 5
    assert "were not read within 0.05 s" in caplog.text
