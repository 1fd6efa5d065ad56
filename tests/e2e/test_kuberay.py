"""A RayService's Serve config on a real Serve: it is taken as KubeRay sends it, changes in place, and is nobody else's.

Kubernetes and KubeRay are not here: what the operator does with the config, a PUT of it, `serve deploy` does.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ray_canary.splitter import Splitter
from tests.e2e.deployments import probe
from tests.e2e.harness import RealCluster, wait_for

NAME = "kept"
#: Whose a key is that the change of weights moves.
MOVE = ("main", "a")


def deployment(weight: int) -> dict[str, Any]:
    return probe({"a": weight}, name=NAME)


def applied(cluster: RealCluster, weight: int) -> dict[str, Any]:
    """Render a Deployment with this weight over what was rendered before, and send its config as KubeRay does."""
    file = cluster.write("kept.yaml", deployment(weight))
    target = str(cluster.work / "rayservice.yaml")
    cluster.canary("render", "--kuberay", "-f", file, "-o", target, "--workers", "w=32,64Gi")
    manifest: dict[str, Any] = next(yaml.safe_load_all(Path(target).read_text()))
    cluster.serve_deploy(cluster.write("serve.yaml", manifest["spec"]["serveConfigV2"]))
    return manifest


@pytest.fixture(scope="module")
def kept(shared: RealCluster) -> Iterator[RealCluster]:
    """A cluster with a RayService's config on it."""
    applied(shared, 20)
    shared.until_ready(NAME)
    yield shared
    shared._submit_nothing()


def weights(cluster: RealCluster) -> dict[str, int]:
    return dict(cluster.state().live()[NAME].settings.split.weights)


def test_it_serves(kept: RealCluster) -> None:
    answer = httpx.post(f"{kept.url}/tag", json={}, timeout=30)
    assert answer.headers["x-bento-version"] in ("main", "a")


@pytest.mark.parametrize(
    "arguments",
    [
        ["weights", NAME, "a=50"],
        ["promote", NAME, "a"],
        ["rollback", NAME],
        ["terminate", NAME],
        ["delete", NAME],
    ],
    ids=lambda arguments: arguments[0],
)
def test_who_would_be_undone_is_refused_and_told_what_to_do(kept: RealCluster, arguments: list[str]) -> None:
    before = kept.state().applications
    said = re.sub(r"\s+", " ", kept.canary(*arguments, code=2).stderr)
    assert f"RayService {NAME} keeps this cluster's Serve config" in said
    assert f"would undo `{arguments[0]}" in said
    assert "ray-canary render --kuberay" in said
    assert {name: one.config for name, one in kept.state().applications.items()} == {
        name: one.config for name, one in before.items()
    }


def test_a_deployment_more_is_refused_too_since_the_next_change_would_delete_it(kept: RealCluster) -> None:
    other = kept.write("other.yaml", {**probe({}, name="other"), "ray": {"route_prefix": "/other"}})
    said = kept.canary("deploy", "-f", other, code=2).stderr
    assert f"RayService {NAME} keeps" in said
    assert "other" not in kept.state().applications


def test_who_only_looks_is_not_refused(kept: RealCluster) -> None:
    assert NAME in kept.canary("get", NAME).stdout
    kept.canary("explain", NAME, "--query", "feature=x")
    kept.canary("token", "list")


def test_weights_change_in_place_by_the_file(kept: RealCluster) -> None:
    before = {name: kept.pids(name) for name in kept.state().applications}
    old, new = (Splitter({"main": 100 - weight, "a": weight}, NAME) for weight in (20, 70))
    moved = next(key for key in map(str, range(1000)) if (old.choose(key.encode()), new.choose(key.encode())) == MOVE)

    def version() -> str:
        return httpx.post(f"{kept.url}/tag?feature={moved}", json={}, timeout=30).headers["x-bento-version"]

    assert version() == "main"
    applied(kept, 70)
    wait_for(lambda: version() == "a", "the new weights are in force")
    assert weights(kept) == {"a": 70}
    kept.until_ready(NAME)
    assert {name: kept.pids(name) for name in kept.state().applications} == before
