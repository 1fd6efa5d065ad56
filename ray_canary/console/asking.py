"""Sends a Playground's request to a Deployment, and notes what comes back and when. Knows nothing of pages."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

import httpx

from ray_canary.console.schema import Body
from ray_canary.console.snippets import Headers

#: Bytes of an answer that are kept; what comes after them is counted, and thrown away.
KEPT: Final = 20 * 2**20
#: Seconds without a byte after which a request is given up, and for a connection.
TIMEOUT: Final = httpx.Timeout(660.0, connect=5.0)

PIN: Final = "X-Bento-Version"


@dataclass
class Answer:
    """One answer, growing while it comes. Times are seconds from the sending."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    content: bytearray = field(default_factory=bytearray)
    size: int = 0
    first_byte_s: float | None = None
    took_s: float | None = None
    failure: str = ""

    @property
    def media_type(self) -> str:
        """What the content is, without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def text(self) -> str:
        """The content as text."""
        return self.content.decode(errors="replace")


@dataclass(frozen=True)
class Target:
    """Where requests go: the Deployment's URL, a version to ask for by hand, the split's key, and a token."""

    url: str
    version: str | None = None
    header: tuple[str, str] | None = None
    query: tuple[str, str] | None = None
    token: str = field(default="", repr=False)

    def at(self, route: str) -> str:
        """Return the URL of a route."""
        query = f"?{urlencode([self.query])}" if self.query else ""
        return f"{self.url.rstrip('/')}/{route.lstrip('/')}{query}"

    @property
    def headers(self) -> Headers:
        """The headers that choose a version; the token is not among them."""
        pin = ((PIN, self.version),) if self.version else ()
        return (*pin, *((self.header,) if self.header else ()))


async def schema(target: Target) -> Any:
    """Return the `/schema.json` of the version that a target asks for.

    Raises:
        ValueError: it says no, or nothing that is a schema; the message is for whoever asked.
    """
    answer = Answer()
    async for _ in send(target, "GET", "/schema.json", None, answer):
        pass
    if answer.failure or answer.status != 200:
        raise ValueError(answer.failure or f"{answer.status}: {answer.text[:500]}")
    try:
        return httpx.Response(200, content=bytes(answer.content)).json()
    except ValueError:
        raise ValueError("its /schema.json is not JSON") from None


async def send(target: Target, method: str, route: str, body: Body | None, answer: Answer) -> AsyncIterator[None]:
    """Send a request, and yield each time that more of its answer is in `answer`. Failures are in it too."""
    headers = dict(target.headers)
    if target.token:
        headers["Authorization"] = f"Bearer {target.token}"
    began = time.monotonic()
    try:
        async with (
            httpx.AsyncClient(timeout=TIMEOUT) as client,
            client.stream(method, target.at(route), headers=headers | _media_type(body), **_content(body)) as response,
        ):
            answer.status = response.status_code
            answer.headers = dict(response.headers)
            answer.first_byte_s = time.monotonic() - began
            yield
            async for piece in response.aiter_bytes():
                answer.size += len(piece)
                answer.content += piece[: max(0, KEPT - len(answer.content))]
                yield
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        answer.failure = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    except UnicodeEncodeError:
        answer.failure = "A header can't carry that text: give ASCII"
    finally:
        answer.took_s = time.monotonic() - began


def _media_type(body: Body | None) -> dict[str, str]:
    return {"Content-Type": body.files[0][1][1]} if body is not None and body.raw else {}


def _content(body: Body | None) -> dict[str, Any]:
    """Return how httpx is given a body."""
    if body is None:
        return {}
    if body.raw:
        return {"content": body.files[0][1][2]}
    if body.texts or body.files:
        texts = [(name, (None, value.encode())) for name, value in body.texts]
        files = [(name, (file, content, media_type)) for name, (file, media_type, content) in body.files]
        return {"files": [*texts, *files]}
    return {"json": body.json}
