"""An ingress replica's side of a target's queue.

However many requests come, one report is under way at a time: what happens meanwhile travels with the next one. Grants
come with the reply, and through one call that waits for them. So the number of calls is bounded by round trips and not
by requests.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from enum import Enum
from itertools import count
from typing import Final, Protocol
from uuid import uuid4

from ray_canary.serving.gate import Closed, Full
from ray_canary.serving.queue import Limits, Reply, Report
from ray_canary.serving.transport import Call

logger = logging.getLogger("ray.serve")

#: Seconds between two looks at how many replicas there are.
LOOK_EVERY_S: Final = 0.1
#: Looks between two for requests at replicas that take no others any more.
LOOKS_FOR_DRAINING: Final = 10
#: Seconds between two attempts to reach the queue.
AGAIN_AFTER_S: Final = 0.1
#: Seconds that a call to the queue may take before it counts as lost.
CALL_LIMIT_S: Final = 5.0
#: Seconds without a queue after which requests go on without one: Serve still holds `concurrency`, in no fair order.
OPEN_AFTER_S: Final = 10.0


class Desk(Protocol):
    """The queue, as a client reaches it. Both calls return None to a client that it doesn't know, and may raise."""

    async def report(self, client: str, report: Report) -> Reply | None:
        """Tell what is new; return what is new."""

    async def listen(self, client: str, session: int, clock: float) -> Reply | None:
        """Wait, for a second at most, for something new; `clock` is the client's own, now."""


class Waited(Protocol):
    """The target behind the queue: how many replicas it has, and who wants to know that requests wait for it."""

    @property
    def routable(self) -> int:
        """How many replicas can take a request now."""

    def waits(self, by: int) -> None:
        """Count `by` more requests as waiting for this target, for its autoscaling."""

    def drains(self, call: Call) -> bool:
        """Whether the replica that has `call` takes no other ones any more."""


class _State(Enum):
    WAITING = "waiting"
    GRANTED = "granted"
    OVER = "over"


class _Unknown(Exception):
    """The queue doesn't know this client, or not in this conversation."""


class TicketPlace:
    """One request's place in the queue."""

    __slots__ = ("_client", "arrived", "call", "spare", "state", "ticket", "told")

    def __init__(self, client: "QueueClient", ticket: int, arrived: float, spare: bool) -> None:
        self._client = client
        self.ticket = ticket
        self.arrived = arrived
        self.spare = spare
        self.state = _State.WAITING
        self.call: Call | None = None
        self.told: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def turn(self) -> None:
        """Wait until the request may be sent. Raises `Full` or `Closed`."""
        await self.told

    def send_away(self, reason: Exception) -> None:
        """Let the request know that it gets no turn."""
        self.state = _State.OVER
        if not self.told.done():
            self.told.set_exception(reason)
            self.told.exception()  # Its client may have left at this moment: then nobody else asks.

    def sent(self, call: Call) -> None:
        """Note that the request is under way."""
        self.call = call

    def leave(self) -> None:
        """Give the place up."""
        self._client.left(self)


