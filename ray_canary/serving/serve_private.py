"""Serve handles, and the private corners of Serve that the ingress reads.

Checked against ray 2.60.0. Public handles don't say how many replicas they can reach now
(`running_replicas_populated()` turns true once and stays so), and asking the controller costs tens of milliseconds.
The handle's own router is told by the controller within milliseconds of every change, so the ingress reads the router's
replica set. Nor do they say whether a replica has accepted a request, and which: a router whose replica dies before it
did goes on looking for another one, without limit. Nor can they send to a replica that the caller names:
`choose_replica()` leaves the choice to the router. Nor do they tell where a replica's own HTTP server listens, which
Serve opens in HAProxy mode and tells its routers. Nor can anybody but a router count a request as waiting, which
Serve's autoscaling goes by.
`tests/unit/serving/test_serve_private.py` fails when these move.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

import ray
from ray import serve
from ray.serve._private.constants import RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD
from ray.serve.handle import DeploymentHandle

from ray_canary.serving.transport import Address, Broken, Call, Gone, NotSent, Terms
from ray_canary.serving.wire import MAX_PIECE, Head, Request

logger = logging.getLogger("ray.serve")

#: Seconds between two looks at whether a request that was sent still has a replica that may accept it.
LOOK_EVERY_S: Final = 0.25
#: How many replicas that have left the router's set are remembered: while they drain, they still answer.
REMEMBERED: Final = 64
LOOPBACK: Final = "127.0.0.1"
_NOWHERE: Final[Mapping[str, Address]] = {}


class HandleTransport:
    """Carries buffered requests over Serve handles, and streams the responses back.

    Small requests travel by value (one gRPC message, much the fastest), large ones through Ray's object store, since
    one gRPC message ends at 4 MiB.
    """

    way = "handle"

    def __init__(self, application: str | None, deployment: str) -> None:
        """Connect to `deployment` of `application`, or of this replica's own application if that is None."""
        self._handle = serve.get_deployment_handle(deployment, app_name=application, _check_exists=False)
        self._by_value = self._handle.options(method_name="answer", stream=True, _by_reference=False)
        self._by_reference = self._handle.options(method_name="answer", stream=True, _by_reference=True)
        self._router: Any = self._handle._router._asyncio_router  # type: ignore[union-attr]
        self._loop: Any = self._handle._router.event_loop  # type: ignore[union-attr]
        self._current: dict[Any, Any] = {}
        #: Every replica by its own id, the latest last; those that have left may be draining.
        self._known: dict[str, Any] = {}
        self._addressed: dict[Any, Any] | None = None
        self._addresses: Mapping[str, Address] = _NOWHERE

    @property
    def place(self) -> tuple[str, str]:
        """The application and the deployment."""
        return self._handle.app_name, self._handle.deployment_name

    @property
    def routable(self) -> int:
        """How many replicas the router can choose from now."""
        router = self._router.request_router
        if router is None or not self._router._deployment_available:
            return 0
        return len(self._replicas(router))

    @property
    def seen(self) -> bool:
        """Whether the router has ever had a replica."""
        return bool(self._handle.running_replicas_populated())

    def waits(self, by: int) -> None:
        """Count `by` more requests as waiting, as the router itself does with those that it has no replica for."""
        # The router has an event loop of its own unless Serve is told otherwise, and its count has no lock.
        self._loop.call_soon_threadsafe(self._count, by)

    def _count(self, by: int) -> None:
        metrics = self._router._metrics_manager
        step = metrics.inc_num_queued_requests if by > 0 else metrics.dec_num_queued_requests
        for _ in range(abs(by)):
            step()
        if by > 0 and metrics.should_send_scaled_to_zero_optimized_push(curr_num_replicas=self.routable):
            metrics.push_autoscaling_metrics_to_controller()

    def use(self, terms: Terms) -> None:
        """Do nothing: a replica itself refuses what is too much, and Serve then asks another one."""

    def undecided(self, call: Call) -> bool:
        """Whether no replica has accepted a call yet, nor refused it for good."""
        return isinstance(call, HandleCall) and not call._responses._replica_result_future.done()

    def drains(self, call: Call) -> bool:
        """Whether the replica that has `call` takes no other ones any more."""
        actor = call.actor_id if isinstance(call, HandleCall) else None
        router = self._router.request_router
        if actor is None or router is None:
            return False
        return all(replica.actor_id != actor for replica in router.curr_replicas.values())

    def send(self, request: Request) -> "HandleCall":
        """Hand `request` to the router, or past it to the one replica that the request is for."""
        handle = self._by_value if len(request.body) < MAX_PIECE else self._by_reference
        if request.replica is not None:
            handle = self._to(request.replica, handle)
        return HandleCall(request, handle.remote(request), self)

    def leaving(self, replica: str) -> bool:
        """Whether a replica takes no new requests any more, as far as the router knows."""
        router = self._router.request_router
        return router is None or all(each.unique_id != replica for each in router.curr_replicas)

    def _to(self, replica: str, handle: DeploymentHandle[Any]) -> DeploymentHandle[Any]:
        """Return `handle` with a router that knows one replica only."""
        return DeploymentHandle(
            handle.deployment_name,
            handle.app_name,
            init_options=handle.init_options,
            handle_options=handle.handle_options,
            _router=_OneReplica(handle._router, lambda: self._find(replica)),  # type: ignore[arg-type]
            _request_counter=handle.request_counter,
            _handle_id=handle.handle_id,
        )

    def addresses(self) -> Mapping[str, Address]:
        """Return where each routable replica's own HTTP server listens; empty where Serve opens none."""
        router = self._router.request_router
        if router is None or not self._router._deployment_available or RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD:
            # In a thread of its own an app can't notice that its client has left, unless Serve watches for it.
            return _NOWHERE
        current = self._replicas(router)
        if current is not self._addressed:
            self._addressed = current
            found = {each.unique_id: _address(replica) for each, replica in current.items()}
            self._addresses = {name: address for name, address in found.items() if address is not None}
        return self._addresses

    async def introduce(self, replica: str) -> bytes:
        """Ask one replica for the secret that lets requests in to it."""
        handle = self._to(replica, self._handle.options(method_name="introduce", _by_reference=False))
        return bytes(await handle.remote())

    def _find(self, replica: str) -> Any:
        """Return Serve's own `RunningReplica`. Raises `Gone`."""
        router = self._router.request_router
        if router is not None:
            self._replicas(router)
        try:
            return self._known[replica]
        except KeyError:
            raise Gone(f"there is no replica {replica}") from None

    def _replicas(self, router: Any) -> dict[Any, Any]:
        """Return the router's replicas, and remember them; the router makes a new dictionary on every change."""
        current: dict[Any, Any] = router.curr_replicas
        if current is not self._current:
            self._current = current
            known = {key: value for key, value in self._known.items() if all(key != each.unique_id for each in current)}
            gone = dict(list(known.items())[-REMEMBERED:])
            self._known = {**gone, **{each.unique_id: replica for each, replica in current.items()}}
        return current


