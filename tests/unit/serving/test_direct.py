"""The direct way, both ends of it, over a real server such as Serve opens for a replica."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httptools
import httpx
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st

from ray_canary.serving import direct, direct_call
from ray_canary.serving import endpoint as endpoints
from ray_canary.serving.direct import DirectTransport
from ray_canary.serving.direct_call import DirectCall
from ray_canary.serving.endpoint import Endpoint
from ray_canary.serving.host_http import Door
from ray_canary.serving.http import BodyRest, BodyTooLarge, Disconnected, Receive, Scope, Send
from ray_canary.serving.http_connection import GOES, MAX_WAITING, OURS, Connection, HttpExchange, request_head
from ray_canary.serving.transport import Address, Broken, NotSent, Terms
from ray_canary.serving.wire import Head, HeaderList, Request
from tests.unit.serving.fakes import FakeTransport, head

App = Callable[[Scope, Receive, Send], Awaitable[None]]
LIMIT = 100


class Replica:
    """A real HTTP server with a Bento's app behind a door, as `BentoHost` has it."""

    def __init__(self, app: App, root_path: str = "") -> None:
        self.door = Door(lambda: self.drains)
        self.drains = False
        self.app = app
        self.root_path = root_path
        self.seen = 0
        self.address = Address((), 0, LIMIT)
        #: Requests of a path wait here, as they do in Serve when a replica has no place for them.
        self.held: dict[str, asyncio.Event] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in self.held:
            await self.held[scope["path"]].wait()
        await self.door.answer(self._app, "s:1", scope, receive, send)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen += 1
        await self.app(scope, receive, send)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Replica"]:
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address(("127.0.0.1",), listener.getsockname()[1], LIMIT)
        config = uvicorn.Config(
            self, lifespan="off", log_config=None, log_level=None, access_log=False, root_path=self.root_path
        )
        server = uvicorn.Server(config)
        with contextlib.suppress(AttributeError):
            server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        serving = asyncio.ensure_future(server._serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.001)
        try:
            yield self
        finally:
            server.should_exit = server.force_exit = True
            await serving


class ByHandle(FakeTransport):
    """The way by handle, which knows real replicas."""

    def __init__(self, *replicas: Replica, introduces: bool = True) -> None:
        super().__init__()
        self.introduces = introduces
        self.undecided_calls: list[Any] = []
        self.know(*replicas)

    def know(self, *replicas: Replica) -> None:
        self._replicas = {str(id(each)): each for each in replicas}
        self._addresses: Mapping[str, Address] = {name: each.address for name, each in self._replicas.items()}
        self.routable = len(replicas)

    def addresses(self) -> Mapping[str, Address]:
        return self._addresses

    def undecided(self, call: Any) -> bool:
        return call in self.undecided_calls

    async def introduce(self, replica: str) -> bytes:
        if not self.introduces:
            raise RuntimeError("it knows no such method")
        return self._replicas[replica].door.secret


async def introduced(by_handle: ByHandle) -> DirectTransport:
    transport = DirectTransport(by_handle)
    assert transport.routable == len(by_handle.addresses())
    while len(transport._introduced()) < len(by_handle.addresses()):
        await asyncio.sleep(0.001)
    return transport


def run(app: App, test: Callable[[DirectTransport, Replica], Awaitable[None]]) -> None:
    """Run a test on the direct way to one replica."""

    async def whole() -> None:
        async with asyncio.timeout(20), Replica(app).running() as replica:
            await test(await introduced(ByHandle(replica)), replica)

    asyncio.run(whole())


def request(method: str = "POST", path: str = "/", *, headers: HeaderList | None = None, body: bytes = b"") -> Request:
    sized = [(b"content-length", str(len(body)).encode())] if body else []
    return Request(method, path, path.encode(), b"", [*(headers or []), *sized], body, ("10.1.2.3", 4567))


async def ask(transport: DirectTransport, asked: Request) -> tuple[Head, bytes]:
    """Return a whole response."""
    call = transport.send(asked)
    assert isinstance(call, DirectCall)
    first = await call.head()
    rest = [piece async for piece in call.body()] if first.more else []
    return first, first.body + b"".join(rest)


