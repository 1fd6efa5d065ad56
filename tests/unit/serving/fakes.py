"""Stand-ins for what surrounds the serving layer: the way to a target, the client, the observer, a Bento's app."""

import asyncio
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from ray_canary.serving.access import Gate
from ray_canary.serving.dispatch import Dispatcher
from ray_canary.serving.http import Message, Scope
from ray_canary.serving.journal import Served
from ray_canary.serving.passthrough import PassThrough
from ray_canary.serving.settings import IngressSettings
from ray_canary.serving.targets import Target
from ray_canary.serving.transport import Broken, NotSent, Terms
from ray_canary.serving.wire import Head, HeaderList, Request
from ray_canary.splitter import Splitter
from ray_canary.tokens import Tokens

T = TypeVar("T")

PATIENCE_S = 10.0
"""How long a test waits for what must happen; only a failing test ever waits that long."""


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine, and fail if it hangs or leaves a task behind."""

    async def whole() -> T:
        async with asyncio.timeout(PATIENCE_S):
            result = await coroutine
        await settle()
        assert not others(), "tasks are left pending"
        return result

    return asyncio.run(whole())


def others() -> set[asyncio.Task[Any]]:
    """Return every task but the one that asks."""
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


async def settle() -> None:
    """Let everything that can go on go on."""
    for _ in range(10):
        await asyncio.sleep(0)


# The way to a target --------------------------------------------------------------------------------------------------


def head(body: bytes = b"answer", *, more: bool = False, status: int = 200, headers: HeaderList | None = None) -> Head:
    return Head(status, headers or [], "summarization:fake", body, more)


@dataclass
class Script:
    """What a replica does with a request.

    Without `takes` nothing of the request is ever sent; with `leaves` the replica goes, and it was the last.
    `answer` is the beginning of its response, or what it raises; None is silence. `parts` are the rest of the body:
    an event holds it up, an exception breaks it.
    """

    takes: bool = True
    leaves: bool = False
    answer: Head | Exception | None = None
    parts: Iterable[bytes | asyncio.Event | Exception] = ()


ANSWERS = Script(answer=head())
SILENT = Script()
FULL = Script(takes=False)
GONE = Script(takes=False, leaves=True)
BREAKS = Script(answer=Broken("ActorDiedError: gone"))
REFUSES = Script(takes=False, answer=NotSent("no replica"))


class FakeCall:
    """One request under way to a fake replica."""

    way = "handle"

    def __init__(self, request: Request, script: Script) -> None:
        self.request = request
        self.received: Request | None = None
        self.cancelled = False
        self.asked = asyncio.Event()
        self._script = script
        self._end = asyncio.Event()

    async def head(self) -> Head:
        self.asked.set()
        if self._script.takes:
            await self.request.read_whole()
            self.received = pickle.loads(pickle.dumps(self.request))
        answer = self._script.answer
        if answer is None:
            await self._end.wait()
            answer = NotSent("cancelled") if self.request.withdraw() else Broken("cancelled")
        if isinstance(answer, Exception):
            if isinstance(answer, NotSent):
                assert self.request.withdraw()
            raise answer
        return answer

    async def body(self) -> AsyncIterator[bytes]:
        for part in self._script.parts:
            if isinstance(part, Exception):
                raise part
            if isinstance(part, asyncio.Event):
                await part.wait()
            else:
                yield part

    def cancel(self) -> None:
        self.cancelled = True
        self._end.set()


class FakeTransport:
    """The way to a fake target: each request gets the next script, the last one for ever."""

    place = ("", "")
    way = "handle"

    def __init__(self, *scripts: Script, routable: int = 1, seen: bool = True) -> None:
        self.routable = routable
        self.seen = seen
        self.calls: list[FakeCall] = []
        self.draining: list[Any] = []
        self.waiting = 0
        self.most_waiting = 0
        self._scripts = scripts or (ANSWERS,)
        self._news = asyncio.Event()

    def drains(self, call: Any) -> bool:
        return call in self.draining

    def use(self, terms: Terms) -> None:
        self.terms = terms

    def waits(self, by: int) -> None:
        self.waiting += by
        self.most_waiting = max(self.most_waiting, self.waiting)

    def send(self, request: Request) -> FakeCall:
        script = self._scripts[min(len(self.calls), len(self._scripts) - 1)]
        call = FakeCall(request, script)
        self.calls.append(call)
        if script.leaves:
            self.routable = 0
        self._news.set()
        return call

    async def next_call(self) -> FakeCall:
        """Wait until a request is on its way and its response is waited for; return the last."""
        await self._news.wait()
        await self.calls[-1].asked.wait()
        return self.calls[-1]


@dataclass
class FakeObserver:
    """Remembers what it was told."""

    def __post_init__(self) -> None:
        self.waits: list[tuple[str, float]] = []
        self.failovers: list[str] = []
        self.missing = 0
        self.turned_away: list[str] = []
        self.queues: list[tuple[str, float]] = []
        self.full: list[str] = []
        self.ways: list[tuple[str, str]] = []

    def waited(self, target: str, seconds: float) -> None:
        self.waits.append((target, seconds))

    def queued(self, target: str, seconds: float) -> None:
        self.queues.append((target, seconds))

    def sent(self, target: str, way: str) -> None:
        self.ways.append((target, way))

    def refused(self, target: str) -> None:
        self.full.append(target)

    def failed_over(self, target: str) -> None:
        self.failovers.append(target)

    def missed_key(self) -> None:
        self.missing += 1

    def unavailable(self, target: str) -> None:
        self.turned_away.append(target)


class FakeJournal:
    """Remembers what the pass-through told."""

    def __init__(self) -> None:
        self.begun: list[tuple[Served, str, float]] = []
        self.over: list[tuple[Served, float, int]] = []
        self.broken: list[str] = []
        self.gaps: list[float | None] = []

    def request(self, served: Served, reason: str, seconds: float) -> None:
        self.begun.append((served, reason, seconds))

    def ended(self, served: Served, seconds: float, size: int) -> None:
        self.over.append((served, seconds, size))

    def cut_off(self, target: str) -> None:
        self.broken.append(target)

    def chunk(self, served: Served, gap_s: float | None) -> None:
        self.gaps.append(gap_s)


# One Deployment's ingress ---------------------------------------------------------------------------------------------


def target_config(arm: str = "main", **given: Any) -> dict[str, Any]:
    usual = {"application": f"d-{arm}", "deployment": "S", "bento": "s:1", "arm": arm, "timeout_s": 60, "capacity": 4}
    return {**usual, **given}


def user_config(weights: dict[str, Any] | None = None, **given: Any) -> dict[str, Any]:
    """Return a right `user_config`; what is `given` replaces its parts."""
    weights = {"a": 30} if weights is None else weights
    split = {"route_type": "random", "weights": weights, **given.pop("split", {})}
    targets = {key: target_config(key) for key in ("main", *weights)}
    return {"deployment": "d", "split": split, "targets": targets, **given}


class World:
    """An ingress's dispatcher with fake targets; `a` gets every request unless the weights say otherwise."""

    def __init__(self, transports: dict[str, FakeTransport], config: dict[str, Any] | None = None) -> None:
        weights = {key: 100 if index == 0 else 0 for index, key in enumerate(k for k in transports if k != "main")}
        self.settings = IngressSettings.model_validate(config or user_config(weights))
        self.transports = transports
        self.targets = {key: Target(key, self.settings.targets[key], way) for key, way in transports.items()}
        self.observer = FakeObserver()
        splitter = Splitter(self.settings.split.shares(), self.settings.deployment, arms=self.settings.arms())
        self.dispatcher = Dispatcher(self.settings, dict(self.targets), splitter, self.observer)
        self.journal = FakeJournal()
        self.tokens: Tokens | None = Tokens()
        self.now = 0.0
        gate = Gate(lambda: self.tokens, lambda: self.now)
        self.app = PassThrough(lambda: self.dispatcher, lambda: "serves-id", self.journal, gate)

    @property
    def records(self) -> list[tuple[str, str, int]]:
        """Who answered each request, why, and with what status."""
        return [(served.target, reason, served.status) for served, reason, _ in self.journal.begun]

    @property
    def in_flight(self) -> int:
        return sum(target.in_flight for target in self.targets.values())

    async def get(self, **scope: Any) -> "Client":
        """Send one request and wait for the end of its response."""
        client = Client()
        await self.app(http_scope(**scope), client.receive, client.send)
        return client


