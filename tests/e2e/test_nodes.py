"""Bentos on a cluster of several nodes, each with a store of its own: missing, shipped, and found by new nodes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from ray_canary.serving import local
from tests.e2e.conftest import settings_of
from tests.e2e.deployments import HTTP_PORT, OFFSET
from tests.e2e.harness import BENTOS, RealCluster, wait_for
from tests.e2e.nodes import Nodes

#: Two of these fit on a node, beside the ingress; five need three nodes.
REPLICAS = 5
CPU = "900m"
MODEL = """\
import bentoml
with bentoml.models.create("greeting:v1") as model:
    open(model.path_of("text.txt"), "w").write("hello")
"""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A head and two workers with two CPUs each and nothing in their stores; the Bentos are with who deploys."""
    work = tmp_path_factory.mktemp("work")
    settings = replace(settings_of(work / "head", work, haproxy=False), cpus=2)
    local.down(settings.name)
    local.up(settings)
    try:
        cluster = RealCluster(work / "mine", work, settings)
        shutil.copytree(BENTOS / "shipped", work / "shipped")
        python = [sys.executable, "-P", "-c", MODEL]
        subprocess.run(python, env={**os.environ, "BENTOML_HOME": str(work / "mine")}, check=True)
        found = Nodes(cluster, OFFSET)
        for name in ("one", "two"):
            found.start(name, 2)
        yield found
    finally:
        local.down(settings.name, grace_s=2)


def deployment(store: Path | None) -> dict[str, Any]:
    """Return a Deployment of the project itself."""
    overrides = {"resources": {"cpu": CPU, "memory": "64Mi"}, "traffic": {"concurrency": 1000}}
    scaling = {"min_replicas": REPLICAS, "max_replicas": REPLICAS}
    return {
        "name": "shipped",
        "bento": "./shipped",
        "services": {"Shipped": {"config_overrides": overrides, "scaling": scaling}},
        "ray": {
            "http": {"port": HTTP_PORT},
            "ingress": {"num_replicas": 2, "num_cpus": 0.1},
            **({"bento_store": str(store)} if store else {}),
        },
    }


def answers(cluster: RealCluster) -> dict[str, dict[str, str]]:
    """Ask until all replicas have answered, and return what each said, by its pid."""
    found: dict[str, dict[str, str]] = {}

    def all_of_them() -> bool:
        for _ in range(10):
            reply = httpx.post(f"{cluster.url}/where", json={}, timeout=20)
            if reply.status_code == 200:
                found[reply.json()["pid"]] = reply.json()
        return {int(pid) for pid in found} >= cluster.pids("shipped-main") and len(found) >= REPLICAS

    wait_for(all_of_them, "every replica has answered", 60)
    running = cluster.pids("shipped-main")
    return {pid: said for pid, said in found.items() if int(pid) in running}


def test_a_bento_of_the_deploying_machine_reaches_all_nodes_and_those_that_come_later(nodes: Nodes) -> None:
    cluster, shared = nodes.cluster, nodes.cluster.work / "shared"

    # Without a push it is refused, and nothing has changed.
    file = cluster.write("deployment.yaml", deployment(None))
    refused = cluster.canary("deploy", "-f", file, code=2)
    said = " ".join(refused.stderr.split())
    assert "Built ./shipped: shipped:" in said
    assert "is missing on 3 nodes on which its replicas could start" in said
    assert "Nothing was changed. Deploy with --push" in said
    for home in ("head", "one", "two"):
        assert f"is not in {cluster.work}/{home}/bentos of this node" in "".join(refused.stderr.split("\n"))
    assert not cluster.state().applications
    nowhere = cluster.canary("deploy", "-f", file, "--push", code=2)
    assert "says nowhere to push to" in nowhere.stderr
    assert not cluster.state().applications

    # With one, replicas of it run on all nodes, its model included.
    file = cluster.write("deployment.yaml", deployment(shared))
    done = cluster.canary("deploy", "-f", file, "--push", timeout_s=400)
    (archive,) = shared.iterdir()
    assert "Pushed shipped:" in done.stderr
    assert {one["greeting"] for one in answers(cluster).values()} == {"hello"}
    before = answers(cluster)
    assert {one["node"] for one in before.values()} == {"head", "one", "two"}
    for one in before.values():
        own = cluster.work / one["node"]
        assert Path(one["code"]) == own / "ray-canary" / archive.stem
        assert not (own / "bentos" / "shipped").exists()

    # The same command again changes nothing, with a push or without one.
    for more in ([], ["--push"]):
        again = cluster.canary("deploy", "-f", file, *more, timeout_s=400)
        assert "./shipped is unchanged since shipped:" in " ".join(again.stderr.split())
    assert answers(cluster).keys() == before.keys()
    planned = json.loads(cluster.canary("plan", "-f", file, "-o", "json").stdout)
    assert {change["effect"] for change in planned["changes"]} <= {"unchanged", "changes live"}
    assert planned["missing_on_nodes"] == []
    assert planned["file"]["bento"] == "./shipped"
    assert planned["targets"]["main"]["bento"].startswith("shipped:")

    # A node dies, a fresh one comes, and everything is back without anybody's doing.
    nodes.kill("two")
    nodes.start("three", 2)
    wait_for(lambda: len(cluster.pids("shipped-main")) == REPLICAS, "all replicas run again", 120)
    after = answers(cluster)
    assert {one["node"] for one in after.values()} == {"head", "one", "three"}
    assert {one["greeting"] for one in after.values()} == {"hello"}
    assert (nodes.home("three") / "ray-canary" / archive.stem / "bento.yaml").is_file()
    assert json.loads(cluster.canary("get", "shipped", "-o", "json").stdout)["status"]["status"] == "running"
