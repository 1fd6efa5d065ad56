"""Which target answers a request, and what happens when it can't."""

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from ray_canary.keys import header_key, query_key
from ray_canary.serving.settings import MAIN, IngressSettings
from ray_canary.serving.targets import Target
from ray_canary.serving.tasks import Task, asked_for
from ray_canary.serving.transport import Broken, Call, Gone, NotSent
from ray_canary.serving.wire import Head, Request
from ray_canary.splitter import Splitter

#: What BentoML serves beside a Bento's own endpoints, and no client asks for by key: main answers.
_SYSTEM_PATHS: Final = frozenset({"/", "/livez", "/healthz", "/readyz", "/metrics", "/schema.json", "/docs.json"})
_LIVE: Final = frozenset({"/livez", "/healthz"})
_SYSTEM_FOLDER: Final = "/static_content/"


class Reason(StrEnum):
    """Why a request went where it went; the value of `X-Bento-Split`."""

    KEYED = "keyed"
    RANDOM = "random"
    NO_KEY = "no-key"
    PINNED = "pinned"
    SYSTEM = "system"
    TASK = "task"
    FAILOVER = "failover"


class Unanswered(Exception):
    """No target answered; the client gets a status and a sentence instead."""

    def __init__(self, status: int, sentence: str, target: str, reason: Reason) -> None:
        super().__init__(sentence)
        self.status = status
        self.target = target
        self.reason = reason


class Observer(Protocol):
    """Who is told what happened."""

    def waited(self, target: str, seconds: float) -> None:
        """A request waited that long for a replica of `target`."""

    def failed_over(self, target: str) -> None:
        """A request that was meant for `target` went to main."""

    def missed_key(self) -> None:
        """A request had no key."""

    def unavailable(self, target: str) -> None:
        """A request that was meant for `target` found no room anywhere."""


@dataclass(slots=True)
class Answer:
    """A response that has begun."""

    target: Target
    reason: Reason
    head: Head
    call: Call


