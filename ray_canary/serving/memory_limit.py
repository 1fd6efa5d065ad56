"""A replica that takes more memory than it reserves ends itself, as a pod is killed that exceeds its limit.

Ray reserves memory and enforces nothing: a version that takes too much fills its node, and Ray's own monitor may then
end a replica of another version.
"""

import asyncio
import ctypes
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import psutil

from ray_canary.serving.compile import MEMORY_LIMIT

logger = logging.getLogger("ray.serve")

#: One that ended meanwhile, or is another user's, or no file is left to open: none of them ends the watch.
_UNREADABLE: Final = (psutil.Error, OSError)
#: Seconds between two looks.
EVERY_S: Final = 0.5
#: Seconds that a start which took too much may take to say so.
_LAST_WORDS_S: Final = 10.0
#: Seconds that an event loop may take to stop a start; after that, something of the Bento's holds it up.
_HELD_UP_S: Final = 1.0


class TooMuchMemory(Exception):
    """A replica took more memory than it reserves before it was up."""


class _Stop(BaseException):
    """What ends the Bento's own code that holds the event loop up; no Exception, which it could take for its own."""


@contextmanager
def watching() -> Iterator[None]:
    """Watch this process's memory from now on, and for good, if its environment names a limit.

    The block is the replica's start, in a task. Too much memory after it kills the process; Serve would say no more of
    it than that an actor died. Before, it is the start's own failure, which Serve passes on.

    Raises:
        TooMuchMemory: the block was ended for it.
    """
    if not (limit := os.environ.get(MEMORY_LIMIT)):
        yield
        return
    start = _Start(int(limit))
    try:
        start.look()
        threading.Thread(target=_watch, args=(start,), name="memory-limit", daemon=True).start()
        yield
        start.succeed()
    except BaseException:
        if start.ended is None:
            raise
        # A child that is left behind would keep its memory, and nobody would look any more.
        _kill(_family()[:-1])
        raise TooMuchMemory(start.ended) from None
    finally:
        start.leave()


def used() -> int:
    """Return the bytes that this process and its children have for themselves: what is free once they end."""
    total = 0
    for process in _family():
        with suppress(*_UNREADABLE):
            found = process.memory_info()
            total += found.rss - found.shared
    return total


def _over(limit: int) -> int | None:
    """Return how many bytes there are, if that is more than the limit; None otherwise."""
    return taken if used() > limit and (taken := _exactly()) > limit else None


def _exactly() -> int:
    """Return the same, where what a fork shares with its parent counts once. That takes ten times as long."""
    return min(used(), sum(map(_part, _family())))


def _part(process: psutil.Process) -> int:
    """Return a process's part of the memory that it has, alone or with others."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.NoSuchProcess:
        return 0
    except _UNREADABLE:
        return int(process.memory_info().rss)


class _Start:
    """The start of a replica in a task: the thread that watches ends it, unless it is over."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        #: Why it was ended.
        self.ended: str | None = None
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._succeeded = False
        self._cancelled = False
        self._left = threading.Event()

    def look(self) -> None:
        """End the start for what it has taken. Raises TooMuchMemory."""
        if (taken := _over(self.limit)) is not None:
            self.ended = self.ended or _sentence(taken, self.limit)
        if self.ended is not None:
            raise TooMuchMemory(self.ended)

    def succeed(self) -> None:
        """Have the replica up, unless it has taken too much by now. Raises TooMuchMemory."""
        with self._lock:
            self.look()
            self._succeeded = True

    def leave(self) -> None:
        """Have nothing more to be stopped."""
        self._left.set()
        if self._task is not None and self._cancelled:
            self._task.uncancel()

    def end(self, why: str) -> bool:
        """Stop what runs of it, from another thread; return False if the replica is up."""
        with self._lock:
            if self._succeeded:
                return False
            self.ended = self.ended or why
        with suppress(RuntimeError):  # The loop is closed: the process is about to end, and is killed like any other.
            self._loop.call_soon_threadsafe(self._cancel)
        if not self._left.wait(_HELD_UP_S):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(_Stop))
        return True

    def _cancel(self) -> None:
        if self._task is not None and not self._left.is_set():
            self._cancelled = self._task.cancel()


def _watch(start: _Start) -> None:
    """Look again and again; at too much, kill this process and its children, after its last words if it is not up."""
    never = threading.Event()
    while (taken := _over(start.limit)) is None:
        never.wait(EVERY_S)
    sentence = _sentence(taken, start.limit)
    if start.end(sentence):
        until = time.monotonic() + _LAST_WORDS_S
        # Whoever goes on taking has had its say.
        while time.monotonic() < until and used() <= taken + start.limit:
            _kill(_family()[:-1])
            never.wait(EVERY_S / 5)
    logger.error("%s", sentence)
    for each in (*logger.handlers, *logging.getLogger().handlers):
        each.flush()
    _kill(_family())
    os.kill(os.getpid(), signal.SIGKILL)


def _sentence(taken: int, limit: int) -> str:
    return (
        f"This replica has {taken / 2**20:.0f} MiB of memory, more than the {limit / 2**20:.0f} MiB that it reserves, "
        "and ends itself (ray.hosts.enforce_memory). Give it more by its instance type or resources.memory, or find "
        "out what takes it."
    )


def _family() -> list[psutil.Process]:
    """Return this process's children, theirs before them, and itself at last."""
    with suppress(*_UNREADABLE):
        own = psutil.Process()
        return [*reversed(own.children(recursive=True)), own]
    return []


def _kill(processes: list[psutil.Process]) -> None:
    for each in processes:
        with suppress(*_UNREADABLE):
            each.kill()
