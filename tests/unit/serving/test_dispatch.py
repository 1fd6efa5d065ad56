"""Which target answers, and what happens when it can't: the four cases of `Dispatcher.answer`."""

import asyncio
import pickle
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from ray_canary.serving.dispatch import Answer, Reason, Unanswered
from ray_canary.serving.gate import OPEN, Closed, Full
from ray_canary.serving.transport import Broken
from ray_canary.serving.wire import HeaderList, Request, Withdrawn
from ray_canary.splitter import Splitter
from tests.unit.serving.fakes import (
    ANSWERS,
    BREAKS,
    FULL,
    GONE,
    REFUSES,
    SILENT,
    FakeTransport,
    Script,
    World,
    head,
    request,
    run,
    target_config,
    user_config,
)

SOON_S = 0.01
"""A wait or a timeout that a test lets run out."""
LATER_S = 0.3
"""One that runs out after it, however busy the machine is."""


def world(a: FakeTransport | None = None, main: FakeTransport | None = None, **given: Any) -> World:
    """Return a Deployment whose canary `a` is given every request."""
    return World({"main": main or FakeTransport(), "a": a or FakeTransport()}, user_config({"a": 100}, **given))


def only_main(main: FakeTransport, **given: Any) -> World:
    return World({"main": main}, user_config({}, **given))


async def answer(here: World, asked: Request | None = None, spent_s: float = 0.0) -> Answer:
    """Dispatch a request that arrived `spent_s` ago."""
    return await here.dispatcher.answer(asked or request(), asyncio.get_running_loop().time() - spent_s)


async def refusal(here: World, spent_s: float = 0.0) -> Unanswered:
    with pytest.raises(Unanswered) as caught:
        await answer(here, spent_s=spent_s)
    return caught.value


def verdict(error: Unanswered) -> tuple[int, str, str]:
    return error.status, error.target, error.reason


# Choosing -------------------------------------------------------------------------------------------------------------


def chooser(route_type: str, route_by: str | None = None) -> World:
    config = user_config({"a": 20, "b": 30}, split={"route_type": route_type, "route_by": route_by})
    return World({key: FakeTransport() for key in ("main", "a", "b")}, config)


def test_a_random_split_hits_the_weights_in_each_hundred_requests() -> None:
    here = chooser("random")
    chosen = [here.dispatcher.choose(request(b"feature=x")) for _ in range(300)]
    for start in (0, 100, 200):
        assert Counter(key for key, _ in chosen[start : start + 100]) == {"main": 50, "a": 20, "b": 30}
    assert {reason for _, reason in chosen} == {Reason.RANDOM}
    assert here.observer.missing == 0


def test_a_random_split_ignores_a_route_by() -> None:
    here = chooser("random", "feature")
    assert here.dispatcher.header_name == b""
    assert len({here.dispatcher.choose(request(b"feature=x")) for _ in range(100)}) == 3


@pytest.mark.parametrize(
    ("route_type", "route_by", "query", "headers", "key"),
    [
        ("header", "X-User-ID", b"", [(b"x-user-id", b"user123")], b"user123"),
        ("header", "x-user-id", b"", [(b"x-user-id", b" user123 "), (b"x-user-id", b"other")], b"user123"),
        ("header", "X-USER-ID", b"x-user-id=no", [(b"x-user-id", b"J\xfcrgen")], b"J\xfcrgen"),
        ("query", "feature", b"feature=test&feature=other", [], b"test"),
        ("query", "feature", b"Feature=no&%66eature=a+%C3%BC", [(b"feature", b"no")], "a ü".encode()),
        ("query", "größe", b"gr%C3%B6%C3%9Fe=9", [], b"9"),
        ("query", "feature", b"feature=" + b"k" * 10_240, [], b"k" * 10_240),
    ],
)
def test_a_keyed_split_gives_a_key_the_target_that_the_splitter_gives_it(
    route_type: str, route_by: str, query: bytes, headers: HeaderList, key: bytes
) -> None:
    here = chooser(route_type, route_by)
    expected = Splitter({"main": 50, "a": 20, "b": 30}, "d").choose(key)
    assert {here.dispatcher.choose(request(query, headers)) for _ in range(50)} == {(expected, Reason.KEYED)}
    assert here.observer.missing == 0


