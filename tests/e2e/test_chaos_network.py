"""Faults of a node's network, while every version has its users, on nodes with an HAProxy each.

Not a part of `make test`; run it with `make chaos`. It takes root, as each node has a network namespace of its own.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.e2e.conftest import settings_of
from tests.e2e.faults import CLIENTS, NAME, Chaos, as_the_file_says, file_of, nobody_else
from tests.e2e.harness import build_bento, wait_for
from tests.e2e.networks import Lan
from tests.e2e.test_lifecycle import deploy, get

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

CPUS = 2


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    """A head and two workers."""
    work, home = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("bentoml")
    build_bento(home, "breaking", "v1")
    settings = replace(settings_of(home, work, haproxy=True), cpus=CPUS, name="ray-canary-tests-lan")
    found = Lan.make(home, work, settings)
    try:
        for name in ("head", "one", "two"):
            found.start(name, CPUS)
        yield found
    finally:
        found.remove()


@pytest.fixture(scope="module")
def chaos(lan: Lan) -> Iterator[Chaos]:
    """The Deployment, and users who enter by a worker."""
    found = Chaos(lan.cluster, lan.cluster.work / "break")
    deploy(lan.cluster, file_on(found))
    lan.enter_by("one")
    lan.cluster.until_ready(NAME)
    yield found
    print("\n" + found.table())


def file_on(chaos: Chaos) -> dict[str, Any]:
    """Return the Deployment's file: an ingress replica on each node, two replicas of every version."""
    file = file_of(chaos.breaks)
    file["ray"]["http"]["host"] = "0.0.0.0"  # A network that leads nowhere.
    file["ray"]["ingress"] |= {"num_replicas": 3, "max_replicas_per_node": 1}
    return file


def test_requests_go_directly_to_replicas_on_other_nodes(lan: Lan, chaos: Chaos) -> None:
    ways = {target["transport"] for target in get(lan.cluster, NAME)["targets"].values()}
    assert ways == {"direct"}
    state = lan.cluster.state().applications
    nodes = {replica.node_id for replica in state[NAME].deployments["Ingress"].replicas}
    assert len(nodes) == 3


def test_a_node_loses_its_network(lan: Lan, chaos: Chaos) -> None:
    """What it had fails, also what had come in by it; nothing that comes later does."""
    row = chaos.suffer("a node loses its network", lambda: lan.cut("two"))
    for version, failed in row.failed.items():
        assert sum(failed.values()) <= CLIENTS, f"{version}: only what the node had"
    # A client notices after 30 s at the latest, and sends the next one then.
    assert all(at < 1 for at in row.failed_at), "and nothing afterwards"


def test_a_node_has_its_network_again(lan: Lan, chaos: Chaos) -> None:
    row = chaos.suffer("a node has its network again", lambda: lan.plug("two"))
    nobody_else(row)
    assert not row.failed["a"], row
    wait_for(lambda: get(lan.cluster, NAME)["status"]["status"] == "running", "everything runs again", 120)


def test_afterwards_everything_is_as_the_file_says(lan: Lan, chaos: Chaos) -> None:
    wait_for(lambda: len(lan.cluster.pids(NAME)) == 3, "there is an ingress replica on every node", 60)
    as_the_file_says(chaos, file_on(chaos), ingress=3)
