"""What was deployed is kept, and recognised."""

import copy
import json
from typing import Any

import pytest

from ray_canary.bentos import BentoStore
from ray_canary.errors import NotFound
from ray_canary.serving import revisions as module
from ray_canary.serving.compile import Config
from ray_canary.serving.release import Release
from ray_canary.serving.revisions import Revision, Revisions
from ray_canary.serving.state import Live
from tests.unit.memory_store import MemoryStore
from tests.unit.serving import details as shape
from tests.unit.serving.releases import bentos, plan


@pytest.fixture(scope="module")
def bento_store(tmp_path_factory: pytest.TempPathFactory) -> BentoStore:
    return bentos(tmp_path_factory.mktemp("bentos"))


@pytest.fixture
def release(bento_store: BentoStore) -> Release:
    return Release.of(plan(bento_store, a="s:2", b="s:3"))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def kept(store: MemoryStore) -> Revisions:
    return Revisions(store, "d")


def live(release: Release) -> Live:
    """Return a release as it stands on a cluster."""
    return shape.deployed({"applications": copy.deepcopy(release.applications)}).live()["d"]


def scaled(release: Release, application: str, **numbers: Any) -> Release:
    """Return a release with other numbers in the scaling of one application."""

    def one(config: Config) -> Config:
        changed = copy.deepcopy(config)
        if changed["name"] == application:
            changed["deployments"][0]["autoscaling_config"].update(numbers)
        return changed

    return Release(release.ingress, tuple(map(one, release.versions)), release.options)


def test_revisions_are_numbered_from_one_and_say_why_and_by_whom(kept: Revisions, release: Release) -> None:
    assert kept.add(release, "deploy") == 1
    assert kept.add(release.with_weights({"a": 50, "b": 0}), "weights a=50 b=0") == 2
    assert [(one.number, one.cause) for one in kept.all()] == [(1, "deploy"), (2, "weights a=50 b=0")]
    assert "@" in kept.get(1).created_by
    assert kept.get(1).release.same_as(release)


def test_the_newest_revision_is_not_kept_twice_but_an_earlier_one_is(kept: Revisions, release: Release) -> None:
    other = release.with_weights({"a": 1, "b": 1})
    assert [kept.add(one, "deploy") for one in (release, release, other, other, release)] == [1, 1, 2, 2, 3]


def test_an_edit_of_the_least_number_of_replicas_is_a_revision_of_its_own(kept: Revisions, release: Release) -> None:
    kept.add(release, "deploy")
    assert kept.add(scaled(release, "d-main", min_replicas=2, max_replicas=2), "deploy") == 2


def test_what_a_change_that_was_broken_off_has_left_is_no_revision_and_stands_before_the_one_that_it_would_have_made(
    kept: Revisions, release: Release, bento_store: BentoStore
) -> None:
    kept.add(release, "deploy")
    wanted = Release.of(plan(bento_store, a="s:4", b="s:3"))
    half = release.with_versions(wanted.versions)
    kept.begin(live(release), half)
    assert kept.active(live(half)) is None
    found = kept.halfway(live(half))
    assert found is not None
    assert (found.number, found.release.same_as(half)) == (2, True)
    assert kept.halfway(live(release)) is None
    kept.begin(live(half), half)
    again = kept.halfway(live(half))
    assert again is not None
    assert again.number == 2, "begun again, it still starts from the first"
    assert kept.add(wanted, "deploy") == 2
    assert kept.halfway(live(half)) is not None, "the change has a number, and is not there yet"
    kept.done()
    assert kept.halfway(live(half)) is None


def test_a_number_that_somebody_else_has_just_taken_is_passed_over(
    kept: Revisions, store: MemoryStore, release: Release
) -> None:
    kept.add(release, "deploy")
    taken = kept.get(1).record()
    earlier = kept.all
    kept.all = lambda: earlier()[:1]  # type: ignore[method-assign]
    store.put("revision/d/00000002", {**taken, "number": 2})
    assert kept.add(release.with_weights({"a": 3, "b": 3}), "weights") == 3


def test_only_so_many_are_kept_and_the_oldest_go_first(
    kept: Revisions, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT", 3)
    for weight in range(5):
        kept.add(release.with_weights({"a": weight, "b": 0}), "weights")
    assert [one.number for one in kept.all()] == [3, 4, 5]
    with pytest.raises(NotFound, match="d has no revision 1; there are 3 to 5"):
        kept.get(1)


def test_another_deployments_revisions_are_not_among_them(store: MemoryStore, release: Release) -> None:
    Revisions(store, "d-canary").add(release, "deploy")
    assert Revisions(store, "d").all() == []
    with pytest.raises(NotFound, match="d has no revision 1; there is none"):
        Revisions(store, "d").get(1)


def test_a_record_is_plain_json_and_reads_back_as_it_was(kept: Revisions, store: MemoryStore, release: Release) -> None:
    kept.add(release, "deploy")
    record = json.loads(store.texts["revision/d/00000001"])
    assert Revision.of(record).record() == record


def test_what_is_deployed_is_found_by_its_number(kept: Revisions, release: Release) -> None:
    for one in (release, release.with_weights({"a": 1, "b": 1}), release):
        kept.add(one, "deploy")
    assert kept.active(live(release.numbered(1))) == kept.get(1)
    assert kept.active(live(release.numbered(3))) == kept.get(3)


def test_what_plain_serve_deployed_is_found_by_what_it_asks_for(kept: Revisions, release: Release) -> None:
    kept.add(release, "deploy")
    kept.add(release.with_weights({"a": 1, "b": 1}), "weights")
    assert kept.active(live(release.numbered(None))) == kept.get(1)
    assert kept.active(live(release.numbered(2))) == kept.get(1), "the number is of what was there before"


def test_what_somebody_has_changed_by_hand_is_no_revision(kept: Revisions, release: Release) -> None:
    kept.add(release, "deploy")
    by_hand = release.with_weights({"a": 77, "b": 0}).numbered(1)
    assert kept.active(live(by_hand)) is None


def test_a_least_number_of_replicas_that_was_edited_by_hand_is_no_floor_and_stays(
    kept: Revisions, release: Release
) -> None:
    kept.add(release, "deploy")
    by_hand = scaled(release, "d-main", min_replicas=3, max_replicas=3).numbered(1)
    assert kept.active(live(by_hand)) is None
    assert kept.there(live(by_hand)).same_as(by_hand)


def test_a_floor_that_a_killed_rollout_left_raised_is_none_of_the_releases_own_numbers(
    kept: Revisions, release: Release
) -> None:
    kept.add(release, "deploy")
    kept.raising(release)
    raised = scaled(release, "d-canary-a", min_replicas=4, initial_replicas=4).numbered(1)
    assert kept.active(live(raised)) == kept.get(1)
    assert kept.there(live(raised)).floors() == release.floors()
    kept.lowered()
    assert kept.active(live(raised)) is None
