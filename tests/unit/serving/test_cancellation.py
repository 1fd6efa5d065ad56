"""The client leaves: wherever its request is, the work ends, nothing stays in flight and no task is left."""

import asyncio
import pickle

import pytest

from ray_canary.serving.wire import Withdrawn
from tests.unit.serving.fakes import (
    FULL,
    SILENT,
    Client,
    FakeTransport,
    Script,
    World,
    head,
    http_scope,
    others,
    run,
    settle,
    target_config,
    user_config,
)

COUNTS = [0, 1, 2, 50]


def world(script: Script, main: Script = SILENT) -> World:
    """Return a Deployment whose canary `a` gets every request."""
    targets = {"main": target_config(capacity=100), "a": target_config("a")}
    ways = {"main": FakeTransport(main), "a": FakeTransport(script)}
    return World(ways, user_config({"a": 100}, targets=targets, target_wait_s=60))


def start(here: World, client: Client) -> asyncio.Task[None]:
    async def serve() -> None:
        await here.app(http_scope(), client.receive, client.send)

    return asyncio.get_running_loop().create_task(serve())


async def leave(*serving: asyncio.Task[None]) -> None:
    """Cancel requests, as Serve does when their clients leave, and see that they end as cancelled."""
    for task in serving:
        task.cancel()
    for outcome in await asyncio.gather(*serving, return_exceptions=True):
        assert isinstance(outcome, asyncio.CancelledError)
    await settle()
    assert not others()


def all_cancelled(here: World, target: str, count: int) -> bool:
    calls = here.transports[target].calls
    return len(calls) == count and all(call.cancelled for call in calls)


@pytest.mark.parametrize("count", COUNTS)
def test_leaving_while_the_body_is_read_asks_nobody(count: int) -> None:
    async def test() -> None:
        here, clients = world(SILENT), [Client(b"part", complete=False) for _ in range(count)]
        serving = [start(here, client) for client in clients]
        for client in clients:
            await client.reading.wait()
        await leave(*serving)
        assert all_cancelled(here, "a", 0)
        assert here.in_flight == 0
        assert [client.sent for client in clients] == [[]] * count

    run(test())


@pytest.mark.parametrize("script", [SILENT, FULL], ids=["taken", "not taken"])
@pytest.mark.parametrize("count", COUNTS)
def test_leaving_while_a_head_is_waited_for_cancels_the_call(count: int, script: Script) -> None:
    async def test() -> None:
        here, clients = world(script), [Client() for _ in range(count)]
        serving = [start(here, client) for client in clients]
        await settle()
        assert here.in_flight == count
        await leave(*serving)
        assert all_cancelled(here, "a", count)
        assert all_cancelled(here, "main", 0)
        assert here.in_flight == 0
        assert here.records == []
        assert [client.sent for client in clients] == [[]] * count

    run(test())


def test_what_had_not_been_sent_when_the_client_left_is_never_sent() -> None:
    async def test() -> None:
        here = world(FULL)
        serving = start(here, Client())
        call = await here.transports["a"].next_call()
        await leave(serving)
        with pytest.raises(Withdrawn):
            pickle.dumps(call.request)

    run(test())


@pytest.mark.parametrize("count", COUNTS)
def test_leaving_while_main_answers_for_a_canary_cancels_mains_call(count: int) -> None:
    async def test() -> None:
        here = world(SILENT)
        here.transports["a"].routable = 0
        serving = [start(here, Client()) for _ in range(count)]
        await settle()
        assert here.targets["main"].in_flight == count
        await leave(*serving)
        assert all_cancelled(here, "main", count)
        assert here.in_flight == 0

    run(test())


@pytest.mark.parametrize("pieces", [0, 1, 2, 10])
@pytest.mark.parametrize("count", COUNTS)
def test_leaving_in_mid_stream_cancels_the_call(count: int, pieces: int) -> None:
    async def test() -> None:
        never = asyncio.Event()
        here = world(Script(answer=head(b"first", more=True), parts=[*[b"x"] * pieces, never]))
        clients = [Client() for _ in range(count)]
        serving = [start(here, client) for client in clients]
        for client in clients:
            await client.got(2 + pieces)
        assert here.in_flight == count
        await leave(*serving)
        assert all_cancelled(here, "a", count)
        assert here.in_flight == 0
        assert all(client.status == 200 and client.sent[-1]["more_body"] for client in clients)

    run(test())


@pytest.mark.parametrize("first", [b"", b"first"])
def test_leaving_while_a_piece_is_sent_cancels_the_call(first: bytes) -> None:
    async def test() -> None:
        here = world(Script(answer=head(first, more=True), parts=[b"one", b"two"]))
        client = Client(gate=asyncio.Event())
        serving = start(here, client)
        await client.got(2)
        await leave(serving)
        assert all_cancelled(here, "a", 1)
        assert here.in_flight == 0

    run(test())


def test_leaving_while_a_plain_body_is_sent_has_nothing_left_to_cancel() -> None:
    async def test() -> None:
        here, client = world(Script(answer=head(b"all"))), Client(gate=asyncio.Event())
        serving = start(here, client)
        await client.got(2)
        await leave(serving)
        assert all_cancelled(here, "a", 1) is False
        assert here.in_flight == 0

    run(test())


def test_leaving_at_the_moment_of_the_answer_leaves_nothing_behind() -> None:
    async def test() -> None:
        gate = asyncio.Event()
        here = world(Script(answer=head(more=True), parts=[gate]))
        for steps in range(12):
            serving = start(here, Client())
            for _ in range(steps):
                await asyncio.sleep(0)
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            assert here.in_flight == 0
        await settle()
        assert not others()
        assert all(call.cancelled for call in here.transports["a"].calls)

    run(test())


def test_one_client_that_leaves_does_not_disturb_the_others() -> None:
    async def test() -> None:
        gate = asyncio.Event()
        here = world(Script(answer=head(b"first", more=True), parts=[gate, b"last"]))
        clients = [Client() for _ in range(3)]
        serving = [start(here, client) for client in clients]
        for client in clients:
            await client.got(2)
        serving[1].cancel()
        await settle()
        assert here.in_flight == 2
        gate.set()
        await asyncio.gather(serving[0], serving[2])
        assert [clients[0].body, clients[2].body] == [b"firstlast"] * 2
        assert [call.cancelled for call in here.transports["a"].calls] == [False, True, False]
        assert here.in_flight == 0

    run(test())


def test_leaving_while_an_error_is_sent_leaves_nothing_in_flight() -> None:
    async def test() -> None:
        here, client = world(SILENT), Client(gate=asyncio.Event())
        for way in here.transports.values():
            way.routable = 0
        serving = start(here, client)
        await client.got(2)
        await leave(serving)
        assert client.status == 503
        assert here.in_flight == 0

    run(test())
