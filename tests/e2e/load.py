"""Constant load from real HTTP clients, and what became of every request."""

import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self

import httpx


@dataclass(frozen=True, slots=True)
class Sent:
    """One request: when it was sent (monotonic s), how long it took (s), and how it ended."""

    key: str
    at: float
    took: float
    status: int
    version: str = ""
    reason: str = ""
    tag: str = ""
    error: str = ""
    #: What an answer other than 200 said.
    said: str = ""

    @property
    def failed(self) -> bool:
        return bool(self.error) or self.status != 200


class Clients(ABC):
    """Threads that send requests until the `with` block ends; each does what one of `_works` does until `_stop`."""

    _stop: threading.Event
    _threads: list[threading.Thread]

    @abstractmethod
    def _works(self) -> list[Callable[[], None]]:
        """Return what each thread does."""

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=work) for work in self._works()]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@dataclass
class Load(Clients):
    """`clients` threads, each sending one request after the other until the `with` block ends."""

    base_url: str
    make: Callable[[int], httpx.Request]
    clients: int = 4
    #: Whether a connection from this port (TCP) may be used: where several proxies share one port, the kernel chooses.
    enters: Callable[[int], bool] | None = None
    sent: list[Sent] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def _works(self) -> list[Callable[[], None]]:
        return [partial(self._run, index) for index in range(self.clients)]

    def _run(self, client: int) -> None:
        number = client * 1_000_000
        with ExitStack() as stack:
            http = stack.enter_context(closing(self._enter()))
            while not self._stop.is_set():
                number += 1
                self.sent.append(self._send(http, number))
                if self.sent[-1].error and self.enters:
                    http = stack.enter_context(closing(self._enter()))

    def _enter(self) -> httpx.Client:
        """Return a client whose connection is one that may be used."""
        http = httpx.Client(base_url=self.base_url, timeout=30)
        while self.enters and not self._stop.is_set():
            port = _port(http)
            if port and self.enters(port):
                break
            http.close()
            http = httpx.Client(base_url=self.base_url, timeout=30)
        return http

    def _send(self, http: httpx.Client, number: int) -> Sent:
        request = self.make(number)
        key = request.url.params.get("feature", "")
        began = time.monotonic()
        try:
            response = http.send(request)
        except httpx.HTTPError as error:
            return Sent(key, began, time.monotonic() - began, 0, error=f"{type(error).__name__}: {error}")
        headers = response.headers
        return Sent(
            key,
            began,
            time.monotonic() - began,
            response.status_code,
            headers.get("x-bento-version", ""),
            headers.get("x-bento-split", ""),
            headers.get("x-bento-tag", ""),
            said="" if response.status_code == 200 else response.text[:500],
        )

    @property
    def failures(self) -> list[Sent]:
        """Every request that did not end in 200."""
        return [one for one in self.sent if one.failed]

    def longest(self) -> Sent:
        """The request that took longest."""
        return max(self.sent, key=lambda one: one.took)

    def shares(self, since: float, until: float = float("inf")) -> Counter[str]:
        """Count the answers of each version among the requests sent between two moments (monotonic s)."""
        return Counter(one.version for one in self.sent if since <= one.at < until and not one.failed)


def _port(http: httpx.Client) -> int:
    """Open a client's connection with a request that the proxy answers itself; return our port, 0 if it was refused."""
    try:
        with http.stream("GET", "/-/routes") as response:
            response.read()
            port: int = response.extensions["network_stream"].get_extra_info("client_addr")[1]
    except httpx.TransportError:
        return 0
    return port