@pytest.mark.parametrize(
    ("route_type", "query", "headers"),
    [
        ("header", b"x-user-id=u1", []),
        ("header", b"", [(b"x-user-id", b"")]),
        ("header", b"", [(b"x-user-id", b" \t"), (b"x-user-id", b"u2")]),
        ("query", b"", [(b"x-user-id", b"u1")]),
        ("query", b"x-user-id=", []),
        ("query", b"x-user-id", []),
        ("query", b"X-USER-ID=u1", []),
    ],
)
def test_a_request_without_a_key_is_split_at_random_and_counted(
    route_type: str, query: bytes, headers: HeaderList
) -> None:
    here = chooser(route_type, "x-user-id")
    chosen = [here.dispatcher.choose(request(query, headers)) for _ in range(100)]
    assert Counter(key for key, _ in chosen) == {"main": 50, "a": 20, "b": 30}
    assert {reason for _, reason in chosen} == {Reason.NO_KEY}
    assert here.observer.missing == 100


def test_the_header_that_the_split_goes_by_is_known_in_lower_case() -> None:
    assert chooser("header", "X-User-ID").dispatcher.header_name == b"x-user-id"
    assert chooser("query", "feature").dispatcher.header_name == b""


def test_the_arm_and_not_the_key_of_a_target_seeds_its_hash() -> None:
    targets = {"main": target_config("a"), "a": target_config("main")}
    split = {"route_type": "query", "route_by": "q"}
    config = user_config({"a": 50}, split=split, targets=targets)
    swapped = World({"main": FakeTransport(), "a": FakeTransport()}, config)
    usual = Splitter({"main": 50, "a": 50}, "d")
    for number in range(100):
        key, _ = swapped.dispatcher.choose(request(b"q=%d" % number))
        assert key != usual.choose(b"%d" % number)


# Case 1: the chosen target is ready and answers -----------------------------------------------------------------------


def test_the_chosen_target_answers_if_it_is_ready() -> None:
    async def test() -> None:
        here = world()
        got = await answer(here)
        assert (got.target.key, got.reason, got.head.body) == ("a", Reason.RANDOM, b"answer")
        assert not here.transports["main"].calls
        assert not here.transports["a"].calls[0].cancelled

    run(test())


def test_an_answer_stays_in_flight_until_its_body_has_been_passed_on() -> None:
    async def test() -> None:
        here = world()
        for count in (1, 2, 3):
            await answer(here)
            assert here.targets["a"].in_flight == count

    run(test())


def test_the_time_until_a_request_was_sent_is_reported_once_for_each_target() -> None:
    async def test() -> None:
        here = world(FakeTransport(GONE), target_wait_s=SOON_S)
        await answer(here)
        assert [target for target, _ in here.observer.waits] == ["a", "main"]
        assert all(seconds >= 0 for _, seconds in here.observer.waits)
        assert here.observer.waits[0][1] >= SOON_S / 2

    run(test())


# Case 2: a canary isn't ready, or takes nothing in time ---------------------------------------------------------------


def test_main_answers_for_a_canary_that_is_not_ready() -> None:
    async def test() -> None:
        here = world(FakeTransport(routable=0))
        got = await answer(here)
        assert (got.target.key, got.reason) == ("main", Reason.FAILOVER)
        assert here.observer.failovers == ["a"]
        assert not here.transports["a"].calls

    run(test())


@pytest.mark.parametrize("script", [GONE, REFUSES], ids=["goes before it takes anything", "refuses"])
def test_main_answers_for_a_canary_that_took_nothing(script: Script) -> None:
    async def test() -> None:
        here = world(FakeTransport(script), target_wait_s=SOON_S)
        got = await answer(here, request(b"q=1", [(b"x-a", b"1")], b"body"))
        assert (got.target.key, got.reason) == ("main", Reason.FAILOVER)
        assert here.observer.failovers == ["a"]
        assert (here.targets["a"].in_flight, here.targets["main"].in_flight) == (0, 1)
        left, taken = here.transports["a"].calls[0], here.transports["main"].calls[0]
        assert left.cancelled
        assert taken.received is not None
        assert (taken.received.query, taken.received.headers, taken.received.body) == (
            b"q=1",
            [(b"x-a", b"1")],
            b"body",
        )
        with pytest.raises(Withdrawn):
            pickle.dumps(left.request)

    run(test())


