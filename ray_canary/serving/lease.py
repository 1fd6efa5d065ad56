"""Who is changing a Deployment: one at a time (decision 20).

Serve's PUT has no compare-and-swap, the cluster's store has one thing like it: of several who add the same key, one
wins. A lease is therefore a row of numbered records. Whoever adds the next number, which is possible when the last one
has been given back or has run out, has the lease.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from getpass import getuser
from types import TracebackType
from typing import Any, Final, Self

import psutil

from ray_canary.errors import Busy
from ray_canary.serving.store import Record, Store

#: Seconds after which the lease of somebody who says nothing any more has run out, and between two signs of life.
TERM_S: Final = 15.0
RENEW_EVERY_S: Final = 3.0
#: Seconds between two looks at a lease that somebody else has.
_LOOK_EVERY_S: Final = 0.25

#: Seconds by which the start of one and the same process may be told differently.
_SAME_START_S: Final = 1.0

logger = logging.getLogger(__name__)


class Lease:
    """The right to change one Deployment, while it is entered."""

    def __init__(
        self,
        store: Store,
        deployment: str,
        verb: str,
        *,
        patience_s: float = 60,
        waiting: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`verb` is what it is for; `waiting` is told once who has it, if it has to be waited for."""
        self._store = store
        self._prefix = f"lease/{deployment}/"
        self._deployment = deployment
        self._verb = verb
        self._patience_s = patience_s
        self._waiting = waiting
        self._stop = threading.Event()
        self._key = ""

    def __enter__(self) -> Self:
        """Take the lease.

        Raises:
            Busy: somebody else has had it for `patience_s` seconds.
        """
        deadline = time.monotonic() + self._patience_s
        told = False
        while not self._take():
            holder = self._holder()
            if holder and time.monotonic() > deadline:
                raise Busy(f"{holder}. Try again when that is done.")
            if holder and not told:
                told = True
                self._waiting(f"{holder}; waiting for it to end.")
            time.sleep(_LOOK_EVERY_S)
        self._renewing = threading.Thread(target=self._renew, daemon=True, name="ray-canary-lease")
        self._renewing.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""
        self._stop.set()
        self._renewing.join()
        self._store.put(self._key, {**self._record(), "until": 0})

    def _take(self) -> bool:
        rows = self._store.items(self._prefix)
        last = max(rows, default="")
        if last and _held(rows[last]):
            return False
        number = int(last.removeprefix(self._prefix) or 0) + 1
        self._key = f"{self._prefix}{number:012d}"
        if not self._store.add(self._key, self._record()):
            return False
        for old in rows:
            self._store.delete(old)
        return True

    def _holder(self) -> str:
        rows = self._store.items(self._prefix)
        row = rows[max(rows)] if rows else None
        if row is None or not _held(row):
            return ""
        since = time.strftime("%H:%M:%S", time.localtime(row["since"]))
        who = f"{row['by']} (pid {row['pid']})"
        return f"{who} is changing {self._deployment} since {since}: {row['verb']}"

    def _record(self) -> Record:
        process = psutil.Process()
        now = time.time()
        return {
            "by": whoami(),
            "host": socket.gethostname(),
            "pid": process.pid,
            "started": process.create_time(),
            "verb": self._verb,
            "since": now,
            "until": now + TERM_S,
        }

    def _renew(self) -> None:
        record = self._record()
        while not self._stop.wait(RENEW_EVERY_S):
            try:
                self._store.put(self._key, {**record, "until": time.time() + TERM_S})
            except Exception as error:
                # The next sign of life may get through before the lease has run out.
                logger.warning("The lease of %s could not be renewed: %s", self._deployment, error)


def _held(row: Record) -> bool:
    """Whether a lease is somebody's: it has not run out, and its process, if it was one of this machine, lives."""
    return time.time() < float(row["until"]) and not _dead(row)


def _dead(row: dict[str, Any]) -> bool:
    if row["host"] != socket.gethostname():
        return False
    try:
        return bool(abs(psutil.Process(row["pid"]).create_time() - row["started"]) > _SAME_START_S)
    except psutil.NoSuchProcess:
        return True


def _user() -> str:
    try:
        return getuser()
    except (KeyError, OSError):
        return str(os.getuid())  # A container's user may have no name.


def whoami() -> str:
    """Return who changes things from here: user and machine."""
    return f"{_user()}@{socket.gethostname()}"
