"""What becomes of a `bento:` that is a project, an archive or a URL: built and imported by the real bentoml."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from ray_canary import config, sources
from ray_canary.bentos import BentoStore
from ray_canary.errors import PlanError
from ray_canary.instances import Catalogue
from ray_canary.resolving import resolve

SERVICE = """\
import bentoml

@bentoml.service
class Words:
    @bentoml.api
    def count(self, text: str) -> int:
        return len(text)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of one service."""
    folder = tmp_path_factory.mktemp("projects") / "words"
    folder.mkdir()
    (folder / "service.py").write_text(SERVICE)
    (folder / "bentofile.yaml").write_text(
        "service: 'service:Words'\ninclude: ['*.py']\npython: {lock_packages: false}\n"
    )
    return folder


@pytest.fixture(scope="module")
def exported(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's Bento `words:v1`, built and exported on another machine."""
    home = tmp_path_factory.mktemp("elsewhere")
    environment = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    python = [sys.executable, "-P", "-m", "bentoml"]
    for command in (["build", ".", "--version", "v1"], ["export", "words:v1", str(home / "words.bento")]):
        subprocess.run([*python, *command], env=environment, cwd=project, check=True, capture_output=True)
    return home / "words.bento"


@pytest.fixture
def store(tmp_path: Path) -> BentoStore:
    return BentoStore(tmp_path / "home" / "bentos")


def file(bento: str, **versions: str) -> config.DeploymentFile:
    said = {key: {"bento": one, "weight": 10} for key, one in versions.items()}
    canary: dict[str, Any] = {"canary": {"route_type": "random", "versions": said}} if said else {}
    return config.parse({"name": "words", "bento": bento, **canary})


def settled(store: BentoStore, folder: Path, bento: str, **versions: str) -> tuple[dict[str, str], list[str]]:
    said: list[str] = []
    return sources.settle(file(bento, **versions), store, folder, said.append), said


def refusal(store: BentoStore, folder: Path, bento: str, **versions: str) -> list[str]:
    with pytest.raises(PlanError) as raised:
        settled(store, folder, bento, **versions)
    assert raised.value.exit_code == 2
    return str(raised.value).splitlines()


def test_a_project_is_built_once_and_its_plan_keeps_what_the_file_says(project: Path, store: BentoStore) -> None:
    tags, said = settled(store, project.parent, "./words", a="./words")
    (version,) = store.versions("words")
    assert tags == {"./words": f"words:{version}"}
    assert said == [f"Built ./words: words:{version}"]
    planned = resolve(file("./words", a="./words"), store, Catalogue.default(), pinned=tags)
    assert {target.bento for target in planned.targets.values()} == {f"words:{version}"}
    assert {target.asked_for for target in planned.targets.values()} == {"./words"}
    assert planned.file["bento"] == "./words"
    assert not list(project.rglob("__pycache__"))


def test_a_project_that_is_unchanged_stays_the_bento_that_it_was_so_that_nothing_restarts(
    project: Path, store: BentoStore, tmp_path: Path
) -> None:
    copy = shutil.copytree(project, tmp_path / "words")
    first, _ = settled(store, tmp_path, "./words")
    again, said = settled(store, tmp_path, "./words")
    assert again == first
    assert said == [f"./words is unchanged since {first['./words']}"]
    assert len(store.versions("words")) == 1
    (copy / "service.py").write_text(SERVICE.replace("len(text)", "len(text) + 1"))
    changed, _ = settled(store, tmp_path, "./words")
    assert changed != first
    (copy / "service.py").write_text(SERVICE)
    assert settled(store, tmp_path, "./words")[0] == first


def test_an_archive_is_imported_once(exported: Path, store: BentoStore) -> None:
    assert settled(store, exported.parent, "./words.bento") == (
        {"./words.bento": "words:v1"},
        ["Imported ./words.bento: words:v1"],
    )
    assert store.get("words:v1").entry_service == "Words"
    assert settled(store, exported.parent, "./words.bento")[1] == [
        "./words.bento is words:v1, which is in the Bento store already"
    ]
    assert not list((store.path.parent / "tmp").iterdir())


def test_a_url_is_fetched_and_imported(exported: Path, store: BentoStore, tmp_path: Path) -> None:
    url = f"file://{exported}"
    assert settled(store, tmp_path, url)[0] == {url: "words:v1"}


def test_an_archive_of_another_bento_under_a_tag_that_is_there_is_refused(exported: Path, store: BentoStore) -> None:
    settled(store, exported.parent, "./words.bento")
    (store.path / "words" / "v1" / "src" / "service.py").write_text("changed")
    assert refusal(store, exported.parent, "./words.bento") == [
        f"bento: ./words.bento holds another words:v1 than {store.path} has: delete that one with "
        "`bentoml delete words:v1`, or build this one under another version"
    ]


def test_what_is_not_there_is_told_at_once_for_every_version_before_anything_is_built(
    project: Path, store: BentoStore
) -> None:
    (project.parent / "empty").mkdir(exist_ok=True)
    folder = project.parent
    assert refusal(store, folder, "./words", a="./missing", b="./empty", c="./missing.bento") == [
        f"canary.versions.a.bento: there is no directory {folder}/missing",
        f"canary.versions.b.bento: {folder}/empty is not a Bento project: it has no bentofile.yaml, pyproject.toml, "
        "service.py",
        f"canary.versions.c.bento: there is no file {folder}/missing.bento",
    ]
    assert not store.path.exists()


def test_a_project_that_cannot_be_built_says_why(tmp_path: Path, store: BentoStore) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "service.py").write_text("raise RuntimeError('no such thing')\n")
    said = refusal(store, tmp_path, "./broken")
    assert said[0] == "bento: `bentoml build ./broken` failed:"
    assert "no such thing" in "\n".join(said)


def test_a_hostile_archive_is_refused_and_leaves_nothing(tmp_path: Path, store: BentoStore) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        info = tarfile.TarInfo("../../evil")
        tar.addfile(info)
    assert refusal(store, tmp_path, "./evil.tar") == [
        "bento: ./evil.tar can't be imported: '../../evil' leads out of it"
    ]
    assert not list((store.path.parent / "tmp").iterdir())
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("manifest", ["", "name: ../../x\nversion: v1\n", "name: x\n", "- a\n", "{"])
def test_an_archive_without_a_bento_in_it_is_refused(tmp_path: Path, store: BentoStore, manifest: str) -> None:
    (tmp_path / "bento.yaml").write_text(manifest)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "bento.yaml", "bento.yaml")
    assert refusal(store, tmp_path, "./x.tar") == [
        "bento: ./x.tar holds no Bento: it has no bento.yaml with a name and a version"
    ]


def test_a_driver_that_is_missing_is_named(tmp_path: Path, store: BentoStore) -> None:
    pytest.importorskip("aiohttp")
    said = refusal(store, tmp_path, "abfs://container@account.dfs.example/x.bento")
    assert said == [
        "bento: abfs:// needs adlfs, which is not installed here: pip install 'adlfs', here and on every node"
    ]


def test_a_plan_of_what_nobody_built_is_refused(store: BentoStore) -> None:
    with pytest.raises(
        PlanError, match="bento: a project directory can't be built or fetched here; give a Bento's tag"
    ):
        resolve(file("./words"), store, Catalogue.default())