@pytest.mark.parametrize("of", [world, only_main], ids=["a", "main"])
def test_a_target_whose_replicas_are_all_busy_keeps_its_request_until_the_timeout(of: Callable[..., World]) -> None:
    async def test() -> None:
        targets = {key: target_config(key, timeout_s=5 * SOON_S) for key in ("main", "a")}
        here = of(FakeTransport(FULL), targets=targets, target_wait_s=SOON_S)
        error = await refusal(here)
        assert (error.status, error.reason) == (504, Reason.RANDOM)
        assert here.observer.failovers == here.observer.turned_away == []
        assert here.in_flight == 0

    run(test())


def test_a_request_that_was_sent_is_never_answered_elsewhere_however_long_it_waits() -> None:
    async def test() -> None:
        event = asyncio.Event()
        here = world(FakeTransport(SILENT), target_wait_s=SOON_S)
        waiting = asyncio.ensure_future(answer(here))
        await here.transports["a"].next_call()
        asyncio.get_running_loop().call_later(5 * SOON_S, event.set)
        await event.wait()
        assert not waiting.done()
        assert not here.transports["main"].calls
        waiting.cancel()

    run(test())


# Case 3: main takes nothing, or has no room ---------------------------------------------------------------------------


def test_main_not_ready_is_a_503_and_its_share_is_never_given_to_a_canary() -> None:
    async def test() -> None:
        here = World({"main": FakeTransport(routable=0), "a": FakeTransport()}, user_config({"a": 0}))
        error = await refusal(here)
        assert verdict(error) == (503, "main", "random")
        assert str(error) == "Service Unavailable: main is not ready"
        assert not here.transports["a"].calls
        assert here.observer.failovers == []

    run(test())


@pytest.mark.parametrize("script", [GONE, REFUSES], ids=["goes before it takes anything", "refuses"])
def test_main_taking_nothing_is_a_503(script: Script) -> None:
    async def test() -> None:
        here = only_main(FakeTransport(script), target_wait_s=SOON_S)
        error = await refusal(here)
        assert verdict(error) == (503, "main", "random")
        assert str(error).startswith("Service Unavailable: main took no request: ")
        assert len(here.transports["main"].calls) == 1
        assert here.in_flight == 0

    run(test())


@pytest.mark.parametrize("canary", [FakeTransport, lambda: FakeTransport(GONE)])
def test_a_canary_and_main_both_down_are_a_503_in_the_canarys_name(canary: Any) -> None:
    async def test() -> None:
        here = world(canary(), FakeTransport(routable=0), target_wait_s=SOON_S)
        here.transports["a"].routable = 0
        assert verdict(await refusal(here)) == (503, "a", "failover")
        assert here.observer.failovers == []

    run(test())


@pytest.mark.parametrize("script", [GONE, REFUSES], ids=["goes before it takes anything", "refuses"])
def test_main_taking_nothing_of_a_canarys_is_a_503_in_the_canarys_name(script: Script) -> None:
    async def test() -> None:
        here = world(FakeTransport(GONE), FakeTransport(script), target_wait_s=SOON_S)
        error = await refusal(here)
        assert verdict(error) == (503, "a", "failover")
        assert "a is not ready, and main took no request" in str(error)
        assert here.in_flight == 0
        assert all(call.cancelled for way in here.transports.values() for call in way.calls)

    run(test())


@pytest.mark.parametrize("spare", [0, 1, 2, 5])
def test_main_takes_a_canarys_requests_into_spare_capacity_only(spare: int) -> None:
    async def test() -> None:
        targets = {"main": target_config(capacity=5), "a": target_config("a")}
        here = world(FakeTransport(routable=0), targets=targets)
        here.targets["main"].in_flight = 5 - spare
        for _ in range(spare):
            await answer(here)
        error = await refusal(here)
        assert verdict(error) == (503, "a", "failover")
        assert str(error) == "Service Unavailable: a is not ready, and main has no room for its requests"
        assert len(here.observer.failovers) == spare
        assert here.targets["main"].in_flight == 5

    run(test())