class QueueClient:
    """The gate in front of one target: its requests' places, and the conversation with the queue about them."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Desk]],
        target: Waited,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to talk to the queue that `connect` reaches; needs a running event loop."""
        self.limits = limits
        self.name = uuid4().hex
        self._connect = connect
        self._target = target
        self._clock = clock
        self._tickets = count()
        self._sessions = count(1)
        self._session = 0
        self._places: dict[int, TicketPlace] = {}
        self._waiting = 0
        # What the queue has yet to be told.
        self._came: list[TicketPlace] = []
        self._ended: list[int] = []
        self._told_routable = 0
        self._news = asyncio.Event()
        #: Since when there has been no queue, by `clock`; None while there is one.
        self._lost_since: float | None = clock()
        self._closed = False
        self._talking = asyncio.get_running_loop().create_task(self._talk())

    # What requests do. ----------------------------------------------------------------------------------------------

    @property
    def holds(self) -> bool:
        """Whether requests wait here."""
        return not self._closed

    @property
    def depth(self) -> int:
        """How many requests of this process wait here."""
        return self._waiting

    def oldest_s(self, now: float) -> float:
        """Return how many seconds the oldest of them has waited."""
        arrivals = (place.arrived for place in self._places.values() if place.state is _State.WAITING)
        return max(0.0, now - min(arrivals, default=now))

    def enter(self, arrived: float, spare: bool = False) -> TicketPlace:
        """Take a place for a request that arrived at `arrived`; one that is `spare` takes it at once or not at all."""
        place = TicketPlace(self, next(self._tickets), arrived, spare)
        if self._closed:
            place.send_away(Closed())
        elif spare and self._lost_since is not None:
            place.send_away(Full(1))
        else:
            self._places[place.ticket] = place
            self._waiting += 1
            self._target.waits(1)
            self._came.append(place)
            self._news.set()
            self._open_if_lost()
        return place

    def left(self, place: TicketPlace) -> None:
        """Take back the place of a request that is answered, has failed, or whose client has left."""
        if self._places.pop(place.ticket, None) is None:
            return
        self._settle(place, _State.OVER)
        self._ended.append(place.ticket)
        self._news.set()

    def change(self, limits: Limits) -> None:
        """Go on with other limits."""
        if limits != self.limits:
            self.limits = limits
            self._news.set()

    def close(self) -> None:
        """Let nobody else in, and send away who waits; what has a slot keeps it."""
        self._closed = True
        for place in self._of(_State.WAITING):
            self._end(place, Closed())
        self._news.set()

    def _of(self, state: _State) -> list[TicketPlace]:
        return [place for place in self._places.values() if place.state is state]

    def _settle(self, place: TicketPlace, state: _State) -> None:
        if place.state is _State.WAITING:
            self._waiting -= 1
            self._target.waits(-1)
        place.state = state

    def _grant(self, place: TicketPlace) -> None:
        self._settle(place, _State.GRANTED)
        if not place.told.done():
            place.told.set_result(None)

    def _end(self, place: TicketPlace, reason: Exception) -> None:
        """Send a request away that waits."""
        del self._places[place.ticket]
        self._settle(place, _State.OVER)
        self._ended.append(place.ticket)
        place.send_away(reason)

    # The conversation. ----------------------------------------------------------------------------------------------

    async def _talk(self) -> None:
        while not (self._closed and not self._places):
            try:
                async with asyncio.timeout(CALL_LIMIT_S):
                    desk = await self._connect()
                await self._converse(desk)
            except* _Unknown:
                logger.info("The queue of a version doesn't know this ingress replica any more; telling it all.")
            except* Exception as failures:
                # Whatever Ray raises for a queue that has died, and for one that can't be reached.
                logger.warning("The queue of a version is lost, a new one is made: %r", failures.exceptions[0])
                self._lost_since = self._clock() if self._lost_since is None else self._lost_since
                self._open_if_lost()
                await asyncio.sleep(AGAIN_AFTER_S)

    async def _converse(self, desk: Desk) -> None:
        """Say all there is to say, and go on until the queue is lost or this gate is closed and empty."""
        self._session = next(self._sessions)
        # Nobody knows what became of those, and they would not wait.
        for place in [place for place in self._of(_State.WAITING) if place.spare]:
            self._end(place, Full(1))
        await self._tell(desk, whole=True)
        self._lost_since = None
        async with asyncio.TaskGroup() as group:
            others = [group.create_task(self._listen(desk)), group.create_task(self._look())]
            await self._report(desk)
            for other in others:
                other.cancel()

    async def _report(self, desk: Desk) -> None:
        while not (self._closed and not self._places and not self._ended):
            await self._news.wait()
            await self._tell(desk, whole=False)

    async def _tell(self, desk: Desk, *, whole: bool) -> None:
        self._news.clear()
        report = self._taken(whole)
        async with asyncio.timeout(CALL_LIMIT_S):
            reply = await desk.report(self.name, report)
        self._hear(reply, report.session)

    def _taken(self, whole: bool) -> Report:
        """Return what there is to say, and count it as said."""
        came, self._came = self._came, []
        ended, self._ended = self._ended, []
        if whole:
            came, ended = self._of(_State.WAITING), []
        came = [place for place in came if place.state is _State.WAITING]
        self._told_routable = self._target.routable
        return Report(
            session=self._session,
            clock=self._clock(),
            routable=self._told_routable,
            limits=self.limits,
            waiting=tuple((place.ticket, place.arrived) for place in came if not place.spare),
            spare=tuple(place.ticket for place in came if place.spare),
            ended=tuple(ended),
            held=tuple(place.ticket for place in self._of(_State.GRANTED)) if whole else (),
            whole=whole,
        )

    async def _listen(self, desk: Desk) -> None:
        while True:
            session = self._session
            async with asyncio.timeout(CALL_LIMIT_S):
                reply = await desk.listen(self.name, session, self._clock())
            self._hear(reply, session)

    async def _look(self) -> None:
        looks = 0
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            looks += 1
            changed = self._target.routable != self._told_routable
            if changed:
                self._news.set()
            if changed or looks % LOOKS_FOR_DRAINING == 0:
                self._let_go_of_draining()

    def _let_go_of_draining(self) -> None:
        """Free the slots of requests whose replica is on its way out: who replaces it has room of its own."""
        for place in self._of(_State.GRANTED):
            if place.call is not None and self._target.drains(place.call):
                self.left(place)

    def _hear(self, reply: Reply | None, session: int) -> None:
        if reply is None:
            raise _Unknown
        if session != self._session:
            return
        for ticket in reply.granted:
            if (place := self._places.get(ticket)) is not None:
                self._grant(place)
        for ticket in reply.refused:
            if (place := self._places.get(ticket)) is not None:
                self._end(place, Full(reply.retry_after_s))

    def _open_if_lost(self) -> None:
        """Let everybody through if there has been no queue for long."""
        if self._lost_since is not None and self._clock() - self._lost_since > OPEN_AFTER_S:
            for place in self._of(_State.WAITING):
                self._grant(place)
