"""How a replica comes by its Bento: from the node's own store, or fetched once into the node's cache."""

import importlib.util
import multiprocessing
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from ray_canary import shipping
from ray_canary.bentos import BentoStore
from ray_canary.plan import ArchivePlan
from ray_canary.serving import node_bentos
from ray_canary.serving.node_bentos import BentoMissing
from tests.unit.bento_store import write_bento


@pytest.fixture
def packed(tmp_path: Path) -> ArchivePlan:
    """A Bento with a model, pushed from another machine to a shared folder."""
    store = tmp_path / "other" / "bentos"
    write_bento(store, "s:1", {"S": {}})
    manifest = store / "s" / "1" / "bento.yaml"
    manifest.write_text(yaml.safe_dump({**yaml.safe_load(manifest.read_text()), "models": [{"tag": "iris:v1"}]}))
    (store / "s" / "1" / "src").mkdir()
    (store / "s" / "1" / "src" / "service.py").write_text("x = 1\n")
    model = store.parent / "models" / "iris" / "v1"
    model.mkdir(parents=True)
    (model / "weights").write_bytes(bytes(3_000_000))
    return shipping.push(BentoStore(store).get("s:1"), store, str(tmp_path / "shared"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This node's BENTOML_HOME, with nothing in it."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "node"))
    monkeypatch.delenv("RAY_CANARY_BENTO_CACHE", raising=False)
    return tmp_path / "node"


def test_what_the_nodes_own_store_has_is_not_fetched(home: Path) -> None:
    write_bento(home / "bentos", "s:1", {"S": {}})
    assert node_bentos.find("s:1", ArchivePlan(url="file:///nowhere.tar", sha256="0" * 64)) is None
    assert node_bentos.find("s:1", None) is None


def test_what_it_lacks_is_fetched_with_its_models(packed: ArchivePlan, home: Path) -> None:
    folder = node_bentos.find("s:1", packed)
    assert folder == home / "ray-canary" / packed.sha256
    assert (folder / "src" / "service.py").read_text() == "x = 1\n"
    assert (folder / "models" / "iris" / "v1" / "weights").stat().st_size == 3_000_000
    left = {path.name for path in (home / "ray-canary").iterdir()}
    assert left == {packed.sha256, f".{packed.sha256}.lock"}


def test_what_was_fetched_once_is_found_though_the_place_is_gone(packed: ArchivePlan) -> None:
    folder = node_bentos.find("s:1", packed)
    Path(packed.url.removeprefix("file://")).unlink()
    assert node_bentos.find("s:1", packed) == folder


def test_a_bento_whose_model_the_node_lacks_is_fetched_too(packed: ArchivePlan, home: Path, tmp_path: Path) -> None:
    (home / "bentos" / "s").mkdir(parents=True)
    (tmp_path / "other" / "bentos" / "s" / "1").rename(home / "bentos" / "s" / "1")
    assert node_bentos.find("s:1", packed) == home / "ray-canary" / packed.sha256


def test_another_folder_can_be_the_cache(packed: ArchivePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_CANARY_BENTO_CACHE", str(tmp_path / "cache"))
    assert node_bentos.find("s:1", packed) == tmp_path / "cache" / packed.sha256


def test_without_a_place_the_failure_says_what_to_do(home: Path) -> None:
    with pytest.raises(BentoMissing) as raised:
        node_bentos.find("s:1", None)
    assert str(raised.value) == (
        f"Bento s:1 is not in {home}/bentos of this node, and the Deployment names no place to fetch it from. "
        "Put it there, or deploy with --push"
    )


def test_an_archive_that_is_gone_is_named(home: Path) -> None:
    with pytest.raises(BentoMissing) as raised:
        node_bentos.find("s:1", ArchivePlan(url="file:///nowhere/x.tar", sha256="0" * 64))
    assert str(raised.value) == (
        f"Bento s:1 is not in {home}/bentos of this node, and it can't be fetched: file:///nowhere/x.tar can't be "
        "fetched: there is no such file"
    )


def test_an_archive_with_another_checksum_is_not_even_unpacked(packed: ArchivePlan, home: Path) -> None:
    file = Path(packed.url.removeprefix("file://"))
    file.write_bytes(file.read_bytes().replace(b"x = 1", b"x = 2"))
    with pytest.raises(BentoMissing, match="is not what was pushed: its SHA-256 is [0-9a-f]{64}; delete it there"):
        node_bentos.find("s:1", packed)
    assert [path.name for path in (home / "ray-canary").iterdir()] == [f".{packed.sha256}.lock"]


@pytest.mark.skipif(importlib.util.find_spec("gcsfs") is not None, reason="the driver is installed")
def test_a_driver_that_is_not_installed_is_named_with_what_installs_it() -> None:
    said = r"gs:// needs gcsfs, which is not installed here: pip install 'ray-canary\[gcs\]', here and on every node"
    with pytest.raises(BentoMissing, match=said):
        node_bentos.find("s:1", ArchivePlan(url="gs://bucket/x.tar", sha256="0" * 64))


def test_a_cache_that_cannot_be_written_is_named_with_what_to_set(packed: ArchivePlan, home: Path) -> None:
    home.mkdir()
    (home / "ray-canary").write_text("a file stands in its way")
    with pytest.raises(BentoMissing, match="set RAY_CANARY_BENTO_CACHE to a folder that can be written"):
        node_bentos.find("s:1", packed)


def test_what_a_killed_replica_left_behind_is_removed(packed: ArchivePlan, home: Path) -> None:
    left = home / "ray-canary" / f".{packed.sha256}.abc.part"
    left.mkdir(parents=True)
    (left / "archive.tar").write_bytes(b"half of it")
    node_bentos.find("s:1", packed)
    assert not left.exists()


class _Counting(ThreadingHTTPServer):
    """Serves a folder, and counts how often a whole file was asked for."""

    def __init__(self, folder: Path) -> None:
        self.gets = 0
        server = self

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *args: object) -> None:
                super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

            def do_GET(self) -> None:
                server.gets += 1
                super().do_GET()

            def log_message(self, *_: object) -> None:
                return

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def server(packed: ArchivePlan, tmp_path: Path) -> Iterator[_Counting]:
    with _Counting(tmp_path / "shared") as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_of_several_replicas_on_a_node_one_fetches_and_all_find_it(
    packed: ArchivePlan, server: _Counting, home: Path
) -> None:
    there = ArchivePlan(url=f"http://127.0.0.1:{server.server_port}/{packed.sha256}.tar", sha256=packed.sha256)
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        found = pool.starmap(node_bentos.find, [("s:1", there)] * 8)
    assert set(found) == {home / "ray-canary" / packed.sha256}
    assert server.gets == 1
