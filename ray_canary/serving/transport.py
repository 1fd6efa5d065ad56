"""How a request travels from the ingress to a version: the seam between deciding and sending."""

from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ray_canary.serving.wire import Head, Request


class Call(Protocol):
    """One request under way."""

    @property
    def way(self) -> str:
        """How it travels: `direct` or `handle`."""

    async def head(self) -> Head:
        """Wait for the beginning of the response.

        Raises:
            NotSent: nothing of the request reached a replica; it may be answered elsewhere.
            Gone: the one replica that may answer it is no longer there.
            Broken: the replica broke; the request may have been worked on.
        """

    def body(self) -> AsyncIterator[bytes]:
        """Iterate over the rest of the body, piece by piece as they come. Raises `Broken`."""

    def cancel(self) -> None:
        """End the work, wherever it is. Never raises; does nothing once the response is complete."""


class Transport(Protocol):
    """The way to one target."""

    @property
    def routable(self) -> int:
        """How many replicas can take a request now."""

    @property
    def place(self) -> tuple[str, str]:
        """The Serve application and the deployment that it leads to."""

    @property
    def seen(self) -> bool:
        """Whether a replica has ever been routable, as far as this process knows."""

    def send(self, request: Request) -> Call:
        """Start sending `request`; never waits."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a way to a target has to go by.

    So many ingress replicas send to it, a queue lets requests in to it or not, and it has to be a Serve handle or not.
    """

    ingress_replicas: int = 1
    queued: bool = False
    by_handle: bool = False


class Scaled(Transport, Protocol):
    """The way to a target that is scaled by what waits for it."""

    @property
    def way(self) -> str:
        """How requests travel now: `direct` or `handle`."""

    def waits(self, by: int) -> None:
        """Count `by` more requests as waiting in front of this target: its autoscaling goes by that.

        A first one wakes a target that stands at zero replicas.
        """

    def drains(self, call: Call) -> bool:
        """Whether the replica that has `call` takes no other ones any more, because it is being replaced."""

    def use(self, terms: "Terms") -> None:
        """Carry requests on these terms from now on."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a replica's own server listens: on one of `hosts`, the nearest first. It takes `limit` requests at once."""

    hosts: tuple[str, ...]
    port: int
    limit: int


class Known(Scaled, Protocol):
    """A way to a target that knows its replicas one by one."""

    def addresses(self) -> Mapping[str, Address]:
        """Return where each routable replica listens, by its id; the same object as long as nothing has changed."""

    def undecided(self, call: Call) -> bool:
        """Whether a call still waits for a replica to take it."""

    def introduce(self, replica: str) -> Awaitable[bytes]:
        """Ask one replica for the secret that lets requests in to it. Raises whatever Serve or Ray raises."""


class NotSent(Exception):
    """Nothing of the request was sent."""


class Gone(Exception):
    """The one replica that the request is for is not there any more."""


class Broken(Exception):
    """The replica broke while it had the request."""