def test_main_has_room_for_its_own_requests_however_many_there_are() -> None:
    async def test() -> None:
        here = only_main(FakeTransport(), targets={"main": target_config(capacity=1)})
        for _ in range(10):
            await answer(here)
        assert here.in_flight == 10

    run(test())


# Case 4: the target has the request -----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["main", "a"])
def test_a_target_that_breaks_with_a_request_is_a_502_and_nobody_else_gets_it(target: str) -> None:
    async def test() -> None:
        weight = 100 if target == "a" else 0
        ways = {key: FakeTransport(*[BREAKS] * (key == target)) for key in ("main", "a")}
        here = World(ways, user_config({"a": weight}))
        error = await refusal(here)
        assert verdict(error) == (502, target, "random")
        assert str(error) == f"Bad Gateway: {target} broke: ActorDiedError: gone"
        assert isinstance(error.__cause__, Broken)
        assert len(ways[target].calls) == 1
        assert not ways["main" if target == "a" else "a"].calls
        assert here.in_flight == 0

    run(test())


def test_main_breaking_with_a_canarys_request_is_a_502_in_mains_name() -> None:
    async def test() -> None:
        here = world(FakeTransport(routable=0), FakeTransport(BREAKS))
        assert verdict(await refusal(here)) == (502, "main", "failover")
        assert here.in_flight == 0

    run(test())


def late(timeout_s: float, **given: Any) -> dict[str, Any]:
    """Return targets that give a response that long."""
    return {key: target_config(key, timeout_s=timeout_s, **given) for key in ("main", "a")}


def test_no_first_byte_in_time_is_a_504_and_nobody_else_gets_the_request() -> None:
    async def test() -> None:
        here = world(FakeTransport(SILENT), targets=late(LATER_S))
        error = await refusal(here)
        assert verdict(error) == (504, "a", "random")
        assert str(error) == "Not able to process the request in 0.3 seconds"
        assert here.transports["a"].calls[0].cancelled
        assert not here.transports["main"].calls
        assert here.in_flight == 0

    run(test())


def test_time_spent_before_the_dispatch_counts() -> None:
    async def test() -> None:
        here = world(FakeTransport(SILENT), targets=late(60))
        assert verdict(await refusal(here, spent_s=60 - LATER_S)) == (504, "a", "random")
        assert len(here.transports["a"].calls) == 1

    run(test())


@pytest.mark.parametrize("spent_s", [60.0, 60.1, 3600.0])
def test_a_request_whose_time_is_over_is_not_sent_at_all(spent_s: float) -> None:
    async def test() -> None:
        here = world(targets=late(60))
        assert verdict(await refusal(here, spent_s=spent_s)) == (504, "a", "random")
        assert not here.transports["a"].calls
        assert here.in_flight == 0

    run(test())


def test_time_that_runs_out_before_the_wait_for_a_replica_is_a_504_and_the_request_is_never_sent() -> None:
    async def test() -> None:
        here = world(FakeTransport(FULL), targets=late(LATER_S), target_wait_s=60)
        assert verdict(await refusal(here)) == (504, "a", "random")
        with pytest.raises(Withdrawn):
            pickle.dumps(here.transports["a"].calls[0].request)

    run(test())


def test_the_time_a_canary_took_is_gone_when_main_answers_for_it() -> None:
    async def test() -> None:
        here = world(FakeTransport(GONE), FakeTransport(SILENT), targets=late(LATER_S), target_wait_s=SOON_S)
        began = asyncio.get_running_loop().time()
        assert verdict(await refusal(here)) == (504, "main", "failover")
        assert asyncio.get_running_loop().time() - began < 1

    run(test())


