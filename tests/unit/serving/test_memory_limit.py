"""A replica that takes more memory than it reserves ends itself, and says so before."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from ray_canary.serving.compile import MEMORY_LIMIT

#: Starts as a replica does, and takes so many MiB, step by step, while it starts or when it is up.
PROGRAM = """
import asyncio, logging, os, subprocess, sys, time
from ray_canary.serving import memory_limit

logging.basicConfig(level=logging.INFO)
upto, how, when, stay_s = int(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])
kept = []

def take():
    for _ in range(upto // 16):
        piece = bytearray(16 * 2**20)
        piece[:] = b"x" * len(piece)
        kept.append(piece)
        time.sleep(0.01)
    for _ in range(int(stay_s * 10)):
        time.sleep(0.1)

def take_and_hold_on():
    while True:
        try:
            take()
        except:
            print("held on", flush=True)

def start_a_child():
    code = f"kept = bytearray(b'x') * ({upto} * 2**20); import time; time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", code])
    print(child.pid, flush=True)
    try:
        child.wait(stay_s)
    except subprocess.TimeoutExpired:
        child.kill()
    else:
        raise RuntimeError("the child ended")

WAYS = {
    "itself": take,
    "whatever comes": take_and_hold_on,
    "in a moment": lambda: kept.append(b"x" * (upto * 2**20)),
    "child": start_a_child,
}

async def main():
    try:
        with memory_limit.watching():
            if when == "in a thread":
                await asyncio.to_thread(WAYS[how])
            elif when == "starting":
                WAYS[how]()
    except memory_limit.TooMuchMemory as error:
        print("refused:", error, flush=True)
        await asyncio.sleep(0.1)
        os._exit(3)
    if when == "up":
        WAYS[how]()
    print(memory_limit.used() // 2**20, "MiB at last")

asyncio.run(main())
"""
LIMIT_MIB = 400
SENTENCE = "MiB of memory, more than the 400 MiB that it reserves, and ends itself (ray.hosts.enforce_memory)"


def run(
    upto: int, how: str, when: str, *, stay_s: float = 60, limit: int | None = LIMIT_MIB
) -> subprocess.CompletedProcess[str]:
    """Run the program with a limit in MiB; what it took it has for `stay_s` seconds."""
    environment = {name: value for name, value in os.environ.items() if name != MEMORY_LIMIT}
    if limit is not None:
        environment[MEMORY_LIMIT] = str(limit * 2**20)
    command = [sys.executable, "-c", PROGRAM, str(upto), how, when, str(stay_s)]
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
    done = run(LIMIT_MIB + 100, how, "up")
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    assert SENTENCE in done.stderr
    if how == "child":
        assert ends(int(done.stdout), within_s=20), "its memory is free again; by itself it would end after ten minutes"


@pytest.mark.parametrize(
    ("how", "when"),
    [
        ("itself", "in a thread"),
        ("itself", "starting"),  # As a Bento's `__init__` runs: in the event loop, which it holds up.
        ("in a moment", "starting"),
        ("child", "in a thread"),
        ("child", "starting"),
    ],
)
def test_a_process_that_takes_more_before_it_is_up_fails_to_start_and_says_why(how: str, when: str) -> None:
    done = run(LIMIT_MIB + 100, how, when)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "refused: This replica has " in done.stdout
    assert SENTENCE in done.stdout
    if how == "child":
        assert ends(int(done.stdout.split()[0]), within_s=20), "its memory is free again"


def test_a_process_that_has_more_at_the_very_beginning_fails_to_start_and_says_why() -> None:
    done = run(0, "itself", "starting", limit=4)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "more than the 4 MiB that it reserves" in done.stdout


def test_a_start_that_can_not_be_stopped_is_killed() -> None:
    done = run(LIMIT_MIB + 100, "whatever comes", "starting")
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    assert "held on" in done.stdout
    assert SENTENCE in done.stderr


@pytest.mark.parametrize("when", ["starting", "in a thread", "up"])
def test_a_process_within_its_limit_lives_on(when: str) -> None:
    done = run(64, "itself", when, stay_s=3)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MiB at last" in done.stdout


def test_a_process_without_a_limit_lives_on() -> None:
    done = run(LIMIT_MIB + 100, "itself", "starting", stay_s=3, limit=None)
    assert done.returncode == 0, done.stdout + done.stderr
