"""A version that failed is tried again when it is deployed again, and nothing else restarts for it."""

import copy
from pathlib import Path
from typing import Any

import pytest

from ray_canary import config
from ray_canary.bentos import BentoStore
from ray_canary.instances import Catalogue
from ray_canary.plan import Plan
from ray_canary.resolving import resolve
from ray_canary.serving import compile
from ray_canary.serving.changes import Effect
from ray_canary.serving.release import Release
from ray_canary.serving.rollout import preview, wanted
from ray_canary.serving.state import OnCluster
from tests.unit.bento_store import write_bento
from tests.unit.serving import details as shape


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    write_bento(tmp_path, "s:1", {"S": {}})
    write_bento(tmp_path, "s:2", {"S": {}})
    versions = {"a": {"bento": "s:1", "weight": 30}}
    data = {"name": "d", "bento": "s:1", "canary": {"route_type": "random", "versions": versions}}
    return resolve(config.parse(data), BentoStore(tmp_path), Catalogue.default())


def cluster(plan: Plan, status: str, attempt: int = 0, **args: Any) -> OnCluster:
    """Return a cluster on which version a has a status, after so many further attempts."""
    there = copy.deepcopy(compile.version_application(plan.targets["a"]))
    there["args"] |= {**({"attempt": attempt} if attempt else {}), **args}
    part = shape.deployment("S", status="DEPLOY_FAILED" if status == "DEPLOY_FAILED" else "HEALTHY")
    a = shape.application("d-canary-a", part, config=there, status=status)
    return shape.deployed(compile.serve_config(plan), d_canary_a=a)


def attempt_of_a(plan: Plan, there: OnCluster) -> int:
    args = {application["name"]: application["args"] for application in wanted(Release.of(plan), there)}
    assert "attempt" not in args["d-main"]
    return int(args["d-canary-a"].get("attempt", 0))


def test_a_version_that_failed_is_tried_again_when_the_same_file_is_deployed_again(plan: Plan) -> None:
    there = cluster(plan, "DEPLOY_FAILED")
    assert attempt_of_a(plan, there) == 1
    restarted = {change.application for change in preview(plan, there) if change.effect is Effect.RESTART}
    assert restarted == {"d-canary-a"}


def test_it_is_tried_again_as_often_as_it_fails(plan: Plan) -> None:
    assert attempt_of_a(plan, cluster(plan, "DEPLOY_FAILED", attempt=2)) == 3


def test_a_version_that_runs_after_a_further_attempt_does_not_restart(plan: Plan) -> None:
    there = cluster(plan, "RUNNING", attempt=2)
    assert attempt_of_a(plan, there) == 2
    assert {change.effect for change in preview(plan, there)} == {Effect.NONE}


def test_a_version_that_runs_another_bento_now_counts_from_nothing(plan: Plan) -> None:
    assert attempt_of_a(plan, cluster(plan, "DEPLOY_FAILED", attempt=2, bento="s:2")) == 0
