"""A replica that takes more memory than it reserves ends itself, as a pod is killed that exceeds its limit.

Ray reserves memory and enforces nothing: a version that takes too much fills its node, and Ray's own monitor may then
end a replica of another version.
"""

import logging
import os
import threading
from contextlib import suppress
from typing import Final

import psutil

from ray_canary.serving.compile import MEMORY_LIMIT

logger = logging.getLogger("ray.serve")

#: Seconds between two looks.
EVERY_S: Final = 0.5


def watch() -> None:
    """Watch this process's memory from now on, if its environment names a limit."""
    if limit := os.environ.get(MEMORY_LIMIT):
        threading.Thread(target=_watch, args=(int(limit),), name="memory-limit", daemon=True).start()


def used() -> int:
    """Return the bytes that this process and its children have for themselves: what is free once they end."""
    total = 0
    for process in _family():
        try:
            found = process.memory_info()
        except psutil.NoSuchProcess:
            continue
        total += found.rss - found.shared
    return total


def _family() -> list[psutil.Process]:
    """Return this process's children, theirs before them, and itself at last."""
    own = psutil.Process()
    return [*reversed(own.children(recursive=True)), own]


def _watch(limit: int) -> None:
    never = threading.Event()
    while (taken := used()) <= limit:
        never.wait(EVERY_S)
    logger.error(
        "This replica has %.0f MiB of memory, more than the %.0f MiB that it reserves, and ends itself "
        "(ray.hosts.enforce_memory). Give it more by its instance type or resources.memory, or find out what takes it.",
        taken / 2**20,
        limit / 2**20,
    )
    for each in (*logger.handlers, *logging.getLogger().handlers):
        each.flush()
    # A child that is left behind would keep its memory, and nobody would look any more.
    for process in _family():
        with suppress(psutil.NoSuchProcess):
            process.kill()
