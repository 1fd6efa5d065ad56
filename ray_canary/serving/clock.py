"""How long a request has taken, and how long it may."""

import asyncio

from ray_canary.serving.targets import Target
from ray_canary.serving.transport import NotSent


class NeverWoke(NotSent):
    """No replica of a target at zero started in time."""


class Clock:
    """How long a request has taken, in loop time: from its arrival, but not while it wakes a target."""

    def __init__(self, arrived: float) -> None:
        self.arrived = arrived
        #: Since when the request's time runs.
        self.since = arrived
        #: Whether it stands still now, because a target has to start first.
        self.stands = False
        self._woke = False

    async def wake(self, target: Target, limit: asyncio.Timeout, *, counted: bool) -> None:
        """Wait until `target` has a replica, if it stands at zero, and let the request's time begin then.

        That happens once in a request's life, so that no version can keep it for ever by coming and going.
        """
        if not target.asleep:
            return
        if self._woke:
            await target.awake(counted)
            return
        loop = asyncio.get_running_loop()
        self._woke = self.stands = True
        limit.reschedule(loop.time() + target.settings.cold_start_timeout_s)
        await target.awake(counted)
        self.stands = False
        self.since = loop.time()
        limit.reschedule(self.since + target.settings.timeout_s)

    def never_woke(self, target: Target) -> NeverWoke:
        """Say that no replica has started in time; the time of the request begins now, for whoever else answers it."""
        self.stands = False
        self.since = asyncio.get_running_loop().time()
        return NeverWoke(f"no replica has started within {target.settings.cold_start_timeout_s:g} seconds")
