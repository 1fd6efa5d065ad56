"""The Bento of the benchmarks: it does next to nothing, so that what stands around it shows."""

import asyncio
import time
from collections.abc import AsyncGenerator

import bentoml


@bentoml.service(traffic={"timeout": 60})
class Bench:
    """One small API, and one that streams."""

    @bentoml.api
    async def count(self, text: str) -> str:
        """Say how long a text is."""
        return f"{len(text)} characters"

    @bentoml.api
    async def stream(self, chunks: int, every_s: float) -> AsyncGenerator[str, None]:
        """Stream, every so often, a line with this moment on the machine's monotonic clock."""
        for _ in range(chunks):
            yield f"{time.monotonic()}\n"
            await asyncio.sleep(every_s)
