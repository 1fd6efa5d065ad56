"""Every example is a Deployment that can be deployed once the demo's Bentos are built."""

from pathlib import Path

import pytest

from ray_canary import config
from ray_canary.instances import Catalogue
from ray_canary.resolving import resolve
from ray_canary.serving import compile
from tests.unit.bento_store import demo_store

CONFIGS = Path(__file__).parents[2] / "configs"
DEPLOYMENTS = {
    "summarization.yaml": ("query", "feature", {"main": 50, "a": 20, "b": 30}),
    "header.yaml": ("header", "X-User-ID", {"main": 60, "a": 10, "b": 30}),
    "random.yaml": ("random", None, {"main": 60, "a": 10, "b": 30}),
}
COMPILED = {"canary.yaml", "single-application.yaml"}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_an_example_splits_as_it_says_and_compiles(name: str, tmp_path: Path) -> None:
    file = config.load(CONFIGS / name)
    assert file.warnings() == ()
    plan = resolve(file, demo_store(tmp_path), Catalogue.default())
    assert (plan.route_type, plan.route_by, plan.weights()) == DEPLOYMENTS[name]
    assert len(compile.serve_config(plan)["applications"]) == 4


def test_there_is_no_example_that_nobody_tests() -> None:
    assert {path.name for path in CONFIGS.iterdir()} == set(DEPLOYMENTS) | COMPILED


def test_the_examples_run_on_the_catalogue_in_cluster_too(tmp_path: Path) -> None:
    catalogue = Catalogue.load(CONFIGS.parent / "cluster" / "instance_types.yaml")
    for name in DEPLOYMENTS:
        resolve(config.load(CONFIGS / name), demo_store(tmp_path / name), catalogue)