class Dispatcher:
    """One split in force: chooses a target for a request and gets an answer from it."""

    def __init__(
        self, settings: IngressSettings, targets: dict[str, Target], splitter: Splitter, observer: Observer
    ) -> None:
        self.settings = settings
        self.targets = targets
        self._splitter = splitter
        self._observer = observer
        split = settings.split
        self._by_header = split.route_type == "header"
        self._keyed = split.route_type != "random"
        name = split.route_by or ""
        self._name = name.lower().encode("latin-1") if self._by_header else name.encode()

    @property
    def header_name(self) -> bytes:
        """The header that the split goes by, in lower case; empty when it goes by something else."""
        return self._name if self._by_header else b""

    def choose(self, request: Request) -> tuple[str, Reason]:
        """Return the target that the split gives this request, ready or not, and why."""
        key = self._key(request)
        if key is not None:
            return self._splitter.choose(key), Reason.KEYED
        if _is_system(request):
            return MAIN, Reason.SYSTEM
        if not self._keyed:
            return self._splitter.draw(), Reason.RANDOM
        self._observer.missed_key()
        return self._splitter.draw(), Reason.NO_KEY

    def _key(self, request: Request) -> bytes | None:
        if not self._keyed:
            return None
        return header_key(request.headers, self._name) if self._by_header else query_key(request.query, self._name)

    def lives(self, request: Request) -> bool:
        """Whether a request asks if the Deployment lives: if it can be asked, it does.

        A version that is asked for by key answers for itself. That main is down doesn't matter here but to `/readyz`:
        whoever asks would restart what works.
        """
        asks = request.method in ("GET", "HEAD") and request.path in _LIVE and request.line is None
        return asks and self._key(request) is None

    async def answer(self, request: Request, arrived: float, pinned: str | None = None) -> Answer:
        """Get the beginning of a response for `request`, which arrived at loop time `arrived`.

        `pinned` is the target that the request asks for, if it may: then no other one answers it. A request about a
        task goes to the replica that has the task, and nowhere else. Else there are four cases:

        1. The chosen target is ready and answers.
        2. A canary isn't ready, or loses its last replica before it takes the request: main answers, if it has room.
        3. main isn't ready, loses its last replica, or has no room for another's request: 503.
        4. The target has the request and breaks (502), or sends no first byte in time (504). Nobody else gets it.

        Raises:
            Unanswered: cases 3 and 4; 404 for a task whose version or replica has gone.
        """
        if task := asked_for(request):
            return await self._ask_about(task, request, arrived, pinned)
        key, reason = (pinned, Reason.PINNED) if pinned is not None else self.choose(request)
        target = self.targets[key]
        failure = f"{key} is not ready"
        if target.ready:
            try:
                return await self._send(target, reason, request, arrived)
            except NotSent as error:
                failure = f"{key} took no request: {error}"
                request = request.again()
        if key != MAIN and reason is not Reason.PINNED:
            return await self._fail_over(request, arrived, key)
        raise self._unavailable(failure, key, reason)

    async def _ask_about(self, task: Task, request: Request, arrived: float, pinned: str | None) -> Answer:
        """Send a request about a task to the replica that the task's id names."""
        reason = Reason.TASK if pinned is None else Reason.PINNED
        key = self._with_task(task, pinned)
        if key is None:
            where = f"application {task.place.application}, and {pinned or 'this Deployment'} is served by another one"
            sentence = f"Not Found: this task was submitted to {where}"
            raise Unanswered(404, sentence, pinned or MAIN, reason)
        request.replica = task.place.replica
        try:
            return await self._send(self.targets[key], reason, request, arrived)
        except Gone:
            replica = f"replica {task.place.replica} of {key}"
            sentence = f"Not Found: {replica} had this task and has gone, and its tasks and their results with it"
            raise Unanswered(404, sentence, key, reason) from None
        except NotSent as error:
            raise self._unavailable(f"{key} took no request: {error}", key, reason) from error

    def _with_task(self, task: Task, pinned: str | None) -> str | None:
        """Return the target whose replica took a task, `pinned` if that is given; None if there is none."""
        place = (task.place.application, task.place.deployment)
        keys = self.targets if pinned is None else [pinned]
        return next((key for key in keys if self.targets[key].transport.place == place), None)

    async def _fail_over(self, request: Request, arrived: float, meant_for: str) -> Answer:
        main = self.targets[MAIN]
        if not (main.ready and main.has_room(self.settings.ingress_replicas)):
            failure = f"{meant_for} is not ready, and main has no room for its requests"
            raise self._unavailable(failure, meant_for, Reason.FAILOVER)
        self._observer.failed_over(meant_for)
        try:
            return await self._send(main, Reason.FAILOVER, request, arrived)
        except NotSent as error:
            failure = f"{meant_for} is not ready, and main took no request: {error}"
            raise self._unavailable(failure, meant_for, Reason.FAILOVER) from error

    def _unavailable(self, failure: str, meant_for: str, reason: Reason) -> Unanswered:
        self._observer.unavailable(meant_for)
        return Unanswered(503, f"Service Unavailable: {failure}", meant_for, reason)

    async def _send(self, target: Target, reason: Reason, request: Request, arrived: float) -> Answer:
        loop = asyncio.get_running_loop()
        began = loop.time()
        limit = target.limit_s
        if began >= arrived + limit:
            raise _too_late(target, reason, limit)
        call = target.transport.send(request)
        waiting = _Wait(target, request, call, target.wait_s(self.settings.target_wait_s))
        answered = False
        target.in_flight += 1
        try:
            async with asyncio.timeout_at(arrived + limit):
                head = await call.head()
            answered = True
            return Answer(target, reason, head, call)
        except TimeoutError:
            raise _too_late(target, reason, limit) from None
        except Broken as error:
            raise Unanswered(502, f"Bad Gateway: {target.key} broke: {error}", target.key, reason) from error
        finally:
            waiting.cancel()
            self._observer.waited(target.key, (request.sent_at or loop.time()) - began)
            if not answered:
                target.in_flight -= 1
                # Nobody waits for it any more: what has not been sent must not be sent later.
                request.withdraw()
                call.cancel()


def _is_system(request: Request) -> bool:
    if request.line is not None or request.method not in ("GET", "HEAD"):
        return False
    return request.path in _SYSTEM_PATHS or request.path.startswith(_SYSTEM_FOLDER)


def _too_late(target: Target, reason: Reason, limit: float) -> Unanswered:
    return Unanswered(504, f"Not able to process the request in {limit:g} seconds", target.key, reason)


class _Wait:
    """Ends a request's wait for a target that has no replica for it.

    A target that has replicas, all of them busy, keeps its request: sending it elsewhere would bend the split under
    load, and load main with it. `traffic.timeout` ends that wait.
    """

    def __init__(self, target: Target, request: Request, call: Call, at_most_s: float) -> None:
        self._target = target
        self._request = request
        self._call = call
        self._at_most_s = at_most_s
        self._look_later()

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._at_most_s, self._look)

    def _look(self) -> None:
        if self._request.sent_at is not None:
            return
        if self._target.transport.routable:
            self._look_later()
        elif self._request.withdraw():
            self._call.cancel()

    def cancel(self) -> None:
        self._timer.cancel()
