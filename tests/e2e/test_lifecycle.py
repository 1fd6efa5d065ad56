"""A Deployment's life, from the first `serve deploy` to `ray-canary delete`, and what can go wrong in between."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ray_canary.demo.build import build_bentos
from ray_canary.serving.cluster import Cluster
from ray_canary.splitter import Splitter
from tests.e2e.deployments import HTTP_PORT, probe
from tests.e2e.harness import ROOT, RealCluster, build_bento, wait_for
from tests.e2e.load import Load

FOREIGN = """\
from ray import serve

@serve.deployment(num_replicas=1, ray_actor_options={"num_cpus": 0.1})
class Hello:
    def __call__(self, request):
        return "hello"

app = Hello.bind()
"""
IMPERATIVE = """\
import ray
from ray import serve
import foreign

ray.init(address="127.0.0.1:%d", log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": %r}})
serve.run(foreign.app, name="imperative", route_prefix="/imperative")
"""


def light(weights: dict[str, int], *, name: str = "light", **given: Any) -> dict[str, Any]:
    """Return a Deployment of a Bento with one small service, which breaks as `envs` say; one ingress replica."""
    tags = dict.fromkeys(("main", *weights), "fragile:v1") | given.pop("bentos", {})
    file = probe(weights, name=name, **{"ingress_replicas": 1, **given, "bentos": tags})
    file["services"] = {"Fragile": file["services"]["Probe"]}
    # On a busy machine a replica may take long to say that it takes a request, and nobody here measures that.
    file["ray"]["ingress"]["target_wait_s"] = 5
    return file


def build_light(home: Path) -> None:
    """Build the Bento of `light`, unless another module of tests has."""
    for version in ("v1", "v2"):
        if not (home / "bentos" / "fragile" / version).exists():
            build_bento(home, "fragile", version)


def splitter(weights: dict[str, int], name: str = "light") -> Splitter:
    return Splitter({"main": 100 - sum(weights.values()), **weights}, name)


def keys_of(split: Splitter, version: str) -> Iterator[str]:
    """Yield keys that belong to `version`."""
    return (key for key in map(str, range(10_000)) if split.choose(key.encode()) == version)


def key_of(split: Splitter, version: str) -> str:
    """Return a key that belongs to `version`."""
    return next(keys_of(split, version))


def who(url: str, key: str) -> httpx.Response:
    return httpx.post(f"{url}/who?feature={key}", json={}, timeout=30)


def version_of(url: str, key: str) -> str:
    return str(who(url, key).headers.get("x-bento-version", ""))


def deploy(cluster: RealCluster, file: dict[str, Any], *more: str, code: int = 0) -> str:
    """Run `ray-canary deploy` and return all that it said."""
    done = cluster.canary("deploy", "-f", cluster.write(f"{file['name']}.yaml", file), *more, code=code)
    return done.stdout + done.stderr


def get(cluster: RealCluster, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cluster.canary("get", name, "-o", "json").stdout)
    return found


def all_pids(cluster: RealCluster) -> dict[str, set[int]]:
    """Return the pids of every application's running replicas."""
    return {name: pids for name in cluster.state().applications if (pids := cluster.pids(name))}


@contextmanager
def requests_to(cluster: RealCluster, prefix: str = "", clients: int = 2) -> Iterator[Load]:
    """Send requests with one key after the other until the block ends."""
    url = f"{cluster.url}{prefix}"

    def make(number: int) -> httpx.Request:
        # A client waits a little: the machine has two cores for everything.
        time.sleep(0.02)
        return httpx.Request("POST", f"{url}/who?feature={number}", json={})

    with Load(cluster.url, make, clients=clients) as load:
        yield load


@pytest.fixture(scope="module", autouse=True)
def home(shared: RealCluster) -> None:
    """Build what the module's Deployments run."""
    build_bentos(shared.home, say=lambda _: None)
    build_light(shared.home)
    shared.state()


# The files, by plain `serve deploy`. ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["canary", "single-application"])
def test_plain_serve_deploys_the_file_and_an_edit_of_its_weights_restarts_nothing(
    cluster: RealCluster, form: str
) -> None:
    text = (ROOT / "configs" / f"{form}.yaml").read_text().replace("port: 8000\n", f"port: {HTTP_PORT}\n")
    cluster.serve_deploy(cluster.write("canary.yaml", text))
    cluster.until_ready("summarization-blel")
    curl = cluster.run("curl", "-sS", "-i", f"{cluster.url}/summarize?feature=test").stdout
    expected = splitter({"a": 20, "b": 30}, "summarization-blel").choose(b"test")
    assert "HTTP/1.1 200 OK" in curl
    assert f"x-bento-version: {expected}" in curl.lower()
    assert len(curl.partition("\n\n")[2].split()) > 20, "a summary has some words"

    before = all_pids(cluster)
    assert sum(map(len, before.values())) == 5
    old, new = (splitter(weights, "summarization-blel") for weights in ({"a": 20, "b": 30}, {"a": 60, "b": 30}))
    moved = next(key for key in keys_of(old, "main") if new.choose(key.encode()) == "a")

    def version() -> object:
        return httpx.get(f"{cluster.url}/summarize?feature={moved}", timeout=30).headers["x-bento-version"]

    assert version() == "main"
    head, split, rest = text.partition("        weights:\n          a: 20\n          b: 30\n")
    assert split
    cluster.serve_deploy(cluster.write("canary.yaml", head + split.replace("20", "60") + rest))
    wait_for(lambda: version() == "a", "the new weights are in force", 10)
    cluster.until_ready("summarization-blel")
    assert all_pids(cluster) == before
    targets = get(cluster, "summarization-blel")["targets"]
    assert {key: target["weight"] for key, target in targets.items()} == {"main": 10, "a": 60, "b": 30}


def test_one_application_takes_the_path_of_a_deployment_file_for_its_argument(cluster: RealCluster) -> None:
    file = cluster.write("light.yaml", light({"a": 50}))
    application = {"name": "light", "route_prefix": "/", "import_path": "ray_canary:app", "args": {"config": file}}
    config = {"http_options": {"host": "127.0.0.1", "port": HTTP_PORT}, "applications": [application]}
    cluster.serve_deploy(cluster.write("config.yaml", config))
    cluster.until_ready("light")
    split = splitter({"a": 50})
    for version in ("main", "a"):
        response = who(cluster.url, key_of(split, version))
        assert (response.status_code, response.headers["x-bento-version"]) == (200, version)
        assert response.json()["name"] == version
    before = all_pids(cluster)
    cluster.canary("weights", "light", "a=0")
    assert version_of(cluster.url, key_of(split, "a")) == "main"
    assert all_pids(cluster) == before
    about = get(cluster, "light")
    assert about["config"]["bento"] == "fragile:v1"
    assert about["config"]["canary"]["versions"]["a"]["weight"] == 0


# What goes wrong, and what then goes on. ------------------------------------------------------------------------------

STANDING = {"a": 40}


@pytest.fixture(scope="module")
def stood(shared: RealCluster) -> Iterator[RealCluster]:
    """The Deployment `light`, for all tests that leave it as they found it."""
    deploy(shared, light(STANDING))
    yield shared
    shared.clear()


@pytest.fixture
def standing(stood: RealCluster) -> RealCluster:
    """The Deployment `light`, as it was deployed at first, and ready."""
    deploy(stood, light(STANDING))
    stood.until_ready("light")
    assert version_of(stood.url, key_of(splitter(STANDING), "a")) == "a"
    return stood


def test_a_at_100_and_back_and_the_canary_out_and_back_fail_no_request(standing: RealCluster) -> None:
    main, ingress = standing.pids("light-main"), standing.pids("light")
    keys = [str(key) for key in range(20)]

    def answers() -> set[str]:
        responses = [who(standing.url, key) for key in keys]
        assert {response.status_code for response in responses} == {200}, responses[0].text
        assert {response.headers["x-bento-split"] for response in responses} <= {"keyed", "random"}
        return {response.headers["x-bento-version"] for response in responses}

    with requests_to(standing) as load:
        deploy(standing, light({"a": 100}))
        assert answers() == {"a"}
        deploy(standing, light(STANDING))
        assert answers() == {"a", "main"}
        without = light({})
        del without["canary"]
        deploy(standing, without)
        assert answers() == {"main"}
        wait_for(lambda: "light-canary-a" not in standing.state().applications, "a is gone", 30)
        assert {target["weight"] for target in get(standing, "light")["targets"].values()} == {100}
        deploy(standing, light(STANDING))
        assert answers() == {"a", "main"}
    assert not load.failures, f"{len(load.failures)} of {len(load.sent)}: {load.failures[0]}"
    assert (standing.pids("light-main"), standing.pids("light")) == (main, ingress)


def test_a_bad_file_leaves_the_running_deployment_as_it_is(standing: RealCluster) -> None:
    before = all_pids(standing)
    bad = light({"a": 70, "b": 70})
    bad["services"]["Fragil"] = {}
    said = deploy(standing, bad, code=2)
    assert "canary.versions: the weights add up to 140" in said
    said = deploy(standing, light(STANDING) | {"services": {"Fragil": {}}}, code=2)
    assert "light.yaml: services.Fragil: Bento fragile:v1 has no such service; did you mean 'Fragile'?" in said
    assert all_pids(standing) == before
    assert get(standing, "light")["targets"]["a"]["weight"] == 40


def test_what_does_not_fit_is_refused_with_what_is_short_unless_it_may_wait(standing: RealCluster) -> None:
    before = all_pids(standing)
    large = light({**STANDING, "b": 10})
    # A replica that waits for room is taken away only when the time is over that it may take to end its requests.
    large["ray"]["hosts"] = {"graceful_shutdown_timeout_s": 1}
    large["canary"]["versions"]["b"]["services"] = {"Fragile": {"config_overrides": {"resources": {"cpu": "1000"}}}}
    said = deploy(standing, large, code=2)
    assert "b: services.Fragile: a replica needs 1000 CPU; no node has that much (the largest: 32 CPU" in said
    many = light({**STANDING, "b": 10})
    of_b = {"config_overrides": {"resources": {"cpu": "8"}}, "scaling": {"min_replicas": 9, "max_replicas": 9}}
    many["canary"]["versions"]["b"]["services"] = {"Fragile": of_b}
    said = deploy(standing, many, code=2)
    assert "b: services.Fragile: 9 replicas, each of which needs 8 CPU; the nodes have room for 4 such replicas" in said
    of_b["scaling"] = {"min_replicas": 4, "max_replicas": 4}
    said = deploy(standing, many, code=2)
    assert "the Deployment needs 32.3 CPU to begin with; the cluster has 32 CPU" in said
    assert all_pids(standing) == before
    assert list(get(standing, "light")["targets"]) == ["main", "a"]

    deploy(standing, large, "--allow-pending", "--no-wait")
    wait_for(lambda: get(standing, "light")["targets"].get("b", {}).get("status") == "deploying", "b is pending", 20)
    key = key_of(splitter({**STANDING, "b": 10}), "b")

    def fails_over() -> bool:
        answer = who(standing.url, key)
        assert (answer.status_code, answer.headers["x-bento-version"]) in ((200, "main"), (200, "a"))
        return answer.headers["x-bento-split"] == "failover"

    wait_for(fails_over, "b has a share", 5)
    target = get(standing, "light")["targets"]["b"]
    assert (target["weight"], target["effective_weight"]) == (10, 0)
    deploy(standing, light(STANDING))
    wait_for(lambda: "light-canary-b" not in standing.state().applications, "b is gone", 60)
    assert all_pids(standing) == before


def test_three_broken_bentos_are_told_apart_by_their_own_tracebacks_and_the_split_stays_as_it_was(
    standing: RealCluster,
) -> None:
    before = all_pids(standing)
    weights = STANDING | {"b": 10, "c": 10, "d": 10}
    kinds = {"b": "import", "c": "init", "d": "env"}
    envs = {key: {"FRAGILE_BREAK": kind} for key, kind in kinds.items()}
    with requests_to(standing, clients=1) as load:
        said = deploy(standing, light(weights, envs=envs), code=1)
    assert not load.failures
    assert {one.reason for one in load.sent} == {"keyed"}
    for key, error in {
        "b": "ImportError: the tokenizer is of another version",
        "c": "ValueError: the weights are cut off after 3 bytes",
        "d": "KeyError: 'FRAGILE_TOKEN'",
    }.items():
        assert f"{key} (fragile:v1) failed; the split stays as it was:" in said
        assert error in said
    assert "service.py" in said
    assert "in load_weights" in said
    for foreign in ("ray::", "serve/_private", "_bentoml_impl", "RayTaskError"):
        assert foreign not in said

    about = get(standing, "light")
    assert {key: target["effective_weight"] for key, target in about["targets"].items()} == {"main": 60, "a": 40}
    beside = {one["application"]: one for one in about["beside"]}
    assert set(beside) == {"light-canary-b", "light-canary-c", "light-canary-d"}
    assert "the tokenizer is of another version" in beside["light-canary-b"]["message"]
    assert "the weights are cut off" in standing.canary("get", "light").stdout

    weights.pop("d")
    deploy(standing, light(weights, bentos={"b": "fragile:v2"}))
    for version, tag in (("b", "fragile:v2"), ("c", "fragile:v1")):
        headers = who(standing.url, key_of(splitter(weights), version)).headers
        assert (headers["x-bento-version"], headers["x-bento-split"]) == (version, "keyed")
        assert headers["x-bento-tag"] == tag
    assert get(standing, "light")["status"]["status"] == "running"
    assert get(standing, "light")["beside"] == []
    assert {name: pids for name, pids in all_pids(standing).items() if name in before} == before


def test_who_does_not_wait_gets_the_new_split_at_once_and_a_broken_versions_share_goes_to_main(
    standing: RealCluster,
) -> None:
    weights = STANDING | {"b": 10}
    broken = light(weights, envs={"b": {"FRAGILE_BREAK": "import"}})
    with requests_to(standing, clients=1) as load:
        deploy(standing, broken, "--no-wait")

        def has_failed() -> bool:
            target = get(standing, "light")["targets"].get("b") or {}
            return bool(target.get("status") == "failed")

        wait_for(has_failed, "b has failed", 60)
    assert not load.failures
    about = get(standing, "light")
    assert about["status"]["status"] == "unhealthy"
    assert {key: (target["weight"], target["effective_weight"]) for key, target in about["targets"].items()} == {
        "main": (50, 60),
        "a": (40, 40),
        "b": (10, 0),
    }
    headers = who(standing.url, key_of(splitter(weights), "b")).headers
    assert (headers["x-bento-version"], headers["x-bento-split"]) == ("main", "failover")


def test_an_update_that_fails_leaves_the_replicas_from_before_serving(standing: RealCluster) -> None:
    before = all_pids(standing)
    said = deploy(standing, light(STANDING, envs={"a": {"FRAGILE_BREAK": "init"}}), code=1)
    assert "a (fragile:v1) failed; its replicas from before go on serving:" in said
    assert "ValueError: the weights are cut off after 3 bytes" in said
    headers = who(standing.url, key_of(splitter(STANDING), "a")).headers
    assert (headers["x-bento-version"], headers["x-bento-split"]) == ("a", "keyed")
    assert all_pids(standing) == before
    about = get(standing, "light")
    assert (about["status"]["status"], about["targets"]["a"]["status"]) == ("unhealthy", "failed-update")
    assert about["targets"]["a"]["effective_weight"] == 40


def test_a_running_ingress_keeps_its_split_when_it_is_given_a_wrong_one(standing: RealCluster) -> None:
    before = all_pids(standing)
    config = yaml.safe_load(Path(standing.build(light(STANDING))).read_text())
    ingress = config["applications"][0]["deployments"][0]
    ingress["user_config"]["split"]["weights"] = {"a": 140}
    with requests_to(standing) as load:
        standing.serve_deploy(standing.write("wrong.yaml", config))
        about = wait_for(lambda: "rejected" in (found := get(standing, "light"))["split"] and found, "it is seen", 10)
        sent = len(load.sent)
        wait_for(lambda: len(load.sent) > sent + 20, "some more requests")
    assert not load.failures
    split = splitter(STANDING)
    assert not [one for one in load.sent if one.version != split.choose(one.key.encode())]
    assert about["status"]["status"] == "unhealthy"
    assert "split.weights.a: 140 is not a whole number from 0 to 100" in about["split"]["rejected"]
    shown = standing.canary("get", "light")
    assert "goes on with the split before it" in shown.stdout + shown.stderr
    assert "rejected" in standing.canary("list").stdout
    assert "split.weights.a: 140" in standing.canary("weights", "light", "a=10", code=2).stderr
    assert "split.weights.a: 140" in standing.canary("explain", "light", "--key", "x", code=2).stderr
    assert all_pids(standing) == before
    deploy(standing, light(STANDING))
    assert get(standing, "light")["status"]["status"] == "running"
    assert all_pids(standing) == before


def test_a_fresh_ingress_with_a_wrong_split_does_not_start_and_says_so_and_can_be_deleted(
    standing: RealCluster,
) -> None:
    before = all_pids(standing)
    config = yaml.safe_load(Path(standing.build(light({}, name="fresh", route_prefix="/fresh"))).read_text())
    config["applications"][0]["deployments"][0]["user_config"]["split"]["weights"] = {"a": 140}
    Cluster(standing.local.address).submit(standing.state().merged(config["applications"]))
    about = wait_for(
        lambda: (found := get(standing, "fresh"))["status"]["status"] == "failed" and found, "it has failed", 60
    )
    assert "split.weights.a: 140 is not a whole number from 0 to 100" in about["split"]["rejected"]
    shown = standing.canary("get", "fresh")
    assert "refuses" in shown.stdout + shown.stderr
    assert "does not start" in shown.stdout + shown.stderr
    standing.canary("delete", "fresh", "--wait")
    assert all_pids(standing) == before


def test_when_a_versions_only_replica_is_killed_only_its_requests_in_flight_fail(standing: RealCluster) -> None:
    (killed,) = standing.pids("light-canary-a")
    split = splitter(STANDING)
    with requests_to(standing) as load, httpx.Client(timeout=30) as client:
        wait_for(lambda: len(load.sent) > 20, "some requests")
        before = time.monotonic()
        os.kill(killed, signal.SIGKILL)
        at = time.monotonic()
        wait_for(lambda: [one for one in load.sent if one.reason == "failover"], "main takes over", 20)
        wait_for(
            lambda: [one for one in load.sent if one.at > at + 1 and one.version == "a" and not one.failed],
            "a is back",
            60,
        )
        assert client.post(f"{standing.url}/who?feature={key_of(split, 'a')}", json={}).status_code == 200
    assert {one.status for one in load.failures} <= {502}, load.failures
    assert all(split.choose(one.key.encode()) == "a" for one in load.failures)
    in_flight = [one for one in load.failures if one.at + one.took > before and one.at < at + 1]
    assert in_flight == load.failures, "only what was in flight fails"
    assert len(load.failures) <= 2, f"two clients can have two requests in flight: {load.failures}"
    (back,) = wait_for(lambda: standing.pids("light-canary-a"), "it has a replica")
    assert back != killed


# Beside others. -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def beside(stood: RealCluster) -> Iterator[RealCluster]:
    """Two Deployments under two prefixes, and two applications of somebody else's: by a config, and by serve.run."""
    stood.canary("delete", "light", "--wait")
    stood.write("foreign.py", FOREIGN)
    environment = {"env_vars": {"PYTHONPATH": str(stood.work)}}
    foreign = {
        "name": "foreign",
        "route_prefix": "/foreign",
        "import_path": "foreign:app",
        "runtime_env": environment,
    }
    Cluster(stood.local.address).submit(stood.state().merged([foreign]))
    stood.run(sys.executable, stood.write("run.py", IMPERATIVE % (stood.local.port, str(stood.work))))
    deploy(stood, light({"a": 40}, name="one", route_prefix="/one"))
    deploy(stood, light({}, name="two", route_prefix="/two"))
    yield stood
    connect = IMPERATIVE.partition("serve.run")[0] % (stood.local.port, str(stood.work))
    stood.run(sys.executable, stood.write("stop.py", connect + 'serve.delete("imperative")\n'))


def others(cluster: RealCluster) -> dict[str, set[int]]:
    """Return the pids of what isn't Deployment `one`, once all of it answers."""
    for path in ("foreign", "imperative"):
        assert httpx.get(f"{cluster.url}/{path}", timeout=30).text == "hello"
    assert version_of(f"{cluster.url}/two", "x") == "main"
    return {name: pids for name, pids in all_pids(cluster).items() if not name.startswith("one")}


def test_two_deployments_answer_under_their_own_prefixes(beside: RealCluster) -> None:
    split = splitter({"a": 40}, "one")
    for version in ("main", "a"):
        assert who(f"{beside.url}/one", key_of(split, version)).json()["name"] == version
    assert who(f"{beside.url}/two", "x").json()["name"] == "main"
    assert who(beside.url, "x").status_code == 404
    listed = json.loads(beside.canary("list", "-o", "json").stdout)
    assert [(one["name"], one["endpoint_urls"]) for one in listed] == [
        ("one", [f"{beside.url}/one"]),
        ("two", [f"{beside.url}/two"]),
    ]


def test_a_name_or_a_prefix_that_somebody_has_is_refused_before_anything_changes(beside: RealCluster) -> None:
    before = all_pids(beside)
    for prefix, holder in (("/one", "one"), ("/foreign", "foreign"), ("/imperative", "imperative")):
        said = deploy(beside, light({}, name="new", route_prefix=prefix), code=2)
        assert f"ray.route_prefix: '{prefix}' is taken by application '{holder}'" in said
    said = deploy(beside, light({}, name="foreign", route_prefix="/new"), code=2)
    assert "name: the cluster has an application 'foreign' of somebody else's (foreign:app)" in said
    said = deploy(beside, light({}, name="imperative", route_prefix="/new"), code=2)
    assert "name: the cluster has an application 'imperative' of somebody else's (serve.run)" in said
    stolen = light({}, name="new", route_prefix="/new")
    stolen["ray"]["applications"] = {"main": "two-main"}
    said = deploy(beside, stolen, code=2)
    assert "'two-main' serves Deployment 'two'" in said
    assert all_pids(beside) == before


def test_other_peoples_applications_survive_deploy_weights_terminate_and_delete(beside: RealCluster) -> None:
    url, split = f"{beside.url}/one", splitter({"a": 40}, "one")
    before = others(beside)
    with requests_to(beside, "/two", clients=1) as load:
        deploy(beside, light({"a": 40}, name="one", route_prefix="/one"))
        assert others(beside) == before
        beside.canary("weights", "one", "a=60")
        assert others(beside) == before

        ingress = beside.pids("one")
        beside.canary("terminate", "one", "--wait")
        response = who(url, "x")
        assert (response.status_code, response.json()["error"][:19]) == (503, "Service Unavailable"), response.text
        about = get(beside, "one")
        assert about["status"]["status"] == "terminated"
        assert {(target["status"], target["effective_weight"]) for target in about["targets"].values()} == {
            ("terminated", 0)
        }
        assert "terminated" in beside.canary("get", "one").stdout
        assert set(beside.state().applications) == {"one", "two", "two-main", "foreign", "imperative"}
        assert others(beside) == before

        deploy(beside, light({"a": 40}, name="one", route_prefix="/one"))
        assert version_of(url, key_of(split, "a")) == "a"
        assert beside.pids("one") == ingress
        assert others(beside) == before

        beside.canary("delete", "one", "--wait")
        assert set(beside.state().applications) == {"two", "two-main", "foreign", "imperative"}
        wait_for(lambda: httpx.get(f"{url}/livez", timeout=30).status_code == 404, "nobody answers under /one", 20)
        assert "no Deployment 'one'" in beside.canary("get", "one", code=1).stderr
        assert others(beside) == before
    assert not load.failures, load.failures[:2]
