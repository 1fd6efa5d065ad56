"""An ingress replica's side of the queue: places come and go in few calls, and outlive the queue itself."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ray_canary.serving import queue_client
from ray_canary.serving.gate import Closed, Full
from ray_canary.serving.queue import Limits, Reply, Report, Tickets
from ray_canary.serving.queue_client import QueueClient, TicketPlace
from tests.unit.serving.fakes import FakeTransport, request, run, settle


class FakeDesk:
    """A queue in this process. It dies on command, and can be slow."""

    def __init__(self) -> None:
        self.tickets = Tickets(0.0)
        self.calls = 0
        self.alive = True
        self.open = asyncio.Event()
        self.open.set()
        self._news: dict[str, asyncio.Event] = {}

    async def report(self, client: str, report: Report) -> Reply | None:
        self.calls += 1
        await self.open.wait()
        self._check()
        if not self.tickets.hear(client, report, report.clock):
            return None
        reply = self.tickets.take(client, report.clock)
        for other, news in self._news.items():
            if self.tickets.has_news(other):
                news.set()
        return reply

    async def listen(self, client: str, session: int, clock: float) -> Reply | None:
        self._check()
        if not self.tickets.listens(client, session, clock, clock):
            return None
        news = self._news[client] = asyncio.Event()
        await news.wait()
        self._check()
        return self.tickets.take(client, clock)

    def die(self) -> None:
        self.alive = False
        self.open.set()
        for news in self._news.values():
            news.set()

    def _check(self) -> None:
        if not self.alive:
            raise ConnectionError("the actor died")


class World:
    """Queues, one after the other, and clients of the one that lives."""

    def __init__(self, concurrency: int = 2, max_depth: int = 1000) -> None:
        self.limits = Limits(concurrency, max_depth)
        self.desks = [FakeDesk()]
        self.made: list[QueueClient] = []
        self.reachable = True

    async def connect(self) -> FakeDesk:
        if not self.reachable:
            raise ConnectionError("no such actor")
        if not self.desks[-1].alive:
            self.desks.append(FakeDesk())
        return self.desks[-1]

    def client(self, transport: FakeTransport | None = None, clock: Callable[[], float] | None = None) -> QueueClient:
        given = {"clock": clock} if clock else {}
        client = QueueClient(self.connect, transport or FakeTransport(), self.limits, **given)
        self.made.append(client)
        return client

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0)


def play(scene: Callable[[World], Coroutine[Any, Any, None]], **given: Any) -> None:
    """Run a scene, and end what its clients have going."""

    async def whole() -> None:
        here = World(**given)
        try:
            await scene(here)
        finally:
            for client in here.made:
                client._talking.cancel()
            await asyncio.wait([client._talking for client in here.made])

    run(whole())


def has_turn(place: TicketPlace) -> bool:
    return place.told.done() and place.told.exception() is None


def turns(places: list[TicketPlace]) -> list[int]:
    return [index for index, place in enumerate(places) if has_turn(place)]


def enter(client: QueueClient, count: int) -> list[TicketPlace]:
    return [client.enter(arrived=float(number)) for number in range(count)]


def test_places_get_their_turns_in_order_as_others_leave() -> None:
    async def scene(here: World) -> None:
        places = enter(here.client(), 5)
        await here.until(lambda: turns(places) == [0, 1])
        places[0].leave()
        await here.until(lambda: turns(places) == [0, 1, 2])
        await places[2].turn()

    play(scene)


def test_a_thousand_requests_while_a_report_is_under_way_are_one_report() -> None:
    async def scene(here: World) -> None:
        client = here.client()
        await here.until(lambda: here.desks[0].calls == 1)
        here.desks[0].open.clear()
        enter(client, 1)
        await here.until(lambda: here.desks[0].calls == 2)
        enter(client, 1000)
        here.desks[0].open.set()
        await here.until(lambda: here.desks[0].tickets.depth == 999)
        assert here.desks[0].calls == 3

    play(scene)


def test_a_place_that_is_left_while_it_waits_frees_the_queue_at_once() -> None:
    async def scene(here: World) -> None:
        transport = FakeTransport()
        client = here.client(transport)
        places = enter(client, 4)
        await here.until(lambda: turns(places) == [0, 1])
        places[2].leave()
        places[2].leave()
        await here.until(lambda: here.desks[0].tickets.depth == 1)
        assert (client.depth, transport.waiting) == (1, 1)
        places[0].leave()
        await here.until(lambda: turns(places) == [0, 1, 3])
        assert (client.depth, transport.waiting) == (0, 0)

    play(scene)


def test_a_place_whose_request_is_cancelled_as_its_turn_comes_gives_the_slot_back() -> None:
    async def scene(here: World) -> None:
        places = enter(here.client(), 3)
        await here.until(lambda: turns(places) == [0, 1])
        waiting = asyncio.ensure_future(places[2].turn())
        await settle()
        places[0].leave()
        waiting.cancel()
        await asyncio.wait({waiting})
        places[2].leave()
        await here.until(lambda: here.desks[0].tickets.held == 1 and here.desks[0].tickets.depth == 0)

    play(scene)


def test_a_full_queue_sends_the_newest_away() -> None:
    async def scene(here: World) -> None:
        client = here.client()
        await here.until(lambda: here.desks[0].calls == 1)
        places = enter(client, 4)
        with pytest.raises(Full) as caught:
            await places[3].turn()
        assert caught.value.retry_after_s == 1
        assert turns(places) == [0, 1]

    play(scene, max_depth=1)


def test_a_spare_request_takes_a_free_slot_and_is_sent_away_where_there_is_none() -> None:
    async def scene(here: World) -> None:
        client = here.client()
        await here.until(lambda: here.desks[0].calls == 1)
        await settle()
        spare = [client.enter(0.0, spare=True) for _ in range(3)]
        await spare[0].turn()
        await spare[1].turn()
        with pytest.raises(Full):
            await spare[2].turn()

    play(scene)


def test_a_queue_that_dies_loses_nobody_and_gives_nobody_a_second_turn() -> None:
    async def scene(here: World) -> None:
        one, two = here.client(), here.client()
        first = enter(one, 5)
        await here.until(lambda: turns(first) == [0, 1])
        second = enter(two, 5)
        await here.until(lambda: here.desks[0].tickets.depth == 8)
        here.desks[0].die()
        first[1].leave()
        await here.until(lambda: len(here.desks) == 2 and len(here.desks[1].tickets.clients) == 2)
        await here.until(lambda: here.desks[1].tickets.held == 2 and here.desks[1].tickets.depth == 7)
        assert len(turns(first)) + len(turns(second)) == 3, "two before it died, and one since a place was left"
        for _ in range(20):
            for place in (*first, *second):
                if has_turn(place):
                    place.leave()
            await settle()
        await here.until(lambda: len(turns(first)) == len(turns(second)) == 5)

    play(scene)


def test_a_client_that_the_queue_has_forgotten_says_everything_again() -> None:
    async def scene(here: World) -> None:
        client = here.client()
        places = enter(client, 3)
        await here.until(lambda: turns(places) == [0, 1])
        here.desks[0].tickets = Tickets(0.0)
        places.append(client.enter(9.0))
        await here.until(lambda: here.desks[0].tickets.held == 2 and here.desks[0].tickets.depth == 2)

    play(scene)


def test_replicas_that_come_are_noticed() -> None:
    async def scene(here: World) -> None:
        transport = FakeTransport(routable=0)
        places = enter(here.client(transport), 3)
        await here.until(lambda: here.desks[0].tickets.depth == 3)
        transport.routable = 1
        await here.until(lambda: turns(places) == [0, 1])

    play(scene)


def test_a_request_at_a_replica_that_is_being_replaced_holds_no_slot_of_the_new_one() -> None:
    async def scene(here: World) -> None:
        transport = FakeTransport()
        client = here.client(transport)
        places = enter(client, 3)
        await here.until(lambda: turns(places) == [0, 1])
        long, short = transport.send(request()), transport.send(request())
        places[0].sent(long)
        places[1].sent(short)
        transport.draining = [long]
        transport.routable = 2
        await here.until(lambda: turns(places) == [0, 1, 2])
        await here.until(lambda: here.desks[0].tickets.held == 2)
        places[0].leave()
        await settle()
        assert here.desks[0].tickets.held == 2

    play(scene)


def test_requests_go_on_without_a_queue_when_none_can_be_had_for_long() -> None:
    async def scene(here: World) -> None:
        now = [0.0]
        here.reachable = False
        client = here.client(clock=lambda: now[0])
        places = enter(client, 3)
        await settle()
        assert turns(places) == []
        now[0] = queue_client.OPEN_AFTER_S + 1
        places += enter(client, 1)
        assert turns(places) == [0, 1, 2, 3]
        here.reachable = True
        await here.until(lambda: here.desks[0].tickets.held == 4)
        late = enter(client, 1)
        await here.until(lambda: here.desks[0].tickets.depth == 1)
        assert turns(late) == [], "what went without a queue holds its slots"

    play(scene)


def test_a_queue_that_is_closed_sends_away_who_waits_and_keeps_who_has_a_slot() -> None:
    async def scene(here: World) -> None:
        client = here.client()
        places = enter(client, 3)
        await here.until(lambda: turns(places) == [0, 1])
        client.close()
        with pytest.raises(Closed):
            await places[2].turn()
        with pytest.raises(Closed):
            await client.enter(0.0).turn()
        assert not client.holds
        await here.until(lambda: here.desks[0].tickets.depth == 0)
        assert here.desks[0].tickets.held == 2
        places[0].leave()
        places[1].leave()
        await here.until(client._talking.done)
        assert here.desks[0].tickets.held == 0

    play(scene)


def test_other_limits_are_in_force_at_once() -> None:
    async def scene(here: World) -> None:
        client = here.client()
        places = enter(client, 5)
        await here.until(lambda: turns(places) == [0, 1])
        client.change(Limits(4, 1000))
        await here.until(lambda: turns(places) == [0, 1, 2, 3])

    play(scene)


def test_the_age_of_the_oldest_is_that_of_who_waits_and_not_of_who_has_a_slot() -> None:
    async def scene(here: World) -> None:
        client = here.client()
        assert client.oldest_s(10.0) == 0.0
        places = enter(client, 4)
        await here.until(lambda: turns(places) == [0, 1])
        assert (client.depth, client.oldest_s(10.0)) == (2, 8.0)

    play(scene)
