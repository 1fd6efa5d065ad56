"""One replica as the direct way sees it: where it listens, and the connections to it."""

import asyncio
import errno
import time
from typing import Final

from ray_canary.serving.http_connection import Connection, HttpExchange, introduction
from ray_canary.serving.transport import Address

#: Seconds after which an idle connection isn't used again: the replica's server closes it after 90 s unless Serve is
#: told otherwise, and a request must not meet that moment.
IDLE_S: Final = 3.0
#: Seconds that one attempt to connect may take; and how late, in seconds, its end may be noticed to say something.
CONNECT_S: Final = 2.0
_LATE_S: Final = 0.2
_UNREACHABLE: Final = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN})


class Endpoint:
    """One replica: its connections, and how busy we keep it."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.secret: bytes | None = None
        self.in_flight = 0
        #: Until when (monotonic s) it is taken for one that is about to go, as it has refused a connection.
        self.goes_until = 0.0
        #: Whether it did not answer a handle either.
        self.dead = False
        #: Whether somebody looks after what is under way there.
        self.watched = False
        self._hosts = address.hosts
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        #: Whether connections are used once only.
        self.closed = False

    async def connect(self) -> Connection:
        """Open a connection. Raises OSError."""
        loop = asyncio.get_running_loop()
        for host in self._hosts:
            try:
                async with asyncio.timeout(CONNECT_S):
                    _, made = await loop.create_connection(lambda: Connection(self._ended), host, self.address.port)
            except OSError as error:
                failure = error
            else:
                self._hosts = (host, *(other for other in self._hosts if other != host))
                self._open.add(made)
                return made
        raise failure

    @property
    def heard_at(self) -> float:
        """When (monotonic s) the replica last gave a sign of life on a connection that is open; 0 if it never did."""
        return max((connection.heard_at for connection in self._open), default=0.0)

    async def reachable(self) -> bool:
        """Whether the replica's node says anything, be it that nobody listens there any more."""
        began = time.monotonic()
        try:
            (await self.connect()).close()
        except TimeoutError:
            # Had this process slept meanwhile, it would say nothing of the node.
            return time.monotonic() - began > CONNECT_S * len(self._hosts) + _LATE_S
        except OSError as error:
            return error.errno not in _UNREACHABLE
        return True

    def lose(self) -> None:
        """End what is under way: the replica's node has vanished."""
        for connection in list(self._open):
            connection.end("its node can't be reached")

    async def greet(self, secret: bytes) -> None:
        """Open a first connection, and see whether this secret opens the door. Raises OSError or `Broken`."""
        connection = await self.connect()
        said = HttpExchange(connection, "GET")
        connection.begin(said, introduction(secret), b"")
        try:
            await said.head()
            if said.goes:
                self.close()
        except BaseException:
            connection.close()
            raise
        self.secret = secret
        self.goes_until, self.dead = 0.0, False

    def take(self) -> Connection | None:
        """Return an idle connection that was used just now, if there is one."""
        if not self._idle:
            return None
        connection = self._idle.pop()
        if connection.usable and time.monotonic() - connection.idle_since < IDLE_S:
            return connection
        connection.close()
        for other in self._idle:
            other.close()  # These have been idle for longer.
        self._idle.clear()
        return None

    def matches(self, address: Address) -> bool:
        """Whether this is the replica at `address`; how much it takes may have changed."""
        if (address.hosts, address.port) != (self.address.hosts, self.address.port):
            return False
        self.address = address
        return True

    def keep(self, connection: Connection) -> None:
        """Keep a connection for the next request."""
        self._ended(connection)

    def close(self) -> None:
        """Let go of the connections, as the replica is about to go; what is under way goes on."""
        self.closed = True
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _ended(self, connection: Connection) -> None:
        if not connection.usable:
            self._open.discard(connection)
            if connection in self._idle:
                self._idle.remove(connection)
        elif self.closed:
            connection.close()
        else:
            connection.idle_since = time.monotonic()
            self._idle.append(connection)