async def read(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        assert message["type"] == "http.request"
        body += bytes(message.get("body", b""))
        if not message.get("more_body", False):
            return body


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await read(receive)
    said = repr((scope["method"], scope["path"], scope["raw_path"], scope["query_string"], scope["headers"]))
    headers = [(b"Said", said.encode()), (b"client", repr(scope["client"]).encode())]
    headers += [(b"content-length", str(len(body)).encode()), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    await send({"type": "http.response.start", "status": 203, "headers": headers})
    await send({"type": "http.response.body", "body": body})


# Requests and responses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("size", [0, 1, 100_000, 20_000_000])
def test_a_request_and_its_response_pass_as_they_are(size: int, sized: bool) -> None:
    async def test(transport: DirectTransport, replica: Replica) -> None:
        body = bytes(index % 251 for index in range(size))
        headers = [(b"x-user-id", b"u1"), (b"host", b"example"), (b"x-empty", b"")]
        if sized:
            headers.insert(1, (b"content-length", str(size).encode()))
        asked = Request("POST", "/a b/ž", b"/a%20b/%C5%BE", b"q=%20&q", headers, body, ("10.1.2.3", 4567))
        got, answered = await ask(transport, asked)
        assert (got.status, got.tag, answered) == (203, "s:1", body)
        method, path, raw_path, query, seen = eval(dict(got.headers)[b"said"])
        assert (method, path, raw_path, query) == ("POST", "/a b/ž", b"/a%20b/%C5%BE", b"q=%20&q")
        assert sorted(seen) == sorted(headers)
        assert dict(got.headers)[b"client"] == b"('10.1.2.3', 4567)"
        assert [name for name, _ in got.headers] == [
            b"said",
            b"client",
            b"content-length",
            b"set-cookie",
            b"set-cookie",
        ]
        assert asked.sent_at is not None

    run(echo, test)


class Wire(asyncio.Transport):
    """The other end of a connection: a test says what comes."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def write(self, data: Any) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True


def exchange() -> tuple[Connection, HttpExchange]:
    connection = Connection(lambda _: None)
    connection.connection_made(Wire())
    begun = HttpExchange(connection, "GET")
    connection.begin(begun, b"", b"")
    return connection, begun


def test_a_plain_response_is_one_message_though_a_server_writes_it_in_two() -> None:
    async def whole() -> None:
        connection, begun = exchange()
        waiting = asyncio.ensure_future(begun.head())
        await asyncio.sleep(0)
        connection.data_received(b"HTTP/1.1 200 OK\r\nx-ray-canary: 0 s:1\r\ncontent-length: 5\r\n\r\n")
        await asyncio.sleep(0)
        assert not waiting.done()
        connection.data_received(b"hello")
        got = await waiting
        assert (got.body, got.more) == (b"hello", False)

    asyncio.run(whole())


def test_a_response_whose_body_is_late_begins_all_the_same() -> None:
    async def whole() -> None:
        connection, begun = exchange()
        connection.data_received(b"HTTP/1.1 200 OK\r\nx-ray-canary: 0 s:1\r\ncontent-length: 5\r\n\r\n")
        got = await begun.head()
        assert (got.body, got.more) == (b"", True)
        connection.data_received(b"hel")
        connection.data_received(b"lo")
        assert b"".join([piece async for piece in begun.body()]) == b"hello"

    asyncio.run(whole())


def test_requests_one_after_the_other_use_one_connection() -> None:
    async def test(transport: DirectTransport, replica: Replica) -> None:
        for number in range(20):
            await ask(transport, request(body=b"x" * number))
        (endpoint,) = transport._endpoints.values()
        assert (len(endpoint._idle), endpoint.in_flight, replica.seen) == (1, 0, 20)

    run(echo, test)


def test_many_at_once_get_their_own_answers() -> None:
    async def test(transport: DirectTransport, replica: Replica) -> None:
        bodies = [str(number).encode() * 10 for number in range(90)]
        answers = await asyncio.gather(*(ask(transport, request(body=body)) for body in bodies))
        assert [body for _, body in answers] == bodies

    run(echo, test)


@pytest.mark.parametrize("status", [200, 204, 304])
def test_a_response_without_a_body_is_complete(status: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"5")] if scope["method"] == "HEAD" else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def test(transport: DirectTransport, replica: Replica) -> None:
        for method in ("HEAD", "GET", "HEAD", "DELETE"):
            got, body = await ask(transport, request(method))
            assert (got.status, body) == (status, b"")

    run(app, test)


def test_a_stream_passes_piece_by_piece_as_it_comes() -> None:
    """The app sends the next piece only when the one before has arrived: one held back is waited for in vain."""
    go_on = asyncio.Semaphore(0)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(100):
            await go_on.acquire()
            await send({"type": "http.response.body", "body": b"%d;" % number, "more_body": True})
        await go_on.acquire()
        await send({"type": "http.response.body", "body": b""})

    async def test(transport: DirectTransport, replica: Replica) -> None:
        call = transport.send(request())
        got = await call.head()
        assert (got.body, got.more) == (b"", True)
        go_on.release()
        pieces = []
        async for piece in call.body():
            pieces.append(piece)
            go_on.release()
        assert pieces == [b"%d;" % number for number in range(100)]

    run(app, test)


def test_a_slow_reader_holds_the_replica_up() -> None:
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(400):
            await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
            sent += 100_000
        await send({"type": "http.response.body", "body": b""})

    async def test(transport: DirectTransport, replica: Replica) -> None:
        call = transport.send(request())
        got = await call.head()
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.1)
        # What the two sockets hold comes on top, which is some megabytes on loopback.
        assert sent < 20_000_000
        size = len(got.body)
        async for piece in call.body():
            assert len(piece) <= 2 * MAX_WAITING
            size += len(piece)
        assert size == 40_000_000

    run(app, test)


# Bodies that are still being sent -------------------------------------------------------------------------------------


class Client:
    """A client that sends a body piece by piece, as a server's `receive` has it."""

    def __init__(self, limit: int | None = None) -> None:
        self.sent: asyncio.Queue[Any] = asyncio.Queue()
        self.rest = BodyRest(self.sent.get, limit)

    def send(self, piece: bytes, *, more: bool = True) -> None:
        self.sent.put_nowait({"type": "http.request", "body": piece, "more_body": more})

    def leave(self) -> None:
        self.sent.put_nowait({"type": "http.disconnect"})

    def request(self, first: bytes, size: int | None = None) -> Request:
        headers = [] if size is None else [(b"content-length", str(size).encode())]
        asked = Request("POST", "/", b"/", b"", headers, first)
        asked.rest = self.rest
        return asked


@pytest.mark.parametrize("sized", [True, False])
def test_a_body_travels_while_it_is_being_sent_and_the_response_too(sized: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append({name for name, _ in scope["headers"]})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            message = await receive()
            await send({"type": "http.response.body", "body": b"<%b>" % message["body"], "more_body": True})
            if not message["more_body"]:
                break
        await send({"type": "http.response.body", "body": b"."})

    async def test(transport: DirectTransport, replica: Replica) -> None:
        client = Client()
        call = transport.send(client.request(b"first", 15 if sized else None))
        got = await call.head()
        body = call.body()
        answered = got.body
        for piece in (b"second", b"last"):
            while not answered.endswith(b">"):
                answered += await anext(body)
            client.send(piece, more=piece != b"last")
            answered += await anext(body)
        answered += b"".join([piece async for piece in body])
        assert answered.replace(b"<>", b"") == b"<first><second><last>."
        assert seen == [{b"content-length"} if sized else set()], "the Bento sees what the client said"
        assert (await ask(transport, request(body=b"x")))[0].status == 200

    seen: list[set[bytes]] = []
    run(app, test)


@pytest.mark.parametrize("sized", [True, False])
def test_a_large_body_arrives_as_it_was_sent_and_the_connection_is_used_again(sized: bool) -> None:
    async def test(transport: DirectTransport, replica: Replica) -> None:
        pieces = [bytes([number]) * 100_000 for number in range(200)]
        client = Client()
        for piece in pieces[1:]:
            client.send(piece, more=piece is not pieces[-1])
        _, answered = await ask(transport, client.request(pieces[0], 20_000_000 if sized else None))
        assert answered == b"".join(pieces)
        (endpoint,) = transport._endpoints.values()
        assert (len(endpoint._idle), endpoint.in_flight) == (1, 0)

    run(echo, test)


def test_who_reads_a_body_slowly_holds_its_sender_up() -> None:
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await go_on.wait()
        await echo(scope, receive, send)

    async def test(transport: DirectTransport, replica: Replica) -> None:
        client = Client()
        for _ in range(400):
            client.send(bytes(100_000))
        client.send(b"", more=False)
        call = transport.send(client.request(b"first"))
        waiting = asyncio.ensure_future(call.head())
        before = -1
        while client.sent.qsize() != before:
            before = client.sent.qsize()
            await asyncio.sleep(0.1)
        # What the two sockets hold has been taken, which is some megabytes on loopback.
        assert client.sent.qsize() > 200
        go_on.set()
        await waiting
        call.cancel()

    run(app, test)


def test_a_response_that_is_complete_before_the_body_is_ends_the_sending() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 400, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"no"})

    async def test(transport: DirectTransport, replica: Replica) -> None:
        client = Client()
        got, body = await ask(transport, client.request(b"first"))
        assert (got.status, body) == (400, b"no")
        assert (await ask(transport, request()))[0].status == 400
        (endpoint,) = transport._endpoints.values()
        assert endpoint.in_flight == 0

    run(app, test)


def test_a_client_that_leaves_in_the_middle_of_its_body_ends_the_apps_work() -> None:
    ended = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await asyncio.sleep(100)
        finally:
            ended.set()

    async def test(transport: DirectTransport, replica: Replica) -> None:
        client = Client()
        call = transport.send(client.request(b"first"))
        waiting = asyncio.ensure_future(call.head())
        client.leave()
        with pytest.raises(Disconnected):
            await waiting
        await ended.wait()

    run(app, test)


def test_a_body_that_turns_out_too_large_is_refused_and_ends_the_apps_work() -> None:
    async def test(transport: DirectTransport, replica: Replica) -> None:
        client = Client(limit=10)
        call = transport.send(client.request(b""))
        waiting = asyncio.ensure_future(call.head())
        client.send(b"x" * 11)
        with pytest.raises(BodyTooLarge):
            await waiting

    run(echo, test)


def test_a_handle_gets_the_whole_body() -> None:
    async def test(transport: DirectTransport, replica: Replica) -> None:
        transport.use(Terms(by_handle=True))
        client = Client()
        call = transport.send(client.request(b"first"))
        client.send(b", last", more=False)
        await call.head()
        by_handle: Any = transport.by_handle
        assert [each.request.body for each in by_handle.calls] == [b"first, last"]

    run(echo, test)


@pytest.mark.parametrize("pause_s", [0.0, 0.2])
def test_an_app_that_begins_to_read_late_gets_the_whole_body(pause_s: float) -> None:
    """By then somebody else looks whether the client has left, and what comes must not be lost between the two."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(pause_s)
        await echo(scope, receive, send)

    async def test(transport: DirectTransport, replica: Replica) -> None:
        client = Client()
        waiting = asyncio.ensure_future(ask(transport, client.request(b"first", 15)))
        await asyncio.sleep(0.4)
        client.send(b"second", more=True)
        await asyncio.sleep(0.1)
        client.send(b"last", more=False)
        assert (await waiting)[1] == b"firstsecondlast"

    run(app, test)


# Who gets in ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers", [{}, {"x-ray-canary": "2 - 0"}, {"x-ray-canary": f"{'0' * 64} 2 - 0"}, {"X-Ray-Canary": ""}]
)
def test_nobody_gets_in_without_the_secret(headers: dict[str, str]) -> None:
    async def test(transport: DirectTransport, replica: Replica) -> None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{replica.address.port}") as client:
            answer = await client.post("/summarize", headers=headers)
        assert answer.status_code == 403
        assert answer.json() == {"error": "Forbidden: requests come to a version through the ingress only"}

    run(never, test)


async def never(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("nobody should get here")


def test_the_secret_counts_in_the_first_header_only() -> None:
    async def test(transport: DirectTransport, replica: Replica) -> None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{replica.address.port}") as client:
            headers = {"x-other": "1", "x-ray-canary": f"{replica.door.secret.decode()} 2 - 0"}
            assert (await client.post("/", headers=headers)).status_code == 403

    run(never, test)


def test_the_bento_sees_nothing_of_the_secret() -> None:
    async def test(transport: DirectTransport, replica: Replica) -> None:
        got, _ = await ask(transport, request(body=b"x"))
        assert replica.door.secret not in dict(got.headers)[b"said"]
        assert OURS not in dict(got.headers)[b"said"]

    run(echo, test)


# What ends early ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("body", [b"", b"x" * 300_000])
def test_a_call_that_is_cancelled_ends_the_apps_work(begun: bool, reads: bool, body: bytes) -> None:
    ended = asyncio.Event()
    at_work = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if reads:
            await read(receive)
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
        at_work.set()
        try:
            await asyncio.sleep(100)
        finally:
            ended.set()

    async def test(transport: DirectTransport, replica: Replica) -> None:
        call = transport.send(request(body=body))
        if begun:
            await call.head()
        else:
            waiting = asyncio.ensure_future(call.head())
        await at_work.wait()
        call.cancel()
        if not begun:
            with pytest.raises(Broken):
                await waiting
        await ended.wait()
        (endpoint,) = transport._endpoints.values()
        assert endpoint.in_flight == 0

    run(app, test)


def test_an_app_that_ends_without_a_response_is_broken() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        return

    async def test(transport: DirectTransport, replica: Replica) -> None:
        with pytest.raises(Broken):
            await ask(transport, request())

    run(app, test)


@pytest.mark.parametrize("sized", [True, False])
def test_an_app_that_ends_in_the_middle_of_its_response_is_broken(sized: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"100")] if sized else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        raise RuntimeError("broken")

    async def test(transport: DirectTransport, replica: Replica) -> None:
        call = transport.send(request())
        got = await call.head()
        assert got.status == 200
        with pytest.raises(Broken):
            async for _ in call.body():
                pass

    run(app, test)


def test_what_an_app_does_after_its_response_goes_on() -> None:
    done = asyncio.Event()
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await echo(scope, receive, send)
        await go_on.wait()
        done.set()

    async def test(transport: DirectTransport, replica: Replica) -> None:
        await ask(transport, request(body=b"x"))
        await ask(transport, request(body=b"y"))
        go_on.set()
        await done.wait()

    run(app, test)


def test_a_request_whose_client_left_while_it_waited_for_a_place_is_not_begun() -> None:
    async def test(transport: DirectTransport, replica: Replica) -> None:
        held = replica.held["/held"] = asyncio.Event()
        call = transport.send(request(path="/held", body=b"x"))
        waiting = asyncio.ensure_future(call.head())
        await asyncio.sleep(0.1)
        call.cancel()
        with pytest.raises(Broken):
            await waiting
        await asyncio.sleep(0.05)
        held.set()
        await ask(transport, request())
        assert replica.seen == 1

    run(echo, test)


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (204, [(b"transfer-encoding", b"chunked")], b""),
        (204, [], b"null"),
        (304, [], b"null"),
        (101, [(b"connection", b"upgrade"), (b"upgrade", b"x")], b""),
    ],
)
def test_an_app_that_sends_what_its_status_forbids_hurts_nobody_else(
    status: int, headers: HeaderList, body: bytes
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/bad":
            await echo(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def test(transport: DirectTransport, replica: Replica) -> None:
        for _ in range(20):
            with contextlib.suppress(Broken):
                await ask(transport, request("GET", "/bad"))
            assert (await ask(transport, request(body=b"x")))[1] == b"x"

    run(app, test)


# What a Bento sees ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("root_path", ["", "/serve"])
def test_a_bento_sees_neither_the_servers_root_path_nor_what_a_proxy_said_to_it(root_path: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        said = repr((scope["scheme"], scope["path"], scope["raw_path"], scope["root_path"], scope["client"]))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"said", said.encode())]})
        await send({"type": "http.response.body", "body": b""})

    async def whole() -> None:
        async with Replica(app, root_path).running() as replica:
            transport = await introduced(ByHandle(replica))
            headers = [(b"x-forwarded-proto", b"https"), (b"x-forwarded-for", b"unknown host")]
            got, _ = await ask(transport, request("GET", "/path", headers=headers))
            assert eval(dict(got.headers)[b"said"]) == ("http", "/path", b"/path", "", ("10.1.2.3", 4567))

    asyncio.run(whole())


@pytest.mark.parametrize("client", [("unknown host", 0), ("žluť", 1), ("::1", 2), None])
def test_a_clients_address_may_be_any_text(client: tuple[str, int] | None) -> None:
    async def test(transport: DirectTransport, replica: Replica) -> None:
        asked = Request("GET", "/", b"/", b"", [], b"", client)
        got, _ = await ask(transport, asked)
        assert got.status == 203

    run(echo, test)


# Which replica, and which way -----------------------------------------------------------------------------------------


def test_a_replica_that_is_not_introduced_is_reached_by_handle() -> None:
    async def whole() -> None:
        async with Replica(never).running() as replica:
            by_handle = ByHandle(replica, introduces=False)
            transport = DirectTransport(by_handle)
            assert (await transport.send(request()).head()).body == head().body
            assert transport.way == "handle"
            for task in transport._background:
                task.cancel()

    asyncio.run(whole())


def test_where_the_file_wants_handles_everything_goes_by_handle() -> None:
    async def test(transport: DirectTransport, replica: Replica) -> None:
        transport.use(Terms(by_handle=True))
        assert (await transport.send(request()).head()).body == head().body
        assert (transport.way, replica.seen) == ("handle", 0)
        transport.use(Terms())
        assert (transport.way, (await ask(transport, request(body=b"x")))[1]) == ("direct", b"x")

    run(echo, test)


def test_a_replica_that_can_not_be_reached_any_more_but_stays_is_reached_by_handle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(direct_call, "GONE_WITHIN_S", 0.1)

    async def whole() -> None:
        async with Replica(echo).running() as replica:
            by_handle = ByHandle(replica)
            transport = await introduced(by_handle)
            assert transport.way == "direct"
        (endpoint,) = transport._endpoints.values()
        await asyncio.sleep(0)
        call = transport.send(request())
        while any(connection.usable for connection in endpoint._idle):
            await asyncio.sleep(0.001)
        assert (await call.head()).body == head().body
        assert len(by_handle.calls) == 1
        assert endpoint.in_flight == 0

    asyncio.run(whole())


@pytest.mark.parametrize("closes", [False, True], ids=["refuses", "closes at once"])
def test_when_the_last_replica_refuses_connections_nothing_is_sent_to_it_until_the_router_has_dropped_it(
    closes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def closed(endpoint: Endpoint) -> Connection:
        return Connection(endpoint.keep)

    async def whole() -> None:
        async with Replica(echo).running() as replica:
            by_handle = ByHandle(replica)
            transport = await introduced(by_handle)
        (endpoint,) = transport._endpoints.values()
        if closes:
            # It still listens, and goes before it has taken the connection.
            monkeypatch.setattr(Endpoint, "connect", closed)
        first = asyncio.create_task(transport.send(request()).head())
        while not endpoint.goes_until:
            await asyncio.sleep(0.001)
        second = asyncio.create_task(transport.send(request()).head())
        await asyncio.sleep(0)
        assert not first.done()
        assert not second.done()
        by_handle.know()
        for sent in (first, second):
            with pytest.raises(NotSent, match="its last replica has gone"):
                await sent
        assert not by_handle.calls
        assert endpoint.in_flight == 0
        end(transport)

    asyncio.run(whole())


def test_a_last_replica_that_is_found_dead_gets_nothing_though_the_router_still_has_it() -> None:
    async def whole() -> None:
        async with Replica(echo).running() as replica:
            by_handle = ByHandle(replica)
            transport = await introduced(by_handle)
        by_handle.introduces = False
        with pytest.raises(NotSent, match="its last replica has died"):
            await transport.send(request()).head()
        with pytest.raises(NotSent, match="its last replica has died"):
            await transport.send(request()).head()
        assert not by_handle.calls
        end(transport)

    asyncio.run(whole())


def test_a_replica_that_was_found_dead_and_is_reached_again_gets_requests_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(direct, "TRY_AGAIN_S", 0.01)

    async def whole() -> None:
        async with Replica(echo).running() as replica:
            by_handle = ByHandle(replica)
            transport = await introduced(by_handle)
            (endpoint,) = transport._endpoints.values()
            endpoint.goes_until, endpoint.dead, endpoint.secret = time.monotonic() + 60, True, None
            with pytest.raises(NotSent):
                await transport.send(request()).head()
            transport._in_background(transport._introduce(str(id(replica)), endpoint, 0))
            while endpoint.secret is None:
                await asyncio.sleep(0.001)
            call = transport.send(request(body=b"x"))
            assert (await call.head()).status == 203
            assert call.way == "direct"
            end(transport)

    asyncio.run(whole())


def test_when_all_replicas_of_several_refuse_connections_nothing_is_sent_to_any_of_them() -> None:
    async def whole() -> None:
        async with Replica(echo).running() as one, Replica(echo).running() as two:
            by_handle = ByHandle(one, two)
            transport = await introduced(by_handle)
            while len(transport._introduced()) < 2:
                await asyncio.sleep(0.001)
        sent = [asyncio.create_task(transport.send(request()).head()) for _ in range(4)]
        while not transport._going():
            await asyncio.sleep(0.001)
        by_handle.know()
        for each in sent:
            with pytest.raises(NotSent, match="its last replica has gone"):
                await each
        assert not by_handle.calls
        end(transport)

    asyncio.run(whole())


def test_what_one_of_several_replicas_refuses_is_sent_to_another_at_once() -> None:
    async def whole() -> None:
        async with Replica(echo).running() as alive:
            async with Replica(echo).running() as dead:
                by_handle = ByHandle(alive, dead)
                transport = await introduced(by_handle)
                while len(transport._introduced()) < 2:
                    await asyncio.sleep(0.001)
            calls = [transport.send(request(body=b"x")) for _ in range(2)]
            for call in calls:
                assert (await call.head()).status == 203
                assert call.way == "direct"
            assert not by_handle.calls
            end(transport)

    asyncio.run(whole())


def test_when_another_replica_starts_it_gets_what_the_last_one_refused() -> None:
    async def whole() -> None:
        async with Replica(echo).running() as old:
            by_handle = ByHandle(old)
            transport = await introduced(by_handle)
        async with Replica(echo).running() as new:
            sent = asyncio.create_task(transport.send(request()).head())
            while not next(iter(transport._endpoints.values())).goes_until:
                await asyncio.sleep(0.001)
            by_handle.know(new)
            assert (await sent).body == head().body
            assert len(by_handle.calls) == 1
            end(transport)

    asyncio.run(whole())


def test_a_replica_that_refuses_connections_is_left_alone_for_a_while() -> None:
    async def whole() -> None:
        async with Replica(echo).running() as dead:
            by_handle = ByHandle(dead)
            transport = await introduced(by_handle)
        async with Replica(echo).running() as alive:
            by_handle.know(dead, alive)
            while len(transport._introduced()) < 2:
                assert transport.routable == 2
                await asyncio.sleep(0.001)
            for _ in range(100):
                await transport.send(request(body=b"x")).head()
            assert transport._endpoints[str(id(dead))].secret is None
            # It gets its part, by handle, and nobody tries to connect again and again.
            # What it refused once, the other replica got.
            assert alive.seen == 51
            end(transport)

    asyncio.run(whole())


def test_a_replica_that_is_not_introduced_gets_its_part_by_handle() -> None:
    async def whole() -> None:
        async with Replica(echo).running() as one, Replica(echo).running() as two:

            class Half(ByHandle):
                async def introduce(self, replica: str) -> bytes:
                    if replica == str(id(two)):
                        raise RuntimeError("no")
                    return await super().introduce(replica)

            transport = DirectTransport(Half(one, two))
            while not transport._introduced():
                assert transport.routable == 2
                await asyncio.sleep(0.001)
            calls = [transport.send(request()) for _ in range(40)]
            assert sum(isinstance(call, DirectCall) for call in calls) == 20
            end(transport)

    asyncio.run(whole())


def end(transport: DirectTransport) -> None:
    for task in transport._background:
        task.cancel()


def test_a_connection_that_is_not_made_in_time_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "CONNECT_S", 0.1)

    async def whole() -> None:
        with socket.socket() as deaf, contextlib.ExitStack() as stack:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(0)
            for _ in range(4):
                other = stack.enter_context(socket.socket())
                other.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    other.connect(deaf.getsockname())
            endpoint = Endpoint(Address(("127.0.0.1",), deaf.getsockname()[1], LIMIT))
            async with asyncio.timeout(5):
                with pytest.raises(OSError):  # noqa: PT011 - TimeoutError is one, and has no text
                    await endpoint.connect()

    asyncio.run(whole())


def test_who_is_connecting_while_another_is_refused_goes_by_handle_and_leaves_no_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(transport: DirectTransport, replica: Replica) -> None:
        (endpoint,) = transport._introduced()
        endpoint._idle.clear()
        real, made, go = Endpoint.connect, [], asyncio.Event()

        async def connect(self: Endpoint) -> Connection:
            made.append(await real(self))
            await go.wait()
            if len(made) == 1:
                return made[0]
            raise OSError("no more files")

        monkeypatch.setattr(Endpoint, "connect", connect)
        first = asyncio.ensure_future(transport.send(request()).head())
        while not made:
            await asyncio.sleep(0.001)
        endpoint.secret = None
        go.set()
        assert (await first).body == head().body
        assert not made[0].usable
        assert endpoint.in_flight == 0
        end(transport)

    run(echo, test)


async def others_wait_until_it_is_decided(transport: DirectTransport, calls: list[Any]) -> None:
    """Who waits by handle is served before what comes later; `calls` are under way."""
    by_handle: Any = transport.by_handle
    assert not isinstance(transport.send(request()), DirectCall), "there is a place, and somebody waits for it"
    by_handle.undecided_calls.clear()
    assert isinstance(transport.send(request()), DirectCall)
    for call in calls:
        await call.head()


def test_a_large_upload_that_found_no_place_is_served_before_what_comes_after_its_end() -> None:
    async def test(transport: DirectTransport, replica: Replica) -> None:
        by_handle: Any = transport.by_handle
        calls = [transport.send(request()) for _ in range(LIMIT)]
        client = Client()
        upload = transport.send(client.request(b"first"))
        client.send(b", last", more=False)
        await upload.head()
        by_handle.undecided_calls += by_handle.calls
        await calls[0].head()
        await others_wait_until_it_is_decided(transport, calls[1:])

    run(echo, test)


def test_a_replica_that_lives_and_is_slow_to_read_is_not_taken_for_one_that_has_vanished() -> None:
    """Linux counts a peer that reads nothing as silent in `TCP_USER_TIMEOUT`, though it answers all probes."""

    async def test(transport: DirectTransport, replica: Replica) -> None:
        (endpoint,) = transport._introduced()
        made = await endpoint.connect()
        assert made._transport is not None
        connected = made._transport.get_extra_info("socket")
        assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
        assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        made.close()

    run(echo, test)


async def stuck(scope: Scope, receive: Receive, send: Send) -> None:
    await read(receive)
    assert (await receive())["type"] == "http.disconnect"


def test_a_stream_that_still_comes_is_not_ended_though_nobody_can_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "SILENT_S", 0.1)

    async def drips(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(50):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await asyncio.sleep(0.02)
        await send({"type": "http.response.body", "body": b""})

    async def test(transport: DirectTransport, replica: Replica) -> None:
        call = transport.send(request())
        monkeypatch.setattr(Endpoint, "connect", unreachable)
        first = await call.head()
        rest = b"".join([piece async for piece in call.body()])
        assert len(first.body + rest) == 50

    run(drips, test)


def test_an_attempt_to_connect_that_is_noticed_late_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "CONNECT_S", 0.05)

    async def slept(endpoint: Endpoint) -> Connection:
        time.sleep(0.4)
        raise TimeoutError

    async def whole() -> None:
        endpoint = Endpoint(Address(("127.0.0.1",), 1, LIMIT))
        for connect, reached in ((unreachable, False), (slept, True)):
            monkeypatch.setattr(Endpoint, "connect", connect)
            assert await endpoint.reachable() is reached

    asyncio.run(whole())


def test_uploads_by_handle_leave_nothing_behind() -> None:
    async def test(transport: DirectTransport, replica: Replica) -> None:
        transport.use(Terms(by_handle=True))
        (endpoint,) = transport._introduced()
        endpoint.secret = None
        for _ in range(20):
            client = Client()
            call = transport.send(client.request(b"first"))
            client.send(b", last", more=False)
            await call.head()
        assert not transport._overflow

    run(echo, test)


async def slow(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(0.3)
    await echo(scope, receive, send)


async def unreachable(endpoint: Endpoint) -> Connection:
    raise TimeoutError


async def refused(endpoint: Endpoint) -> Connection:
    raise ConnectionRefusedError


def test_what_a_replica_has_fails_when_its_node_vanishes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "SILENT_S", 0.02)

    async def test(transport: DirectTransport, replica: Replica) -> None:
        (endpoint,) = transport._introduced()
        call = transport.send(request())
        monkeypatch.setattr(Endpoint, "connect", unreachable)
        with pytest.raises(Broken, match="its node can't be reached"):
            await call.head()
        assert endpoint.in_flight == 0
        assert transport.way == "handle", "it is left alone until it is reached again"
        end(transport)

    run(stuck, test)


@pytest.mark.parametrize("connect", [None, refused], ids=["works for long", "drains"])
def test_a_replica_that_is_silent_and_whose_node_is_there_is_waited_for(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "SILENT_S", 0.02)

    async def test(transport: DirectTransport, replica: Replica) -> None:
        call = transport.send(request(body=b"x"))
        if connect:
            monkeypatch.setattr(Endpoint, "connect", connect)
        assert (await call.head()).status == 203
        assert transport.way == "direct"

    run(slow, test)


def test_a_replica_whose_limit_changes_is_the_same_replica() -> None:
    async def test(transport: DirectTransport, replica: Replica) -> None:
        call = transport.send(request())
        replica.address = replace(replica.address, limit=1)
        by_handle: Any = transport.by_handle
        by_handle.know(replica)
        assert not transport.drains(call)
        assert not isinstance(transport.send(request()), DirectCall)
        await call.head()

    run(echo, test)


def test_what_waits_by_handle_is_served_before_what_comes_later() -> None:
    async def test(transport: DirectTransport, replica: Replica) -> None:
        by_handle: Any = transport.by_handle
        calls = [transport.send(request()) for _ in range(LIMIT)]
        overflow = transport.send(request())
        assert not isinstance(overflow, DirectCall)
        by_handle.undecided_calls.append(overflow)
        await calls[0].head()
        await others_wait_until_it_is_decided(transport, calls[1:])

    run(echo, test)


def test_a_request_is_sent_at_once_where_a_connection_is_at_hand() -> None:
    async def test(transport: DirectTransport, replica: Replica) -> None:
        asked = request(body=b"at once")
        call = transport.send(asked)
        assert asked.sent_at is not None
        assert not asked.withdraw()
        assert (await call.head()).status == 203
        call.cancel()

    run(echo, test)


def test_a_request_that_is_withdrawn_before_there_is_a_connection_is_not_sent() -> None:
    async def test(transport: DirectTransport, replica: Replica) -> None:
        for endpoint in transport._introduced():
            endpoint._idle.clear()
        asked = request()
        call = transport.send(asked)
        assert asked.withdraw()
        with pytest.raises(NotSent):
            await call.head()
        assert replica.seen == 0

    run(echo, test)


def test_the_replica_with_the_fewest_requests_gets_the_next() -> None:
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        await echo(scope, receive, send)

    async def whole() -> None:
        async with Replica(app).running() as one, Replica(app).running() as two, Replica(app).running() as three:
            transport = await introduced(ByHandle(one, two, three))
            calls = [transport.send(request()) for _ in range(9)]
            assert [each.in_flight for each in transport._endpoints.values()] == [3, 3, 3]
            waiting = [asyncio.ensure_future(call.head()) for call in calls]
            go_on.set()
            await asyncio.gather(*waiting)
            assert [each.in_flight for each in transport._endpoints.values()] == [0, 0, 0]

    asyncio.run(whole())


@pytest.mark.parametrize(("queued", "direct"), [(False, LIMIT // 4), (True, LIMIT)])
def test_no_more_goes_directly_than_our_part_of_a_replicas_places(queued: bool, direct: int) -> None:
    async def test(transport: DirectTransport, replica: Replica) -> None:
        transport.use(Terms(4, queued=queued))
        calls = [transport.send(request()) for _ in range(LIMIT + 10)]
        assert sum(isinstance(call, DirectCall) for call in calls) == direct

    run(echo, test)


def test_of_several_replicas_behind_a_queue_serve_finds_the_one_with_a_place() -> None:
    async def whole() -> None:
        async with Replica(echo).running() as one, Replica(echo).running() as two:
            transport = await introduced(ByHandle(one, two))
            transport.use(Terms(queued=True))
            assert not isinstance(transport.send(request()), DirectCall)

    asyncio.run(whole())


def test_a_connection_to_a_replica_that_drains_is_used_once_and_what_others_can_take_is_not_sent_there() -> None:
    async def whole() -> None:
        async with asyncio.timeout(20), Replica(echo).running() as old, Replica(echo).running() as new:
            by_handle = ByHandle(old)
            transport = await introduced(by_handle)
            (endpoint,) = transport._endpoints.values()
            await asyncio.gather(*(ask(transport, request(body=b"x")) for _ in range(5)))
            assert len(endpoint._idle) == 5
            old.drains = True
            assert (await ask(transport, request(body=b"x")))[1] == b"x"
            assert not endpoint._idle
            while endpoint._open:  # Those that nobody uses are closed as well.
                await asyncio.sleep(0.001)
            got, answered = await ask(transport, request(body=b"alone"))
            assert (answered, endpoint._idle) == (b"alone", [])
            assert not {name for name, _ in got.headers} & {b"connection", GOES[0]}, "it is no matter of the client's"

            by_handle.know(old, new)
            assert transport.routable == 2
            while len(transport._introduced()) < 2:
                await asyncio.sleep(0.001)
            seen = old.seen
            for _ in range(10):
                await ask(transport, request(body=b"x"))
            assert (old.seen, new.seen) == (seen, 10)
            assert not by_handle.calls

    asyncio.run(whole())


@pytest.mark.parametrize("drains", [False, True])
def test_an_answer_arrives_whole_though_nobody_has_read_the_request(drains: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"%d" % 2_000_000)]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * 2_000_000})

    async def test(transport: DirectTransport, replica: Replica) -> None:
        replica.drains = drains
        for _ in range(5):
            got, answered = await ask(transport, request(body=bytes(5_000_000)))
            assert (got.status, len(answered)) == (413, 2_000_000)

    run(app, test)


def test_a_connection_that_the_bento_closes_says_nothing_of_its_replica() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        headers = [(b"connection", b"close"), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def test(transport: DirectTransport, replica: Replica) -> None:
        await ask(transport, request(body=b"x"))
        (endpoint,) = transport._endpoints.values()
        assert not endpoint.closed

    run(app, test)


def test_who_is_introduced_to_a_replica_that_drains_keeps_no_connection_to_it() -> None:
    async def whole() -> None:
        async with asyncio.timeout(20), Replica(echo).running() as old:
            old.drains = True
            transport = await introduced(ByHandle(old))
            (endpoint,) = transport._endpoints.values()
            assert endpoint.closed
            assert not endpoint._idle

    asyncio.run(whole())


def test_a_replica_that_has_left_gets_nothing_more_and_ends_what_it_has() -> None:
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        await echo(scope, receive, send)

    async def whole() -> None:
        async with Replica(app).running() as one, Replica(echo).running() as two:
            by_handle = ByHandle(one)
            transport = await introduced(by_handle)
            call = transport.send(request(body=b"old"))
            waiting = asyncio.ensure_future(call.head())
            assert not transport.drains(call)
            by_handle.know(two)
            assert transport.drains(call)
            assert transport.routable == 1
            while not transport._introduced():
                await asyncio.sleep(0.001)
            assert (await ask(transport, request(body=b"new")))[1] == b"new"
            go_on.set()
            answered = await waiting
            assert answered.body + b"".join([piece async for piece in call.body()]) == b"old"

    asyncio.run(whole())


# The bytes ------------------------------------------------------------------------------------------------------------


class Parsed:
    """What httptools reads."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: HeaderList = []
        self.body = b""
        self.complete = 0

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete += 1


names = st.from_regex(rb"[a-z][a-z-]{0,20}", fullmatch=True).filter(
    lambda name: name not in (b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect")
)
values = st.binary(max_size=40)


@given(st.lists(st.tuples(names, values), max_size=8), st.binary(max_size=40), st.sampled_from(["GET", "POST", "PUT"]))
def test_whatever_is_in_a_header_it_makes_one_request_or_none(headers: HeaderList, body: bytes, method: str) -> None:
    asked = Request(method, "/", b"/path", b"q=1", headers, body)
    try:
        said = request_head(asked, b"secret")
    except ValueError:
        assert any(b"\n" in value or b"\r" in value for _, value in headers)
        return
    parsed: Any = Parsed()
    parser = httptools.HttpRequestParser(parsed)
    try:
        parser.feed_data(said + body)
    except httptools.HttpParserError:
        # A control character: the replica's server refuses it, and the ingress's own has refused it before.
        assert any(byte < 32 and byte != 9 or byte == 127 for _, value in headers for byte in value)
        return
    assert (parsed.complete, parsed.url, parsed.body) == (1, b"/path?q=1", body)
    own = int(parsed.headers[0][1].split(b" ")[1])
    assert parsed.headers[0][0] == OURS
    assert [(name, value.strip(b" \t")) for name, value in headers] == [
        (name, value.strip(b" \t")) for name, value in parsed.headers[own:]
    ]


@pytest.mark.parametrize("target", [b"/a b", b"/a\r\nx: y", b"/a\nx", b"/ HTTP/1.1\r\n\r\nGET /", b"%2Fa", b""])
def test_a_path_that_would_end_the_line_goes_no_direct_way(target: bytes) -> None:
    with pytest.raises(ValueError, match="is none"):
        request_head(Request("GET", "/", target, b"", [], b""), b"secret")
