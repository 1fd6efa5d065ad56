"""Changing what is on a cluster while somebody else does, too."""

from pathlib import Path

import pytest

from ray_canary import config
from ray_canary.bentos import BentoStore
from ray_canary.errors import DeployFailed
from ray_canary.instances import Catalogue
from ray_canary.resolving import resolve
from ray_canary.serving import compile
from ray_canary.serving.compile import Config
from ray_canary.serving.release import Release
from ray_canary.serving.rollout import Options, Rollout
from ray_canary.serving.state import OnCluster
from tests.unit.bento_store import write_bento
from tests.unit.serving import details as shape


class Contested:
    """A cluster on which somebody undoes every change at once."""

    def __init__(self, there: OnCluster) -> None:
        self.there = there
        self.submitted: list[Config] = []

    def state(self) -> OnCluster:
        return self.there

    def submit(self, config: Config) -> None:
        self.submitted.append(config)


def test_whoever_is_overtaken_by_another_change_is_told_so_at_once_and_goes_no_further(tmp_path: Path) -> None:
    write_bento(tmp_path, "s:1", {"S": {}})
    versions = {"a": {"bento": "s:1", "weight": 30}}
    data = {"name": "d", "bento": "s:1", "canary": {"route_type": "random", "versions": versions}}
    plan = resolve(config.parse(data), BentoStore(tmp_path), Catalogue.default())
    cluster = Contested(shape.deployed(compile.serve_config(plan)))
    release = Release.of_live(cluster.there.live()["d"]).with_weights({"a": 40})
    with pytest.raises(DeployFailed, match="Somebody else changed d in the meantime"):
        Rollout(cluster).put(release, cluster.there, "weights a=40", Options())  # type: ignore[arg-type]
    assert len(cluster.submitted) == 1


class Clock:
    """What time it is, seconds; it goes on only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Slow(Contested):
    """A cluster on which nothing goes, and which takes its time to say so."""

    LOOK_S = 0.4

    def __init__(self, there: OnCluster, clock: Clock) -> None:
        super().__init__(there)
        self.clock = clock
        self.looks: list[float] = []

    def state(self) -> OnCluster:
        self.looks.append(self.clock.now)
        self.clock.sleep(self.LOOK_S)
        return self.there


def test_a_cluster_that_is_slow_to_answer_is_asked_half_of_the_time_and_not_beyond_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("ray_canary.serving.rollout.time", clock)
    write_bento(tmp_path, "s:1", {"S": {}})
    plan = resolve(config.parse({"name": "d", "bento": "s:1"}), BentoStore(tmp_path), Catalogue.default())
    cluster = Slow(shape.deployed(compile.serve_config(plan)), clock)
    with pytest.raises(DeployFailed, match="Still there after 1.5 s"):
        Rollout(cluster).until_gone(frozenset({"d"}), 1.5)  # type: ignore[arg-type]
    # It rests for as long as it was looking, and the last look begins at the deadline.
    assert cluster.looks == pytest.approx([0, 0.8, 1.5])
