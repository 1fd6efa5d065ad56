"""A summarizer that ranks sentences by their likeness: version a of the demo."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated

import bentoml
from annotated_types import Ge, Le
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from summarizer import summarize

SAMPLE = Path(__file__).with_name("sample.txt").read_text(encoding="utf-8")


def summarize_query(request: Request) -> PlainTextResponse:
    """Answer `GET /summarize?text=...`: BentoML's own APIs take POST only, and a plain `curl` sends GET."""
    return PlainTextResponse("\n".join(summarize(request.query_params.get("text", SAMPLE))))


@bentoml.service(resources={"cpu": "200m", "memory": "256Mi"}, traffic={"timeout": 30, "concurrency": 8})
@bentoml.asgi_app(Starlette(routes=[Route("/summarize", summarize_query, methods=["GET"])]))
class Summarization:
    """Picks the sentences of a text that say the most of it. A request without a text gets a sample's summary."""

    @bentoml.api
    def summarize(self, text: str = SAMPLE) -> str:
        """Return the summary, one sentence a line."""
        return "\n".join(summarize(text))

    @bentoml.api
    async def stream(
        self, text: str = SAMPLE, pause: Annotated[float, Ge(0), Le(10)] = 0.0
    ) -> AsyncGenerator[str, None]:
        """Send the same summary word by word, and wait for `pause` seconds after each word."""
        for sentence in await asyncio.to_thread(summarize, text):
            for word in sentence.split(" "):
                yield word + " "
                await asyncio.sleep(pause)