def request(query: bytes = b"", headers: HeaderList | None = None, body: bytes = b"") -> Request:
    return Request("POST", "/summarize", b"/summarize", query, headers or [], body, ("127.0.0.1", 1))


# The client -----------------------------------------------------------------------------------------------------------


def http_scope(
    path: str = "/summarize", headers: HeaderList | None = None, method: str = "POST", **given: Any
) -> Scope:
    usual = {"raw_path": path.encode(), "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1)}
    return {"type": "http", "method": method, "path": path, "headers": headers or [], **usual, **given}


class Client:
    """An ASGI server's side of one request: gives the body out in parts, and remembers the response."""

    def __init__(self, *parts: bytes, complete: bool = True, gate: asyncio.Event | None = None) -> None:
        ends = [*([True] * (len(parts) - 1)), not complete]
        self._given = [
            {"type": "http.request", "body": part, "more_body": more}
            for part, more in zip(parts or (b"",), ends, strict=True)
        ]
        self.sent: list[Message] = []
        self.reading = asyncio.Event()
        self._gate = gate
        self._news = asyncio.Event()

    async def receive(self) -> Message:
        if self._given:
            return self._given.pop(0)
        self.reading.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        self._news.set()
        if self._gate is not None and message["type"] == "http.response.body":
            await self._gate.wait()

    async def got(self, count: int) -> None:
        """Wait until that many messages have come."""
        while len(self.sent) < count:
            self._news.clear()
            await self._news.wait()

    @property
    def unread(self) -> int:
        return len(self._given)

    @property
    def status(self) -> int:
        starts = [message["status"] for message in self.sent if message["type"] == "http.response.start"]
        assert len(starts) == 1, "a response has exactly one status"
        return int(starts[0])

    @property
    def headers(self) -> HeaderList:
        return list(self.sent[0]["headers"])

    def header(self, name: bytes) -> list[bytes]:
        return [value for header, value in self.headers if header == name]

    @property
    def body(self) -> bytes:
        assert not self.sent[-1]["more_body"]
        return b"".join(message["body"] for message in self.sent[1:])


# A Bento's app --------------------------------------------------------------------------------------------------------

App = Callable[[Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


def start_message(status: int = 200, headers: HeaderList | None = None) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers or []}


def body_message(body: bytes, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}