def test_no_timer_is_left_when_a_request_is_answered() -> None:
    async def test() -> None:
        here = world(FakeTransport(Script(answer=head(more=True))), target_wait_s=SOON_S)
        got = await answer(here)
        over = asyncio.Event()
        asyncio.get_running_loop().call_later(3 * SOON_S, over.set)
        await over.wait()
        assert not here.transports["a"].calls[0].cancelled
        assert got.head.more

    run(test())


# Targets at zero replicas ---------------------------------------------------------------------------------------------


def sleeping(script: Script, **given: Any) -> World:
    a = FakeTransport(script, routable=0, seen=True)
    targets = {"main": target_config(), "a": target_config("a", scales_to_zero=True, **given)}
    return world(a, targets=targets, target_wait_s=SOON_S)


async def waits(seconds: float) -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, over.set)
    await over.wait()


def test_a_request_to_a_target_at_zero_wakes_it_and_its_time_begins_when_it_has_woken() -> None:
    async def test() -> None:
        here = sleeping(Script(answer=head()), timeout_s=LATER_S, cold_start_timeout_s=60)
        a = here.transports["a"]
        waiting = [asyncio.ensure_future(answer(here, spent_s=LATER_S / 2)) for _ in range(50)]
        await waits(2 * LATER_S)
        assert a.waiting == 50, "Serve's autoscaling is told of them"
        assert not a.calls
        assert not any(one.done() for one in waiting)
        a.routable = 1
        assert {(got.target.key, got.reason) for got in await asyncio.gather(*waiting)} == {("a", Reason.RANDOM)}
        assert a.waiting == 0

    run(test())


def test_a_request_that_leaves_while_its_target_wakes_is_not_counted_any_more() -> None:
    async def test() -> None:
        here = sleeping(SILENT)
        waiting = asyncio.ensure_future(answer(here))
        await waits(SOON_S)
        assert here.transports["a"].waiting == 1
        waiting.cancel()
        await asyncio.wait({waiting})
        assert here.transports["a"].waiting == 0

    run(test())


def test_a_target_that_does_not_wake_in_time_gives_its_request_to_main_with_all_its_time() -> None:
    async def test() -> None:
        here = sleeping(GONE, cold_start_timeout_s=3 * SOON_S)
        here.targets["main"].settings = here.settings.targets["main"].model_copy(update={"timeout_s": 2 * SOON_S})
        got = await answer(here)
        assert (got.target.key, got.reason) == ("main", Reason.FAILOVER)

    run(test())


def test_main_that_does_not_wake_in_time_is_a_504_that_says_so() -> None:
    async def test() -> None:
        main = target_config(scales_to_zero=True, cold_start_timeout_s=SOON_S)
        error = await refusal(only_main(FakeTransport(routable=0), targets={"main": main}))
        assert verdict(error) == (504, "main", "random")
        assert str(error) == "Gateway Timeout: main took no request: no replica has started within 0.01 seconds"

    run(test())


def test_a_target_that_turns_out_to_be_broken_while_it_is_woken_gives_its_requests_to_main_at_once() -> None:
    async def test() -> None:
        here = sleeping(ANSWERS, cold_start_timeout_s=60)
        waiting = asyncio.ensure_future(answer(here))
        await waits(SOON_S)
        here.targets["a"].may_sleep = False
        assert (await waiting).target.key == "main"

    run(test())


def test_a_target_that_woke_and_does_not_answer_is_a_504() -> None:
    async def test() -> None:
        here = sleeping(SILENT, timeout_s=SOON_S, cold_start_timeout_s=60)
        waiting = asyncio.ensure_future(refusal(here))
        await waits(5 * SOON_S)
        here.transports["a"].routable = 1
        error = await waiting
        assert verdict(error) == (504, "a", "random")
        assert str(error) == "Not able to process the request in 0.01 seconds"

    run(test())


def test_a_request_that_meets_a_target_just_as_it_falls_asleep_wakes_it_again() -> None:
    async def test() -> None:
        targets = {"main": target_config(), "a": target_config("a", scales_to_zero=True)}
        a = FakeTransport(GONE, ANSWERS)
        here = world(a, targets=targets, target_wait_s=SOON_S)
        waiting = asyncio.ensure_future(answer(here))
        await waits(5 * SOON_S)
        assert (a.waiting, len(a.calls)) == (1, 1)
        a.routable = 1
        assert ((await waiting).target.key, len(a.calls)) == ("a", 2)

    run(test())


