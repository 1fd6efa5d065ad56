"""The reader of the Bento store, held against what the real bentoml writes and answers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ray_canary.bentos import BentoEnv, BentoStore, ServiceInfo, read, required_envs, store_path
from ray_canary.errors import BentoNotFound, BentoUnusable

SINGLE = """
import bentoml

@bentoml.service(traffic={"timeout": 5}, resources={"cpu": "500m", "memory": "256Mi"})
class Summarization:
    @bentoml.api
    def summarize(self, text: str) -> str:
        return text
"""
DOUBLE = """
import bentoml

@bentoml.service(workers=2, envs=[{"name": "OF_A_DEPENDENCY"}])
class Preprocess:
    @bentoml.api
    def clean(self, text: str) -> str:
        return text.strip()

@bentoml.service(
    envs=[
        {"name": "VAR_NAME"},
        {"name": "DB_HOST", "value": "localhost"},
        {"name": "BUILD_ONLY", "stage": "build"},
        {"name": "AT_RUN", "stage": "runtime"},
    ]
)
class Summarization:
    preprocess = bentoml.depends(Preprocess)
    again = bentoml.depends(Preprocess)
    remote = bentoml.depends(url="http://elsewhere:3000")
    deployed = bentoml.depends(Preprocess, deployment="other")

    @bentoml.api
    def summarize(self, text: str) -> str:
        return self.preprocess.clean(text)
"""
BUILT = [("single", "v1"), ("single", "v1b"), ("single", "w10"), ("single", "w11"), ("double", "X2"), ("single", "old")]
ASKED = [
    "summarization",
    "summarization:latest",
    "Summarization:V1",
    "summarization:v1",
    "summarization:v1b",
    "summarization:x",
    "summarization:w1",
    "summarization:w11",
    "summarization:z",
    "summarizer",
    "summarization:",
    "-x",
]
SCRIPT = f"""
import json, bentoml
for module, version in {BUILT}:
    bentoml.build(f"{{module}}:Summarization", name="Summarization", version=version, python={{"lock_packages": False}})
def ask(tag):
    try:
        return str(bentoml.get(tag).tag)
    except Exception as error:
        return None
print("ANSWERS" + json.dumps({{tag: ask(tag) for tag in {ASKED}}}))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[BentoStore, dict[str, str | None]]:
    """Build Bentos with the real bentoml, offline, and ask it for some tags."""
    project, home = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("home")
    (project / "single.py").write_text(SINGLE)
    (project / "double.py").write_text(DOUBLE)
    env = os.environ | {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=project, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return BentoStore(home / "bentos"), json.loads(done.stdout.partition("ANSWERS")[2])


@pytest.fixture(scope="module")
def store(built: tuple[BentoStore, dict[str, str | None]]) -> BentoStore:
    return built[0]


@pytest.mark.parametrize("tag", ASKED)
def test_a_tag_means_what_it_means_to_bentoml(built: tuple[BentoStore, dict[str, str | None]], tag: str) -> None:
    store, answers = built
    try:
        found = store.get(tag).tag
    except BentoNotFound:
        found = None
    assert found == answers[tag]


def test_a_bento_with_one_service_is_read_as_bentoml_wrote_it(store: BentoStore) -> None:
    info = store.get("summarization:v1")
    assert (info.name, info.version, info.tag) == ("summarization", "v1", "summarization:v1")
    assert info.entry_service == "Summarization"
    config = {"traffic": {"timeout": 5}, "resources": {"cpu": "500m", "memory": "256Mi"}}
    assert info.services == {"Summarization": ServiceInfo("Summarization", (), config)}
    assert (info.envs, required_envs(info)) == ((), ())
    assert info.path == store.path / "summarization" / "v1"
    assert info.bentoml_version.startswith("1.")
    assert info.python_version.startswith("3.")


def test_a_bento_with_two_services_is_read_as_bentoml_wrote_it(store: BentoStore) -> None:
    info = store.get("summarization:x2")
    assert info.entry_service == "Summarization"
    assert set(info.services) == {"Summarization", "Preprocess"}
    assert info.services["Preprocess"] == ServiceInfo("Preprocess", (), {"workers": 2})
    assert info.envs == (
        BentoEnv("VAR_NAME", "", "all"),
        BentoEnv("DB_HOST", "localhost", "all"),
        BentoEnv("BUILD_ONLY", "", "build"),
        BentoEnv("AT_RUN", "", "runtime"),
    )


def test_only_services_of_the_same_bento_count_as_dependencies(store: BentoStore) -> None:
    assert store.get("summarization:x2").services["Summarization"].depends == ("Preprocess",)


def test_required_are_the_envs_without_value_that_the_running_bento_reads(store: BentoStore) -> None:
    assert required_envs(store.get("summarization:x2")) == ("VAR_NAME", "AT_RUN")


def test_versions_are_listed_newest_first(store: BentoStore) -> None:
    assert store.names() == ("summarization",)
    assert store.versions("summarization") == ("old", "x2", "w11", "w10", "v1b", "v1")


def test_latest_is_the_newest_where_the_stores_own_note_is_gone_or_stale(store: BentoStore) -> None:
    note = store.path / "summarization" / "latest"
    before = note.read_text()
    try:
        note.write_text("deleted")
        assert store.get("summarization").version == "old"
        note.unlink()
        assert store.get("summarization:latest").version == "old"
        assert not note.exists()  # a reader writes nothing
    finally:
        note.write_text(before)


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ("summarisation", "there is no Bento summarisation in {path}; did you mean summarization?"),
        ("other", "there is no Bento other in {path}; the Bentos there are summarization"),
        (
            "summarization:v9",
            "there is no Bento summarization:v9 in {path}; summarization has old, x2, w11, w10, v1b, v1",
        ),
        ("summarization:w", "summarization:w could be any of w11, w10: write more of the version"),
        ("summarization:", "'summarization:' is not a Bento's tag, like name:version, name:latest or name"),
        ("../summarization", "'../summarization' is not a Bento's tag, like name:version, name:latest or name"),
    ],
)
def test_a_tag_that_stands_for_no_bento_is_refused_with_those_there_are(store: BentoStore, tag: str, said: str) -> None:
    with pytest.raises(BentoNotFound) as caught:
        store.get(tag)
    assert str(caught.value) == said.format(path=store.path)
    assert caught.value.exit_code == 2


