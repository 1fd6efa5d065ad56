"""What a request passes before it is sent to a target: a queue, or nothing at all."""

from typing import Protocol

from ray_canary.serving.transport import Call


class Full(Exception):
    """There is no place for a request."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Closed(Exception):
    """The queue has been taken away; the request has lost nothing but its place."""


class Place(Protocol):
    """One request's place: at first in the queue, then at a replica."""

    async def turn(self) -> None:
        """Wait until the request may be sent.

        Raises:
            Full: there is no place for it.
            Closed: there is no queue any more.
        """

    def sent(self, call: Call) -> None:
        """Note that the request is under way."""

    def leave(self) -> None:
        """Give the place up, wherever it is. Must be called once for every place; more often does nothing."""


class Gate(Protocol):
    """What stands in front of one target."""

    @property
    def holds(self) -> bool:
        """Whether requests wait here rather than in front of a replica."""

    @property
    def depth(self) -> int:
        """How many requests of this process wait here."""

    def oldest_s(self, now: float) -> float:
        """Return how many seconds the oldest of them has waited; `now` is `time.monotonic()`."""

    def enter(self, arrived: float, spare: bool = False) -> Place:
        """Take a place for a request that arrived at `time.monotonic()` = `arrived`.

        One that is `spare` takes only a slot that is free at once, while nobody waits.
        """


class _Nowhere:
    """The place of a request that doesn't have to wait."""

    async def turn(self) -> None:
        """Return at once."""

    def sent(self, call: Call) -> None:
        """Do nothing."""

    def leave(self) -> None:
        """Do nothing."""


class OpenGate:
    """In front of a target without a queue."""

    holds = False
    depth = 0

    def oldest_s(self, now: float) -> float:
        """Return 0: nobody waits."""
        return 0.0

    def enter(self, arrived: float, spare: bool = False) -> Place:
        """Let everybody through."""
        return NOWHERE


NOWHERE = _Nowhere()
OPEN = OpenGate()
