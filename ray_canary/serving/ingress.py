"""The ingress deployment: one Serve deployment in front of all versions of one Deployment."""

import asyncio
import logging
import time
from functools import partial
from typing import Any

from pydantic import ValidationError
from ray import serve

from ray_canary.serving import serve_log, ways
from ray_canary.serving import settings as ingress_settings
from ray_canary.serving.access import Gate, TokenWatch
from ray_canary.serving.direct import DirectTransport
from ray_canary.serving.dispatch import Dispatcher
from ray_canary.serving.http import Receive, Scope, Send
from ray_canary.serving.passthrough import PassThrough
from ray_canary.serving.queue import Limits
from ray_canary.serving.queue_actor import RayDesk
from ray_canary.serving.queue_client import QueueClient
from ray_canary.serving.recorder import Recorder
from ray_canary.serving.serve_private import HandleTransport
from ray_canary.serving.serve_replica import AccessLog, hold_back, node_address, request_id, write_together
from ray_canary.serving.settings import IngressSettings
from ray_canary.serving.sleepers import Sleepers
from ray_canary.serving.store import GcsStore
from ray_canary.serving.targets import Connections, Queues, Target
from ray_canary.serving.transport import Terms
from ray_canary.splitter import Splitter

logger = logging.getLogger("ray.serve")

#: Seconds between two hand-overs of metrics to Ray.
FLUSH_EVERY_S = 1.0
#: Seconds that a new ingress replica waits at most to hear of its targets' replicas before it takes requests.
FIRST_LOOK_S = 3.0
#: The same for targets that a change of the split brings; the replica takes no requests meanwhile.
NEXT_LOOK_S = 0.1
#: Seconds after which it is told again which way requests travel, though nothing has changed.
TELL_AGAIN_S = 30.0


class Ingress:
    """Splits live traffic between the versions.

    Everything that it reads per request is in its `user_config`. A `user_config` that is wrong is refused: a replica
    that has a good one goes on with it and says so loudly; one that never had a good one does not start.
    """

    #: What counts.
    recorder = Recorder

    def __init__(self, deployment: str, *versions: Any) -> None:
        """Make the ingress of `deployment`; `versions` only make Serve deploy them in the same application."""
        self._recorder = self.recorder(deployment)
        self._connections = Connections(_connect)
        self._queues = Queues(self._open_queue)
        self._dispatcher: Dispatcher | None = None
        self._background: asyncio.Task[None] | None = None
        self._sleepers = Sleepers(_statuses, serve.get_replica_context().app_name)
        self._access = TokenWatch()
        self._access_log = AccessLog()
        self._told: dict[str, str] = {}
        self._told_at = 0.0
        self._watching: asyncio.Task[None] | None = None
        gate = Gate(self._access.tokens)
        self._pass_through = PassThrough(self._in_force, request_id, self._recorder, gate, node_address, hold_back)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take a new `user_config` into force, if it is right.

        Raises:
            ValueError: it is wrong, and there is none before it to go on with.
        """
        try:
            settings = IngressSettings.model_validate(user_config)
        except ValidationError as error:
            sentence = f"user_config rejected: {ingress_settings.problems(error)}"
            self._recorder.rejected(True)
            if self._dispatcher is None:
                raise ValueError(sentence) from None
            logger.error("%s; the split before it stays in force.", sentence)
            return
        await self._put_in_force(settings)
        self._recorder.rejected(False)

    async def _put_in_force(self, settings: IngressSettings) -> None:
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._access.run())
            await self._access.first()
        before = self._dispatcher.targets if self._dispatcher else {}
        targets = {key: self._target(key, settings, before.get(key)) for key in settings.split.shares()}
        await _look(list(targets.values()), NEXT_LOOK_S if before else FIRST_LOOK_S)
        used = [self._queues.put_in_front(target, settings.ingress_replicas) for target in targets.values()]
        splitter = Splitter(settings.split.shares(), settings.deployment, arms=settings.arms())
        self._dispatcher = Dispatcher(settings, targets, splitter, self._recorder)
        self._access_log.wanted = settings.access_log
        self._queues.close_others(used)
        for key in set(before) - set(targets):
            self._recorder.forget(key)
        if self._background is None:
            self._background = asyncio.get_running_loop().create_task(self._every_second())
        logger.info("Split in force: %s.", settings.split.shares())

    def _target(self, key: str, settings: IngressSettings, before: Target | None) -> Target:
        """Make a target, or go on with the one before, whose requests in flight still count."""
        of_target = settings.targets[key]
        queued = of_target.max_queue_depth is not None
        terms = Terms(settings.ingress_replicas, queued=queued, by_handle=settings.transport == "handle")
        transport = self._connections.to(of_target, terms)
        if before is not None and before.transport is transport:
            before.settings = of_target
            return before
        return Target(key, of_target, transport)

    @staticmethod
    def _open_queue(target: Target, limits: Limits) -> QueueClient:
        application = target.settings.application or serve.get_replica_context().app_name
        return QueueClient(partial(RayDesk.reach, application, target.settings.deployment), target.transport, limits)

    async def _every_second(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            dispatcher = self._in_force()
            await self._sleepers.look(dispatcher.targets.values())
            await self._tell_ways(dispatcher)
            try:
                self._recorder.flush(dispatcher.settings.split.shares(), dispatcher.targets)
            except Exception:
                logger.exception("The metrics of the last %s s could not be handed over.", FLUSH_EVERY_S)
            serve_log.write()

    async def _tell_ways(self, dispatcher: Dispatcher) -> None:
        now = {key: target.transport.way for key, target in dispatcher.targets.items()}
        # Again now and then: another ingress replica may have told otherwise, and be no more.
        if now == self._told and time.monotonic() - self._told_at < TELL_AGAIN_S:
            return
        try:
            await asyncio.to_thread(ways.tell, GcsStore.here(), dispatcher.settings.deployment, now)
        except Exception as error:
            logger.warning("Which way requests travel could not be told, and will be told again: %r", error)
        else:
            self._told, self._told_at = now, time.monotonic()

    def _in_force(self) -> Dispatcher:
        if self._dispatcher is None:
            raise RuntimeError("The ingress has no user_config.")
        return self._dispatcher

    async def answer_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI request."""
        write_together(receive)
        await self._pass_through(scope, receive, send)


def _connect(application: str | None, deployment: str) -> DirectTransport:
    return DirectTransport(HandleTransport(application, deployment))


async def _look(targets: list[Target], at_most_s: float) -> None:
    """Wait until Serve has told this process of every target's replicas, or the time is over."""
    deadline = asyncio.get_running_loop().time() + at_most_s
    while not all(target.transport.seen for target in targets):
        if asyncio.get_running_loop().time() >= deadline:
            return
        await asyncio.sleep(0.01)


def _statuses() -> dict[tuple[str, str], str]:
    """Ask the controller for the status of every deployment."""
    return {
        (application, deployment): str(overview.status.value)
        for application, found in serve.status().applications.items()
        for deployment, overview in found.deployments.items()
    }