def test_a_store_that_is_not_there_is_empty(tmp_path: Path) -> None:
    store = BentoStore(tmp_path / "nowhere")
    assert store.names() == ()
    with pytest.raises(BentoNotFound, match="which is empty; build one with `bentoml build`"):
        store.get("summarization")


def test_the_store_is_where_bentoml_keeps_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BENTOML_HOME", "/srv/bentoml")
    assert store_path() == Path("/srv/bentoml/bentos")
    monkeypatch.delenv("BENTOML_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store_path() == tmp_path / "bentoml" / "bentos"


def test_many_versions_are_not_all_listed(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / "s" / f"v{number:02}").mkdir(parents=True)
    with pytest.raises(BentoNotFound, match="s has v11, .*, v02 and 2 more"):
        BentoStore(tmp_path).get("s:x")


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (None, "s:1 is not whole: .*No such file"),
        ("a: [", "s:1 is damaged: .* is not YAML"),
        ("- a", "s:1 is damaged: .* holds no mapping"),
        ("service: x\nrunners: []", "s:1 has no service class: it was built with bentoml before 1.2"),
        ("entry_service: S\nservices: [{service: x}]", "s:1 is damaged: .* KeyError"),
        ("entry_service: S\nservices: 3", "s:1 is damaged: .* TypeError"),
    ],
)
def test_a_bento_that_can_not_be_deployed_is_named(tmp_path: Path, manifest: str | None, said: str) -> None:
    (tmp_path / "s" / "1").mkdir(parents=True)
    if manifest is not None:
        (tmp_path / "s" / "1" / "bento.yaml").write_text(manifest)
    with pytest.raises(BentoUnusable, match=said):
        BentoStore(tmp_path).get("s:1")


def test_the_older_layout_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "s" / "1"
    path.mkdir(parents=True)
    (path / "bento.yaml").write_text(
        "entry_service: S\ndocker: {python_version: '3.10'}\nbentoml_version: 1.2.0\nenvs: [{name: A}]\n"
        "services: [{name: S, dependencies: [T]}, {name: T}]\n"
    )
    info = read(path)
    assert (info.python_version, info.services["S"].depends, info.envs) == ("3.10", ("T",), (BentoEnv("A", "", "all"),))
