"""The targets of one ingress replica: where each one's requests go, whether it is ready, and how busy it is."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from ray_canary.serving.gate import OPEN, Gate
from ray_canary.serving.queue import Limits
from ray_canary.serving.queue_client import QueueClient
from ray_canary.serving.settings import TargetSettings
from ray_canary.serving.transport import Scaled, Terms

Connect = Callable[[str | None, str], Scaled]

#: Seconds between two looks at a target that requests are waking.
LOOK_EVERY_S: Final = 0.02


class Target:
    """`main` or one canary version, as the ingress sees it."""

    __slots__ = ("_looking", "_waking", "gate", "in_flight", "key", "may_sleep", "receiving", "settings", "transport")

    def __init__(
        self, key: str, settings: TargetSettings, transport: Scaled, in_flight: int = 0, gate: Gate = OPEN
    ) -> None:
        self.key = key
        self.settings = settings
        self.transport = transport
        self.gate = gate
        self.in_flight = in_flight
        #: How many requests are being read that will wait in its queue, or until it has started.
        self.receiving = 0
        #: Whether the controller calls it healthy without a replica; None as long as nobody has asked.
        self.may_sleep: bool | None = None
        self._waking: set[asyncio.Future[None]] = set()
        self._looking = False

    @property
    def ready(self) -> bool:
        """Whether this target gets its own requests (decision 17).

        1. It has a replica that can be reached.
        2. It stands at zero replicas on purpose, after having started once: a request is what wakes it.
        """
        return self.transport.routable > 0 or self.asleep

    @property
    def asleep(self) -> bool:
        """Whether a request has to start the first replica."""
        if not self.settings.scales_to_zero or self.transport.routable:
            return False
        return self.transport.seen if self.may_sleep is None else self.may_sleep

    @property
    def places(self) -> int:
        """How many requests it may have, those that wait in its queue included."""
        return (self.settings.max_queue_depth or 0) + self.settings.capacity * max(1, self.transport.routable)

    @property
    def keeps_requests(self) -> bool:
        """Whether a request may wait for it though it has no replica now: its queue holds them until it has.

        Nobody waits for one that has never had a replica.
        """
        return self.gate.holds and self.transport.seen

    async def awake(self, counted: bool = False) -> None:
        """Wait until it has a replica, or turns out not to be asleep but broken; a request is what wakes it.

        One that waits in the queue is `counted` there already.
        """
        if not self.asleep:
            return
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waking.add(over)
        if not self._looking:
            self._look_later()
        counts = 0 if counted else 1
        self.transport.waits(counts)
        try:
            await over
        finally:
            self._waking.discard(over)
            self.transport.waits(-counts)

    def _look_later(self) -> None:
        self._looking = True
        asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        """Look once for everybody: thousands of requests may be waiting."""
        if self.asleep and self._waking:
            self._look_later()
            return
        self._looking = False
        for over in self._waking:
            if not over.done():
                over.set_result(None)

    def has_room(self, ingress_replicas: int) -> bool:
        """Whether a request that was meant for another target finds spare capacity here.

        Each ingress replica gives away its part of the capacity and no more, so main's own users never wait behind
        the users of a canary that is down.
        """
        capacity = self.settings.capacity * self.transport.routable / ingress_replicas
        return self.in_flight < max(1.0, capacity)


class Connections:
    """Every transport that this process has opened, so that a change of the split reuses what it can."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._open: dict[tuple[str | None, str], Scaled] = {}

    def to(self, settings: TargetSettings, terms: Terms | None = None) -> Scaled:
        """Return the transport to a target's entry deployment, to be used on these terms."""
        place = (settings.application, settings.deployment)
        if place not in self._open:
            self._open[place] = self._connect(*place)
        transport = self._open[place]
        transport.use(terms or Terms())
        return transport


class Queues:
    """The queues of this process's targets; like a transport, one belongs to a place and not to a target's key."""

    def __init__(self, open_queue: Callable[[Target, Limits], QueueClient]) -> None:
        self._new = open_queue
        self._open: dict[tuple[str | None, str], QueueClient] = {}

    def put_in_front(self, target: Target, ingress_replicas: int) -> Gate:
        """Give `target` the gate that its settings ask for, and return it; its requests keep their places."""
        settings = target.settings
        if settings.max_queue_depth is None:
            target.gate = OPEN
            return OPEN
        place = (settings.application, settings.deployment)
        limits = Limits(settings.capacity, settings.max_queue_depth, ingress_replicas)
        if place in self._open:
            self._open[place].change(limits)
        else:
            self._open[place] = self._new(target, limits)
        target.gate = self._open[place]
        return target.gate

    def close_others(self, used: Iterable[Gate]) -> None:
        """Close every queue that no target uses any more."""
        kept = list(used)
        for place, queue in list(self._open.items()):
            if queue not in kept:
                del self._open[place]
                queue.close()
