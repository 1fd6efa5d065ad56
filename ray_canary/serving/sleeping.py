"""Inner services that may stand at zero: they sleep only while the service that calls them does.

A request has reached the entry service when an inner one is needed, and its time runs. So a replica that depends on
such a service wakes it before it takes requests, and one replica of the calling service holds it awake from then on.
When that service goes to zero itself, nobody holds the inner one any more.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Final, Protocol

from ray_canary.serving.transport import Transport

logger = logging.getLogger("ray.serve")

#: Seconds between two looks, and those that a starting replica waits at most for an inner service.
LOOK_EVERY_S: Final = 0.5
WAKE_S: Final = 300.0


class Inner(Transport, Protocol):
    """The way to an inner service."""

    def waits(self, by: int) -> None:
        """Count `by` more requests as waiting for it, for its autoscaling."""


class Awake:
    """Holds the inner services of one replica awake."""

    def __init__(self, inner: Mapping[str, Inner], first: Callable[[], bool]) -> None:
        """`first` tells whether this is the replica of its service that holds them for all."""
        self._inner = inner
        self._first = first
        self._sleepers: frozenset[str] = frozenset()
        self._held: set[str] = set()
        self._watching: asyncio.Task[None] | None = None

    async def use(self, sleepers: Collection[str]) -> None:
        """Hold those services awake from now on; the first time, wait until each has a replica."""
        self._sleepers = frozenset(sleepers) & frozenset(self._inner)
        if self._watching is None:
            await self._wake()
            self._watching = asyncio.get_running_loop().create_task(self._watch())

    def stop(self) -> None:
        """Let go of all of them."""
        if self._watching is not None:
            self._watching.cancel()
        self._hold(frozenset())

    async def _wake(self) -> None:
        self._hold(self._sleepers)
        try:
            async with asyncio.timeout(WAKE_S):
                while not all(self._inner[name].routable for name in self._sleepers):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            asleep = [name for name in self._sleepers if not self._inner[name].routable]
            logger.warning("After %g s there is still no replica of %s.", WAKE_S, ", ".join(asleep))

    async def _watch(self) -> None:
        while True:
            self._hold(self._sleepers if self._first() else frozenset())
            await asyncio.sleep(LOOK_EVERY_S)

    def _hold(self, wanted: frozenset[str]) -> None:
        for name in wanted - self._held:
            self._inner[name].waits(1)
        for name in self._held - wanted:
            self._inner[name].waits(-1)
        self._held = set(wanted)
