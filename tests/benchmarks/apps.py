"""The Serve applications that stand beside ray-canary's. Serve imports this module in its replicas."""

import random
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from ray_canary.serving import bento_app, compile
from ray_canary.serving.entry import entry
from ray_canary.serving.exchange import Exchange
from ray_canary.serving.host import OwnFolder
from ray_canary.serving.host_http import Door
from ray_canary.serving.http import Receive, Scope, Send
from ray_canary.serving.ingress import Ingress
from ray_canary.serving.journal import Served
from ray_canary.serving.recorder import Recorder
from ray_canary.serving.serve_replica import drains
from ray_canary.serving.targets import Target
from ray_canary.serving.wire import Head, Request

Args = dict[str, Any]


# Without a split. ----------------------------------------------------------------------------------------------------


def plain_bento(args: Args) -> Application:
    """Build one deployment of the Bento as anyone would write it: its own ASGI app, as BentoML makes it."""

    def build() -> Any:
        import bentoml

        OwnFolder().use()  # As `bentoml serve` does, and before anything imports prometheus_client.
        service: Any = bentoml.load(args["bento"])
        return service.to_asgi()

    return _bound(args["service"], serve.ingress(build)())


def hosted_bento(args: Args) -> Application:
    """Build one deployment of the ASGI app that a version of ray-canary runs, and nothing around it."""

    def build() -> Any:
        OwnFolder().use()
        return bento_app.load(args["bento"], args["service"], runner_map={}, overrides={})

    return _bound(args["service"], serve.ingress(build)())


def plain_trivial(args: Args) -> Application:
    """Build one deployment of the trivial app."""
    return _bound(args["service"], serve.ingress(lambda: trivial)())


async def trivial(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer `ok`: an ASGI app that costs nothing."""
    if scope["type"] == "lifespan":
        for event in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{event}.complete"})
        return
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


# Behind ray-canary's ingress. ----------------------------------------------------------------------------------------


class TrivialHost:
    """Hosts the trivial app as `BentoHost` hosts a Bento."""

    def __init__(self) -> None:
        self._door = Door(drains)

    async def answer(self, request: Request) -> AsyncIterator[Head | bytes]:
        """Run one request that came by handle."""
        async for part in Exchange(request).run(trivial, "trivial:v1"):
            yield part

    async def introduce(self) -> bytes:
        """Return the secret that an ingress says to get in over HTTP."""
        return self._door.secret

    async def answer_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request that came to this replica's own port."""
        await self._door.answer(trivial, "trivial:v1", scope, receive, send)


def trivial_version(args: Args) -> Application:
    """Build a version that is the trivial app."""
    return _bound(args["service"], serve.ingress(lambda: entry)(TrivialHost))


class NoRecorder(Recorder):
    """Counts nothing, and tells Ray nothing."""

    def request(self, served: Served, reason: str, seconds: float) -> None:
        """Do nothing."""

    def ended(self, served: Served, seconds: float, size: int) -> None:
        """Do nothing."""

    def chunk(self, served: Served, gap_s: float | None) -> None:
        """Do nothing."""

    def sent(self, target: str, way: str) -> None:
        """Do nothing."""

    def waited(self, target: str, seconds: float) -> None:
        """Do nothing."""

    def flush(self, shares: dict[str, int], targets: dict[str, Target]) -> None:
        """Do nothing."""


class Unmetered(Ingress):
    """The ingress without metrics."""

    recorder = NoRecorder


def unmetered(args: Args) -> Application:
    """Build ray-canary's ingress without metrics."""
    return _bound(compile.INGRESS_DEPLOYMENT, serve.ingress(lambda: entry)(Unmetered), args["deployment"])


# As anyone would write it. --------------------------------------------------------------------------------------------


class Text(BaseModel):
    """What the Bento's API takes."""

    text: str


class NaiveTrivial:
    """A version that costs nothing."""

    async def ok(self) -> str:
        """Answer."""
        return "ok"


class NaiveBento:
    """A version that calls the Bento's service as a Python object."""

    def __init__(self, tag: str) -> None:
        import bentoml

        service: Any = bentoml.load(tag)
        self._bento = service()

    async def count(self, text: str) -> str:
        """Answer."""
        said: str = await self._bento.count(text=text)
        return said


web = FastAPI()


@serve.ingress(web)
class NaiveIngress:
    """Draws a version by weight and awaits its handle."""

    def __init__(self, *handles: DeploymentHandle[Any]) -> None:
        self._handles = handles

    def _draw(self) -> Any:
        return random.choices(self._handles, weights=(50, 50))[0]

    @web.get("/ok", response_class=PlainTextResponse)
    async def ok(self) -> str:
        """Ask a version for its answer."""
        said: str = await self._draw().ok.remote()
        return said

    @web.post("/count", response_class=PlainTextResponse)
    async def count(self, body: Text) -> str:
        """Ask a version to count."""
        said: str = await self._draw().count.remote(body.text)
        return said


def naive(args: Args) -> Application:
    """Build the ingress and two versions, with the numbers of replicas that ray-canary has here."""
    options = {"max_ongoing_requests": 1000, "ray_actor_options": {"num_cpus": args["num_cpus"]}}

    def version(name: str) -> Application:
        if args["kind"] == "trivial":
            return _bound(name, NaiveTrivial, **options)
        return _bound(name, NaiveBento, args["bento"], **options)

    return _bound("NaiveIngress", NaiveIngress, version("Main"), version("A"), num_replicas=2, **options)


def _bound(name: str, kind: Any, *arguments: Any, **options: Any) -> Application:
    deployment: Any = serve.deployment(name=name, **options)
    application: Application = deployment(kind).bind(*arguments)
    return application