def test_a_target_that_never_started_is_not_asleep_so_main_answers_at_once() -> None:
    async def test() -> None:
        here = sleeping(SILENT)
        here.transports["a"].seen = False
        got = await answer(here)
        assert got.target.key == "main"
        assert not here.transports["a"].calls

    run(test())


def test_a_sleeping_main_takes_one_of_a_canarys_requests_at_a_time() -> None:
    async def test() -> None:
        targets = {"main": target_config(scales_to_zero=True), "a": target_config("a")}
        here = world(FakeTransport(routable=0), FakeTransport(routable=0), targets=targets)
        first = asyncio.ensure_future(answer(here))
        await waits(SOON_S)
        assert (await refusal(here)).status == 503
        here.transports["main"].routable = 1
        assert (await first).target.key == "main"

    run(test())


# Many at once ---------------------------------------------------------------------------------------------------------


def test_many_requests_at_once_are_each_sent_exactly_once_and_leave_nothing_in_flight() -> None:
    async def test() -> None:
        scripts = [REFUSES, BREAKS, Script(answer=head()), REFUSES, SILENT] * 20
        targets = {"main": target_config(capacity=1000), "a": target_config("a", timeout_s=LATER_S)}
        here = world(FakeTransport(*scripts), targets=targets, target_wait_s=SOON_S)
        outcomes = await asyncio.gather(*(answer(here) for _ in scripts), return_exceptions=True)
        kinds = Counter(
            outcome.target.key if isinstance(outcome, Answer) else getattr(outcome, "status", outcome)
            for outcome in outcomes
        )
        assert kinds == {"main": 40, "a": 20, 502: 20, 504: 20}
        received = [call for way in here.transports.values() for call in way.calls if call.received]
        assert len(received) == len(scripts)
        assert here.in_flight == 60, "the answers' bodies have not been passed on yet"

    run(test())


# Queues ---------------------------------------------------------------------------------------------------------------


class FakeGate:
    """A queue of which the test says who goes in."""

    def __init__(self) -> None:
        self.holds = True
        self.places: list[FakePlace] = []

    @property
    def depth(self) -> int:
        return sum(not place.told.done() for place in self.places)

    def oldest_s(self, now: float) -> float:
        return 0.0

    def enter(self, arrived: float, spare: bool = False) -> "FakePlace":
        self.places.append(FakePlace(arrived, spare))
        return self.places[-1]


class FakePlace:
    """A place in it."""

    def __init__(self, arrived: float, spare: bool) -> None:
        self.arrived = arrived
        self.spare = spare
        self.told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.left = False

    async def turn(self) -> None:
        await self.told

    def sent(self, call: Any) -> None:
        self.call = call

    def leave(self) -> None:
        self.left = True


def queueing(main: FakeTransport | None = None, **given: Any) -> tuple[World, FakeGate]:
    """Return a Deployment whose main has a queue, and gets every request."""
    here = only_main(main or FakeTransport(), **given)
    gate = here.targets["main"].gate = FakeGate()
    return here, gate


async def started(waiting: "asyncio.Task[Any]", gate: FakeGate, count: int = 1) -> None:
    while len(gate.places) < count:
        assert not waiting.done()
        await asyncio.sleep(0)


def test_a_request_is_sent_when_it_has_its_turn_and_keeps_its_place_until_its_response_has_ended() -> None:
    async def test() -> None:
        here, gate = queueing()
        waiting = asyncio.ensure_future(answer(here))
        await started(waiting, gate)
        await waits(SOON_S)
        assert not here.transports["main"].calls
        gate.places[0].told.set_result(None)
        got = await waiting
        assert not gate.places[0].left
        got.end()
        assert gate.places[0].left
        assert here.in_flight == 0
        assert [target for target, _ in here.observer.queues] == ["main"]

    run(test())


