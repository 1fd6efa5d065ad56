"""Where the replicas of the versions connect back to when they take a websocket.

A Serve handle carries one request there and one stream back, which is half a websocket. So the handshake travels over
the handle, like any request, and the replica that takes it opens a TCP connection to the ingress replica that sent it.
"""

import asyncio
import hmac
import os
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from ray_canary.serving.frames import Conversation
from ray_canary.serving.peers import notice_a_lost_peer
from ray_canary.serving.wire import Line

#: Bytes of a secret; it is good for one connection, while its handshake is under way.
_SECRET: Final = 32
#: Seconds that a connection has to say its secret.
_PATIENCE_S: Final = 5.0


class Switchboard:
    """A listener that takes in nobody who has no secret from it. It listens from the first websocket on."""

    def __init__(self, address: str) -> None:
        """Prepare to listen on `address`: this node's, as other nodes reach it."""
        self._address = address
        self._server: asyncio.Server | None = None
        self._starting = asyncio.Lock()
        self._expected: dict[bytes, asyncio.Future[Conversation]] = {}

    @asynccontextmanager
    async def line(self, subprotocols: tuple[str, ...]) -> AsyncIterator[tuple[Line, asyncio.Future[Conversation]]]:
        """Give out a line, and the conversation that will be on it; both end with the block."""
        port = await self._listening()
        secret = secrets.token_bytes(_SECRET)
        connected: asyncio.Future[Conversation] = asyncio.get_running_loop().create_future()
        self._expected[secret] = connected
        try:
            yield Line(self._address, port, secret, subprotocols), connected
        finally:
            self._expected.pop(secret, None)
            if connected.done() and not connected.cancelled():
                connected.result().end()
            connected.cancel()

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _listening(self) -> int:
        async with self._starting:
            if self._server is None:
                self._server = await asyncio.start_server(self._take, self._address, 0, ssl=_server_tls(os.environ))
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            said = await asyncio.wait_for(reader.readexactly(_SECRET), _PATIENCE_S)
        except (TimeoutError, asyncio.IncompleteReadError, OSError):
            writer.close()
            return
        known = next((secret for secret in self._expected if hmac.compare_digest(secret, said)), None)
        if known is None:
            writer.close()
            return
        _at_once(writer)
        self._expected.pop(known).set_result(Conversation(reader, writer))


async def connect(line: Line) -> Conversation:
    """Connect back to the ingress. Raises OSError if that can't be done."""
    reader, writer = await asyncio.open_connection(line.host, line.port, ssl=_client_tls(os.environ))
    _at_once(writer)
    writer.write(line.secret)
    return Conversation(reader, writer)


def _at_once(writer: asyncio.StreamWriter) -> None:
    """Send small messages at once rather than wait for more of them, and notice when the other end has vanished."""
    connected = writer.get_extra_info("socket")
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    notice_a_lost_peer(connected)


# On a cluster whose own connections are encrypted, this one is, with the same certificates. ---------------------------


def _server_tls(environment: Mapping[str, str]) -> ssl.SSLContext | None:
    return _tls(ssl.Purpose.CLIENT_AUTH, environment)


def _client_tls(environment: Mapping[str, str]) -> ssl.SSLContext | None:
    return _tls(ssl.Purpose.SERVER_AUTH, environment)


def _tls(purpose: ssl.Purpose, environment: Mapping[str, str]) -> ssl.SSLContext | None:
    if environment.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return None
    context = ssl.create_default_context(purpose, cafile=environment["RAY_TLS_CA_CERT"])
    context.load_cert_chain(environment["RAY_TLS_SERVER_CERT"], environment["RAY_TLS_SERVER_KEY"])
    # Like Ray: both sides show a certificate of the cluster's authority, and names don't matter.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    return context
