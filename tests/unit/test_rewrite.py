"""An edit that is written back into somebody's file leaves everything else as it is."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_canary import config, yamlfile
from ray_canary.edits import with_weights
from ray_canary.errors import ConfigError

FILE = """\
# Ask Ann before you touch this.
name: "blel"   # never changes
bento: s:1
envs:
  - name: SWITCH
    value: "on"
canary:
  route_type: random
  versions:
    a: {bento: "s:2", weight: 20}   # the new tokenizer
    b:
      bento: s:3
      # Not more than ten, says Bob.
      weight: 10
labels:
  - key: größe
    value: 0o10
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "blel.yaml"
    path.write_text(FILE, encoding="utf-8")
    return path


def edit(path: Path, **weights: int) -> str:
    yamlfile.rewrite(path, with_weights(config.load(path).to_dict(), weights))
    return path.read_text(encoding="utf-8")


def test_a_weight_changes_and_every_comment_and_quote_stays(path: Path) -> None:
    assert edit(path, a=30, b=5) == FILE.replace("weight: 20", "weight: 30").replace("weight: 10", "weight: 5")


def test_an_edit_that_changes_nothing_leaves_the_file_as_it_is(path: Path) -> None:
    assert edit(path) == FILE


def test_what_goes_and_what_comes_is_written(path: Path) -> None:
    data = config.load(path).to_dict()
    del data["canary"]["versions"]["a"]
    data["ray"] = {"arms": {"main": "a"}}
    yamlfile.rewrite(path, data)
    assert config.load(path).to_dict() == data
    assert "# Ask Ann" in path.read_text(encoding="utf-8")


def test_a_link_stays_a_link_and_the_files_mode_stays(path: Path, tmp_path: Path) -> None:
    path.chmod(0o640)
    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    edit(link, a=1)
    assert link.is_symlink()
    assert "weight: 1}" in path.read_text(encoding="utf-8")
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(one.name for one in tmp_path.iterdir()) == ["blel.yaml", "link.yaml"]


def test_what_can_not_be_written_is_said_and_nothing_is_left_behind(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ConfigError, match=r"blel\.yaml: can't be written: No space left on device"):
        edit(path, a=30)
    assert path.read_text(encoding="utf-8") == FILE
    assert [one.name for one in path.parent.iterdir()] == ["blel.yaml"]


TRAPS = st.sampled_from(
    ["on", "yes", "010", "0o10", "1e3", "~", "null", "1_000", "12:30", "a: b", "# x", "ü", " x", "'"]
)


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(value=st.one_of(TRAPS, st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1)))
def test_what_is_written_means_the_same_when_it_is_read_again(path: Path, value: str) -> None:
    path.write_text(FILE, encoding="utf-8")
    data = config.load(path).to_dict()
    data["envs"] = [{"name": "TRAP", "value": value}]
    yamlfile.rewrite(path, data)
    assert config.load(path).to_dict() == data
    edit(path, a=1)
    assert config.load(path).to_dict()["envs"] == data["envs"]
