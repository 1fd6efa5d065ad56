"""A target's queue as a Ray actor: detached and named, made by whichever ingress replica needs it first.

It belongs to no application, so no edit of one restarts it, and it ends itself when nobody uses it any more. Ray
starts it again where it has died; it has nothing to remember, since its clients tell it all they have.
"""

import asyncio
import logging
import time
from typing import Any, Final, cast

import ray

from ray_canary.serving.queue import Reply, Report, Tickets

logger = logging.getLogger("ray.serve")

NAMESPACE: Final = "ray_canary"
#: Part of the name, so that two releases that don't understand each other don't meet. Raise it with `Report`, `Reply`.
PROTOCOL: Final = 1

#: Seconds that a call waits for news, between two looks for silent clients, and without a client until the end.
LISTEN_S: Final = 1.0
TICK_S: Final = 0.25
IDLE_S: Final = 30.0


def actor_name(application: str, deployment: str) -> str:
    """Return the name of the queue in front of an application's entry deployment."""
    return f"queue:{PROTOCOL}:{application}:{deployment}"


class Queue:
    """The actor. All of its methods run in one event loop, and none awaits between reading and changing `Tickets`."""

    def __init__(self) -> None:
        self._tickets = Tickets(time.monotonic())
        self._news: dict[str, asyncio.Event] = {}
        self._ticking: asyncio.Task[None] | None = None

    async def report(self, client: str, report: Report) -> Reply | None:
        """Take a report in; return what its client has yet to be told, or None if it isn't known."""
        if self._ticking is None:
            self._ticking = asyncio.get_running_loop().create_task(self._tick())
        now = time.monotonic()
        if not self._tickets.hear(client, report, now):
            return None
        reply = self._tickets.take(client, now)
        self._wake()
        return reply

    async def listen(self, client: str, session: int, clock: float) -> Reply | None:
        """Return what there is to tell a client, waiting `LISTEN_S` for it; None if the client isn't known."""
        if not self._tickets.listens(client, session, clock, time.monotonic()):
            return None
        if not self._tickets.has_news(client):
            news = self._news[client] = asyncio.Event()
            try:
                async with asyncio.timeout(LISTEN_S):
                    await news.wait()
            except TimeoutError:
                pass
        return self._tickets.take(client, time.monotonic()) if self._tickets.knows(client, session) else None

    async def state(self) -> dict[str, Any]:
        """Return the numbers, for whoever looks into it."""
        tickets = self._tickets
        return {
            "clients": len(tickets.clients),
            "waiting": tickets.depth,
            "held": tickets.held,
            "capacity": tickets.capacity,
        }

    def _wake(self) -> None:
        for client, news in self._news.items():
            if self._tickets.has_news(client):
                news.set()

    async def _tick(self) -> None:
        used = time.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            self._tickets.expire(now)
            self._tickets.assign(now)
            self._news = {name: news for name, news in self._news.items() if name in self._tickets.clients}
            self._wake()
            used = now if self._tickets.clients else used
            if now - used > IDLE_S:
                ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


class RayDesk:
    """The way to the actor."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    @classmethod
    async def reach(cls, application: str, deployment: str) -> "RayDesk":
        """Find the queue of a target, or make it. Raises whatever Ray raises when it can't."""
        return cls(await asyncio.to_thread(_actor, application, deployment))

    async def report(self, client: str, report: Report) -> Reply | None:
        """Tell what is new; return what is new."""
        return cast(Reply | None, await self._actor.report.remote(client, report))

    async def listen(self, client: str, session: int, clock: float) -> Reply | None:
        """Wait, for a second at most, for something new."""
        return cast(Reply | None, await self._actor.listen.remote(client, session, clock))


def _actor(application: str, deployment: str) -> Any:
    made: Any = ray.remote(Queue)
    return made.options(
        name=actor_name(application, deployment),
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
    ).remote()
