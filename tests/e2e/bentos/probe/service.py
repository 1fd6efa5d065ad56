"""A Bento that says what it sees: everything the end-to-end tests ask of a version."""

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated

import bentoml
from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from pydantic import Field
from starlette.responses import StreamingResponse

web = FastAPI()
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"]
COUNTS: Counter[str] = Counter()
EVENTS: list[str] = [f"import {os.environ.get('PROBE_START_S', '')}"]


@bentoml.service(traffic={"timeout": 60})
class Letters:
    """An inner service; only the entry service reaches it."""

    @bentoml.api
    async def count(self, text: str) -> int:
        """Count letters."""
        return len(text)

    @bentoml.api
    async def env(self, name: str) -> str:
        """Return an environment variable."""
        return os.environ.get(name, "(not set)")

    @bentoml.api
    async def pid(self) -> int:
        """Say which process this is."""
        return os.getpid()


@bentoml.service(traffic={"timeout": 60})
@bentoml.asgi_app(web, path="/web")
class Probe:
    """The entry service."""

    letters = bentoml.depends(Letters)

    def __init__(self) -> None:
        time.sleep(float(os.environ.get("PROBE_START_S", "0")))
        self.now = 0
        self.most = 0
        self.begun: list[int] = []
        self.at_once = 0
        self.most_at_once = 0

    @bentoml.on_deployment
    @staticmethod
    def deployed() -> None:
        EVENTS.append("on_deployment")

    @bentoml.on_startup
    def started(self) -> None:
        EVENTS.append("on_startup")

    @bentoml.on_shutdown
    def stopped(self) -> None:
        if path := os.environ.get("PROBE_SHUTDOWN_FILE"):
            Path(path).write_text("on_shutdown")

    @bentoml.api
    async def who(self) -> dict[str, object]:
        """Say which version, process and folder this is."""
        return {
            "name": os.environ.get("PROBE_NAME", ""),
            "pid": os.getpid(),
            "cwd": os.getcwd(),
            "events": EVENTS,
            "data": Path("data.txt").read_text().strip(),
        }

    @bentoml.api
    async def env(self, name: str) -> str:
        """Return an environment variable."""
        return os.environ.get(name, "(not set)")

    @bentoml.api
    async def inner_env(self, name: str) -> str:
        """Ask the inner service for an environment variable."""
        return await self.letters.env(name=name)

    @bentoml.api
    async def home_file(self, path: str) -> str:
        """Return what stands in a file in BENTOML_HOME."""
        return (Path(os.environ["BENTOML_HOME"]) / path).read_text()

    @bentoml.api
    async def tell(self, name: str) -> None:
        """Log an environment variable, and raise with it."""
        logging.getLogger("bentoml").error("%s is %s", name, os.environ[name])
        raise RuntimeError(f"{name} is {os.environ[name]!r}")

    @bentoml.api
    async def count(self, text: str) -> int:
        """Ask the inner service."""
        return await self.letters.count(text=text)

    @bentoml.api
    async def inner_pid(self) -> int:
        """Ask the inner service which process it is."""
        return await self.letters.pid()

    @bentoml.api
    async def sleep(self, seconds: Annotated[float, Field(ge=0)]) -> dict[str, float]:
        """Take a while; remember how many did at once."""
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.now -= 1
        return {"slept": seconds}

    @bentoml.api
    async def busy(self) -> dict[str, int]:
        """Say how many `sleep` and `ticks` calls are under way, and how many of `sleep` there were at most."""
        return {"now": self.now, "most": self.most}

    @bentoml.api
    async def number(self, number: int, seconds: float) -> int:
        """Take a while; note in which order calls begin and how many are under way at once."""
        self.begun.append(number)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.at_once -= 1
        return number

    @bentoml.api
    async def numbers(self) -> dict[str, object]:
        """Say in which order calls of `number` began, how many are under way, how many were at most; start anew."""
        said = {"begun": self.begun, "now": self.at_once, "most": self.most_at_once, "pid": os.getpid()}
        self.begun, self.most_at_once = [], self.at_once
        return said

    @bentoml.api
    def think(self, seconds: float) -> float:
        """Take a while in a thread."""
        time.sleep(seconds)
        return seconds

    @bentoml.api
    async def ticks(self, count: int, every_s: float) -> AsyncGenerator[str, None]:
        """Stream a line every so often."""
        self.now += 1
        try:
            for number in range(count):
                yield f"{number}\n"
                await asyncio.sleep(every_s)
        finally:
            self.now -= 1

    @bentoml.api
    async def exit(self) -> None:
        """Die without a word."""
        os._exit(1)

    @bentoml.task
    async def job(self, text: str) -> str:
        """Work in the background."""
        return text.upper()


@web.api_route("/echo", methods=METHODS)
@web.api_route("/echo/{rest:path}", methods=METHODS)
async def echo(request: Request) -> Response:
    """Send the body back, with the request's line and headers in the response's headers."""
    body = await request.body()
    response = Response(body, media_type="application/octet-stream")
    response.headers["seen-method"] = request.method
    response.headers["seen-path"] = request.scope["raw_path"].decode()
    response.headers["seen-query"] = request.scope["query_string"].decode()
    for name, value in request.headers.items():
        response.headers.append("seen-header", f"{name}={value}")
    response.headers.append("set-cookie", "a=1")
    response.headers.append("set-cookie", "b=2")
    response.headers.append("connection", "x-private")
    response.headers["x-private"] = "not for the client"
    response.headers["x-bento-version"] = "forged"
    return response


@web.api_route("/counted/{name}", methods=METHODS)
async def counted(name: str) -> dict[str, int]:
    """Count the requests of a name, this one included."""
    COUNTS[name] += 1
    return {name: COUNTS[name]}


@web.get("/counts")
async def counts() -> dict[str, int]:
    """Say how often each name was counted."""
    return dict(COUNTS)


@web.get("/bytes")
async def many_bytes(count: int) -> Response:
    """Answer `count` bytes."""
    return Response(bytes(index % 251 for index in range(251)) * (count // 251 + 1), media_type="image/png")


@web.get("/stamps")
async def stamps(count: int, every_s: float) -> StreamingResponse:
    """Stream, every so often, a line with this moment on the machine's monotonic clock."""

    async def body() -> AsyncGenerator[str, None]:
        for _ in range(count):
            yield f"{time.monotonic()}\n"
            await asyncio.sleep(every_s)

    return StreamingResponse(body())


@web.websocket("/talk")
async def talk(socket: WebSocket) -> None:
    """Send every message back."""
    await socket.accept()
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect:
        return


@web.get("/break")
async def break_off() -> StreamingResponse:
    """Begin a response, then break."""

    async def body() -> AsyncGenerator[bytes, None]:
        yield b"the beginning"
        await asyncio.sleep(0.2)
        raise RuntimeError("broken in the middle")

    return StreamingResponse(body())


@web.get("/raise-with")
async def raise_with(name: str) -> None:
    """Raise with an environment variable in the message."""
    raise RuntimeError(f"{name} is {os.environ[name]}")


@web.get("/raise")
async def raise_error() -> None:
    """Raise where BentoML's own timeout middleware would notice only when its timer fires."""
    raise RuntimeError("raised in a mounted app")
