"""Secrets on a real cluster: how they reach a Bento, what wins, what a missing one does, and where no value stands."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.e2e.deployments import NODE_SECRETS, probe
from tests.e2e.harness import RealCluster, wait_for
from tests.e2e.test_lifecycle import all_pids, build_light, deploy, get, key_of, light, splitter

PEM: Final = "-----BEGIN KEY-----\nline-one-of-pem-5d20\nline-two-of-pem-81c7\n-----END KEY-----\n"
#: What the node's folders hold; each secret is one folder, each key a file.
SECRETS: Final[dict[str, dict[str, str]]] = {
    "db": {"DB_PASSWORD": "pässword-'\"$x\\n-9c41\n", "DB_PEM": PEM},
    "cert": {"tls.key": "key-in-a-file-2e77", "ca.pem": PEM},
    "own": {"OWN_TOKEN": "of-version-a-only-66b0"},
    "layers": {f"LAYER_{name}": "secret" for name in ("SECRET", "TOP", "SERVICE", "VERSION", "VERSION_SERVICE")}
    | {"PROBE_LAYER": "secret"},
    "token": {"FRAGILE_TOKEN": "nobody-may-read-this-a8e3"},
}
#: Longer than the longest word that is in Ray's logs anyway.
VALUES: Final = {
    line
    for value in (*(value for keys in SECRETS.values() for value in keys.values()), *NODE_SECRETS.values())
    for line in value.splitlines()
    if len(line) > 10 and not line.startswith("-----")
}
VISIBLE: Final = "not-a-secret-33f5"
WEIGHTS: Final = {"a": 50}


def envs(**values: str) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values.items()]


def deployment() -> dict[str, Any]:
    """Return a Deployment whose main has secrets of two types, and whose version `a` adds two and every layer."""
    file = probe(WEIGHTS, name="vault", envs={"main": {"LAYER_TOP": "top", "LAYER_SERVICE": "top"}})
    file["envs"] += envs(LAYER_VERSION="top", LAYER_VERSION_SERVICE="top", VISIBLE=VISIBLE)
    file["secrets"] = ["db", "node"]
    layered = envs(LAYER_SERVICE="service", LAYER_VERSION="service", LAYER_VERSION_SERVICE="service")
    file["services"]["Probe"] = {**file["services"]["Probe"], "envs": layered}
    version = file["canary"]["versions"]["a"]
    version["secrets"] = ["own", "layers", "cert"]
    version["envs"] += envs(LAYER_VERSION="version", LAYER_VERSION_SERVICE="version")
    version["services"] = {"Probe": {"envs": envs(LAYER_VERSION_SERVICE="version's service")}}
    file["ray"]["secrets"] = {"node": {"keys": [*NODE_SECRETS]}, "cert": {"type": "file", "path": "app/certs"}}
    return file


def write(cluster: RealCluster, *names: str) -> None:
    for name in names:
        folder = cluster.work / "secrets" / name
        folder.mkdir(parents=True, exist_ok=True)
        for key, value in SECRETS[name].items():
            (folder / key).write_text(value)


@pytest.fixture(scope="module")
def stood(shared: RealCluster) -> Iterator[RealCluster]:
    """The module's cluster with the Deployment of all secrets on it."""
    build_light(shared.home)
    write(shared, "db", "cert", "own", "layers", "token")
    deploy(shared, deployment())
    yield shared
    shared.clear()


def ask(cluster: RealCluster, version: str, api: str, **arguments: str) -> Any:
    """Call an API of a version."""
    key = key_of(splitter(WEIGHTS, "vault"), version)
    answer = httpx.post(f"{cluster.url}/{api}?feature={key}", json=arguments, timeout=30)
    assert answer.headers["x-bento-version"] == version
    return answer.json() if answer.headers["content-type"] == "application/json" else answer.text


@pytest.mark.parametrize("version", ["main", "a"])
def test_every_service_gets_the_keys_of_a_folder_as_they_are(stood: RealCluster, version: str) -> None:
    for key, value in SECRETS["db"].items():
        expected = value.removesuffix("\n")
        assert ask(stood, version, "env", name=key) == expected
        assert ask(stood, version, "inner_env", name=key) == expected


@pytest.mark.parametrize("version", ["main", "a"])
def test_declared_keys_come_from_the_nodes_environment_where_there_is_no_folder(
    stood: RealCluster, version: str
) -> None:
    for key, value in NODE_SECRETS.items():
        assert ask(stood, version, "env", name=key) == value


def test_a_versions_own_secrets_are_its_own(stood: RealCluster) -> None:
    assert ask(stood, "a", "env", name="OWN_TOKEN") == SECRETS["own"]["OWN_TOKEN"]
    assert ask(stood, "main", "env", name="OWN_TOKEN") == "(not set)"


def test_files_are_links_in_the_replicas_home_and_in_nobody_elses(stood: RealCluster) -> None:
    for key, value in SECRETS["cert"].items():
        assert ask(stood, "a", "home_file", path=f"app/certs/{key}") == value
    home = Path(ask(stood, "a", "env", name="BENTOML_HOME"))
    assert (home / "app" / "certs").readlink() == stood.work / "secrets" / "cert"
    assert stat.S_IMODE(home.parent.stat().st_mode) == 0o700
    assert Path(ask(stood, "main", "env", name="BENTOML_HOME")) == stood.home
    assert not (stood.home / "app").exists()


