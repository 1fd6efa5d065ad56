"""A Bento with one API of every kind that BentoML's own clients can call, and a mounted app with websockets."""

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated

import bentoml
import numpy as np
from bentoml.validators import ContentType
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from pydantic import BaseModel

web = FastAPI()
#: How websockets ended: the codes that clients closed with.
CODES: list[int] = []


class Point(BaseModel):
    """Two numbers."""

    x: float
    y: float


@bentoml.service(traffic={"timeout": 30})
@bentoml.asgi_app(web, path="/web")
class Clients:
    """The only service."""

    @bentoml.api
    def who(self) -> dict[str, object]:
        """Say which version and process this is."""
        return {"name": os.environ["PROBE_NAME"], "pid": os.getpid()}

    @bentoml.api
    async def shout(self, text: str, times: int = 1) -> str:
        """Answer text."""
        return text.upper() * times

    @bentoml.api
    async def mirror(self, point: Point) -> Point:
        """Answer a model."""
        return Point(x=point.y, y=point.x)

    @bentoml.api
    async def double(self, values: np.ndarray) -> np.ndarray:
        """Answer an array."""
        return values * 2

    @bentoml.api
    async def words(self, text: str) -> AsyncGenerator[str, None]:
        """Stream words."""
        for word in text.split():
            yield word
            await asyncio.sleep(0.01)

    @bentoml.api
    async def size(self, file: Path) -> int:
        """Take a file."""
        return file.stat().st_size

    @bentoml.api
    async def picture(
        self, file: Annotated[Path, ContentType("image/png")]
    ) -> Annotated[Path, ContentType("image/png")]:
        """Take and answer an image file."""
        return file

    @bentoml.task
    async def job(self, text: str, seconds: float = 0) -> str:
        """Work in the background."""
        await asyncio.sleep(seconds)
        return f"{os.environ['PROBE_NAME']} {os.getpid()} {text}"


@web.websocket("/echo")
async def echo(socket: WebSocket) -> None:
    """Send every message back; text `close CODE` closes."""
    offered = socket.scope["subprotocols"]
    await socket.accept(subprotocol=offered[-1] if offered else None, headers=[(b"x-app", b"echo")])
    try:
        while (message := await socket.receive())["type"] == "websocket.receive":
            text = message.get("text")
            if text is not None and text.startswith("close "):
                await socket.close(int(text.split()[1]), "as you wish")
                return
            if text == "who":
                await socket.send_text(f"{os.environ['PROBE_NAME']} {os.getpid()}")
            elif text == "exit":
                os._exit(1)
            elif text is not None:
                await socket.send_text(text)
            else:
                await socket.send_bytes(message["bytes"])
        CODES.append(message["code"])
    except WebSocketDisconnect as error:
        CODES.append(error.code)


@web.websocket("/flood")
async def flood(socket: WebSocket) -> None:
    """Send numbers until the client goes."""
    await socket.accept()
    for number in range(1000):
        await socket.send_bytes(number.to_bytes(4, "big") + bytes(100_000))
    await socket.close()


@web.websocket("/never")
async def never(socket: WebSocket) -> None:
    """Refuse."""
    await socket.close()


@web.get("/codes")
async def codes() -> list[int]:
    """Say how websockets ended here."""
    return CODES


@web.get("/status")
async def status(task_id: str) -> str:
    """Use `task_id` for something else."""
    return task_id
