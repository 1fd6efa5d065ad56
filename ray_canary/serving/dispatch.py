"""Which target answers a request, and what happens when it can't."""

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from ray_canary.keys import header_key, query_key
from ray_canary.serving.clock import Clock, NeverWoke
from ray_canary.serving.gate import OPEN, Closed, Full, Place
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
#: Questions about a target that are no work for it: they don't wait in its queue, as they don't count as concurrency
#: in BentoML.
_HEALTH_PATHS: Final = frozenset({"/livez", "/healthz", "/readyz", "/metrics"})


#: Seconds for which a request that met a broken replica keeps its slot: until Serve has noticed, what waits in the
#: queue would be sent to that replica, and fail as quickly as it comes.
_BROKEN_S: Final = 0.5


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

    def __init__(
        self, status: int, sentence: str, target: str, reason: Reason, retry_after_s: int | None = None
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.target = target
        self.reason = reason
        self.retry_after_s = retry_after_s


class Observer(Protocol):
    """Who is told what happened."""

    def waited(self, target: str, seconds: float) -> None:
        """A request waited that long for a replica of `target`."""

    def sent(self, target: str, way: str) -> None:
        """A request was sent to a replica of `target`, `direct` or by `handle`."""

    def queued(self, target: str, seconds: float) -> None:
        """A request waited that long in the queue of `target` for its turn."""

    def refused(self, target: str) -> None:
        """A request found the queue of `target` full."""

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
    place: Place

    def end(self) -> None:
        """Note that the response has been sent to its end, or as far as it will be: the replica has room again."""
        self.target.in_flight -= 1
        self.place.leave()


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
        task goes to the replica that has the task, and nowhere else. Else there are five cases:

        1. The chosen target is ready and answers, where it has a queue when it is the request's turn.
        2. A canary isn't ready, or loses its last replica before it takes the request: main answers, if it has room.
        3. main isn't ready, loses its last replica, or has no room for another's request: 503. Where the target has a
           queue, its requests wait in it until there is a replica again.
        4. The target's queue is full: 429.
        5. The target has the request and breaks (502), or sends no first byte in time (504). Nobody else gets it.

        Raises:
            Unanswered: cases 3 to 5; 404 for a task whose version or replica has gone.
        """
        if task := asked_for(request):
            return await self._ask_about(task, request, arrived, pinned)
        key, reason = (pinned, Reason.PINNED) if pinned is not None else self.choose(request)
        target = self.targets[key]
        clock = Clock(arrived)
        elsewhere = key != MAIN and reason is not Reason.PINNED
        failure, status = f"{key} is not ready", 503
        if target.ready or (target.keeps_requests and not elsewhere):
            try:
                return await self._send(target, reason, request, clock)
            except NotSent as error:
                failure = f"{key} took no request: {error}"
                status = 504 if isinstance(error, NeverWoke) else 503
                request = request.again()
        if elsewhere:
            return await self._fail_over(request, clock, key)
        raise self._unavailable(failure, key, reason, status)

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
            return await self._send(self.targets[key], reason, request, Clock(arrived))
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

    async def _fail_over(self, request: Request, clock: Clock, meant_for: str) -> Answer:
        main = self.targets[MAIN]
        if not (main.ready and (main.gate.holds or main.has_room(self.settings.ingress_replicas))):
            failure = f"{meant_for} is not ready, and main has no room for its requests"
            raise self._unavailable(failure, meant_for, Reason.FAILOVER)
        try:
            answer = await self._send(main, Reason.FAILOVER, request, clock, spare=True)
        except NotSent as error:
            failure = f"{meant_for} is not ready, and main took no request: {error}"
            raise self._unavailable(failure, meant_for, Reason.FAILOVER) from error
        except Unanswered:
            self._observer.failed_over(meant_for)
            raise
        self._observer.failed_over(meant_for)
        return answer

    def _unavailable(self, failure: str, meant_for: str, reason: Reason, status: int = 503) -> Unanswered:
        self._observer.unavailable(meant_for)
        sentence = f"Service Unavailable: {failure}" if status == 503 else f"Gateway Timeout: {failure}"
        return Unanswered(status, sentence, meant_for, reason)

    async def _send(
        self, target: Target, reason: Reason, request: Request, clock: Clock, *, spare: bool = False
    ) -> Answer:
        """Get an answer from `target`, within its time; a `spare` request takes only room that nobody waits for.

        Raises:
            NotSent: nothing of the request was sent; someone else may answer it.
            Unanswered: it has had its chance.
        """
        limit_s = target.settings.timeout_s
        try:
            async with asyncio.timeout_at(clock.since + limit_s) as limit:
                if asyncio.get_running_loop().time() >= clock.since + limit_s:
                    raise TimeoutError
                while True:
                    try:
                        return await self._try(target, reason, request, clock, limit, spare)
                    except NotSent as error:
                        # A queue keeps what it let in, and so does a target that has just fallen asleep.
                        stays = target.asleep or target.keeps_requests or isinstance(error, _QueueMoved)
                        if spare or request.replica is not None or not stays:
                            raise
                        request = request.again()
        except TimeoutError:
            if clock.stands:
                raise clock.never_woke(target) from None
            sentence = f"Not able to process the request in {limit_s:g} seconds"
            raise Unanswered(504, sentence, target.key, reason) from None
        except Broken as error:
            raise Unanswered(502, f"Bad Gateway: {target.key} broke: {error}", target.key, reason) from error

    async def _try(
        self, target: Target, reason: Reason, request: Request, clock: Clock, limit: asyncio.Timeout, spare: bool
    ) -> Answer:
        # A question about a task is for one replica, which works on the task whether it is asked or not.
        apart = request.path in _HEALTH_PATHS or request.replica is not None
        if not apart and request.rest is not None and (target.gate.holds or target.asleep):
            await self._receive(target, reason, request, spare)
        gate = OPEN if apart else target.gate
        place = gate.enter(clock.arrived, spare)
        target.in_flight += 1
        answered = False
        kept_s = 0.0
        try:
            # A replica that drains still answers for its tasks, and one that has gone comes back no more.
            if request.replica is None:
                await clock.wake(target, limit, counted=gate.holds)
                if not (target.ready or gate.holds):
                    raise NotSent("it is not ready")
            await place.turn()
            if gate.holds:
                self._observer.queued(target.key, asyncio.get_running_loop().time() - clock.arrived)
            head, call = await self._begin(target, request, place)
            answered = True
            return Answer(target, reason, head, call, place)
        except Closed:
            sentence = "its queue has gone"
            raise (NotSent(sentence) if target.gate is gate else _QueueMoved(sentence)) from None
        except Full as full:
            raise self._full(target, reason, spare, full.retry_after_s) from None
        except Broken:
            kept_s = _BROKEN_S
            raise
        finally:
            if not answered:
                target.in_flight -= 1
                if kept_s:
                    asyncio.get_running_loop().call_later(kept_s, place.leave)
                else:
                    place.leave()

    async def _receive(self, target: Target, reason: Reason, request: Request, spare: bool) -> None:
        """Read the rest of a body before its request waits.

        Only what has been read whole shows at once that its client has left; and a slot is for the work, not for a
        client that is slow to send. The place in the queue goes by the arrival all the same. No more bodies are taken
        in at a time than there are places, in the queue and at replicas.
        """
        if target.gate.holds and target.receiving + target.gate.depth >= target.places:
            raise self._full(target, reason, spare, retry_after_s=1)
        target.receiving += 1
        try:
            await request.read_whole()
        finally:
            target.receiving -= 1

    def _full(self, target: Target, reason: Reason, spare: bool, retry_after_s: int) -> Exception:
        if spare:
            return NotSent("it has no room")
        self._observer.refused(target.key)
        sentence = f"Too many requests: the queue of {target.key} is full"
        return Unanswered(429, sentence, target.key, reason, retry_after_s)

    async def _begin(self, target: Target, request: Request, place: Place) -> tuple[Head, Call]:
        """Send a request and wait for the beginning of the response."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        call = target.transport.send(request)
        place.sent(call)
        # What is on its way already, as it is over a connection at hand, can't be taken back.
        waiting = None
        if request.sent_at is None:
            waiting = _Wait(target, request, call, self.settings.target_wait_s)
        answered = False
        try:
            head = await call.head()
            answered = True
            return head, call
        finally:
            if waiting is not None:
                waiting.cancel()
                self._observer.waited(target.key, (request.sent_at or loop.time()) - began)
            if request.sent_at is not None:
                self._observer.sent(target.key, call.way)
            if not answered:
                # Nobody waits for it any more: what has not been sent must not be sent later.
                request.withdraw()
                call.cancel()


class _QueueMoved(NotSent):
    """The target goes on with another queue, or without one."""


def _is_system(request: Request) -> bool:
    if request.line is not None or request.method not in ("GET", "HEAD"):
        return False
    return request.path in _SYSTEM_PATHS or request.path.startswith(_SYSTEM_FOLDER)


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
