"""Versions that pin different versions of one library, each in a Python environment of its own."""

import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import harness
from tests.e2e.deployments import HTTP_PORT
from tests.e2e.harness import RealCluster, wait_for

#: Small, pure Python, and in nobody's lock but these Bentos'.
LIBRARY = "humanize"
#: What each build of the Bento pins, and whether it has a whole lock; no index has the last one.
BUILDS = {"old": ("4.8.0", True), "new": ("4.9.0", False), "broken": ("0.0.0.dev1", False)}


@pytest.fixture(scope="module", autouse=True)
def pinned(bentos: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Builds of one Bento that pin different versions of the library."""
    for version, (pin, lock) in BUILDS.items():
        folder = tmp_path_factory.mktemp("projects") / "pinned"
        shutil.copytree(harness.BENTOS / "pinned", folder)
        bentofile = (folder / "bentofile.yaml").read_text().replace("4.8.0", pin)
        (folder / "bentofile.yaml").write_text(f"{bentofile}  lock_packages: {str(lock).lower()}\n")
        harness.build_bento(bentos, "pinned", version, folder=folder)


def deployment(dependencies: Any, **versions: str) -> dict[str, Any]:
    """Return a Deployment of the old build and, each with half of the requests, the builds in `versions`."""
    small = {"config_overrides": {"resources": {"cpu": "100m"}}, "scaling": {"min_replicas": 1, "max_replicas": 1}}
    weights = {key: 50 if number == 0 else 0 for number, key in enumerate(versions)}
    canary = {key: {"bento": f"pinned:{build}", "weight": weights[key]} for key, build in versions.items()}
    return {
        "name": "pinned",
        "bento": "pinned:old",
        "services": {"Pinned": small},
        "canary": {"route_type": "query", "route_by": "user", "versions": canary},
        "ray": {
            "http": {"port": HTTP_PORT},
            "ingress": {"num_replicas": 1, "num_cpus": 0.1},
            "dependencies": dependencies,
        },
    }


def answers(cluster: RealCluster) -> dict[str, list[dict[str, str]]]:
    """Return what each target answers to twenty users."""
    found: dict[str, list[dict[str, str]]] = {}
    for user in range(20):
        response = httpx.post(f"{cluster.url}/versions?user={user}", timeout=30)
        assert response.status_code == 200, response.text
        found.setdefault(response.headers["X-Bento-Version"], []).append(response.json())
    return found


def libraries(cluster: RealCluster) -> dict[str, set[str]]:
    """Return which versions of the library each target answers with."""
    return {key: {one[LIBRARY] for one in said} for key, said in answers(cluster).items()}


def test_versions_that_pin_one_library_differently_answer_at_the_same_time(cluster: RealCluster) -> None:
    """main's lock and a's pin are both kept; b, whose pin nobody has, fails by its name and touches neither.

    Then a is made to share the cluster's environment: it alone restarts, and finds what the plan said it would.
    """
    file = cluster.write("deployment.yaml", deployment("isolated", a="new", b="broken"))
    failed = cluster.canary("deploy", "-f", file, code=1, timeout_s=300)
    assert "b (pinned:broken) failed" in failed.stderr
    assert "The Python environment of its own could not be built" in failed.stderr
    assert f"no version of {LIBRARY}==0.0.0.dev1" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert f"no version of {LIBRARY}==0.0.0.dev1" in cluster.canary("get", "pinned").stdout
    assert libraries(cluster) == {"main": {"4.8.0"}, "a": {"4.9.0"}}
    prefixes = [one["prefix"] for said in answers(cluster).values() for one in said]
    assert len(set(prefixes)) == 2, "each has an environment of its own"
    mains, as_ = cluster.pids("pinned-main"), cluster.pids("pinned-canary-a")

    file = cluster.write("deployment.yaml", deployment({"main": "isolated"}, a="new"))
    plan = cluster.canary("plan", "-f", file, "-o", "json")
    (difference,) = json.loads(plan.stdout)["targets"]["a"]["dependencies"]["differences"]
    assert difference == {"package": LIBRARY, "wanted": "==4.9.0", "here": None, "held": False}
    assert (
        f"canary.versions.a.bento: One package that pinned:new was built with differs from this machine's: {LIBRARY}"
        in plan.stderr
    )
    cluster.canary("deploy", "-f", file)
    wait_for(lambda: not cluster.pids("pinned-canary-a") & as_, "a's replica from before has gone")
    assert cluster.pids("pinned-main") == mains
    assert libraries(cluster) == {"main": {"4.8.0"}, "a": {"missing"}}
