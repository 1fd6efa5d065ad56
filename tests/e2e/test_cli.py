"""What shells and Python callers use, on a real cluster."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from ray_canary import deployment
from ray_canary.errors import Conflict, DeployFailed, NotFound
from ray_canary.explaining import explain
from ray_canary.splitter import moved_share
from tests.e2e.harness import RealCluster, wait_for
from tests.e2e.test_lifecycle import build_light, light, version_of, who

WEIGHTS = {"a": 40, "b": 20}
TARGET_KEYS = {"application", "bento", "effective_weight", "message", "ready", "replicas", "status", "weight"}
TARGET_KEYS |= {"secrets", "transport"}
KEYS = {"beside", "bento", "config", "endpoint_urls", "ingress", "name", "revision", "split", "status", "targets"}


@pytest.fixture(scope="module")
def light_cluster(shared: RealCluster) -> Iterator[RealCluster]:
    """A cluster with the Deployment `light`: main, a and b."""
    build_light(shared.home)
    shared.canary("deploy", "-f", shared.write("light.yaml", light(WEIGHTS)))
    yield shared
    shared.clear()


@pytest.fixture
def cluster(light_cluster: RealCluster) -> RealCluster:
    """The same, with its first weights."""
    light_cluster.canary("weights", "light", *(f"{key}={weight}" for key, weight in WEIGHTS.items()))
    return light_cluster


def pids(cluster: RealCluster) -> dict[str, set[int]]:
    return {name: cluster.pids(name) for name in cluster.state().applications}


def test_weights_are_in_force_when_the_command_ends_and_nothing_restarts(cluster: RealCluster) -> None:
    before = pids(cluster)
    said = cluster.canary("weights", "light", "a=100", "b=0").stdout
    moved = moved_share({"main": 40, "a": 40, "b": 20}, {"main": 0, "a": 100, "b": 0})
    assert f"Weights: main 40 -> 0, a 40 -> 100, b 20 -> 0. Of all keys, {moved:.1%} change their version" in said
    assert "In force on every ingress replica." in said
    assert {version_of(cluster.url, str(key)) for key in range(20)} == {"a"}
    assert "Weights: no change." in cluster.canary("weights", "light", "a=100").stdout
    assert pids(cluster) == before


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        (["a=90"], "the weights add up to 110, which is over 100: a=90, b=20"),
        (["a=101"], "a: 101 is not a whole number from 0 to 100"),
        (["c=1"], "c: is not a version of this Deployment; the versions are a, b"),
        (["main=50"], "main: gets what the versions leave of 100; give the versions' weights"),
        (["c=1", "main=1"], "main: gets what"),
    ],
)
def test_wrong_weights_are_refused_and_nothing_changes(cluster: RealCluster, weights: list[str], told: str) -> None:
    assert told in cluster.canary("weights", "light", *weights, code=2).stderr
    live = cluster.state().live()["light"]
    assert live.settings.split.weights == WEIGHTS


def test_a_name_that_is_not_there_is_told_with_the_nearest(cluster: RealCluster) -> None:
    for command in (["get"], ["terminate"], ["delete"], ["explain", "--key", "x"]):
        said = cluster.canary(*command, "ligth", code=1).stderr
        assert "The cluster has no Deployment 'ligth'; did you mean 'light'?" in said
    assert "no Deployment 'ligth'" in cluster.canary("weights", "ligth", "a=1", code=1).stderr


def test_explain_agrees_with_what_answers(cluster: RealCluster) -> None:
    versions = set()
    live = deployment.get("light", cluster.local.address).live
    for number in range(20):
        told = explain(live, key=f"user-{number}")
        versions.add(told["answers"])
        assert version_of(cluster.url, f"user-{number}") == told["answers"] == told["version"]
    assert versions == {"main", "a", "b"}
    told = json.loads(cluster.canary("explain", "light", "--query", "feature=user-1", "-o", "json").stdout)
    assert told["version"] == version_of(cluster.url, "user-1")
    table = cluster.canary("explain", "light", "--key", "user-1").stdout
    assert "The key is 'user-1'; the lowest score wins." in table
    assert f"It goes to {told['version']}." in table
    nothing = cluster.canary("explain", "light", "--header", "X-User-ID: 1").stdout
    assert (
        "The split goes by query parameter feature, which this request doesn't have: it is split at random" in nothing
    )


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_get_and_list_are_data_with_the_documented_keys(cluster: RealCluster, output: str) -> None:
    read = json.loads if output == "json" else yaml.safe_load
    about = read(cluster.canary("get", "light", "-o", output).stdout)
    listed = read(cluster.canary("list", "-o", output).stdout)
    assert [set(one) for one in listed] == [KEYS]
    assert set(about) == KEYS
    assert (about["name"], about["bento"], about["endpoint_urls"]) == ("light", "fragile:v1", [cluster.url])
    assert about["config"] == light(WEIGHTS)
    assert about["status"]["status"] == "running"
    assert about["split"] == {"route_type": "query", "route_by": "feature", "scheme": 1}
    assert list(about["targets"]) == ["main", "a", "b"]
    for key, target in about["targets"].items():
        assert set(target) == TARGET_KEYS
        assert target["effective_weight"] == target["weight"] == {"main": 40, **WEIGHTS}[key]
        (replica,) = target["replicas"]
        assert {replica["pid"]} == cluster.pids(target["application"])
    assert len(about["ingress"]["replicas"]) == 1


def test_get_and_list_show_configured_weights_beside_those_in_force(cluster: RealCluster) -> None:
    def travels_directly() -> list[str] | None:
        shown = cluster.canary("get", "light").stdout.splitlines()
        return shown if shown[4].split()[-1] == "direct" else None

    shown = wait_for(travels_directly, "the ingress has told how requests travel", 20)
    assert shown[0].split() == ["Deployment", "light", "running", cluster.url]
    assert shown[2].split() == ["Version", "Bento", "Weight", "In", "force", "Status", "Replicas", "Transport"]
    assert shown[4].split() == ["a", "fragile:v1", "40", "%", "40", "%", "running", "1", "running", "direct"]
    listed = cluster.canary("list").stdout.splitlines()
    assert listed[1].split("  ")[0].strip() == "light"
    assert "main 40, a 40, b 20" in listed[1]


def test_a_plan_names_what_would_restart_and_which_share_of_users_would_move(cluster: RealCluster) -> None:
    before = pids(cluster)
    same = cluster.canary("plan", "-f", cluster.write("same.yaml", light(WEIGHTS))).stdout
    assert "No replica restarts." in same
    assert "Weights: no change." in same
    file = light({"a": 20, "c": 20}, envs={"a": {"X": "1"}})
    path = cluster.write("other.yaml", file)
    said = cluster.canary("plan", "-f", path).stdout
    effects = {tuple(line.split()[:2]): line for line in said.splitlines()}
    assert "restarts" in effects["light-canary-a", "Fragile"]
    assert "ray_actor_options" in effects["light-canary-a", "Fragile"]
    assert "is removed" in effects["light-canary-b", "Fragile"]
    assert "is added" in effects["light-canary-c", "Fragile"]
    assert "unchanged" in effects["light-main", "Fragile"]
    assert "changes live" in effects["light", "Ingress"]
    assert "Replicas restart in: light-canary-a. No other version is touched." in said
    moved = moved_share({"main": 40, "a": 40, "b": 20}, {"main": 60, "a": 20, "c": 20})
    assert f"Weights: main 40 -> 60, a 40 -> 20, b 20 -> 0, c 0 -> 20. Of all keys, {moved:.1%} change" in said
    found = json.loads(cluster.canary("plan", "-f", path, "-o", "json").stdout)
    assert found["keys_that_move"]["moved"] == pytest.approx(moved)
    assert {(one["application"], one["effect"]) for one in found["changes"]} >= {("light-canary-a", "restarts")}
    assert pids(cluster) == before


def test_a_plan_says_what_does_not_fit_and_what_is_taken(cluster: RealCluster) -> None:
    large = light(WEIGHTS)
    large["services"]["Fragile"]["config_overrides"]["resources"] = {"cpu": "1000"}
    path = cluster.write("large.yaml", large)
    assert "Does not fit: main: services.Fragile: a replica needs 1000 CPU" in cluster.canary("plan", "-f", path).stderr
    assert "1000 CPU" in json.loads(cluster.canary("plan", "-f", path, "-o", "json").stdout)["does_not_fit"]
    new = cluster.write("new.yaml", light({}, name="new"))
    assert "'/' is taken by application 'light'" in cluster.canary("plan", "-f", new, code=2).stderr


def test_deploy_may_not_wait_and_does_not_wait_longer_than_it_may(cluster: RealCluster) -> None:
    file = light({}, name="quick", route_prefix="/quick")
    path = cluster.write("quick.yaml", file)
    said = cluster.canary("deploy", "-f", path, "--timeout", "0.1", code=1)
    assert "Error: Not ready in time: ingress (0 of 1 replicas), main (0 of 1 replicas)" in said.stderr
    said = cluster.canary("deploy", "-f", path, "--no-wait")
    assert "quick deployed: it is not ready yet" in said.stdout
    said = cluster.canary("deploy", "-f", path)
    assert f"quick deployed: {cluster.url}/quick" in said.stdout
    assert who(f"{cluster.url}/quick", "x").status_code == 200
    cluster.canary("delete", "quick", "--wait")
    assert "quick" not in cluster.state().applications


def test_an_address_where_nobody_answers_is_one_clear_sentence(cluster: RealCluster) -> None:
    for address in ("http://127.0.0.1:9", cluster.url):
        said = cluster.canary("list", "--address", address, code=1).stderr
        assert len(said.splitlines()) == 1
        assert said.startswith("Error: ")
        assert address in said


def test_python_callers_have_bentomls_verbs(cluster: RealCluster) -> None:
    address = cluster.local.address
    file = light({"a": 30}, name="py", route_prefix="/py")
    # A Bento is looked up where the caller is, as with bentoml.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(cluster.home))
        with pytest.raises(NotFound, match="no Deployment 'py'; there are light|did you mean"):
            deployment.get("py", address)
        with pytest.raises(NotFound):
            deployment.update("py", config_dict={"envs": []}, address=address)
        made = deployment.create(config_dict=file, address=address, timeout=120)
        assert (made.name, made.get_status(), made.get_bento()) == ("py", "running", "fragile:v1")
        assert made.get_endpoint_urls() == [f"{cluster.url}/py"]
        assert made.get_config() == file
        with pytest.raises(Conflict, match="is there already; use update or apply"):
            deployment.create(config_dict=file, address=address)
        assert [one.name for one in deployment.list(address)] == ["light", "py"]

        before = cluster.pids("py-main")
        patch_file = Path(cluster.write("patch.yaml", {"canary": {"versions": {"a": {"weight": 70}}}}))
        updated = deployment.update("py", config_file=patch_file, address=address, timeout=120)
        assert updated.get_config()["canary"]["versions"]["a"] == file["canary"]["versions"]["a"] | {"weight": 70}
        deployment.update(config_dict={"name": "py", "canary": None}, address=address, timeout=120)
        assert "canary" not in made.get_config()
        applied = deployment.apply(config_dict=file, address=address, wait=False)
        assert applied.wait_until_ready(timeout=120, check_interval=0.2) == 0
        assert applied.get_config() == file
        assert cluster.pids("py-main") == before

        changed = light({"a": 30}, name="py", route_prefix="/py", envs={"a": {"X": "1"}})
        with pytest.raises(DeployFailed, match="doesn't have the new split|Not ready in time"):
            deployment.apply(config_dict=changed, address=address, timeout=0)

        stopped = deployment.terminate("py", address, wait=True, timeout=120)
        assert (stopped.get_status(), stopped.wait_until_ready(timeout=1)) == ("terminated", 1)
        assert httpx.post(f"{cluster.url}/py/who", json={}, timeout=30).status_code == 503
        assert stopped.to_dict()["targets"]["a"]["status"] == "terminated"
        deployment.delete("py", address, wait=True, timeout=120)
        assert [one.name for one in deployment.list(address)] == ["light"]
        with pytest.raises(NotFound):
            made.get_status()
        wait_for(lambda: httpx.post(f"{cluster.url}/py/who", json={}, timeout=5).status_code == 404, "gone", 20)
