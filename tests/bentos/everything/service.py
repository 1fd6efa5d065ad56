# mypy: ignore-errors
"""A Bento with one of everything that a host has to get right (facts/bentocloud.md 4.5)."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated, Any

import anyio
import bentoml
from bentoml.validators import ContentType
from fastapi import BackgroundTasks, FastAPI, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from version import VERSION

#: What the environment asks to break: a word that stands below, or nothing.
BREAK = os.environ.get("BREAK", "")
EVENTS: list[str] = []
DEFAULTS_AT_IMPORT = {name: os.environ.get(name) for name in ("DEFAULT", "FILE_DEFAULT")}

web = FastAPI()
background: list[str] = []


def event(name: str) -> None:
    """Note that something happened, for whoever reads the file."""
    EVENTS.append(name)
    if path := os.environ.get("EVENTS_FILE"):
        with Path(path).open("a") as file:
            file.write(name + "\n")


def break_at(place: str) -> None:
    """Fail here if the environment asks for it."""
    if place == BREAK:
        raise RuntimeError(f"broken at {place}")


if BREAK == "import-error":
    import nothing_of_that_name  # noqa: F401
if BREAK == "exit":
    sys.exit("left at import")


class Tally:
    """Counts what is under way at once."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self.cancelled = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._lock:
            self.now -= 1
            self.cancelled += kind is asyncio.CancelledError

    def read(self) -> dict[str, int]:
        """Return the counts."""
        return {"now": self.now, "most": self.most, "cancelled": self.cancelled}


class Stamp:
    """A user's ASGI middleware: it adds a header."""

    def __init__(self, app: ASGIApp, value: str) -> None:
        self._app = app
        self._value = value

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"stamp", self._value.encode())]
            await send(message)

        await self._app(scope, receive, stamped)


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """Raise where nothing but the outer middlewares would notice; `cling` answers all the same when cancelled."""
    if scope["path"].endswith("/cling"):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await Response("too late")(scope, receive, send)
            return
    raise {"timeout": TimeoutError, "runtime": RuntimeError}[scope["path"].rpartition("/")[2]](
        "raised in a mounted app"
    )


