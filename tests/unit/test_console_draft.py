"""Edits of a Deployment file in the console."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ray_canary.config import parse
from ray_canary.console.draft import Draft, envs_of, envs_text

FILE = yaml.safe_load((Path(__file__).parents[2] / "configs/summarization.yaml").read_text())
NAMES = st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True)
VALUES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=12)


def draft() -> Draft:
    return Draft(FILE)


def test_a_draft_that_nobody_edits_is_what_is_there() -> None:
    one = draft()
    assert not one.changed
    assert one.only_weights() is None
    assert yaml.safe_load(one.yaml()) == FILE


def test_main_has_what_the_versions_leave() -> None:
    assert draft().shares() == {"main": 50, "a": 20, "b": 30}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(-50, 300))))
def test_no_slider_makes_the_sum_exceed_100(moves: list[tuple[str, int]]) -> None:
    one = draft()
    for key, weight in moves:
        most = one.most(key)
        held = one.weigh(key, weight)
        assert held == min(max(weight, 0), most) == one.shares()[key]
        assert all(0 <= share <= 100 for share in one.shares().values())
        assert sum(one.shares().values()) == 100
    parse(one.data)


def test_a_change_of_weights_alone_is_known_as_such() -> None:
    one = draft()
    one.weigh("a", 40)
    assert one.only_weights() == {"a": 40}
    assert one.shell() == "ray-canary weights summarization-blel a=40"
    assert "set_weights('summarization-blel', {'a': 40})" in one.python()
    one.set_bento("b", "summarization:other")
    assert one.only_weights() is None
    assert one.shell() == "ray-canary deploy -f deployment.yaml"


@pytest.mark.parametrize(
    "edit",
    [
        lambda one: one.route("header", "X-User"),
        lambda one: one.set_bento("main", "summarization:new"),
        lambda one: one.set_instance_type("a", "Summarization", None),
        lambda one: one.set_scaling("main", "Summarization", "max_replicas", 7),
        lambda one: one.set_envs("b", "Summarization", [{"name": "X", "value": "1"}]),
        lambda one: one.add("c", "summarization:c"),
        lambda one: one.remove("a"),
        lambda one: one.canary_off(),
    ],
)
def test_an_edit_changes_its_own_keys_and_leaves_a_legal_file(edit: Any) -> None:
    one = draft()
    edit(one)
    assert one.changed
    assert one.base == FILE
    parse(one.data)
    untouched = ("name", "access_authorization")
    assert {key: one.data[key] for key in untouched} == {key: FILE[key] for key in untouched}
    overrides = one.data["services"]["Summarization"]["config_overrides"]
    assert overrides == FILE["services"]["Summarization"]["config_overrides"]


def test_a_setting_that_is_taken_out_leaves_no_empty_block() -> None:
    one = draft()
    one.set_scaling("a", "Summarization", "min_replicas", None)
    one.set_scaling("a", "Summarization", "max_replicas", None)
    assert one.service("a", "Summarization") == {
        "instance_type": "cpu.1",
        "envs": [{"name": "VAR_NAME", "value": "var_value"}],
    }
    one.set_instance_type("a", "Summarization", None)
    one.set_envs("a", "Summarization", [])
    assert "services" not in one.target("a")


def test_taking_a_setting_back_gives_the_draft_back() -> None:
    one = draft()
    one.set_instance_type("a", "Other", "cpu.1")
    assert one.changed
    one.set_instance_type("a", "Other", None)
    assert not one.changed


def test_the_first_version_switches_canary_mode_on_and_without_the_last_it_is_off() -> None:
    one = Draft({"name": "x", "bento": "x:1"})
    one.add("a", "x:2")
    assert one.data["canary"] == {"route_type": "random", "versions": {"a": {"bento": "x:2", "weight": 0}}}
    parse(one.data)
    one.remove("a")
    assert not one.changed


def test_a_version_that_is_there_is_not_added_again() -> None:
    one = draft()
    for key in ("a", "main"):
        with pytest.raises(ValueError, match=f"there is a version '{key}' already"):
            one.add(key, "x:1")


def test_a_split_at_random_goes_by_no_name() -> None:
    one = draft()
    one.route("random", "feature")
    assert one.route_by == ""
    parse(one.data)


def test_the_python_code_makes_the_same_file(tmp_path: Path) -> None:
    one = draft()
    one.set_bento("a", 'summarization:it\'s "new"')
    before = copy.deepcopy(one.data)
    told = "apply=lambda config_dict: print(json.dumps(config_dict))"
    stand_in = f"import json, types; deployment = types.SimpleNamespace({told})"
    code = one.python().replace("from ray_canary import deployment", stand_in)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert yaml.safe_load(done.stdout) == before


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_environment_variables_are_read_as_they_are_written(envs: dict[str, str]) -> None:
    listed = [{"name": name, "value": value} for name, value in envs.items()]
    assert envs_of(envs_text(listed)) == listed


@pytest.mark.parametrize(
    ("text", "message"),
    [("A=1\nsecret", "line 2 is not NAME=value"), ("=x", "line 1 is not"), ("A=1\nA=2", "line 2: A is there twice")],
)
def test_a_line_that_is_no_variable_is_named_without_its_value(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        envs_of(text)
    assert "secret" not in str(raised.value)


def test_a_variable_that_spans_lines_is_not_shown_as_if_it_were_several() -> None:
    with pytest.raises(ValueError, match="X spans several lines"):
        envs_text([{"name": "X", "value": "a\nB=c"}])
