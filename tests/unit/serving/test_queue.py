"""The queue's core: order, bounds, and what becomes of tickets whose client or queue has gone."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ray_canary.serving.queue import SETTLE_S, SILENCE_S, Limits, Reply, Report, Tickets

LIMITS = Limits(concurrency=2, max_depth=100)


def report(session: int = 1, clock: float = 0.0, routable: int = 1, limits: Limits = LIMITS, **said: object) -> Report:
    return Report(session=session, clock=clock, routable=routable, limits=limits, **said)  # type: ignore[arg-type]


def queue(*clients: str, routable: int = 1, limits: Limits = LIMITS) -> Tickets:
    """Return a queue whose clients have begun their conversations."""
    tickets = Tickets(0.0)
    for client in clients:
        assert tickets.hear(client, report(routable=routable, limits=limits, whole=True), 0.0)
    return tickets


def says(tickets: Tickets, client: str, now: float = 1.0, **said: object) -> Reply:
    """Have a client whose clock is ours say something, and return what it is told."""
    assert tickets.hear(client, report(clock=now, **said), now)  # type: ignore[arg-type]
    return tickets.take(client, now)


def test_as_many_tickets_are_granted_as_the_replicas_take_and_the_next_when_one_is_through() -> None:
    tickets = queue("one", routable=2)
    reply = says(tickets, "one", routable=2, waiting=tuple((number, 0.1 * number) for number in range(6)))
    assert (reply.granted, tickets.depth, tickets.held) == ((0, 1, 2, 3), 2, 4)
    assert says(tickets, "one", routable=2, ended=(2,)).granted == (4,)


def test_tickets_of_all_clients_are_granted_in_the_order_in_which_they_arrived() -> None:
    tickets = queue("one", "two", limits=Limits(1, 100))
    only_one = Limits(1, 100)
    says(tickets, "one", limits=only_one, waiting=((0, 0.0),))
    says(tickets, "one", limits=only_one, waiting=((1, 0.1), (3, 0.3)))
    says(tickets, "two", limits=only_one, waiting=((2, 0.2), (4, 0.05)))
    order = []
    for client, ticket in (("one", 0), ("two", 4), ("one", 1), ("two", 2), ("one", 3)):
        assert ticket in tickets.everything()[client][1]
        order.append(ticket)
        says(tickets, client, limits=only_one, ended=(ticket,))
    assert (order, tickets.depth, tickets.held) == ([0, 4, 1, 2, 3], 0, 0)


def test_clocks_that_differ_change_nothing_in_the_order() -> None:
    tickets = Tickets(1000.0)
    limits = Limits(1, 100)
    tickets.hear("ahead", report(clock=5000.0, limits=limits, whole=True), 1000.0)
    tickets.hear("behind", report(clock=3.0, limits=limits, whole=True), 1000.0)
    tickets.hear("ahead", report(clock=5001.0, limits=limits, waiting=((0, 5000.5), (1, 5000.9))), 1001.0)
    tickets.hear("behind", report(clock=4.0, limits=limits, waiting=((2, 3.7),)), 1001.0)
    tickets.hear("ahead", report(clock=5001.0, limits=limits, ended=(0,)), 1001.0)
    assert tickets.everything()["behind"] == (frozenset(), frozenset({2}))


def test_a_report_that_took_long_puts_nobody_back_for_good() -> None:
    tickets = Tickets(0.0)
    limits = Limits(1, 100)
    tickets.hear("slow", report(clock=0.0, limits=limits, whole=True), 2.0)  # The queue had to start first.
    tickets.hear("quick", report(clock=2.0, limits=limits, whole=True), 2.0)
    tickets.hear("quick", report(clock=3.0, limits=limits, waiting=((0, 3.0), (1, 3.2))), 3.3)
    assert tickets.listens("slow", 1, 3.3, 3.3)
    tickets.hear("slow", report(clock=3.3, limits=limits, waiting=((2, 3.1),)), 3.3)
    tickets.hear("quick", report(clock=3.3, limits=limits, ended=(0,)), 3.3)
    assert tickets.everything()["slow"] == (frozenset(), frozenset({2}))


def test_a_ticket_too_many_is_refused_and_the_others_keep_their_places() -> None:
    tickets = queue("one", limits=Limits(1, 2))
    reply = says(tickets, "one", limits=Limits(1, 2), waiting=tuple((number, 0.1 * number) for number in range(5)))
    assert (reply.granted, set(reply.refused)) == ((0,), {3, 4})
    assert tickets.everything()["one"] == (frozenset({1, 2}), frozenset({0}))


def test_a_refused_client_is_told_how_long_the_queue_takes_to_drain() -> None:
    tickets = queue("one", limits=Limits(1, 3))
    limits = Limits(1, 3)
    says(tickets, "one", now=1.0, limits=limits, waiting=tuple((number, 1.0) for number in range(4)))
    for number in range(4):
        says(
            tickets,
            "one",
            now=1.0 + 10 * number,
            limits=limits,
            ended=(number,),
            waiting=((10 + number, 2.0 + number),),
        )
    reply = says(tickets, "one", now=41.0, limits=limits, waiting=((99, 41.0),))
    assert reply.refused == (99,)
    assert reply.retry_after_s == 30  # 3 wait, and 4 went in 40 s.


def test_what_waited_for_nobody_to_come_does_not_count_as_slow() -> None:
    """A pause between two bursts is no pace at which the queue drains."""
    limits = Limits(1, 3)
    tickets = queue("one", limits=limits)
    says(tickets, "one", now=1.0, limits=limits, waiting=((0, 1.0), (1, 1.0)))
    says(tickets, "one", now=3.0, limits=limits, ended=(0,))
    says(tickets, "one", now=4.0, limits=limits, ended=(1,))
    reply = says(tickets, "one", now=1000.0, limits=limits, waiting=tuple((number, 1000.0) for number in range(10, 15)))
    assert reply.refused
    assert reply.retry_after_s <= 6


def test_a_spare_ticket_takes_a_slot_that_nobody_waits_for_or_none() -> None:
    tickets = queue("one", "two")
    assert says(tickets, "one", spare=(0,)).granted == (0,)
    assert says(tickets, "one", spare=(1, 2)) == Reply(granted=(1,), refused=(2,))
    says(tickets, "two", waiting=((0, 0.5),))
    says(tickets, "two", routable=0)
    assert says(tickets, "one", routable=2, spare=(3,)).refused == (3,), "a free slot, but somebody waits"


def test_a_client_that_sees_no_replica_keeps_its_places_and_holds_nobody_up() -> None:
    tickets = queue("blind", "seeing", routable=0)
    assert says(tickets, "blind", routable=0, waiting=((0, 0.0),)).granted == ()
    assert says(tickets, "seeing", routable=1, waiting=((0, 0.5),)).granted == (0,)
    assert says(tickets, "blind", routable=1).granted == (0,)


def test_a_client_that_falls_silent_gives_everything_back() -> None:
    tickets = queue("one", "two")
    says(tickets, "one", waiting=tuple((number, 0.0) for number in range(5)))
    says(tickets, "two", waiting=((0, 0.5),))
    later = 1.0 + SILENCE_S + 0.1
    tickets.listens("two", 1, later, later)
    tickets.expire(later)
    tickets.assign(later)
    assert tickets.everything() == {"two": (frozenset(), frozenset({0}))}
    assert not tickets.hear("one", report(clock=later), later), "it has to say all it has"


def test_a_new_queue_grants_nothing_before_everybody_has_said_what_they_hold() -> None:
    limits = Limits(2, 100, clients=2)
    tickets = Tickets(10.0)
    tickets.hear("one", report(limits=limits, whole=True, waiting=((0, 0.0),)), 10.1)
    assert not tickets.has_news("one")
    tickets.hear("two", report(limits=limits, whole=True, held=(0, 1)), 10.2)
    assert not tickets.has_news("one"), "the other's two requests are still under way"
    tickets.hear("two", report(limits=limits, ended=(1,)), 10.3)
    assert tickets.take("one", 10.3).granted == (0,)


def test_a_new_queue_waits_only_so_long_for_a_client_that_has_gone() -> None:
    tickets = Tickets(10.0)
    tickets.hear("one", report(limits=Limits(2, 100, clients=2), whole=True, waiting=((0, 0.0),)), 10.1)
    tickets.assign(10.0 + SETTLE_S)
    assert tickets.take("one", 11.0).granted == (0,)


def test_a_new_conversation_replaces_what_was_known_and_ends_the_one_before() -> None:
    tickets = queue("one")
    says(tickets, "one", waiting=((0, 0.0), (1, 0.1), (2, 0.2)))
    tickets.hear("one", report(session=2, whole=True, waiting=((1, 0.1), (2, 0.2))), 2.0)
    assert tickets.everything() == {"one": (frozenset(), frozenset({1, 2}))}
    assert not tickets.hear("one", report(session=1, waiting=((9, 0.0),)), 2.0)
    assert not tickets.listens("one", 1, 2.0, 2.0)


def test_what_was_waiting_before_is_not_refused_by_a_new_queue_that_is_full() -> None:
    limits = Limits(1, 1)
    tickets = Tickets(0.0)
    tickets.hear("one", report(limits=limits, whole=True, waiting=tuple((n, 0.1 * n) for n in range(4))), 0.0)
    assert tickets.take("one", 0.0) == Reply(granted=(0,))
    assert tickets.depth == 3


@pytest.mark.parametrize("clients", [0, 1, 2, 50])
def test_a_queue_of_nobody_and_of_many_is_empty(clients: int) -> None:
    tickets = queue(*map(str, range(clients)))
    assert (tickets.depth, tickets.held, len(tickets.clients)) == (0, 0, clients)


def test_many_who_come_and_leave_behind_a_queue_that_stands_leave_nothing_behind() -> None:
    tickets = queue("one", routable=0)
    for number in range(1, 5000):
        tickets.hear("one", report(routable=0, waiting=((number, 1.0 * number),), ended=(number - 1,)), 1.0)
    assert len(tickets._clients["one"].order) < 100


class Machine(RuleBasedStateMachine):
    """Clients that come, wait, are served, leave, fall silent and start over, against a model of what each has."""

    LIMITS = Limits(concurrency=3, max_depth=8, clients=2)

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.tickets = Tickets(self.now)
        self.next = 0
        self.session = {"a": 0, "b": 0}
        self.routable = {"a": 1, "b": 1}
        self.waiting: dict[str, dict[int, float]] = {"a": {}, "b": {}}
        self.held: dict[str, set[int]] = {"a": set(), "b": set()}
        self.ever_granted: set[tuple[str, int, int]] = set()

    def tell(self, client: str, *, whole: bool = False, ended: tuple[int, ...] = (), **said: object) -> None:
        if whole:
            self.session[client] += 1
        spoken = report(
            self.session[client], self.now, self.routable[client], self.LIMITS, whole=whole, ended=ended, **said
        )
        held_before, depth_before = self.tickets.held, self.tickets.depth
        known = self.tickets.hear(client, spoken, self.now)
        if not whole:
            assert self.tickets.held <= max(self.tickets.capacity, held_before), "more granted than there is room for"
            assert self.tickets.depth <= max(self.LIMITS.max_depth, depth_before)
        assert known or not whole
        if not known:
            self.begin(client)
            return
        reply = self.tickets.take(client, self.now)
        self.take(client, reply)

    def take(self, client: str, reply: Reply) -> None:
        for ticket in reply.granted:
            once = (client, ticket, self.session[client])
            assert once not in self.ever_granted, "granted twice"
            self.ever_granted.add(once)
            self.waiting[client].pop(ticket, None)
            self.held[client].add(ticket)
        for ticket in reply.refused:
            self.waiting[client].pop(ticket, None)

    def begin(self, client: str) -> None:
        waiting = tuple(self.waiting[client].items())
        self.tell(client, whole=True, waiting=waiting, held=tuple(self.held[client]))

    @rule(client=st.sampled_from("ab"), count=st.integers(1, 5))
    def come(self, client: str, count: int) -> None:
        came = {self.next + index: self.now - 0.01 * index for index in range(count)}
        self.next += count
        self.waiting[client].update(came)
        self.tell(client, waiting=tuple(came.items()))

    @rule(client=st.sampled_from("ab"), data=st.data())
    def end(self, client: str, data: st.DataObject) -> None:
        mine = sorted(self.held[client] | set(self.waiting[client]))
        if mine:
            ticket = data.draw(st.sampled_from(mine))
            self.held[client].discard(ticket)
            self.waiting[client].pop(ticket, None)
            self.tell(client, ended=(ticket,))

    @rule(client=st.sampled_from("ab"))
    def spare(self, client: str) -> None:
        ticket, self.next = self.next, self.next + 1
        somebody_waited = self.tickets.depth > 0
        self.tell(client, spare=(ticket,))
        assert not (somebody_waited and ticket in self.held[client])

    @rule(client=st.sampled_from("ab"), routable=st.integers(0, 2))
    def scale(self, client: str, routable: int) -> None:
        self.routable[client] = routable
        self.tell(client)

    @rule(seconds=st.sampled_from([0.1, 0.5, 2.0, 4.0]))
    def time_goes_on(self, seconds: float) -> None:
        self.now += seconds
        self.tickets.expire(self.now)
        self.tickets.assign(self.now)

    @rule(client=st.sampled_from("ab"))
    def start_over(self, client: str) -> None:
        self.begin(client)

    @rule()
    def queue_dies(self) -> None:
        self.tickets = Tickets(self.now)

    @precondition(lambda self: self.tickets.clients)
    @rule()
    def everybody_listens(self) -> None:
        for client in self.tickets.clients:
            if self.tickets.listens(client, self.session[client], self.now, self.now):
                self.take(client, self.tickets.take(client, self.now))

    @rule()
    def all_is_served_in_the_end(self) -> None:
        """Nothing is ever lost: with a replica, everything that waits is granted, the oldest first."""
        self.routable = {"a": 1, "b": 1}
        for client in "ab":
            self.begin(client)
        for _ in range(200):
            if not any(self.waiting.values()):
                break
            for client in "ab":
                self.tell(client, ended=tuple(self.held[client]))
                self.held[client] = set(self.tickets.everything()[client][1])
        assert not any(self.waiting.values())

    @invariant()
    def a_slot_is_never_both_waited_for_and_held(self) -> None:
        for waiting, held in self.tickets.everything().values():
            assert not waiting & held

    @invariant()
    def slots_are_not_free_while_somebody_could_take_them(self) -> None:
        free = self.tickets.capacity - self.tickets.held
        could = [c for c, (waiting, _) in self.tickets.everything().items() if waiting and self.routable[c]]
        settled = self.tickets._settled
        heard = all(self.tickets._clients[c].routable == self.routable[c] for c in self.tickets.clients)
        assert free <= 0 or not could or not settled or not heard


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40)