def test_a_request_whose_time_is_over_while_it_waits_for_its_turn_is_a_504_and_leaves_the_queue() -> None:
    async def test() -> None:
        here, gate = queueing(targets={"main": target_config(timeout_s=SOON_S)})
        error = await refusal(here)
        assert (verdict(error), gate.places[0].left) == ((504, "main", "random"), True)
        assert str(error) == "Not able to process the request in 0.01 seconds"
        assert not here.transports["main"].calls

    run(test())


def test_a_request_whose_time_is_over_at_a_replica_is_cancelled_there_and_gives_its_slot_back() -> None:
    async def test() -> None:
        here, gate = queueing(FakeTransport(SILENT), targets={"main": target_config(timeout_s=LATER_S)})
        waiting = asyncio.ensure_future(refusal(here))
        await started(waiting, gate)
        gate.places[0].told.set_result(None)
        assert (await waiting).status == 504
        assert here.transports["main"].calls[0].cancelled
        assert gate.places[0].left

    run(test())


def test_a_client_that_leaves_gives_its_place_up() -> None:
    async def test() -> None:
        here, gate = queueing()
        waiting = asyncio.ensure_future(answer(here))
        await started(waiting, gate)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert gate.places[0].left
        assert here.in_flight == 0

    run(test())


def test_a_body_that_is_slow_to_come_holds_no_place_in_the_queue_until_it_is_there() -> None:
    async def test() -> None:
        here, gate = queueing()
        more = asyncio.Event()

        async def rest() -> AsyncIterator[bytes]:
            await more.wait()
            yield b"last"

        slow = request(body=b"first, ")
        slow.rest = rest()
        waiting = asyncio.ensure_future(answer(here, slow, spent_s=1))
        quick = asyncio.ensure_future(answer(here))
        await started(quick, gate)
        assert len(gate.places) == 1
        gate.places[0].told.set_result(None)
        await quick
        more.set()
        await started(waiting, gate, 2)
        assert gate.places[1].arrived < gate.places[0].arrived, "it is where it would be had it been sent at once"
        gate.places[1].told.set_result(None)
        await waiting
        assert here.transports["main"].calls[1].request.body == b"first, last"

    run(test())


