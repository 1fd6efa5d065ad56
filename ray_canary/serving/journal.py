"""What the pass-through tells of each request, for whoever counts."""

import time
from typing import NamedTuple, Protocol


class Served(NamedTuple):
    """Who answered a request: a target, its Bento's tag, how the split goes, and the status."""

    target: str
    bento: str
    route_type: str
    status: int


class Journal(Protocol):
    """Who is told what became of the requests. Seconds run from a request's arrival."""

    def request(self, served: Served, reason: str, seconds: float) -> None:
        """An answer begins, for this reason, after so many seconds."""

    def ended(self, served: Served, seconds: float, size: int) -> None:
        """A response has been sent to its end, or as far as it will be: so many bytes of its body."""

    def cut_off(self, target: str) -> None:
        """A replica broke when its response had begun."""

    def chunk(self, served: Served, gap_s: float | None) -> None:
        """A piece of a stream was sent, so many seconds after the one before it; None: the first."""


class Passing:
    """One response on its way to the client."""

    def __init__(self, journal: Journal, served: Served, arrived: float) -> None:
        """Tell `journal` of a response to a request that arrived at the monotonic time `arrived`, in seconds."""
        self._journal = journal
        self._served = served
        self._arrived = arrived
        #: Whether its size isn't known from the beginning.
        self.streams = False
        self._size = 0
        self._last: float | None = None

    def sent(self, size: int) -> None:
        """Note a piece of the body that was sent."""
        self._size += size
        if self.streams:
            now = time.monotonic()
            self._journal.chunk(self._served, None if self._last is None else now - self._last)
            self._last = now

    def ended(self) -> None:
        """Note that nothing more will be sent."""
        self._journal.ended(self._served, time.monotonic() - self._arrived, self._size)