@bentoml.service(name="inner.letters", traffic={"timeout": 60}, envs=[{"name": "INNER_REQUIRED"}])
class Letters:
    """An inner service with a dotted name."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.free = asyncio.Event()

    @bentoml.api
    async def count(self, text: str) -> int:
        """Count letters."""
        return len(text)

    @bentoml.api
    def shout(self, text: str) -> str:
        """Make letters large, in a thread."""
        return text.upper()

    @bentoml.api
    async def one_by_one(self, text: str) -> AsyncGenerator[str, None]:
        """Stream letters."""
        for letter in text:
            yield letter

    @bentoml.api
    async def media_type(self, ctx: bentoml.Context) -> str:
        """Say how the request came."""
        return ctx.request.headers["content-type"]

    @bentoml.api
    async def hold(self) -> None:
        """Wait until it is let go."""
        with self.tally:
            await self.free.wait()

    @bentoml.api
    async def let_go(self) -> None:
        """Let every `hold` go."""
        self.free.set()
        self.free = asyncio.Event()

    @bentoml.api
    async def held(self) -> dict[str, int]:
        """Say how many `hold` are under way, and how many were cancelled."""
        return self.tally.read()

    @bentoml.api
    async def pid(self) -> int:
        """Say which process this is."""
        return os.getpid()


@bentoml.service(
    workers=2,
    traffic={"timeout": 60},
    envs=[
        {"name": "REQUIRED"},
        {"name": "DEFAULT", "value": "from the decorator"},
        {"name": "BUILD_ONLY", "value": "x", "stage": "build"},
    ],
)
@bentoml.asgi_app(bare, path="/bare")
@bentoml.asgi_app(web, path="/web")
class Everything:
    """The entry service."""

    letters = bentoml.depends(Letters)

    def __init__(self) -> None:
        event("init")
        break_at("init")
        self.asleep = Tally()
        self.thinking = Tally()
        self.alive = self.ready = True

    @bentoml.on_deployment
    @staticmethod
    def deployed() -> None:
        event("on_deployment")

    @bentoml.on_startup
    async def started(self) -> None:
        event("on_startup")
        break_at("startup")
        self.group = anyio.create_task_group()
        await self.group.__aenter__()

    @bentoml.on_shutdown
    async def stopped(self) -> None:
        # anyio refuses this in another task than the one that entered.
        await self.group.__aexit__(None, None, None)
        event("on_shutdown")
        break_at("shutdown")

    def __is_alive__(self) -> bool:
        return self.alive

    async def __is_ready__(self) -> bool:
        return self.ready

    @bentoml.api
    async def who(self) -> dict[str, Any]:
        """Say what this process sees."""
        return {
            "version": VERSION,
            "pid": os.getpid(),
            "cwd": os.getcwd(),
            "data": Path("data.txt").read_text().strip(),
            "at_import": DEFAULTS_AT_IMPORT,
            "events": EVENTS,
        }

    @bentoml.api
    async def environment(self) -> dict[str, str]:
        """Return all environment variables."""
        return dict(os.environ)

    @bentoml.api
    async def health(self, alive: bool, ready: bool) -> None:
        """Set what the health checks say."""
        self.alive, self.ready = alive, ready

    @bentoml.api
    async def sleep(self, seconds: float) -> float:
        """Take a while."""
        with self.asleep:
            await asyncio.sleep(seconds)
        return seconds

    @bentoml.api
    def think(self, seconds: float) -> float:
        """Take a while in a thread."""
        with self.thinking:
            time.sleep(seconds)
        return seconds

    @bentoml.api
    async def counts(self) -> dict[str, dict[str, int]]:
        """Say how much is and was under way."""
        return {"asleep": self.asleep.read(), "thinking": self.thinking.read()}

    @bentoml.api
    async def numbers(self, count: int) -> AsyncGenerator[str, None]:
        """Stream numbers."""
        for number in range(count):
            yield f"{number}\n"

    @bentoml.api
    def size(self, file: Path) -> int:
        """Return the size of an uploaded file."""
        return file.stat().st_size

    @bentoml.api
    def picture(self, ctx: bentoml.Context) -> Annotated[Path, ContentType("image/png")]:
        """Return a file."""
        path = Path(ctx.temp_dir) / "picture.png"
        path.write_bytes(b"\x89PNG\r\n")
        return path

    @bentoml.api(route="/custom/route")
    async def custom(self, ctx: bentoml.Context) -> dict[str, str]:
        """Answer with a status, a header and a cookie of its own."""
        ctx.response.status_code = 201
        ctx.response.headers["x-own"] = "header"
        ctx.response.set_cookie("own", "cookie")
        return {"seen": ctx.request.headers["x-seen"]}

    @bentoml.api
    async def fail(self) -> None:
        """Raise."""
        raise ValueError("the message is only for the log")

    @bentoml.task
    async def job(self, text: str) -> str:
        """Work on after the answer to `submit`."""
        await asyncio.sleep(0.05)
        return text.upper()

    @bentoml.api
    async def count(self, text: str) -> int:
        """Ask the inner service, as async code does."""
        return await self.letters.count(text=text)

    @bentoml.api
    def shout(self, text: str) -> str:
        """Ask the inner service, from a thread."""
        return self.letters.shout(text=text)

    @bentoml.api
    async def one_by_one(self, text: str) -> AsyncGenerator[str, None]:
        """Stream what the inner service streams."""
        async for letter in self.letters.one_by_one(text=text):
            yield f"{letter};"

    @bentoml.api
    async def inner(self) -> dict[str, Any]:
        """Say how the inner service is reached."""
        return {
            "pid": await self.letters.pid(),
            "media_type": await self.letters.media_type(),
            "held": await self.letters.held(),
        }

    @bentoml.api
    async def hold(self) -> None:
        """Wait for the inner service."""
        await self.letters.hold()


Everything.add_asgi_middleware(Stamp, value="by the user")


@web.get("/path")
async def path(request: Request) -> dict[str, str]:
    """Say where this request seems to have gone."""
    return {"path": request.scope["path"], "root_path": request.scope["root_path"], "url": str(request.url)}


@web.get("/own-health")
async def own_health() -> str:
    """Answer a health check of the user's own."""
    return "fine"


@web.get("/background")
async def in_background(tasks: BackgroundTasks) -> list[str]:
    """Work on after the answer."""

    async def work() -> None:
        await asyncio.sleep(0.05)
        background.append("done")

    tasks.add_task(work)
    return list(background)
