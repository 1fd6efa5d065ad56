"""Faults, one after the other, while every version has its users: who feels them, and how long.

Not a part of `make test`; run it with `make chaos`. It prints the table that is in `docs/operations.md`.
"""

import os
import signal
from collections.abc import Iterator

import psutil
import pytest

from tests.e2e.faults import CLIENTS, NAME, Chaos, file_of, kill, named, nobody_else, until_as_the_file_says
from tests.e2e.harness import RealCluster, build_bento
from tests.e2e.test_lifecycle import all_pids, deploy

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def chaos(shared: RealCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    """A cluster with the Deployment: two ingress replicas, two replicas of every version, a queue in front of a."""
    found = Chaos(shared, tmp_path_factory.mktemp("chaos") / "break")
    build_bento(shared.home, "breaking", "v1")
    deploy(shared, file_of(found.breaks))
    yield found
    shared.clear()
    print("\n" + found.table())


@pytest.fixture(autouse=True)
def afterwards(chaos: Chaos) -> Iterator[None]:
    """After each fault, everything is as the file says again."""
    yield
    until_as_the_file_says(chaos, file_of(chaos.breaks))


def test_one_of_two_replicas_is_killed(chaos: Chaos) -> None:
    others = all_pids(chaos.cluster)
    row = chaos.suffer("one of a's two replicas is killed", lambda: kill({min(chaos.cluster.pids(f"{NAME}-canary-a"))}))
    nobody_else(row)
    assert sum(row.failed["a"].values()) <= CLIENTS, "only what it had"
    after = all_pids(chaos.cluster)
    del others[f"{NAME}-canary-a"], after[f"{NAME}-canary-a"]
    assert after == others


def test_all_replicas_of_a_version_are_killed(chaos: Chaos) -> None:
    row = chaos.suffer("all of a's replicas are killed", lambda: kill(chaos.cluster.pids(f"{NAME}-canary-a")))
    nobody_else(row)
    assert sum(row.failed["a"].values()) <= CLIENTS, "what they had; the rest is main's"


def test_a_version_hangs(chaos: Chaos) -> None:
    hanging: set[int] = set()

    def stop() -> None:
        # Serve names one that has been killed for a moment.
        hanging.update(filter(psutil.pid_exists, chaos.cluster.pids(f"{NAME}-canary-a")))
        assert hanging
        for pid in hanging:
            os.kill(pid, signal.SIGSTOP)

    def wake() -> None:
        for pid in filter(psutil.pid_exists, hanging):
            os.kill(pid, signal.SIGCONT)

    nobody_else(chaos.suffer("a hangs for 3 s", stop, wake))


def test_a_version_does_not_start_any_more(chaos: Chaos) -> None:
    def strike() -> None:
        chaos.break_as("start")
        kill(chaos.cluster.pids(f"{NAME}-canary-a"))

    row = chaos.suffer("a is killed and fails to start for 3 s", strike, lambda: chaos.break_as(""))
    nobody_else(row)
    assert sum(row.failed["a"].values()) <= CLIENTS


def test_a_version_answers_with_errors(chaos: Chaos) -> None:
    row = chaos.suffer("a answers 500 for 3 s", lambda: chaos.break_as("500"), lambda: chaos.break_as(""))
    nobody_else(row)
    assert set(row.failed["a"]) == {"500"}, "what a Bento answers is passed on"


def test_a_version_fills_its_memory(chaos: Chaos) -> None:
    before = chaos.cluster.pids(f"{NAME}-canary-a")
    row = chaos.suffer(
        "a takes more memory than it reserves and is ended, for 3 s",
        lambda: chaos.break_as("memory"),
        lambda: chaos.break_as(""),
    )
    nobody_else(row)
    assert chaos.cluster.pids(f"{NAME}-canary-a") != before, "it was ended"
    said = chaos.cluster.canary("logs", NAME, "--version", "a").stdout
    assert "more than the 400 MiB that it reserves, and ends itself" in said


def test_a_version_breaks_its_streams(chaos: Chaos) -> None:
    row = chaos.suffer(
        "a breaks its streams for 3 s", lambda: chaos.break_as("cut"), lambda: chaos.break_as(""), "stream/"
    )
    nobody_else(row)
    assert row.failed["a"], "a client sees that its stream is not whole"


def test_a_queue_is_killed(chaos: Chaos) -> None:
    row = chaos.suffer("a's queue is killed", lambda: kill(named(chaos.cluster, "ray::Queue")))
    nobody_else(row)
    assert not row.failed["a"]


def test_the_controller_is_killed(chaos: Chaos) -> None:
    row = chaos.suffer("Serve's controller is killed", lambda: kill(named(chaos.cluster, "ray::ServeController")))
    nobody_else(row)
    assert not row.failed["a"]


def test_an_ingress_replica_is_killed(chaos: Chaos) -> None:
    row = chaos.suffer("one of two ingress replicas is killed", lambda: kill({min(chaos.cluster.pids(NAME))}))
    for version, failed in row.failed.items():
        assert sum(failed.values()) <= CLIENTS, f"{version}: only what it had"


def test_haproxy_is_killed(chaos: Chaos) -> None:
    chaos.suffer("HAProxy is killed", lambda: kill(named(chaos.cluster, "haproxy")))


def test_a_main_that_has_room_for_its_own_users_only_keeps_them(chaos: Chaos) -> None:
    """Main takes what a leaves only as far as its `concurrency` goes; the rest of a's users get 503."""
    deploy(chaos.cluster, file_of(chaos.breaks, main_concurrency=1))

    def strike() -> None:
        chaos.break_as("start")
        kill(chaos.cluster.pids(f"{NAME}-canary-a"))

    fault = "a is killed and fails to start for 3 s, and main has room for its own users only"
    row = chaos.suffer(fault, strike, lambda: chaos.break_as(""))
    nobody_else(row)
    assert set(row.failed["a"]) <= {"502", "503"}
    assert row.failed["a"]["503"], "there was no room for all of them"
    deploy(chaos.cluster, file_of(chaos.breaks))
