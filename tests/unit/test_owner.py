"""Who keeps the Serve config: a RayService's next change would undo everybody else's, so these are refused."""

from pathlib import Path

import pytest
import yaml

from ray_canary import config, guarded
from ray_canary.errors import Conflict
from ray_canary.instances import Catalogue
from ray_canary.plan import Plan
from ray_canary.resolving import resolve
from ray_canary.serving import compile, kuberay
from ray_canary.serving.compile import Config
from tests.unit.bento_store import demo_store
from tests.unit.serving import details as shape

SUMMARIZATION = Path(__file__).parents[2] / "configs" / "summarization.yaml"
NAME = "summarization-blel"


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return resolve(config.load(SUMMARIZATION), demo_store(tmp_path), Catalogue.default())


@pytest.fixture
def owned(plan: Plan) -> Config:
    read: Config = yaml.safe_load(kuberay.serve_config(plan))
    return read


def test_a_config_that_was_rendered_has_an_owner_and_one_that_was_built_has_none(plan: Plan, owned: Config) -> None:
    assert shape.deployed(owned).live()[NAME].owner == f"RayService {NAME}"
    assert shape.deployed(compile.serve_config(plan)).live()[NAME].owner is None


def test_a_change_of_it_is_refused_with_who_and_what_to_do(owned: Config) -> None:
    with pytest.raises(Conflict) as refused:
        guarded.check_owner(shape.deployed(owned), NAME, "weights a=1")
    said = str(refused.value)
    assert f"RayService {NAME} keeps this cluster's Serve config" in said
    assert f"undo `weights a=1` of {NAME}" in said
    assert "kubectl apply" in said


def test_a_change_of_any_other_deployment_is_refused_too(owned: Config) -> None:
    with pytest.raises(Conflict):
        guarded.check_owner(shape.deployed(owned), "other", "deploy")


def test_it_is_refused_even_where_the_ingress_refuses_the_config(owned: Config) -> None:
    settings = compile.user_config(owned["applications"][0])
    settings["split"]["weights"]["nobody"] = 1
    cluster = shape.deployed(owned)
    assert cluster.live()[NAME].rejected
    with pytest.raises(Conflict):
        guarded.check_owner(cluster, NAME, "delete")


def test_without_an_owner_nobody_is_refused(plan: Plan) -> None:
    guarded.check_owner(shape.deployed(compile.serve_config(plan)), NAME, "weights a=1")
    guarded.check_owner(shape.deployed({"applications": []}), NAME, "deploy")
