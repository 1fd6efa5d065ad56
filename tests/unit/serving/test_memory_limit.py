"""A replica that takes more memory than it reserves ends itself, and says so before."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from ray_canary.serving.compile import MEMORY_LIMIT

#: Watches itself, then takes memory step by step: itself or by a child, until `UPTO` MiB.
PROGRAM = """
import logging, subprocess, sys, time
from ray_canary.serving import memory_limit
logging.basicConfig(level=logging.INFO)
upto, how = int(sys.argv[1]), sys.argv[2]
memory_limit.watch()
kept = []
if how == "child":
    code = f"kept = bytearray(b'x') * ({upto} * 2**20); import time; time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code])
    print(child.pid, flush=True)
else:
    for _ in range(upto // 16):
        piece = bytearray(16 * 2**20)
        piece[:] = b"x" * len(piece)
        kept.append(piece)
        time.sleep(0.01)
for _ in range(30):
    time.sleep(0.1)
print(memory_limit.used() // 2**20, "MiB at last")
if how == "child":
    child.kill()
"""
LIMIT_MIB = 400


def run(upto: int, how: str, limit: int | None = LIMIT_MIB) -> subprocess.CompletedProcess[str]:
    """Run the program with a limit in MiB."""
    environment = {name: value for name, value in os.environ.items() if name != MEMORY_LIMIT}
    if limit is not None:
        environment[MEMORY_LIMIT] = str(limit * 2**20)
    command = [sys.executable, "-c", PROGRAM, str(upto), how]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def runs(pid: int) -> bool:
    """Whether a process has not ended; an orphan can stay in the list of processes as one that has."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ends(pid: int, within_s: float) -> bool:
    """Wait for the end of a process; one that is killed takes a while to give its memory back."""
    deadline = time.monotonic() + within_s
    while runs(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("how", ["itself", "child"])
def test_a_process_that_takes_more_than_its_limit_is_killed_and_says_why(how: str) -> None:
    done = run(LIMIT_MIB + 100, how)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    assert "MiB of memory, more than the 400 MiB that it reserves, and ends itself" in done.stderr
    assert "ray.hosts.enforce_memory" in done.stderr
    if how == "child":
        assert ends(int(done.stdout), within_s=20), "its memory is free again; by itself it would end after 60 s"


@pytest.mark.parametrize(("upto", "how", "limit"), [(64, "itself", LIMIT_MIB), (500, "itself", None)])
def test_a_process_within_its_limit_or_without_one_lives_on(upto: int, how: str, limit: int | None) -> None:
    done = run(upto, how, limit)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MiB at last" in done.stdout
