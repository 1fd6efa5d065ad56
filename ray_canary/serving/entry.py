"""What Serve calls with a request that came over HTTP: it goes to the object that this replica is."""

from typing import Any

from ray import serve

from ray_canary.serving.http import Receive, Scope, Send


async def entry(scope: Scope, receive: Receive, send: Send) -> None:
    """Hand a request to this replica's `Ingress` or `BentoHost`."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    servable: Any = serve.get_replica_context().servable_object
    await servable.answer_http(scope, receive, send)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