def test_the_files_four_layers_win_over_secrets_and_secrets_over_the_bentos_default(stood: RealCluster) -> None:
    assert {name: ask(stood, "a", "env", name=name) for name in ("PROBE_LAYER", *sorted(SECRETS["layers"]))} == {
        "PROBE_LAYER": "secret",
        "LAYER_SECRET": "secret",
        "LAYER_TOP": "top",
        "LAYER_SERVICE": "service",
        "LAYER_VERSION": "version",
        "LAYER_VERSION_SERVICE": "version's service",
    }
    assert ask(stood, "main", "env", name="PROBE_LAYER") == "bento"


def test_a_replica_that_fails_over_a_secret_says_why_without_its_value_and_leaves_the_others_alone(
    stood: RealCluster,
) -> None:
    file = light({}, route_prefix="/light")
    deploy(stood, file)
    before = all_pids(stood)

    broken = {"bento": "fragile:v1", "weight": 5}
    file["canary"]["versions"]["missing"] = {**broken, "secrets": ["late"]}
    breaks = envs(FRAGILE_BREAK="secret")
    file["canary"]["versions"]["telling"] = {**broken, "secrets": ["token"], "envs": breaks}
    said = deploy(stood, file, code=1)
    about = get(stood, "light")
    beside = {one["application"]: one for one in about["beside"]}
    missing, telling = (beside[f"light-canary-{key}"]["message"] for key in ("missing", "telling"))
    folder = stood.work / "secrets" / "late"
    sentence = f": there is no folder {folder}. What to do: mount the secret there, with a file for each key."
    for text in (said, missing):
        assert "Secret 'late' can't be used on node " in text
        assert sentence in text
    for text in (said, telling):
        assert "PermissionError: nobody lets *** in" in text
    assert about["targets"]["main"]["status"] == "running"
    after = all_pids(stood)
    assert {name: after[name] for name in before} == before

    folder.mkdir()
    deploy(stood, {**file, "canary": {**file["canary"], "versions": _without(file, "telling")}})
    mended = get(stood, "light")["targets"]["missing"]
    assert (mended["status"], mended["secrets"]) == ("running", ["late"])
    assert {name: pids for name, pids in all_pids(stood).items() if name in before} == before


def _without(file: dict[str, Any], version: str) -> dict[str, Any]:
    return {key: one for key, one in file["canary"]["versions"].items() if key != version}


def test_no_value_is_in_any_log_or_answer_of_the_cluster_or_of_the_command_line(stood: RealCluster) -> None:
    # What a Bento logs and raises while it serves: through BentoML's handler, and through ours.
    for name in ("DB_PASSWORD", "DB_PEM", "PROBE_NODE_KEY"):
        ask(stood, "main", "tell", name=name)
        key = key_of(splitter(WEIGHTS, "vault"), "main")
        assert httpx.get(f"{stood.url}/web/raise-with?name={name}&feature={key}", timeout=30).status_code == 500
    wait_for(lambda: _logged(stood, "PROBE_NODE_KEY is ***"), "what the Bento logged has been written", 30)

    found = {str(path): content for path, content in _files(stood.session)}
    for path in (
        "/api/serve/applications/",
        "/api/v0/actors?detail=1&limit=1000",
        "/api/v0/workers?detail=1&limit=1000",
        "/api/v0/runtime_envs?detail=1",
        "/api/v0/tasks?detail=1",
        "/api/v0/nodes?detail=1",
        "/api/jobs/",
        "/logical/actors",
        "/nodes?view=summary",
        "/api/component_activities",
    ):
        answer = httpx.get(f"{stood.local.address}{path}", timeout=60)
        assert answer.status_code == 200, path
        found[path] = answer.content
    file = stood.write("vault.yaml", deployment())
    for command in (
        ("serve", "config"),
        ("serve", "status"),
        ("ray-canary", "get", "vault", "-o", "json"),
        ("ray-canary", "get", "vault"),
        ("ray-canary", "get", "light", "-o", "json"),
        ("ray-canary", "list", "-o", "json"),
        ("ray-canary", "revisions", "vault", "-o", "json"),
        ("ray-canary", "plan", "-f", file, "-o", "json"),
        ("ray-canary", "plan", "-f", file),
        ("ray-canary", "build", "-f", file),
    ):
        done = stood.run(*command)
        found[" ".join(command)] = (done.stdout + done.stderr).encode()

    assert VISIBLE.encode() in found["serve config"], "what is no secret is found where it stands"
    assert VISIBLE.encode() in found["/api/v0/actors?detail=1&limit=1000"]
    assert any(b"nobody lets *** in" in content for name, content in found.items() if "/logs/" in name)
    spellings = {value: {value.encode(), repr(value)[1:-1].encode(), _json(value)} for value in VALUES}
    leaks = [
        (where, value)
        for where, content in found.items()
        for value, written in spellings.items()
        if any(one in content for one in written)
    ]
    assert leaks == []
    names = {key: one["secrets"] for key, one in get(stood, "vault")["targets"].items()}
    assert names == {"main": ["db", "node"], "a": ["db", "node", "own", "layers", "cert"]}
    assert "a: db, node, own, layers, cert" in found["ray-canary get vault"].decode()


def _json(value: str) -> bytes:
    return json.dumps(value)[1:-1].encode()


def _files(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for root, _, names in os.walk(folder):
        for path in (Path(root) / name for name in names):
            if path.is_file():
                yield path, path.read_bytes()


def _logged(cluster: RealCluster, text: str) -> bool:
    return any(text.encode() in content for _, content in _files(cluster.session / "logs"))
