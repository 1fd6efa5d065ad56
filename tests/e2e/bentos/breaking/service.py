"""A Bento that breaks while it runs, as a file says that its environment names."""

import asyncio
import os
from pathlib import Path

import bentoml
from starlette.types import Receive, Scope, Send

#: Bytes that a request takes at most, and at a time, when it is to fill the memory.
MEMORY = 512 * 2**20
STEP = 16 * 2**20


def asked_for() -> str:
    """Return how to break now; nothing if not at all."""
    path = Path(os.environ.get("BREAKING_FILE") or os.devnull)
    return path.read_text().strip() if path.exists() else ""


async def fill_memory() -> None:
    """Take more and more memory, for as long as that is asked for; four seconds take all there is to take."""
    kept = []
    while asked_for() == "memory" and len(kept) * STEP < MEMORY:
        kept.append(bytearray(b"x") * STEP)
        await asyncio.sleep(0.05)


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """Stream ten pieces. What BentoML streams itself ends cleanly when it fails; this one doesn't."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(10):
        if number == 5 and asked_for() == "cut":
            raise RuntimeError("it breaks in the middle of its stream")
        await send({"type": "http.response.body", "body": f"{number} ".encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@bentoml.service(traffic={"timeout": 30})
@bentoml.asgi_app(stream, path="/stream")
class Breaking:
    """The only service."""

    def __init__(self) -> None:
        if asked_for() == "start":
            raise ValueError("it does not start")

    @bentoml.api
    async def who(self) -> dict[str, object]:
        """Say which process this is."""
        if asked_for() == "500":
            raise RuntimeError("it answers with errors")
        if asked_for() == "memory":
            await fill_memory()
        return {"pid": os.getpid()}
