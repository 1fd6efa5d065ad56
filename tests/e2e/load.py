"""Constant load from real HTTP clients, and what became of every request."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
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


@dataclass
class Load:
    """`clients` threads, each sending one request after the other until the `with` block ends."""

    base_url: str
    make: Callable[[int], httpx.Request]
    clients: int = 4
    sent: list[Sent] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._run, args=(index,)) for index in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, client: int) -> None:
        number = client * 1_000_000
        with httpx.Client(base_url=self.base_url, timeout=30) as http:
            while not self._stop.is_set():
                number += 1
                self.sent.append(self._send(http, number))

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
