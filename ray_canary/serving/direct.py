"""The direct way to a target: HTTP to its replicas' own ports, where the cluster has opened them (HAProxy mode).

It costs a fraction of a Serve handle's call. Which replicas there are, and which of them drain, comes from the handle's
router all the same, and what this way doesn't carry goes by handle: websockets, requests for one certain replica, what
comes while no replica has been introduced, and what is more than our part of a replica's places. A handle's request
waits for a place on our side, and may still go elsewhere; a direct one would wait in the replica, and be lost with it.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, Final

from ray_canary.serving.direct_call import DirectCall
from ray_canary.serving.endpoint import Endpoint
from ray_canary.serving.transport import Address, Call, Known, NotSent, Terms
from ray_canary.serving.wire import Request

logger = logging.getLogger("ray.serve")

#: Seconds that a replica may take to be connected to and introduced, and after which it is tried again.
INTRODUCTION_S: Final = 5.0
TRY_AGAIN_S: Final = 10.0
#: Seconds between two looks at whether the router has dropped a replica that refuses connections.
LOOK_EVERY_S: Final = 0.05
#: Seconds without a byte until it is looked whether a replica's node is there; looks in a row that find it gone.
SILENT_S: Final = 4.0
GONE_AFTER: Final = 3
#: Paths that Serve answers itself wherever they come in.
_SERVES_OWN: Final = "/-/"


class DirectTransport:
    """Carries requests to the replica of a target that has the fewest of ours under way."""

    def __init__(self, by_handle: Known) -> None:
        self.by_handle = by_handle
        self._addresses: Mapping[str, Address] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._turn = 0
        self._terms = Terms()
        #: Calls by handle that found no room directly; they are to be served before what comes later.
        self._overflow: deque[Call] = deque()

    def use(self, terms: Terms) -> None:
        """Carry requests on these terms from now on."""
        self._terms = terms

    @property
    def routable(self) -> int:
        """How many replicas can take a request now."""
        self._follow()
        return self.by_handle.routable

    @property
    def place(self) -> tuple[str, str]:
        """The Serve application and the deployment that it leads to."""
        return self.by_handle.place

    @property
    def seen(self) -> bool:
        """Whether a replica has ever been routable."""
        return self.by_handle.seen

    @property
    def way(self) -> str:
        """How requests travel now."""
        self._follow()
        return "direct" if self._introduced() and not self._terms.by_handle else "handle"

    def waits(self, by: int) -> None:
        """Count `by` more requests as waiting."""
        self.by_handle.waits(by)

    def drains(self, call: Call) -> bool:
        """Whether the replica that has `call` takes no other ones any more."""
        if isinstance(call, DirectCall):
            if call.endpoint is None:
                return call.otherwise is not None and self.drains(call.otherwise)
            self._follow()
            return call.endpoint not in self._endpoints.values()
        return self.by_handle.drains(call)

    def send(self, request: Request) -> Call:
        """Start sending `request`; never waits."""
        endpoint = None if self._terms.by_handle or _needs_handle(request) else self._least_busy()
        if endpoint is not None and self._has_room(endpoint):
            return self._directly(request, endpoint)
        going = None if _needs_handle(request) else self._going()
        if request.rest is not None or going is not None:
            return DirectCall(request, None, self._again, going)
        call = self.by_handle.send(request)
        if endpoint is not None:
            self._overflow.append(call)
        return call

    def _directly(self, request: Request, endpoint: Endpoint) -> Call:
        call = DirectCall(request, endpoint, self._again).start()
        if not endpoint.watched:
            endpoint.watched = True
            self._in_background(self._watch(endpoint))
        return call

    async def _again(self, request: Request, failed: Endpoint | None) -> Call:
        """Send elsewhere or by handle what could not be sent to `failed`, which is tried again later.

        A replica that refuses connections is about to go, and the router learns it a moment later. A handle would send
        to it until then, and what it has been sent nobody else gets: so another replica that we know is asked first,
        and if all refuse, the request waits for that moment, or until all have been found dead.

        Raises:
            NotSent: the last replica has gone.
        """
        for replica, endpoint in self._endpoints.items():
            if endpoint is failed and endpoint.secret is not None:
                if endpoint.goes_until > 0:
                    self._in_background(self._look_after(replica, endpoint))
                self._leave_alone(replica, endpoint)
        refused = failed is not None and failed.goes_until > 0
        if refused and (other := _idlest(self._introduced())) is not None and self._has_room(other):
            return self._directly(request, other)
        while self._going() and self.routable:
            if all(endpoint.dead for endpoint in self._endpoints.values()):
                raise NotSent("its last replica has died")
            await asyncio.sleep(LOOK_EVERY_S)
        if refused and not self.routable:
            raise NotSent("its last replica has gone")
        call = self.by_handle.send(request)
        self._forget_decided()
        if self._introduced():
            self._overflow.append(call)
        return call

    def _forget_decided(self) -> None:
        while self._overflow and not self.by_handle.undecided(self._overflow[0]):
            self._overflow.popleft()

    def _going(self) -> Endpoint | None:
        """Return a replica if every one is about to go."""
        now = time.monotonic()
        found = list(self._endpoints.values())
        return found[0] if found and all(each.goes_until > now for each in found) else None

    def _has_room(self, endpoint: Endpoint) -> bool:
        """Whether a request may find a place at a replica at once.

        Each ingress replica has its part of the places, and leaves the rest to those that wait by handle: its own come
        before what comes later. A queue grants as many requests as there are places, but not where: of several
        replicas, only Serve's handle finds the one with a place left.
        """
        self._forget_decided()
        terms = self._terms
        if self._overflow:
            return False
        if terms.queued and len(self._endpoints) > 1:
            return False
        limit = endpoint.address.limit
        return endpoint.in_flight < (limit if terms.queued else max(1, limit // terms.ingress_replicas))

    def _introduced(self) -> list[Endpoint]:
        return [each for each in self._endpoints.values() if each.secret is not None]

    def _least_busy(self) -> Endpoint | None:
        """Return the replica with the fewest of our requests; of several such, each in turn.

        None when it is the turn of one that can't be reached directly: it gets its part by handle.
        """
        self._follow()
        found = list(self._endpoints.values())
        if len(found) < 2:
            return found[0] if found and found[0].secret is not None else None
        self._turn = (self._turn + 1) % len(found)
        if found[self._turn].secret is None:
            return None
        in_turn = found[self._turn :] + found[: self._turn]
        return _idlest(each for each in in_turn if each.secret is not None)

    # Which replicas there are. --------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Take note of replicas that have come or gone."""
        addresses = self.by_handle.addresses()
        if addresses is self._addresses:
            return
        self._addresses = addresses
        for replica, endpoint in list(self._endpoints.items()):
            address = addresses.get(replica)
            if address is None or not endpoint.matches(address):
                endpoint.close()
                del self._endpoints[replica]
        for replica, address in addresses.items():
            if replica not in self._endpoints:
                self._endpoints[replica] = Endpoint(address)
                self._in_background(self._introduce(replica, self._endpoints[replica], 0))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _leave_alone(self, replica: str, endpoint: Endpoint) -> None:
        """Send nothing directly to a replica until it has been introduced again."""
        endpoint.secret = None
        self._in_background(self._introduce(replica, endpoint, TRY_AGAIN_S))

    async def _watch(self, endpoint: Endpoint) -> None:
        """End what a replica has when its node vanishes: no connection would say so, and no request is answered there.

        Who only works for long, or drains, has a node that takes connections, or refuses them.
        """
        alive, gone = time.monotonic(), 0
        try:
            while endpoint.in_flight and gone < GONE_AFTER:
                if endpoint.heard_at > alive:
                    alive, gone = endpoint.heard_at, 0
                if gone == 0 and (left := alive + SILENT_S - time.monotonic()) > 0:
                    await asyncio.sleep(left)
                elif await endpoint.reachable():
                    alive, gone = time.monotonic(), 0
                elif endpoint.heard_at <= alive:
                    gone += 1
                    await asyncio.sleep(SILENT_S if gone < GONE_AFTER else 0)
        finally:
            endpoint.watched = False
        if gone == GONE_AFTER:
            logger.warning("%s can't be reached any more; what it had has failed", endpoint.address)
            endpoint.lose()
            for replica, known in self._endpoints.items():
                if known is endpoint and endpoint.secret is not None:
                    self._leave_alone(replica, endpoint)

    async def _look_after(self, replica: str, endpoint: Endpoint) -> None:
        """Ask a replica that refuses connections whether it still runs.

        The router learns from the same call that it doesn't, where it would otherwise find out with a request.
        """
        try:
            async with asyncio.timeout(INTRODUCTION_S):
                await self.by_handle.introduce(replica)
        except TimeoutError:
            logger.warning("Replica %s of %s says nothing", replica, "/".join(self.place))
        except Exception as error:
            logger.warning("Replica %s of %s has died: %r", replica, "/".join(self.place), error)
            endpoint.dead = True

    async def _introduce(self, replica: str, endpoint: Endpoint, after_s: float) -> None:
        """Get a replica's secret, and see that it opens the door; the replica is sent nothing directly before that."""
        told = False
        await asyncio.sleep(after_s)
        while self._endpoints.get(replica) is endpoint:
            try:
                async with asyncio.timeout(INTRODUCTION_S):
                    await endpoint.greet(await self.by_handle.introduce(replica))
                return
            except Exception as error:
                # Whatever Serve, Ray or the network have against it: the handle still carries its requests.
                if not told:
                    logger.warning("No direct way to replica %s of %s yet: %r", replica, "/".join(self.place), error)
                told = True
            await asyncio.sleep(TRY_AGAIN_S)


def _idlest(endpoints: Iterable[Endpoint]) -> Endpoint | None:
    """Return the one with the fewest of our requests; one that drains only where all do."""
    return min(endpoints, key=lambda each: (each.closed, each.in_flight), default=None)


def _needs_handle(request: Request) -> bool:
    """Whether a request is one that doesn't travel directly: a websocket, for one replica, or a path of Serve's own."""
    return request.line is not None or request.replica is not None or request.path.startswith(_SERVES_OWN)
