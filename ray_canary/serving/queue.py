"""Who may go next: one first-come-first-served queue for a target, whichever ingress replica a request came to.

No Ray and no clock in here: `queue_actor.py` runs it, `queue_client.py` is an ingress replica's side of it. Tickets
travel, requests don't: a ticket is a number that its client made up, and a grant is no more than permission.

Every client tells arrivals by its own monotonic clock. Of each we keep the smallest distance to our own clock that a
report has shown, which is the clocks' difference and the quickest way here. So tickets are ordered across machines
whose clocks differ, to within the time that a report takes (milliseconds), and exactly within one client.
"""

import heapq
import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

#: Seconds without a sign of life after which a client is taken for gone: its tickets are dropped, its slots are free.
SILENCE_S: Final = 3.0
#: Seconds that a new queue waits at most for the clients of one that died to say what they hold, before it grants.
SETTLE_S: Final = 1.0
#: Releases that the drain rate is measured over, and the longest `Retry-After`, in seconds.
_RELEASES: Final = 200
_LONGEST_RETRY_S: Final = 60


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a target's queue, as a client has it from its settings."""

    concurrency: int
    max_depth: int
    #: How many clients there should be.
    clients: int = 1


@dataclass(frozen=True, slots=True)
class Report:
    """What a client says: all that is new since its last report, or everything there is to say.

    A client gives each conversation a number of its own and begins it with a `whole` report, which replaces whatever
    was known of it. `clock` and arrivals are on the client's clock, in seconds.
    """

    session: int
    clock: float
    routable: int
    limits: Limits
    #: Tickets that came, and when.
    waiting: tuple[tuple[int, float], ...] = ()
    #: Tickets that want a slot only if one is free and nobody waits.
    spare: tuple[int, ...] = ()
    #: Tickets that are through with their slot, or have left the queue.
    ended: tuple[int, ...] = ()
    #: Of a whole report: tickets that have a slot.
    held: tuple[int, ...] = ()
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What a client is told."""

    granted: tuple[int, ...] = ()
    refused: tuple[int, ...] = ()
    #: Seconds after which a refused client may try again.
    retry_after_s: int = 1


@dataclass(slots=True)
class _Client:
    """One ingress replica: what it has, and what it has yet to be told."""

    session: int
    heard: float
    ahead: float
    routable: int = 0
    waiting: dict[int, float] = field(default_factory=dict)
    #: (arrival, ticket) of all that wait, and of some that wait no more.
    order: list[tuple[float, int]] = field(default_factory=list)
    held: set[int] = field(default_factory=set)
    granted: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)

    def add(self, ticket: int, arrived: float) -> None:
        self.waiting[ticket] = arrived
        heapq.heappush(self.order, (arrived, ticket))

    def drop(self, ticket: int) -> None:
        del self.waiting[ticket]
        if len(self.order) > 2 * len(self.waiting) + 64:
            self.order = [(arrived, ticket) for ticket, arrived in self.waiting.items()]
            heapq.heapify(self.order)

    def first(self) -> float | None:
        """When its oldest ticket arrived, on our clock; None if it has none."""
        while self.order and self.order[0][1] not in self.waiting:
            heapq.heappop(self.order)
        return self.order[0][0] + self.ahead if self.order else None

    def grant_first(self) -> None:
        ticket = heapq.heappop(self.order)[1]
        del self.waiting[ticket]
        self.grant(ticket)

    def grant(self, ticket: int) -> None:
        self.held.add(ticket)
        self.granted.append(ticket)


class Tickets:
    """The queue of one target. What it knows of each client is its whole state."""

    def __init__(self, now: float) -> None:
        """Begin an empty queue; `now`, here and below, is our own monotonic clock in seconds."""
        self._clients: dict[str, _Client] = {}
        self._limits = Limits(concurrency=1, max_depth=0)
        self._settles_at = now + SETTLE_S
        self._settled = False
        #: Seconds between one release and the next, while somebody waited; and the last such release.
        self._gaps: deque[float] = deque(maxlen=_RELEASES)
        self._released: float | None = None

    @property
    def clients(self) -> tuple[str, ...]:
        """Who is here."""
        return tuple(self._clients)

    @property
    def depth(self) -> int:
        """How many tickets wait."""
        return sum(len(client.waiting) for client in self._clients.values())

    @property
    def held(self) -> int:
        """How many slots are taken."""
        return sum(len(client.held) for client in self._clients.values())

    @property
    def capacity(self) -> int:
        """How many slots there are. A client that hasn't heard of a replica yet doesn't hold up the others."""
        return self._limits.concurrency * max((client.routable for client in self._clients.values()), default=0)

    def hear(self, name: str, report: Report, now: float) -> bool:
        """Take a client's report in, and grant what can be granted.

        Returns whether the client is known; one that isn't must begin a conversation, with a whole report.
        """
        client = self._client(name, report, now)
        if client is None:
            return False
        client.heard = now
        client.ahead = min(client.ahead, now - report.clock)
        client.routable = report.routable
        self._limits = report.limits
        self._end(client, report.ended, now)
        fresh = [(arrived, ticket) for ticket, arrived in report.waiting if not _knows(client, ticket)]
        for arrived, ticket in fresh:
            client.add(ticket, arrived)
        self.assign(now)
        self._rest()
        if not report.whole:
            self._refuse_overflow(client, sorted(fresh, reverse=True))
        self._take_spare(client, report.spare, now)
        return True

    def _client(self, name: str, report: Report, now: float) -> _Client | None:
        if report.whole:
            begun = _Client(report.session, now, now - report.clock, held=set(report.held))
            before = self._clients.get(name)
            if before is None or before.session <= report.session:
                self._clients[name] = begun
        return self._clients[name] if self.knows(name, report.session) else None

    def _end(self, client: _Client, tickets: tuple[int, ...], now: float) -> None:
        for ticket in tickets:
            if ticket in client.waiting:
                client.drop(ticket)
            elif ticket in client.held:
                client.held.discard(ticket)
                self._pace(now)

    def _pace(self, now: float) -> None:
        """Note how long a release took, unless nobody waited for it."""
        if self._released is not None:
            self._gaps.append(now - self._released)
        self._released = now if self.depth else None

    def _rest(self) -> None:
        """Forget the last release once nobody is here: what comes later is late for another reason."""
        if not self.depth and not self.held:
            self._released = None

    def _refuse_overflow(self, client: _Client, newest_first: list[tuple[float, int]]) -> None:
        excess = self.depth - self._limits.max_depth
        for _, ticket in newest_first:
            if excess <= 0:
                return
            if ticket in client.waiting:
                client.drop(ticket)
                client.refused.append(ticket)
                excess -= 1

    def _take_spare(self, client: _Client, tickets: tuple[int, ...], now: float) -> None:
        for ticket in tickets:
            if _knows(client, ticket):
                continue
            if client.routable and self._may_grant(now) and self.depth == 0 and self.held < self.capacity:
                client.grant(ticket)
            else:
                client.refused.append(ticket)

    def knows(self, name: str, session: int) -> bool:
        """Whether a client is in this conversation with us."""
        return name in self._clients and self._clients[name].session == session

    def listens(self, name: str, session: int, clock: float, now: float) -> bool:
        """Note a sign of life, made when the client's clock said `clock`; return whether the client is known."""
        if not self.knows(name, session):
            return False
        client = self._clients[name]
        client.heard = now
        client.ahead = min(client.ahead, now - clock)
        return True

    def expire(self, now: float) -> None:
        """Drop everything of clients that have been silent for too long."""
        gone = [name for name, client in self._clients.items() if now - client.heard > SILENCE_S]
        for name in gone:
            del self._clients[name]
        self._rest()

    def assign(self, now: float) -> None:
        """Grant free slots to the tickets that have waited longest.

        A client that sees no replica couldn't use a grant: its tickets keep their places and are passed over.
        """
        if not self._may_grant(now):
            return
        for _ in range(self.capacity - self.held):
            firsts = [
                (first, name, client)
                for name, client in self._clients.items()
                if client.routable and (first := client.first()) is not None
            ]
            if not firsts:
                return
            min(firsts)[2].grant_first()

    def _may_grant(self, now: float) -> bool:
        self._settled = self._settled or now >= self._settles_at or len(self._clients) >= self._limits.clients
        return self._settled

    def has_news(self, name: str) -> bool:
        """Whether there is something to tell a client."""
        client = self._clients.get(name)
        return client is not None and bool(client.granted or client.refused)

    def take(self, name: str, now: float) -> Reply:
        """Return what a client has yet to be told, once."""
        client = self._clients[name]
        again_s = self.retry_after_s(now) if client.refused else 1
        reply = Reply(tuple(client.granted), tuple(client.refused), again_s)
        client.granted.clear()
        client.refused.clear()
        return reply

    def retry_after_s(self, now: float) -> int:
        """Return in how many seconds, as the queue drains now, everybody who waits will have had their turn.

        At the pace of the last releases; a release that is late by now makes it slower.
        """
        late = max(0.0, now - self._released) if self._released is not None else 0.0
        gaps = [*self._gaps, late] if late > sum(self._gaps) / max(1, len(self._gaps)) else self._gaps
        if not gaps:
            return 1
        return min(max(math.ceil(self.depth * sum(gaps) / len(gaps) - 1e-9), 1), _LONGEST_RETRY_S)

    def everything(self) -> dict[str, tuple[frozenset[int], frozenset[int]]]:
        """Return what each client has waiting and what it holds; for tests."""
        return {name: (frozenset(client.waiting), frozenset(client.held)) for name, client in self._clients.items()}


def _knows(client: _Client, ticket: int) -> bool:
    return ticket in client.waiting or ticket in client.held
