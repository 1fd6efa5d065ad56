"""Mixed traffic for a long run: every kind of request at a moderate rate, each answer read to its end and looked at."""

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import httpx
import websockets
from websockets.sync.client import connect

from tests.e2e.harness import wait_for
from tests.e2e.load import Clients

#: One large body, in bytes.
LARGE = bytes(range(256)) * 4096
TICKS = 10


class Sent(NamedTuple):
    """One request: when it was sent (monotonic s), how long it took to its end (s), whose it was, what was wrong."""

    kind: str
    key: str
    at: float
    took: float
    version: str
    reason: str
    error: str


class Wrong(Exception):
    """An answer is not what it should be."""


#: Sends one request with a key, sees that the answer is whole, and returns its headers.
Send = Callable[[httpx.Client, str], httpx.Headers]


def _whole(is_so: bool, answer: httpx.Response) -> httpx.Headers:
    if answer.status_code != 200 or not is_so:
        raise Wrong(f"{answer.status_code}: {answer.text[:300]}")
    return answer.headers


def who(http: httpx.Client, key: str) -> httpx.Headers:
    """Call an API of the Bento."""
    answer = http.post("who", params={"feature": key}, json={})
    return _whole("pid" in answer.text, answer)


def get(http: httpx.Client, key: str) -> httpx.Headers:
    """Get a page of a mounted app."""
    return _whole(True, http.get("web/counts", params={"feature": key}))


def inner(http: httpx.Client, key: str) -> httpx.Headers:
    """Call an API that asks an inner service."""
    answer = http.post("count", params={"feature": key}, json={"text": "four"})
    return _whole(answer.text == "4", answer)


def large(http: httpx.Client, key: str) -> httpx.Headers:
    """Send a large body and get it back."""
    answer = http.post("web/echo", params={"feature": key}, content=LARGE)
    return _whole(answer.content == LARGE, answer)


def stream(http: httpx.Client, key: str) -> httpx.Headers:
    """Read a stream that takes half a second."""
    body = {"count": TICKS, "every_s": 0.05}
    with http.stream("POST", "ticks", params={"feature": key}, json=body) as answer:
        lines = [line for line in answer.iter_lines() if line]
        if answer.status_code != 200 or lines != [str(number) for number in range(TICKS)]:
            raise Wrong(f"{answer.status_code}: {lines}")
        return answer.headers


def websocket(http: httpx.Client, key: str) -> httpx.Headers:
    """Talk over a websocket."""
    address = str(http.base_url.copy_with(scheme="ws")) + f"web/talk?feature={key}"
    with connect(address, open_timeout=30, close_timeout=30) as socket:
        for number in range(3):
            socket.send(f"{key} {number}")
            if (said := socket.recv(timeout=30)) != f"{key} {number}":
                raise Wrong(f"websocket: {said!r}")
        assert socket.response
        return httpx.Headers(list(socket.response.headers.raw_items()))


def task(http: httpx.Client, key: str) -> httpx.Headers:
    """Submit a task, wait for it, and fetch its result."""
    submitted = http.post("job/submit", params={"feature": key}, json={"text": key})
    found = {"task_id": _json(submitted)["task_id"]}
    wait_for(lambda: _json(http.get("job/status", params=found))["status"] == "completed", "the task is done", 15)
    answer = http.get("job/get", params=found)
    _whole(answer.text == key.upper(), answer)
    return submitted.headers


def _json(answer: httpx.Response) -> dict[str, str]:
    if answer.status_code != 200:
        raise Wrong(f"{answer.status_code}: {answer.text[:300]}")
    found: dict[str, str] = answer.json()
    return found


#: Every kind, and the seconds that its one client waits between two requests.
KINDS: dict[str, tuple[Send, float]] = {
    "an API, keys that never repeat": (who, 0.05),
    "a page of a mounted app": (get, 0.2),
    "an API that asks an inner service": (inner, 0.2),
    "1 MiB up and back": (large, 1.0),
    "a stream of half a second": (stream, 0.5),
    "a websocket": (websocket, 0.5),
}
TASKS = "a task, from submit to result"


@dataclass
class Traffic(Clients):
    """One client for each kind, each sending one request after the other until the `with` block ends."""

    url: str
    kinds: dict[str, tuple[Send, float]]
    sent: list[Sent] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def _works(self) -> list[Callable[[], None]]:
        return [partial(self._run, kind) for kind in self.kinds]

    def _run(self, kind: str) -> None:
        send, pause = self.kinds[kind]
        with httpx.Client(base_url=self.url, timeout=60) as http:
            while not self._stop.wait(pause):
                self.sent.append(self._one(http, kind, send))

    def _one(self, http: httpx.Client, kind: str, send: Send) -> Sent:
        key = f"user-{next(self._numbers)}"
        at = time.monotonic()
        version = reason = error = ""
        try:
            headers = send(http, key)
            version, reason = headers.get("x-bento-version", ""), headers.get("x-bento-split", "")
        except (Wrong, AssertionError, httpx.HTTPError, OSError, websockets.exceptions.WebSocketException) as failure:
            error = f"{type(failure).__name__}: {failure}"
        return Sent(kind, key, at, time.monotonic() - at, version, reason, error)

    @property
    def failures(self) -> list[Sent]:
        """Every request whose answer was not whole."""
        return [one for one in self.sent if one.error]