def test_no_more_bodies_are_taken_in_than_there_are_places() -> None:
    """A full queue would refuse them once they are there; until then they would fill the ingress's memory."""

    async def test() -> None:
        here, gate = queueing(targets={"main": target_config(capacity=2, max_queue_depth=3)})

        async def rest() -> AsyncIterator[bytes]:
            await asyncio.Event().wait()
            yield b""

        def upload() -> "asyncio.Task[Any]":
            slow = request(body=b"first, ")
            slow.rest = rest()
            return asyncio.ensure_future(answer(here, slow))

        taken = [upload() for _ in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(Unanswered) as refused:
            await upload()
        assert (refused.value.status, refused.value.retry_after_s) == (429, 1)
        assert not gate.places
        for each in taken:
            each.cancel()
        await asyncio.gather(*taken, return_exceptions=True)
        assert here.targets["main"].receiving == 0

    run(test())


def test_a_full_queue_is_a_429_that_says_when_to_come_again() -> None:
    async def test() -> None:
        here, gate = queueing()
        waiting = asyncio.ensure_future(refusal(here))
        await started(waiting, gate)
        gate.places[0].told.set_exception(Full(7))
        error = await waiting
        assert (verdict(error), error.retry_after_s) == ((429, "main", "random"), 7)
        assert here.observer.full == ["main"]
        assert gate.places[0].left

    run(test())


def test_the_client_sees_the_429_in_bentomls_shape() -> None:
    async def test() -> None:
        here, gate = queueing()
        waiting = asyncio.ensure_future(here.get())
        await started(waiting, gate)
        gate.places[0].told.set_exception(Full(7))
        client = await waiting
        assert (client.status, client.header(b"retry-after")) == (429, [b"7"])
        assert client.body == b'{"error": "Too many requests: the queue of main is full"}'

    run(test())


def test_a_queue_keeps_its_requests_while_its_target_has_no_replica() -> None:
    async def test() -> None:
        main = FakeTransport(GONE, ANSWERS)
        here, gate = queueing(main, target_wait_s=SOON_S)
        waiting = asyncio.ensure_future(answer(here))
        await started(waiting, gate)
        gate.places[0].told.set_result(None)
        await started(waiting, gate, 2)
        assert gate.places[0].left
        assert gate.places[1].arrived == gate.places[0].arrived, "it is in its old place again"
        late = asyncio.ensure_future(answer(here))
        await started(late, gate, 3)
        main.routable = 1
        for place in gate.places[1:]:
            place.told.set_result(None)
        assert [(await one).target.key for one in (waiting, late)] == ["main", "main"]

    run(test())


def test_nobody_waits_in_the_queue_of_a_target_that_never_had_a_replica() -> None:
    async def test() -> None:
        here, gate = queueing(FakeTransport(routable=0, seen=False))
        assert (await refusal(here)).status == 503
        assert not gate.places

    run(test())


def test_a_request_meant_for_another_gets_a_slot_of_mains_that_is_free_or_none() -> None:
    async def test() -> None:
        here = world(FakeTransport(routable=0))
        gate = here.targets["main"].gate = FakeGate()
        waiting = [asyncio.ensure_future(answer(here)) for _ in range(2)]
        await started(waiting[0], gate, 2)
        assert [place.spare for place in gate.places] == [True, True]
        gate.places[0].told.set_result(None)
        gate.places[1].told.set_exception(Full(9))
        assert (await waiting[0]).reason is Reason.FAILOVER
        with pytest.raises(Unanswered) as caught:
            await waiting[1]
        assert verdict(caught.value) == (503, "a", "failover")
        assert (here.observer.failovers, here.observer.turned_away, here.observer.full) == (["a"], ["a"], [])

    run(test())


def test_a_queue_that_is_taken_away_gives_a_canarys_requests_to_main() -> None:
    async def test() -> None:
        here = world()
        gate = here.targets["a"].gate = FakeGate()
        waiting = asyncio.ensure_future(answer(here))
        await started(waiting, gate)
        gate.holds = False
        gate.places[0].told.set_exception(Closed())
        assert (await waiting).target.key == "main"

    run(test())


def test_a_queue_that_is_switched_off_lets_its_requests_go_on_without_one() -> None:
    async def test() -> None:
        here, gate = queueing()
        waiting = asyncio.ensure_future(answer(here))
        await started(waiting, gate)
        here.targets["main"].gate = OPEN
        gate.holds = False
        gate.places[0].told.set_exception(Closed())
        assert (await waiting).target.key == "main"

    run(test())


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz", "/metrics"])
def test_a_question_about_health_does_not_wait_in_the_queue(path: str) -> None:
    async def test() -> None:
        here, gate = queueing()
        asked = Request("GET", path, path.encode(), b"", [], b"")
        assert (await answer(here, asked)).target.key == "main"
        assert not gate.places

    run(test())


def test_a_request_that_met_a_broken_replica_keeps_its_slot_until_serve_has_noticed() -> None:
    async def test() -> None:
        here, gate = queueing(FakeTransport(BREAKS))
        waiting = asyncio.ensure_future(refusal(here))
        await started(waiting, gate)
        gate.places[0].told.set_result(None)
        assert (await waiting).status == 502
        assert not gate.places[0].left
        await waits(0.6)
        assert gate.places[0].left

    run(test())


@pytest.mark.parametrize(("path", "counted"), [("/readyz", 1), ("/summarize", 0)])
def test_a_sleeping_target_with_a_queue_is_woken_by_the_queue_or_by_whoever_passes_by_it(
    path: str, counted: int
) -> None:
    async def test() -> None:
        main = FakeTransport(routable=0)
        here, gate = queueing(main, targets={"main": target_config(scales_to_zero=True)})
        asked = Request("GET", path, path.encode(), b"", [], b"")
        waiting = asyncio.ensure_future(answer(here, asked))
        await waits(SOON_S)
        assert main.waiting == counted
        assert len(gate.places) == 1 - counted
        main.routable = 1
        for place in gate.places:
            place.told.set_result(None)
        assert (await waiting).target.key == "main"

    run(test())
