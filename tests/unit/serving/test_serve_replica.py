"""What our code does to the replica around it, on a real uvicorn; Serve's private corners are where they were."""

import asyncio
import inspect
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from ray._private import worker
from ray.serve._private import replica
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ray_canary.serving.http import Message, Receive, Scope, Send
from ray_canary.serving.serve_replica import AccessLog, write_together

App = Callable[[Scope, Receive, Send], Awaitable[None]]
GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]}


class Written:
    """A transport that notes what is written to it, piece by piece."""

    def __init__(self, transport: asyncio.Transport, pieces: list[bytes]) -> None:
        self._transport = transport
        self._pieces = pieces

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._pieces.append(bytes(data))
        self._transport.write(data)


def written(app: App, asked: bytes, *, responses: int = 1, joined: bool = True) -> list[bytes]:
    """Return what a server writes when it is asked, piece by piece; empty pieces are left out."""
    pieces: list[bytes] = []

    class Protocol(HttpToolsProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(Written(transport, pieces))  # type: ignore[arg-type]

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if joined:
            write_together(receive)
        await app(scope, receive, send)

    async def whole() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(answer, lifespan="off", log_config=None, access_log=False, http=Protocol)
        server = uvicorn.Server(config)
        serving = asyncio.ensure_future(server._serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.001)
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(asked)
        async with asyncio.timeout(30):
            while b"".join(pieces).count(b"HTTP/1.1 2") < responses or not b"".join(pieces).endswith(END):
                await reader.read(65536)
        writer.close()
        server.should_exit = server.force_exit = True
        await serving

    asyncio.run(whole())
    return [piece for piece in pieces if piece]


END = b"end!"


async def plain(scope: Scope, receive: Receive, send: Send) -> None:
    await send(dict(START))
    await send({"type": "http.response.body", "body": END})


def test_a_plain_response_is_one_write_and_the_same_bytes() -> None:
    (together,) = written(plain, GET)
    apart = written(plain, GET, joined=False)
    assert len(apart) == 2
    assert [line for line in together.split(b"\r\n") if not line.startswith(b"date")] == [
        line for line in b"".join(apart).split(b"\r\n") if not line.startswith(b"date")
    ]


def test_a_head_goes_out_though_its_body_takes_its_time() -> None:
    pieces: list[int] = []

    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        await send(dict(START))
        pieces.append(1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": END})

    head, body = written(late, GET)
    assert head.startswith(b"HTTP/1.1 200")
    assert body == END


def test_the_pieces_of_a_stream_after_the_first_are_written_as_they_come() -> None:
    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({**START, "headers": [(b"content-length", b"8")]})
        for piece in (b"on", b"tw"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": END})

    first, *others = written(stream, GET)
    assert first.endswith(b"\r\n\r\non")
    assert others == [b"tw", END]


def test_pipelined_responses_come_in_their_order() -> None:
    async def named(scope: Scope, receive: Receive, send: Send) -> None:
        head = scope["method"] == "HEAD"
        await send({**START, "headers": [(b"content-length", b"4"), (b"method", scope["method"].encode())]})
        await send({"type": "http.response.body", "body": b"" if head else END})

    both = b"".join(written(named, GET.replace(b"GET", b"HEAD") + GET, responses=2))
    assert 0 < both.index(b"method: HEAD") < both.index(b"method: GET")
    assert both.count(END) == 1


def test_a_connection_that_closes_after_the_response_has_all_of_it() -> None:
    (whole,) = written(plain, GET.replace(b"host", b"connection: close\r\nhost"))
    assert whole.endswith(END)


def test_a_receive_of_another_server_is_left_alone() -> None:
    async def receive() -> Message:
        raise AssertionError("nothing is received")

    write_together(receive)


# The access log -------------------------------------------------------------------------------------------------------


@pytest.fixture
def access_log(monkeypatch: pytest.MonkeyPatch) -> AccessLog:
    monkeypatch.setattr(replica, "logger", logging.getLogger("ray.serve"))
    return AccessLog()


def test_serves_access_log_is_written_only_where_it_is_wanted(
    access_log: AccessLog, caplog: pytest.LogCaptureFixture
) -> None:
    def log() -> None:
        replica.logger.info("GET / 200", extra={"serve_access_log": True})
        replica.logger.info("port %d", 5)
        replica.logger.warning("careful")

    with caplog.at_level(logging.INFO, "ray.serve"):
        log()
        access_log.wanted = False
        log()
    assert caplog.messages == ["GET / 200", "port 5", "careful", "port 5", "careful"]
    assert {record.funcName for record in caplog.records} == {"log"}


def test_serves_replica_logs_each_request_by_its_own_logger() -> None:
    source = inspect.getsource(replica.Replica._record_errors_and_metrics)
    assert "logger.info(" in source
    assert "extra=self._access_log_context" in source
    assert '"serve_access_log": True' in inspect.getsource(replica.Replica._configure_logger_and_profilers)


def test_serve_hands_the_servers_own_receive_on() -> None:
    from ray.serve._private.direct_ingress_http_util import ASGIDIReceiveProxy

    assert "self._receive = receive" in inspect.getsource(ASGIDIReceiveProxy.__init__)
    assert "_queue" in inspect.getsource(ASGIDIReceiveProxy.__init__)


def test_a_request_has_an_id() -> None:
    from ray.serve import context

    assert hasattr(context._get_serve_request_context(), "request_id")


def test_serve_notes_that_a_replica_is_being_ended_before_anything_else() -> None:
    begins = inspect.getsource(replica.Replica._perform_graceful_shutdown).splitlines()[1]
    assert begins.strip() == "self._shutting_down = True"
    assert "self._replica_impl: Replica = " in inspect.getsource(replica.ReplicaActor.__init__)
    assert "self.actors = {}" in inspect.getsource(worker.Worker.__init__)
    assert isinstance(worker.Worker.actor_id, property)
