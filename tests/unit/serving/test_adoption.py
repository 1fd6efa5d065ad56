"""Which application serves which target."""

import copy
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_canary.bentos import BentoStore
from ray_canary.plan import Plan
from ray_canary.serving import compile
from ray_canary.serving.adoption import adopt, restore
from ray_canary.serving.changes import Effect
from ray_canary.serving.release import Release
from ray_canary.serving.rollout import preview
from ray_canary.serving.state import OnCluster
from tests.unit.serving import details as shape
from tests.unit.serving.releases import bentos, deployed, plan


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> BentoStore:
    return bentos(tmp_path_factory.mktemp("bentos"))


def places(plan: Plan) -> dict[str, tuple[str, str]]:
    return {key: (target.application, target.arm) for key, target in plan.targets.items()}


def effects(plan: Plan, cluster: OnCluster) -> dict[str, Effect]:
    return {change.application: change.effect for change in preview(plan, cluster) if change.deployment == "S"}


def test_on_a_cluster_without_the_deployment_everything_stands_where_its_role_says(store: BentoStore) -> None:
    empty = OnCluster.of(shape.details())
    assert places(adopt(plan(store, a="s:2"), empty)) == {"main": ("d-main", "main"), "a": ("d-canary-a", "a")}


def test_an_edit_of_a_version_is_an_update_in_place_that_moves_nobody(store: BentoStore) -> None:
    there = deployed(plan(store, a="s:2"))
    edited = plan(store, a="s:3")
    assert places(adopt(edited, there)) == places(plan(store, a="s:2"))
    assert effects(edited, there) == {"d-main": Effect.NONE, "d-canary-a": Effect.RESTART}


def test_a_file_that_swaps_main_and_a_version_points_elsewhere_and_restarts_nothing(store: BentoStore) -> None:
    there = deployed(plan(store, a="s:2"))
    swapped = plan(store, "s:2", a="s:1")
    assert places(adopt(swapped, there)) == {"main": ("d-canary-a", "a"), "a": ("d-main", "main")}
    assert set(effects(swapped, there).values()) == {Effect.NONE}


def test_a_file_whose_main_is_what_a_version_runs_promotes_that_version(store: BentoStore) -> None:
    there = deployed(plan(store, a="s:2"))
    assert places(adopt(plan(store, "s:2"), there)) == {"main": ("d-canary-a", "a")}
    assert effects(plan(store, "s:2"), there) == {"d-canary-a": Effect.NONE, "d-main": Effect.REMOVE}


def test_two_targets_that_run_the_same_stay_where_they_are(store: BentoStore) -> None:
    same = plan(store, a="s:1")
    assert places(adopt(same, deployed(same))) == places(same)


def promoted(store: BentoStore, **versions: str) -> Plan:
    """Return the plan of a file in which a has been promoted."""
    return plan(store, "s:2", {"applications": {"main": "d-canary-a"}, "arms": {"main": "a"}}, **versions)


def test_a_new_version_of_a_promoted_ones_name_has_an_application_and_an_arm_of_its_own(store: BentoStore) -> None:
    again = promoted(store, a="s:3")
    expected = {"main": ("d-canary-a", "a"), "a": ("d-canary-a-2", "a-2")}
    assert places(again) == expected
    assert places(adopt(again, deployed(promoted(store)))) == expected


def test_the_file_from_before_a_promotion_starts_what_is_gone_and_leaves_the_promoted_version_alone(
    store: BentoStore,
) -> None:
    there = deployed(promoted(store))
    old = plan(store, a="s:2")
    assert places(adopt(old, there)) == {"main": ("d-main", "main"), "a": ("d-canary-a", "a")}
    assert effects(old, there) == {"d-main": Effect.ADD, "d-canary-a": Effect.NONE}


def test_an_application_that_is_going_or_somebody_elses_is_no_place_for_a_version(store: BentoStore) -> None:
    config = compile.version_application(plan(store).targets["main"])
    going = shape.application("d-main", config=config, status="DELETING")
    theirs = shape.application("d-main-2", config={"name": "d-main-2", "import_path": "x:y"})
    there = deployed(promoted(store), going, theirs)
    assert places(adopt(plan(store, a="s:2"), there))["main"] == ("d-main-3", "main")


def test_a_version_that_an_interrupted_deploy_left_behind_is_taken_up_again(store: BentoStore) -> None:
    both = plan(store, a="s:2", b="s:3")
    left = shape.application("d-canary-b", config=compile.version_application(both.targets["b"]))
    there = deployed(plan(store, a="s:2"), left)
    assert places(adopt(both, there))["b"] == ("d-canary-b", "b")
    assert effects(both, there)["d-canary-b"] is Effect.NONE


def test_what_the_file_names_is_kept_whatever_runs(store: BentoStore) -> None:
    there = deployed(plan(store, a="s:2"))
    named = plan(store, "s:2", {"applications": {"main": "d-main"}, "arms": {"main": "m"}})
    assert places(adopt(named, there)) == {"main": ("d-main", "m")}


def test_a_revision_comes_back_with_its_arms_and_finds_what_still_runs(store: BentoStore) -> None:
    before = Release.of(plan(store, a="s:2", b="s:3"))
    back = restore(before, deployed(promoted(store, b="s:3")))
    found = {key: (target.application, target.arm) for key, target in back.settings.targets.items()}
    assert found == {"main": ("d-main", "main"), "a": ("d-canary-a", "a"), "b": ("d-canary-b", "b")}
    assert [one["name"] for one in back.versions] == ["d-main", "d-canary-a", "d-canary-b"]


BENTO = st.sampled_from(["s:1", "s:2", "s:3", "s:4"])
VERSIONS = st.dictionaries(st.sampled_from("abc"), BENTO)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(first=st.tuples(BENTO, VERSIONS), second=st.tuples(BENTO, VERSIONS))
def test_places_and_arms_are_never_shared_and_what_runs_on_is_never_restarted(
    store: BentoStore, first: tuple[str, dict[str, str]], second: tuple[str, dict[str, str]]
) -> None:
    there = deployed(plan(store, first[0], None, **first[1]))
    wanted = plan(store, second[0], None, **second[1])
    placed = adopt(wanted, there)
    for found in zip(*places(placed).values(), strict=True):
        assert len(set(found)) == len(found)
    Release.of(placed).settings  # noqa: B018  # validates
    ran, runs = [first[0], *first[1].values()], [second[0], *second[1].values()]
    shared = sum(min(ran.count(bento), runs.count(bento)) for bento in set(runs))
    kept = [effect for effect in effects(wanted, there).values() if effect is Effect.NONE]
    assert len(kept) == shared, "as many applications run on as both have in common"


def test_adopting_changes_nothing_of_the_plan_it_is_given(store: BentoStore, tmp_path: Path) -> None:
    wanted = plan(store, "s:2", a="s:1")
    before = copy.deepcopy(wanted)
    adopt(wanted, deployed(plan(store, a="s:2")))
    assert wanted == before
