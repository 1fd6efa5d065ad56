"""One at a time changes a Deployment."""

import json
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import psutil
import pytest

from ray_canary.errors import Busy
from ray_canary.serving import lease
from ray_canary.serving.lease import Lease
from tests.unit.memory_store import MemoryStore


def row(store: MemoryStore, **changed: Any) -> None:
    """Write the lease of somebody on another machine; `changed` says what is otherwise."""
    now = time.time()
    there = {"by": "ann@far", "host": "far", "pid": 7, "started": now, "verb": "deploy", "since": now}
    store.put("lease/d/000000000004", {**there, "until": now + 60, **changed})


def takes(store: MemoryStore) -> bool:
    """Return whether the lease is to be had at once."""
    try:
        with Lease(store, "d", "weights a=1", patience_s=0):
            return True
    except Busy:
        return False


def test_a_lease_that_is_given_back_is_to_be_had() -> None:
    store = MemoryStore()
    assert takes(store)
    assert takes(store)


def test_whoever_finds_it_taken_is_told_who_has_it_and_what_for() -> None:
    store = MemoryStore()
    row(store)
    told: list[str] = []
    with (
        pytest.raises(Busy, match=r"ann@far \(pid 7\) is changing d since \d\d:\d\d:\d\d: deploy"),
        Lease(store, "d", "weights", patience_s=0.6, waiting=told.append),
    ):
        pass
    assert len(told) == 1, "once is enough"
    assert "waiting for it to end" in told[0]


def test_another_deployments_lease_keeps_nobody_out() -> None:
    store = MemoryStore()
    row(store)
    with Lease(store, "e", "deploy", patience_s=0):
        pass


def test_a_lease_that_has_run_out_is_free() -> None:
    store = MemoryStore()
    row(store, until=time.time() - 1)
    assert takes(store)


def test_the_lease_of_a_process_of_this_machine_that_has_ended_is_free_at_once() -> None:
    store = MemoryStore()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    started = psutil.Process(ended.pid).create_time()
    ended.wait()
    row(store, host=socket.gethostname(), pid=ended.pid, started=started)
    assert takes(store)


def test_a_pid_that_is_another_process_by_now_holds_nothing() -> None:
    store = MemoryStore()
    me = psutil.Process()
    row(store, host=socket.gethostname(), pid=me.pid, started=me.create_time() - 100)
    assert takes(store)
    row(store, host=socket.gethostname(), pid=me.pid, started=me.create_time())
    store.delete("lease/d/000000000005")
    assert not takes(store)


class TwoAtOnce(MemoryStore):
    """Makes every reader see what was there before any of them had written."""

    def __init__(self, readers: int) -> None:
        super().__init__()
        self.together = threading.Barrier(readers)
        self.first = threading.local()

    def items(self, prefix: str) -> dict[str, Any]:
        found = super().items(prefix)
        if not getattr(self.first, "done", False):
            self.first.done = True
            self.together.wait(5)
        return found


def test_of_several_who_see_it_run_out_at_the_same_moment_one_takes_it() -> None:
    store = TwoAtOnce(4)
    row(store, until=time.time() - 1)
    outcomes: list[str] = []
    release = threading.Event()

    def take() -> None:
        try:
            with Lease(store, "d", "deploy", patience_s=0):
                outcomes.append("taken")
                release.wait(5)
        except Busy:
            outcomes.append("busy")
            if outcomes.count("busy") == 3:
                release.set()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(outcomes) == ["busy", "busy", "busy", "taken"]


def test_numbers_go_on_so_that_nobody_takes_one_that_was_taken() -> None:
    store = MemoryStore()
    for number in (1, 2, 3):
        assert takes(store)
        assert list(store.items("lease/d/")) == [f"lease/d/{number:012d}"]


def test_it_is_renewed_as_long_as_it_is_held_also_when_the_store_fails_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease, "RENEW_EVERY_S", 0.02)
    store = MemoryStore()
    with Lease(store, "d", "deploy"):
        (key,) = store.texts

        def until() -> float:
            return float(json.loads(store.texts[key])["until"])

        def later_than(moment: float) -> bool:
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                if until() > moment:
                    return True
            return False

        assert later_than(until())
        store.broken = RuntimeError("GCS is away")
        broken_at = until()
        deadline = time.monotonic() + 0.1
        while time.monotonic() < deadline:
            pass
        store.broken = None
        assert later_than(max(broken_at, until()))
