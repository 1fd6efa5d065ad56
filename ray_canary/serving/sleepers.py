"""Which targets stand at zero replicas on purpose: the one thing that no replica set can tell (decision 17)."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping

from ray_canary.serving.targets import Target

logger = logging.getLogger("ray.serve")

#: Status of each deployment, by application and deployment.
Statuses = Mapping[tuple[str, str], str]

_ON_PURPOSE = frozenset({"HEALTHY", "UPSCALING", "DOWNSCALING"})
_BROKEN = frozenset({"UNHEALTHY", "DEPLOY_FAILED"})

#: Seconds between two questions about a target of which nothing is known, and about one that sleeps as it should.
#: A question costs the controller and this process 20 to 40 ms of CPU.
ASK_EVERY_S = 1.0
ASK_AGAIN_EVERY_S = 10.0


class Sleepers:
    """Asks the controller about targets without a replica, in the background, and only as long as there are any."""

    def __init__(self, statuses: Callable[[], Statuses], application: str) -> None:
        """`statuses` asks the controller, which takes a while; `application` is the ingress's own."""
        self._statuses = statuses
        self._application = application
        self._next = 0.0

    async def look(self, targets: Iterable[Target]) -> None:
        """Find out about those of `targets` that could be asleep; what can't be found out stays as it was known."""
        empty = [one for one in targets if one.settings.scales_to_zero and one.transport.routable == 0]
        if not empty or time.monotonic() < self._next:
            return
        try:
            statuses = await asyncio.to_thread(self._statuses)
        except Exception:
            logger.exception("The controller doesn't say which versions stand at zero; what was known is kept.")
            statuses = {}
        for target in empty:
            place = (target.settings.application or self._application, target.settings.deployment)
            status = statuses.get(place)
            if status in _ON_PURPOSE:
                target.may_sleep = True
            elif status in _BROKEN:
                target.may_sleep = False
        known = all(target.may_sleep for target in empty)
        self._next = time.monotonic() + (ASK_AGAIN_EVERY_S if known else ASK_EVERY_S)
