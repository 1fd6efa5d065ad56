"""What an ingress accepts as its `user_config`, and the one line it says about what it doesn't."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from ray_canary.serving.settings import IngressSettings, problems
from ray_canary.splitter import Splitter
from tests.unit.serving.fakes import target_config, user_config


def said(config: Any) -> str:
    """Return what is said about a wrong `user_config`."""
    with pytest.raises(ValidationError) as caught:
        IngressSettings.model_validate(config)
    return problems(caught.value)


def without(config: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != key}


def main(**given: Any) -> dict[str, Any]:
    """Return a `user_config` whose main target has these settings."""
    return user_config({}, targets={"main": target_config(**given)})


THE_KEYS = ", ".join(IngressSettings.model_fields)

WRONG: dict[str, tuple[Any, str]] = {
    "nothing": (None, "user_config: null is not a mapping"),
    "a list": ([], "user_config: a list is not a mapping"),
    "empty": ({}, "deployment: is required; split: is required; targets: is required"),
    "an unknown key": (user_config(splits={}), "splits: is not a known key; did you mean 'split'?"),
    "an unknown key like no other": (user_config(zzz=1), f"zzz: is not a known key; the keys here are {THE_KEYS}"),
    "a key of another block": (
        {**user_config(), "weights": {}},
        "weights: is not a known key; it belongs under 'split'",
    ),
    "an unknown key of the split": (
        user_config(split={"route_typ": "random"}),
        "split.route_typ: is not a known key; did you mean 'route_type'?",
    ),
    "an unknown key of a target": (
        main(timeout=3),
        "targets.main.timeout: is not a known key; did you mean 'timeout_s'?",
    ),
    "no split": (without(user_config(), "split"), "split: is required"),
    "a split that is a text": (
        {**user_config(), "split": "a=20"},
        'split: "a=20" is not a mapping',
    ),
    "no deployment": (without(user_config(), "deployment"), "deployment: is required"),
    "a deployment that is a number": (user_config(deployment=7), "deployment: 7 is not text; quote it"),
    "an unknown route type": (
        user_config(split={"route_type": "headers"}),
        "split.route_type: \"headers\" is not random, header or query; did you mean 'header'?",
    ),
    "another scheme": (user_config(split={"scheme": 2}), "split.scheme: 2: Input should be 1"),
    "a header split without a header": (
        user_config(split={"route_type": "header"}),
        "split: route_type header needs route_by",
    ),
    "a query split with an empty name": (
        user_config(split={"route_type": "query", "route_by": ""}),
        "split: route_type query needs route_by",
    ),
    "a header's name in Greek": (
        user_config(split={"route_type": "header", "route_by": "Χ-User"}),
        'split: route_by: "Χ-User" is not the name of a header',
    ),
    "a header's name with a colon": (
        user_config(split={"route_type": "header", "route_by": "X-User:"}),
        'split: route_by: "X-User:" is not the name of a header',
    ),
    "a name that is no text": (
        user_config(split={"route_type": "query", "route_by": 5}),
        "split.route_by: 5 is not text; quote it",
    ),
    "a weight over 100": (user_config({"a": 101}), "split.weights.a: 101 is not a whole number from 0 to 100"),
    "a weight below 0": (user_config({"a": -1}), "split.weights.a: -1 is not a whole number from 0 to 100"),
    "a boolean weight": (user_config({"a": True}), "split.weights.a: true is not a whole number from 0 to 100"),
    "a weight with a point": (user_config({"a": 20.0}), "split.weights.a: 20.0 is not a whole number from 0 to 100"),
    "a weight in quotes": (
        user_config({"a": "20"}),
        'split.weights.a: "20" is not a whole number from 0 to 100; take the quotes off',
    ),
    "a weight of nothing": (user_config({"a": None}), "split.weights.a: null is not a whole number from 0 to 100"),
    "weights that add up to more": (
        user_config({"a": 60, "b": 41}),
        "split: weights add up to 101; at most 100 is possible, and main gets the rest",
    ),
    "a weight for main": (
        {**user_config(), "split": {"route_type": "random", "weights": {"main": 50}}},
        "split: weights: leave main out, it gets what the others leave of 100",
    ),
    "weights that are a list": (user_config(split={"weights": [20]}), "split.weights: a list is not a mapping"),
    "a weight for nobody": (
        {**user_config({"a": 20}), "targets": {"main": target_config()}},
        'user_config: split.weights: "a" is not a target; the targets are main',
    ),
    "targets without main": (
        {**user_config({"a": 20}), "targets": {"a": target_config("a")}},
        "user_config: targets: main is missing",
    ),
    "no targets at all": (user_config(targets={}), "user_config: targets: main is missing"),
    "two targets with one arm": (
        user_config(
            {"a": 20, "b": 0}, targets={k: target_config(v) for k, v in (("main", "m"), ("a", "x"), ("b", "x"))}
        ),
        'user_config: targets: a and b have the same arm, "x"',
    ),
    "main's arm for a canary": (
        user_config({"a": 20}, targets={"main": target_config("x"), "a": target_config("x")}),
        'user_config: targets: main and a have the same arm, "x"',
    ),
    "a target that is nothing": (user_config({}, targets={"main": None}), "targets.main: null is not a mapping"),
    "a target without an arm": (
        user_config({}, targets={"main": without(target_config(), "arm")}),
        "targets.main.arm: is required",
    ),
    "no time": (main(timeout_s=0), "targets.main.timeout_s: 0 is not a number of seconds above 0"),
    "less than no time": (main(timeout_s=-1.5), "targets.main.timeout_s: -1.5 is not a number of seconds above 0"),
    "endless time": (main(timeout_s=math.inf), "targets.main.timeout_s: inf is not a number of seconds above 0"),
    "time that is not a number": (
        main(timeout_s=math.nan),
        "targets.main.timeout_s: nan is not a number of seconds above 0",
    ),
    "time that is true": (main(timeout_s=True), "targets.main.timeout_s: true is not a number of seconds above 0"),
    "no capacity": (main(capacity=0), "targets.main.capacity: 0 is not a whole number, 1 or more"),
    "a flag in quotes": (
        main(scales_to_zero="no"),
        'targets.main.scales_to_zero: "no" is not true or false',
    ),
    "a limit below 0": (user_config(max_body_bytes=-1), "max_body_bytes: -1 is not a whole number, 0 or more"),
    "no wait at all": (user_config(target_wait_s=0), "target_wait_s: 0 is not a number of seconds above 0"),
    "no ingress": (user_config(ingress_replicas=0), "ingress_replicas: 0 is not a whole number, 1 or more"),
    "a file that is a text": (user_config(file="name: d"), 'file: "name: d" is not a mapping'),
    "two mistakes": (
        user_config({"a": 101}, terminated=1),
        "split.weights.a: 101 is not a whole number from 0 to 100; terminated: 1 is not true or false",
    ),
    "a line break in a key": (
        user_config({}, **{"a\nb": 1}),
        f'["a\\nb"]: is not a known key; the keys here are {THE_KEYS}',
    ),
}


@pytest.mark.parametrize(("config", "line"), WRONG.values(), ids=WRONG)
def test_a_wrong_user_config_is_refused_in_one_line_that_says_where_and_why(config: Any, line: str) -> None:
    assert said(config) == line
    assert "\n" not in line


@pytest.mark.parametrize("key", [7, None, True, b"x"])
def test_a_key_that_is_no_text_is_refused_in_one_line(key: Any) -> None:
    for config in ({**user_config(), key: 1}, user_config(split={"weights": {key: 1}}), user_config(targets={key: 1})):
        assert len(said(config).splitlines()) == 1


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ({}, {"main": 100}),
        ({"a": 0}, {"main": 100, "a": 0}),
        ({"a": 20}, {"main": 80, "a": 20}),
        ({"a": 20, "b": 30}, {"main": 50, "a": 20, "b": 30}),
        ({"a": 100}, {"main": 0, "a": 100}),
        ({f"v{n}": 1 for n in range(100)}, {"main": 0, **{f"v{n}": 1 for n in range(100)}}),
    ],
)
def test_main_gets_what_the_weights_leave_of_100(weights: dict[str, int], shares: dict[str, int]) -> None:
    settings = IngressSettings.model_validate(user_config(weights))
    assert settings.split.shares() == shares
    assert list(settings.split.shares())[0] == "main"


@pytest.mark.parametrize(
    "config",
    [
        user_config({}),
        user_config({"a": 20}),
        user_config({"a": 100, "b": 0}),
        user_config({"main-2": 1}, targets={"main": target_config("x"), "main-2": target_config("main")}),
        user_config({}, targets={"main": target_config("a"), "a": target_config("a")}),
        main(application=None, timeout_s=0.001, cold_start_timeout_s=1),
        user_config(split={"route_type": "query", "route_by": "größe +&"}),
        user_config(split={"route_type": "header", "route_by": "X-User_ID.2"}),
        user_config(file={"name": "d", "canary": None}, terminated=True, max_body_bytes=0),
    ],
)
def test_what_is_accepted_makes_a_splitter_and_survives_json(config: dict[str, Any]) -> None:
    settings = IngressSettings.model_validate(config)
    Splitter(settings.split.shares(), settings.deployment, arms=settings.arms())
    assert IngressSettings.model_validate(settings.model_dump(mode="json")) == settings


def test_a_target_without_a_share_may_have_the_arm_of_another() -> None:
    targets = {"main": target_config("a"), "a": target_config("a")}
    assert IngressSettings.model_validate(user_config({}, targets=targets)).arms() == {"main": "a"}


def test_settings_can_not_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(IngressSettings.model_validate(user_config()), "max_body_bytes", 1)  # noqa: B010  # mypy refuses the other
