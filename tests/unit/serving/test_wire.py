"""What crosses between the ingress and a replica: a request is sent at most once, or withdrawn for good."""

import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import cloudpickle  # type: ignore[import-untyped]  # it ships no type information
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_canary.serving.wire import MAX_PIECE, Head, Request, Withdrawn, pieces
from tests.unit.serving.fakes import head, request

PICKLERS: dict[str, Callable[[Any], bytes]] = {
    "pickle": pickle.dumps,
    "pickle 5": lambda value: pickle.dumps(value, protocol=5, buffer_callback=lambda _: None),
    "pickle 0": lambda value: pickle.dumps(value, protocol=0),
    "cloudpickle": cloudpickle.dumps,
    "cloudpickle, in a tuple": lambda value: cloudpickle.dumps(((value,), {})),
}

every_pickler = pytest.mark.parametrize("dumps", PICKLERS.values(), ids=PICKLERS)


def fields(request: Request) -> dict[str, Any]:
    names = ("method", "path", "raw_path", "query", "headers", "body", "client")
    return {name: getattr(request, name) for name in names}


def test_a_request_that_was_never_serialized_has_not_been_sent() -> None:
    assert request().sent_at is None


@every_pickler
def test_a_request_arrives_as_it_was_sent(dumps: Callable[[Any], bytes]) -> None:
    sent = request(b"feature=%FF", [(b"x-a", b"1"), (b"x-a", b"\xff")], bytes(range(256)))
    received = pickle.loads(dumps(sent))
    received = received if isinstance(received, Request) else received[0][0]
    assert fields(received) == fields(sent)
    assert received.sent_at is None


@every_pickler
def test_serializing_a_request_marks_it_as_sent_and_it_stays_sent(dumps: Callable[[Any], bytes]) -> None:
    sent, before = request(), time.monotonic()
    dumps(sent)
    assert sent.sent_at is not None
    assert before <= sent.sent_at <= time.monotonic()
    assert not sent.withdraw()
    assert not sent.withdraw()
    dumps(sent)


@every_pickler
def test_a_withdrawn_request_can_never_be_sent(dumps: Callable[[Any], bytes]) -> None:
    kept = request()
    assert kept.withdraw()
    for _ in range(2):
        with pytest.raises(Withdrawn):
            dumps(kept)
    assert kept.sent_at is None
    assert kept.withdraw()


def test_sending_again_keeps_the_moment_of_the_first_time() -> None:
    sent = request()
    pickle.dumps(sent)
    first = sent.sent_at
    pickle.dumps(sent)
    assert sent.sent_at == first


def test_the_copy_of_a_withdrawn_request_can_be_sent() -> None:
    kept = request(b"q=1", [(b"x-a", b"1")], b"body")
    kept.withdraw()
    again = kept.again()
    assert again.sent_at is None
    assert fields(pickle.loads(pickle.dumps(again))) == fields(kept)
    assert not again.withdraw()


def test_making_a_copy_says_nothing_about_the_original() -> None:
    original = request()
    original.again()
    assert original.sent_at is None
    assert original.withdraw()


@every_pickler
def test_of_two_threads_that_send_and_withdraw_exactly_one_wins(dumps: Callable[[Any], bytes]) -> None:
    outcomes = {(race(dumps, first)) for first in ("send", "withdraw") for _ in range(200)}
    assert outcomes <= {(True, False), (False, True)}


def race(dumps: Callable[[Any], bytes], first: str) -> tuple[bool, bool]:
    """Return whether a request was sent and whether it was withdrawn, after two threads did both at once."""
    contested, start, results = request(), threading.Barrier(2), dict[str, bool]()

    def send() -> None:
        start.wait()
        try:
            dumps(contested)
            results["sent"] = True
        except Withdrawn:
            results["sent"] = False

    def withdraw() -> None:
        start.wait()
        results["withdrawn"] = contested.withdraw()

    jobs = [send, withdraw] if first == "send" else [withdraw, send]
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (contested.sent_at is not None) == results["sent"]
    return results["sent"], results["withdrawn"]


def test_a_request_is_seen_by_a_bento_as_if_it_stood_at_the_root() -> None:
    scope = request(b"a=1", [(b"x-a", b"1")]).scope()
    assert scope["type"] == "http"
    assert scope["root_path"] == ""
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/summarize", b"/summarize", b"a=1")
    assert scope["headers"] == [(b"x-a", b"1")]
    assert "extensions" not in scope


def test_two_scopes_of_one_request_share_no_state() -> None:
    one = request()
    assert one.scope()["state"] is not one.scope()["state"]


def test_a_head_survives_pickling() -> None:
    answer = head(b"\x00\xff", more=True, status=404, headers=[(b"set-cookie", b"a"), (b"set-cookie", b"b")])
    received = pickle.loads(cloudpickle.dumps(answer))
    assert isinstance(received, Head)
    assert received == answer


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        (0, []),
        (1, [1]),
        (MAX_PIECE - 1, [MAX_PIECE - 1]),
        (MAX_PIECE, [MAX_PIECE]),
        (MAX_PIECE + 1, [MAX_PIECE, 1]),
        (3 * MAX_PIECE, [MAX_PIECE] * 3),
    ],
)
def test_a_body_is_cut_into_pieces_of_1_mib_at_most(size: int, sizes: list[int]) -> None:
    assert [len(piece) for piece in pieces(bytes(size))] == sizes


@given(st.integers(0, 3 * MAX_PIECE))
def test_the_pieces_of_a_body_are_the_body(size: int) -> None:
    body = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    assert b"".join(pieces(body)) == body
