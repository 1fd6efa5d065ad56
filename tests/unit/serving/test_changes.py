"""What a new config would restart: Serve's rules, row by row (facts/ray_serve.md 1.1 and 1.2)."""

import copy
from typing import Any

import pytest

from ray_canary.serving.changes import Change, Effect, changes, restarts

DEPLOYMENT: dict[str, Any] = {
    "name": "S",
    "max_ongoing_requests": 10,
    "autoscaling_config": {"min_replicas": 1, "max_replicas": 2},
    "ray_actor_options": {"num_cpus": 1},
    "user_config": {"x": 1},
}
OTHER: dict[str, Any] = {**DEPLOYMENT, "name": "T"}
APPLICATION: dict[str, Any] = {
    "name": "app",
    "route_prefix": "/",
    "import_path": "m:app",
    "args": {"x": 1},
    "deployments": [DEPLOYMENT, OTHER],
}


def effects(after: Any, before: Any = APPLICATION) -> dict[str, Effect]:
    found = changes({"app": before} if before else {}, {"app": after} if after else {})
    assert {change.application for change in found} <= {"app"}
    return {change.deployment: change.effect for change in found}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("args", {"x": 2}),
        ("import_path", "m:other"),
        ("runtime_env", {"env_vars": {"X": "1"}}),
        ("autoscaling_policy", {"policy_function": "m:f"}),
    ],
)
def test_an_applications_code_restarts_all_of_its_deployments(key: str, value: Any) -> None:
    assert effects({**APPLICATION, key: value}) == {"S": Effect.RESTART, "T": Effect.RESTART}
    (one, _) = changes({"app": APPLICATION}, {"app": {**APPLICATION, key: value}})
    assert one.because == (key,)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("request_router_config", {"request_router_class": "m:R"}),
        ("request_router_config", {}),
        ("deployment_actors", [{"name": "x"}]),
        ("autoscaling_config", None),
        ("autoscaling_config", {**DEPLOYMENT["autoscaling_config"], "policy": {"policy_function": "m:f"}}),
    ],
)
def test_the_presence_and_policy_of_some_blocks_restart_all_deployments_of_the_application(
    key: str, value: Any
) -> None:
    changed = {**DEPLOYMENT, key: value}
    if value is None:
        del changed[key]
    assert effects({**APPLICATION, "deployments": [changed, OTHER]}) == {"S": Effect.RESTART, "T": Effect.RESTART}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ray_actor_options", {"num_cpus": 2}),
        ("ray_actor_options", {"num_cpus": 1, "runtime_env": {"env_vars": {"X": "1"}}}),
        ("placement_group_bundles", [{"CPU": 1}]),
        ("placement_group_strategy", "PACK"),
        ("max_replicas_per_node", 1),
        ("gang_scheduling_config", {"gang_size": 2}),
    ],
)
def test_a_deployments_actor_options_restart_that_deployment(key: str, value: Any) -> None:
    changed = {**DEPLOYMENT, key: value}
    assert effects({**APPLICATION, "deployments": [changed, OTHER]}) == {"S": Effect.RESTART, "T": Effect.NONE}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("user_config", {"x": 2}),
        ("max_ongoing_requests", 20),
        ("graceful_shutdown_wait_loop_s", 5),
        ("logging_config", {"log_level": "DEBUG"}),
        ("autoscaling_config", {"min_replicas": 2, "max_replicas": 4}),
        ("num_replicas", 2),
        ("max_queued_requests", 9),
        ("rolling_update_percentage", 0.5),
        ("max_surge_percent", 100),
        ("graceful_shutdown_timeout_s", 9),
        ("health_check_period_s", 9),
        ("max_constructor_retry_count", 3),
    ],
)
def test_a_deployments_other_keys_change_live(key: str, value: Any) -> None:
    changed = {**DEPLOYMENT, key: value}
    found = changes({"app": APPLICATION}, {"app": {**APPLICATION, "deployments": [changed, OTHER]}})
    assert found == (Change("app", "S", Effect.LIVE, (key,)), Change("app", "T", Effect.NONE))
    assert not restarts(found, "app")


def test_blocks_in_another_order_restart_only_if_their_contents_differ() -> None:
    assert effects({**APPLICATION, "deployments": [OTHER, DEPLOYMENT]}) == {"S": Effect.NONE, "T": Effect.NONE}


@pytest.mark.parametrize("empty", [{}, None])
def test_an_empty_block_is_as_good_as_none(empty: Any) -> None:
    assert set(effects({**APPLICATION, "runtime_env": empty}).values()) == {Effect.NONE}


def test_the_same_config_changes_nothing() -> None:
    assert set(effects(copy.deepcopy(APPLICATION)).values()) == {Effect.NONE}


def test_a_new_application_is_added_and_one_left_out_is_removed() -> None:
    assert effects(APPLICATION, before=None) == {"S": Effect.ADD, "T": Effect.ADD}
    assert effects(None) == {"S": Effect.REMOVE, "T": Effect.REMOVE}


def test_a_deployment_that_comes_or_goes_inside_an_application_is_added_or_removed() -> None:
    one, two = {**APPLICATION, "deployments": [DEPLOYMENT]}, APPLICATION
    assert effects(two, before=one) == {"S": Effect.RESTART, "T": Effect.ADD}
    assert effects(one, before=two) == {"S": Effect.RESTART, "T": Effect.REMOVE}


def test_an_application_without_deployments_in_its_config_is_compared_too() -> None:
    bare = {"name": "app", "import_path": "m:app"}
    assert changes({"app": bare}, {"app": bare}) == ()


def test_each_application_is_judged_by_itself() -> None:
    changed = {**APPLICATION, "args": {"x": 2}}
    found = changes({"one": APPLICATION, "two": APPLICATION}, {"one": changed, "two": APPLICATION})
    assert restarts(found, "one")
    assert not restarts(found, "two")
