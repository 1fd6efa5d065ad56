"""Which Bentos the nodes lack, and what a push gives to a plan, without a cluster."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from ray_canary.bentos import BentoStore
from ray_canary.errors import ClusterError, ConfigError, NotOnNodes, PlanError
from ray_canary.plan import ArchivePlan, Plan
from ray_canary.serving import compile, node_stores, supply
from ray_canary.serving.adoption import adopt
from ray_canary.serving.changes import Effect
from ray_canary.serving.cluster import Cluster, Raylet
from ray_canary.serving.node_stores import NodeStore
from ray_canary.serving.rollout import preview
from ray_canary.serving.state import OnCluster
from ray_canary.serving.supply import Shipping
from tests.unit.serving import details as shape
from tests.unit.serving.releases import bentos, deployed, plan

ARCHIVE = ArchivePlan(url="file:///shared/x.tar", sha256="0" * 64)


@dataclass
class Nodes:
    """A cluster of nodes that lack some Bentos; remembers what it was asked for."""

    lacks: dict[str, list[str]]
    small: frozenset[str] = frozenset()
    broken: bool = False
    asked: list[list[str]] = field(default_factory=list)

    def raylets(self) -> tuple[Raylet, ...]:
        return tuple(Raylet(head, "192.0.2.1:6379", "/venv/bin/python") for head in (True, False))

    def run(self, command: str, timeout_s: float) -> str:
        python, _, module, *tags = command.split()
        assert (python, module) == ("/venv/bin/python", "ray_canary.serving.node_stores")
        self.asked.append(tags)
        if self.broken:
            raise ClusterError("The job failed.")
        lines = ["Some log line", *(self._line(name, tags) for name in self.lacks)]
        return "\n".join(lines)

    def _line(self, name: str, tags: Iterable[str]) -> str:
        cpus = 0.5 if name in self.small else 8.0
        said = {tag: f"Bento {tag} is not here" for tag in tags if tag in self.lacks[name]}
        return (
            f"(pid=1) ray-canary-node {json.dumps(asdict(NodeStore(name, name, {'CPU': cpus, 'memory': 2e10}, said)))}"
        )


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BentoStore:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_CANARY_BENTO_STORE", raising=False)
    return bentos(tmp_path / "home" / "bentos")


def supplied(plan: Plan, state: OnCluster, nodes: Nodes, how: Shipping = supply.NOTHING) -> tuple[Plan, list[str]]:
    notices: list[str] = []
    return supply.supplied(plan, cast(Cluster, nodes), state, how, notices.append), notices


def with_archive(plan: Plan, *keys: str, archive: ArchivePlan = ARCHIVE) -> Plan:
    changed = {key: plan.targets[key].model_copy(update={"archive": archive}) for key in keys}
    return plan.model_copy(update={"targets": {**plan.targets, **changed}})


def args(plan: Plan, key: str) -> dict[str, Any]:
    return compile.version_args(plan.targets[key])


EMPTY = OnCluster.of(shape.details())


def test_a_bento_that_nodes_lack_is_refused_with_the_bento_and_the_nodes(store: BentoStore) -> None:
    nodes = Nodes({"one": [], "two": ["s:2"], "three": ["s:2", "s:1"]})
    with pytest.raises(NotOnNodes) as raised:
        supplied(plan(store, a="s:2"), EMPTY, nodes)
    assert raised.value.exit_code == 2
    assert str(raised.value).splitlines() == [
        "bento: s:1 is missing on 1 node on which its replicas could start:",
        "  three (three): Bento s:1 is not here",
        "canary.versions.a.bento: s:2 is missing on 2 nodes on which its replicas could start:",
        "  two (two): Bento s:2 is not here",
        "  three (three): Bento s:2 is not here",
        "Nothing was changed. Deploy with --push, which ships it, or put it into these nodes' stores.",
    ]


def test_a_node_that_is_too_small_for_a_replica_need_not_have_its_bento(store: BentoStore) -> None:
    nodes = Nodes({"one": [], "two": ["s:1"]}, small=frozenset({"two"}))
    planned = plan(store)
    assert supplied(planned, EMPTY, nodes) == (planned, [])


def test_what_runs_on_unchanged_and_what_has_an_archive_is_not_asked_for(store: BentoStore) -> None:
    nodes = Nodes({"one": ["s:1", "s:2", "s:3"]})
    there = deployed(with_archive(plan(store, a="s:2"), "a"))
    supplied(plan(store, a="s:2"), there, nodes)
    assert nodes.asked == []
    with pytest.raises(NotOnNodes, match="s:3 is missing"):
        supplied(plan(store, a="s:3"), there, nodes)
    assert nodes.asked == [["s:3"]]


def test_if_the_nodes_cannot_be_asked_that_is_said_and_nothing_is_refused(store: BentoStore) -> None:
    planned = plan(store)
    found, notices = supplied(planned, EMPTY, Nodes({}, broken=True))
    assert found == planned
    assert notices == ["Whether every node has s:1 can't be asked. The job failed."]


def test_a_push_puts_every_new_bento_where_the_file_says_and_its_checksum_into_the_args(
    store: BentoStore, tmp_path: Path
) -> None:
    planned = plan(store, ray={"bento_store": str(tmp_path / "shared")}, a="s:2")
    found, notices = supplied(planned, EMPTY, Nodes({"one": []}), Shipping(push=True))
    for key in ("main", "a"):
        archive = args(found, key)["archive"]
        assert archive["url"] == f"file://{tmp_path}/shared/{archive['sha256']}.tar"
        file = Path(archive["url"].removeprefix("file://"))
        assert hashlib.sha256(file.read_bytes()).hexdigest() == archive["sha256"]
    assert len(list((tmp_path / "shared").iterdir())) == 2
    assert [notice.split(" to ")[0] for notice in notices] == ["Pushed s:1", "Pushed s:2"]


def test_a_second_push_of_the_same_uploads_nothing_and_restarts_nothing(store: BentoStore, tmp_path: Path) -> None:
    planned = plan(store, ray={"bento_store": str(tmp_path / "shared")})
    first, _ = supplied(planned, EMPTY, Nodes({"one": []}), Shipping(push=True))
    (file,) = (tmp_path / "shared").iterdir()
    before = file.stat()
    again, notices = supplied(planned, EMPTY, Nodes({"one": []}), Shipping(push=True))
    assert notices == [f"s:1 is at file://{file} already"]
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert args(again, "main") == args(first, "main")
    there = deployed(first)
    after, notices = supplied(planned, there, Nodes({"one": []}), Shipping(push=True))
    assert notices == ["Nothing to push: every Bento is where nodes fetch it from."]
    assert {change.effect for change in preview(after, there)} == {Effect.NONE}


def test_what_runs_without_a_pushed_bento_is_not_restarted_for_a_push_and_that_is_said(store: BentoStore) -> None:
    planned = plan(store)
    there = deployed(planned)
    after, (notice,) = supplied(planned, there, Nodes({"one": []}), Shipping(push=True, store="/shared"))
    assert notice.startswith(
        "Nothing to push: no node is known to lack a Bento, and what runs without a pushed one (main)"
    )
    assert "A node that joins later has to have it in its own store" in notice
    assert {change.effect for change in preview(after, there)} == {Effect.NONE}


def test_a_version_without_an_archive_has_the_args_that_it_always_had(store: BentoStore, tmp_path: Path) -> None:
    planned = plan(store, a="s:2", ray={"bento_store": str(tmp_path)})
    assert set(args(planned, "main")) == {"deployment", "bento", "entry_service", "services", "secrets"}
    assert args(planned, "main") == args(plan(store), "main")


def test_a_push_for_a_canary_leaves_a_main_that_every_node_has_as_it_is(store: BentoStore, tmp_path: Path) -> None:
    there = deployed(plan(store))
    how = Shipping(push=True, store=str(tmp_path / "shared"))
    found, _ = supplied(plan(store, a="s:2"), there, Nodes({"one": []}), how)
    assert {one.application: one.effect for one in preview(found, there) if one.deployment == "S"} == {
        "d-main": Effect.NONE,
        "d-canary-a": Effect.ADD,
    }
    assert "archive" in args(found, "a")


def test_a_push_restarts_a_running_version_only_where_a_node_lacks_its_bento_and_says_so(
    store: BentoStore, tmp_path: Path
) -> None:
    there = deployed(plan(store, a="s:2"))
    how = Shipping(push=True, store=str(tmp_path / "shared"))
    found, notices = supplied(plan(store, a="s:2"), there, Nodes({"one": [], "two": ["s:2"]}), how)
    assert notices[0] == "a restarts, so that nodes without s:2 can fetch it."
    assert {one.application: one.effect for one in preview(found, there) if one.deployment == "S"} == {
        "d-main": Effect.NONE,
        "d-canary-a": Effect.RESTART,
    }


def test_later_deploys_keep_the_archive_without_a_push(store: BentoStore) -> None:
    there = deployed(with_archive(plan(store, a="s:2"), "main", "a"))
    same = adopt(plan(store, a="s:2"), there)
    assert same.targets["main"].archive == same.targets["a"].archive == ARCHIVE
    assert {change.effect for change in preview(plan(store, a="s:2"), there)} == {Effect.NONE}
    assert adopt(plan(store, "s:2"), there).targets["main"].archive == ARCHIVE  # a, promoted by the file
    assert adopt(plan(store, "s:3"), there).targets["main"].archive is None


def test_an_archive_that_is_gone_is_pushed_again(store: BentoStore, tmp_path: Path) -> None:
    planned = plan(store, ray={"bento_store": str(tmp_path / "shared")})
    first, _ = supplied(planned, EMPTY, Nodes({"one": []}), Shipping(push=True))
    (file,) = (tmp_path / "shared").iterdir()
    file.unlink()
    again, _ = supplied(planned, deployed(first), Nodes({"one": []}), Shipping(push=True))
    assert file.exists()
    assert args(again, "main") == args(first, "main")


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    store: BentoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(store, ray={"bento_store": "/file/"})
    assert Shipping(True).place(planned) == "file:///file"
    monkeypatch.setenv("RAY_CANARY_BENTO_STORE", "s3://environment/x/")
    assert Shipping(True).place(planned) == "s3://environment/x"
    assert Shipping(True, "/option").place(planned) == "file:///option"


@pytest.mark.parametrize("said", ["somewhere", "https://host/x", "s3://me:hunter22@bucket/x"])
def test_a_place_that_cannot_be_used_is_refused_without_repeating_it(store: BentoStore, said: str) -> None:
    with pytest.raises(ConfigError, match=r"^--store: is not a folder that all nodes share") as raised:
        Shipping(True, said).place(plan(store))
    assert "hunter22" not in str(raised.value)


def test_a_push_to_nowhere_is_refused(store: BentoStore) -> None:
    with pytest.raises(ConfigError, match=r"ray.bento_store: says nowhere to push to; give --store or"):
        supplied(plan(store), EMPTY, Nodes({"one": []}), Shipping(push=True))


def test_a_model_that_is_not_here_is_named_and_nothing_is_pushed(store: BentoStore, tmp_path: Path) -> None:
    manifest = store.path / "s" / "2" / "bento.yaml"
    models = [{"tag": "iris:v1"}, {"tag": "org/llm:abc", "registry": "huggingface"}]
    manifest.write_text(yaml.safe_dump({**yaml.safe_load(manifest.read_text()), "models": models}))
    with pytest.raises(PlanError) as raised:
        supplied(plan(store, a="s:2"), EMPTY, Nodes({"one": []}), Shipping(True, str(tmp_path / "shared")))
    assert str(raised.value).startswith("canary.versions.a.bento: s:2 refers to the model iris:v1, which is not in ")
    model = store.path.parent / "models" / "iris" / "v1"
    model.mkdir(parents=True)
    (model / "model.yaml").write_text("name: iris")
    _, notices = supplied(plan(store, a="s:2"), EMPTY, Nodes({"one": []}), Shipping(True, str(tmp_path / "shared")))
    assert any("refers to org/llm:abc, which each node fetches from Hugging Face" in notice for notice in notices)


def test_what_nodes_say_is_read_out_of_a_jobs_log() -> None:
    said = NodeStore("n1", "192.0.2.1", {"CPU": 1.0}, {"s:1": "x"})
    log = Nodes({"n1": []}).run(node_stores.command("/venv/bin/python", ["s:1"]), 1)
    assert [node.id for node in node_stores.read(log)] == ["n1"]
    assert said.name == "192.0.2.1 (n1)"
