"""Edits of a Deployment file as plain data."""

from typing import Any

from ray_canary import config, edits, inheritance


def file(standalone: list[str]) -> dict[str, Any]:
    versions = {
        "a": {"bento": "s:2", "weight": 10, "secrets": ["of-a"]},
        "b": {"bento": "s:3", "weight": 10, "secrets": ["of-b"]},
    }
    said = {"of-main": {"keys": ["M"]}, "of-a": {"keys": ["A"]}, "of-b": {"type": "file"}}
    return {
        "name": "s",
        "bento": "s:1",
        "secrets": ["of-main"],
        "canary": {"route_type": "random", "versions": versions},
        "ray": {"standalone": standalone, "secrets": said},
    }


def secrets(data: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the names of every target's secrets."""
    parsed = config.parse(data)
    assert parsed.canary is not None
    targets = {"main": None, **parsed.canary.versions}
    return {key: inheritance.secrets(parsed, version) for key, version in targets.items()}


def promote(data: dict[str, Any], key: str) -> dict[str, Any]:
    return edits.promoted(data, key, bento="s:2", applications={}, arms={}, services=["S"])


def test_a_version_that_stands_alone_has_its_own_secrets_only() -> None:
    assert secrets(file(["b"])) == {"main": ("of-main",), "a": ("of-main", "of-a"), "b": ("of-b",)}


def test_a_promoted_version_keeps_its_secrets_and_every_other_version_has_those_that_it_had() -> None:
    after = promote(file([]), "a")
    assert secrets(after) == {"main": ("of-main", "of-a"), "b": ("of-main", "of-b")}
    assert after["ray"]["standalone"] == ["b"]
    assert after["ray"]["secrets"] == file([])["ray"]["secrets"]


def test_what_was_said_of_a_secret_that_nobody_has_any_more_goes_with_its_last_version() -> None:
    after = promote(file(["a", "b"]), "a")
    assert secrets(after) == {"main": ("of-a",), "b": ("of-b",)}
    assert sorted(after["ray"]["secrets"]) == ["of-a", "of-b"]


# Bentos that were built or fetched. -----------------------------------------------------------------------------------


def test_paths_and_urls_become_the_tags_that_run_and_tags_stay_as_they_were_written() -> None:
    versions = {key: {"bento": bento, "weight": 1} for key, bento in (("a", "s3://b/x.bento"), ("b", "s:latest"))}
    data = {"name": "s", "bento": "./s", "canary": {"route_type": "random", "versions": versions}}
    found = edits.pinned(data, {"main": "s:1", "a": "s:2", "b": "s:3"})
    assert found["bento"] == "s:1"
    assert {key: version["bento"] for key, version in found["canary"]["versions"].items()} == {
        "a": "s:2",
        "b": "s:latest",
    }
    assert data["bento"] == "./s"
    assert edits.pinned({"name": "s", "bento": "./s"}, {}) == {"name": "s", "bento": "./s"}