def _address(replica: Any) -> Address | None:
    endpoint = replica.backend_http_endpoint
    if endpoint is None:
        return None
    host, port = endpoint
    # A server that listens on every interface, or on this node's own, is nearest on loopback.
    here = replica.node_id == ray.get_runtime_context().get_node_id()
    hosts = (LOOPBACK, host) if here and host != LOOPBACK else (host,)
    return Address(hosts, port, replica.max_ongoing_requests)


class _OneReplica:
    """Stands in for a handle's router, and sends to one replica, whatever that has under way.

    Serve's own `dispatch()` does the same with a replica that its router has chosen. A replica that is at
    `max_ongoing_requests` takes the request when it has room.
    """

    def __init__(self, router: Any, find: Callable[[], Any]) -> None:
        self._router = router
        self._find = find

    def assign_request(self, metadata: Any, *args: Any, **kwargs: Any) -> Any:
        """Send a request; return a future of Serve's `ReplicaResult`, of the kind that the handle expects."""
        sending = self._send(metadata, args, kwargs)
        # The router has a loop of its own, unless Serve runs it in the caller's.
        in_its_loop = getattr(self._router, "_wrap_asyncio_call_in_future", None)
        return in_its_loop(sending) if in_its_loop else self._router._asyncio_loop.create_task(sending)

    async def _send(self, metadata: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        from ray.serve._private.request_router.common import PendingRequest

        router = self._router._asyncio_router
        await router._request_router_initialized.wait()
        replica = self._find()
        pending = PendingRequest(args=list(args), kwargs=kwargs, metadata=metadata)
        result = replica.try_send_request(pending, with_rejection=False)
        router._register_completion_callback(result, replica, pending)
        return result

    def running_replicas_populated(self) -> bool:
        """Whether the handle has ever seen a replica."""
        return bool(self._router.running_replicas_populated())


class HandleCall:
    """One streaming call of a Serve handle; failures come out as `NotSent` or `Broken`."""

    __slots__ = ("_lost", "_looking", "_request", "_responses", "_transport")
    way = "handle"

    def __init__(self, request: Request, responses: Any, transport: HandleTransport) -> None:
        self._request = request
        self._responses = responses
        self._transport = transport
        self._lost = 0
        self._looking: asyncio.TimerHandle | None = None

    @property
    def actor_id(self) -> Any:
        """Which replica has accepted the call; None as long as none has."""
        accepted = self._responses._replica_result_future
        if not accepted.done() or accepted.cancelled() or accepted.exception() is not None:
            return None
        result = accepted.result()
        if hasattr(result, "_actor_id"):  # by gRPC
            return result._actor_id
        return result._obj_ref_gen.task_id().actor_id()

    async def head(self) -> Head:
        """Wait for the beginning of the response."""
        self._look_again()
        try:
            head: Head = await self._responses.__anext__()
        except Gone:
            self._request.withdraw()
            raise
        except Exception as error:
            if self._request.replica is not None and self._transport.leaving(self._request.replica):
                raise Gone(_sentence(error)) from error
            # Whatever Serve, Ray or gRPC raise here, two cases are left: nothing was sent, or something was.
            reason = "the replica died before it took the request" if self._lost > 1 else _sentence(error)
            raise NotSent(reason) if self._request.withdraw() else Broken(reason) from error
        finally:
            if self._looking is not None:
                self._looking.cancel()
        return head

    def _look_again(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        """End a call that was sent to a replica which died before it accepted it, when there is no other one.

        Serve would send it again to the next replica that starts, however long that takes.
        """
        if self._responses._replica_result_future.done():
            return
        stranded = self._request.sent_at is not None and self._transport.routable == 0
        self._lost = self._lost + 1 if stranded else 0
        if self._lost > 1:
            self.cancel()
        else:
            self._look_again()

    async def body(self) -> AsyncIterator[bytes]:
        """Iterate over the rest of the body."""
        try:
            async for piece in self._responses:
                yield piece
        except Exception as error:
            raise Broken(_sentence(error)) from error

    def cancel(self) -> None:
        """Cancel the call; Serve cancels the replica's task with it."""
        try:
            self._responses.cancel()
        except Exception as error:
            # cancel() re-raises what the call itself ended with, and head() or body() has reported that.
            logger.debug("cancel() of a call that had ended: %s", _sentence(error))


def _sentence(error: BaseException) -> str:
    """Return the last line of a Ray error: the rest is Ray's own stack, of no use to a client."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__
