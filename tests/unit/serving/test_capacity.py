"""How many replicas a version gets before its share grows, and how Serve goes on from there."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_canary import config
from ray_canary.bentos import BentoStore
from ray_canary.instances import Catalogue
from ray_canary.resolving import resolve
from ray_canary.serving import capacity, compile
from ray_canary.serving.compile import Config
from ray_canary.serving.release import Release
from ray_canary.serving.state import Live
from tests.unit.bento_store import write_bento
from tests.unit.serving import details as shape

SCALING = {"min_replicas": 1, "max_replicas": 4}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Return main and two versions, a and b, at 10 % each, compiled."""
    home = tmp_path_factory.mktemp("bentoml")
    write_bento(home, "s:1", {"S": {}})
    versions = {key: {"bento": "s:1", "weight": 10} for key in "ab"}
    data = {
        "name": "d",
        "bento": "s:1",
        "services": {"S": {"scaling": SCALING, "config_overrides": {"traffic": {"concurrency": 2}}}},
        "canary": {"route_type": "random", "versions": versions},
    }
    return compile.serve_config(resolve(config.parse(data), BentoStore(home), Catalogue.default()))


def live(compiled: Config, running: dict[str, int], scaling: dict[str, dict[str, Any]] | None = None) -> Live:
    """Return the Deployment as it runs: so many replicas of each target, and what its scaling has otherwise."""
    instead = {}
    for application in compiled["applications"][1:]:
        key = application["name"].rpartition("-")[2]
        part = application["deployments"][0]
        own = {**application, "deployments": [{**part, "autoscaling_config": dict(part["autoscaling_config"])}]}
        own["deployments"][0]["autoscaling_config"].update((scaling or {}).get(key, {}))
        replicas = [shape.replica(id=f"{key}{number}") for number in range(running.get(key, 1))]
        instead[application["name"].replace("-", "_")] = shape.application(
            application["name"], shape.deployment("S", *replicas), config=own
        )
    return shape.deployed(compiled, **instead).live()["d"]


def needs(there: Live, **weights: int) -> dict[str, int]:
    """Return how many replicas each version needs for other weights."""
    release = Release.of_live(there).with_weights({"a": 10, "b": 10, **weights})
    return {need.application: need.replicas for need in capacity.needs(there, release)}


# How many. ------------------------------------------------------------------------------------------------------------


def test_a_version_gets_its_share_of_what_all_have_replicas_for(compiled: Config) -> None:
    there = live(compiled, {"main": 4, "a": 1, "b": 1})
    # All six replicas take 12 requests at once; half of them are 6, for which a needs 3 replicas.
    assert needs(there, a=50) == {"d-canary-a": 3}
    assert needs(there, a=51) == {"d-canary-a": 4}


def test_it_gets_no_more_than_its_most_and_no_fewer_than_its_least(compiled: Config) -> None:
    assert needs(live(compiled, {"main": 20}), a=80) == {"d-canary-a": 4}
    idle = live(compiled, {}, {"a": {"min_replicas": 3}})
    assert needs(idle, a=11) == {"d-canary-a": 3}


def test_a_version_that_may_stand_at_zero_gets_one(compiled: Config) -> None:
    asleep = live(compiled, {"a": 0}, {"a": {"min_replicas": 0}})
    assert needs(asleep, a=11) == {"d-canary-a": 1}


def test_a_replica_that_takes_more_at_once_counts_for_more(compiled: Config) -> None:
    strong = live(compiled, {"main": 4}, {"main": {"target_ongoing_requests": 8.0}})
    assert needs(strong, a=10, b=20) == {"d-canary-b": 4}
    assert needs(live(compiled, {"main": 4}), a=10, b=20) == {"d-canary-b": 2}


def test_main_gets_replicas_too_when_it_gets_a_share_back(compiled: Config) -> None:
    there = live(compiled, {"main": 1, "a": 4, "b": 1})
    assert needs(there, a=0) == {"d-main": 4}


def test_a_version_that_is_new_gets_replicas_for_its_whole_share(compiled: Config) -> None:
    there = live(compiled, {"main": 4, "b": 0})
    weights = there.settings.split.weights
    assert needs(there, b=weights["b"] + 40) == {"d-canary-b": 3}


# What is done about it. -----------------------------------------------------------------------------------------------


def floors(application: Config) -> tuple[int, int | None, int]:
    scaling = application["deployments"][0]["autoscaling_config"]
    return scaling["min_replicas"], scaling["initial_replicas"], scaling["max_replicas"]


def test_only_what_is_short_is_raised_and_the_release_itself_keeps_its_own_numbers(compiled: Config) -> None:
    there = live(compiled, {"main": 4, "a": 1, "b": 4})
    release = Release.of_live(there).with_weights({"a": 50, "b": 30})
    found = capacity.needs(there, release)
    assert {need.application: need.short for need in found} == {"d-canary-a": True, "d-canary-b": False}
    raised = {one["name"]: floors(one) for one in capacity.raised(list(release.versions), found)}
    assert raised == {"d-main": (1, None, 4), "d-canary-a": (4, 4, 4), "d-canary-b": (1, None, 4)}
    assert {floors(one) for one in release.versions} == {(1, None, 4)}


def test_when_the_floor_goes_the_replicas_stay_though_serve_starts_again_from_initial_replicas(
    compiled: Config,
) -> None:
    asleep = {"min_replicas": 0, "initial_replicas": 1}
    there = live(compiled, {"main": 4, "a": 0, "b": 1}, {"a": asleep})
    release = Release.of_live(there).with_weights({"a": 50, "b": 30})
    found = capacity.needs(there, release)
    kept = {one["name"]: floors(one) for one in capacity.kept(list(release.versions), found)}
    assert kept == {"d-main": (1, None, 4), "d-canary-a": (0, 3, 4), "d-canary-b": (1, None, 4)}


@pytest.mark.parametrize(("window_s", "quickly"), [(0, True), (59, True), (60, False), (600, False)])
def test_new_replicas_are_held_until_serve_has_seen_their_load_where_it_could_take_them_away_before(
    compiled: Config, window_s: int, quickly: bool
) -> None:
    there = live(compiled, {"main": 4}, {"a": {"downscale_delay_s": float(window_s)}})
    release = Release.of_live(there).with_weights({"a": 80, "b": 10})
    assert capacity.sinks_quickly(release, capacity.needs(there, release)) is quickly
    assert not capacity.sinks_quickly(release, ())


counts = st.integers(0, 6)
aims = st.integers(1, 9)
ranges = st.tuples(st.integers(0, 5), st.integers(1, 8)).filter(lambda two: two[0] <= two[1])


@st.composite
def weights(draw: st.DrawFn) -> dict[str, int]:
    a = draw(st.integers(0, 100))
    return {"a": a, "b": draw(st.integers(0, 100 - a))}


@given(
    running=st.fixed_dictionaries({"main": counts, "a": counts, "b": counts}),
    aim=st.fixed_dictionaries({"main": aims, "a": aims, "b": aims}),
    least_most=st.fixed_dictionaries({"main": ranges, "a": ranges, "b": ranges}),
    before=weights(),
    after=weights(),
)
def test_whatever_runs_only_growing_versions_get_replicas_enough_for_their_share_and_within_their_range(
    compiled: Config,
    running: dict[str, int],
    aim: dict[str, int],
    least_most: dict[str, tuple[int, int]],
    before: dict[str, int],
    after: dict[str, int],
) -> None:
    scaling = {
        key: {"target_ongoing_requests": float(aim[key]), "min_replicas": least, "max_replicas": most}
        for key, (least, most) in least_most.items()
    }
    there = live(compiled, running, scaling)
    start = Release.of_live(there).with_weights(before)
    ingress = shape.application(
        "d",
        shape.deployment("Ingress", shape.replica(), user_config=compile.user_config(start.ingress)),
        config=start.ingress,
        route_prefix="/",
    )
    there = Live(type(there.ingress).of(ingress), there.applications, there.http)
    release = start.with_weights(after)
    found = {need.application: need for need in capacity.needs(there, release)}

    shares = {"main": 100 - sum(after.values()), **after}
    old = {"main": 100 - sum(before.values()), **before}
    names = {"main": "d-main", "a": "d-canary-a", "b": "d-canary-b"}
    assert set(found) == {names[key] for key in shares if shares[key] > old[key]}
    load = sum(running[key] * aim[key] for key in running if old[key])
    for key, name in names.items():
        if need := found.get(name):
            least, most = least_most[key]
            assert max(least, 1) <= need.replicas <= most
            assert need.replicas >= most or need.replicas * aim[key] >= load * shares[key] / 100 - 1e-6
            assert need.running == running[key]
    for one in capacity.raised(list(release.versions), tuple(found.values())):
        (key,) = (key for key, name in names.items() if name == one["name"])
        need = found.get(one["name"])
        least, most = least_most[key]
        assert floors(one)[2] == most
        assert floors(one)[0] == (max(least, need.replicas) if need and need.short else least)


# Serve's own. ---------------------------------------------------------------------------------------------------------


@given(current=st.integers(1, 20), each=st.floats(0, 50), concurrency=st.integers(1, 32))
def test_serve_scales_by_the_documented_formula(compiled: Config, current: int, each: float, concurrency: int) -> None:
    """ceil(current x a replica's average concurrency / concurrency), as on BentoCloud; bounds and windows follow."""
    from ray.serve import autoscaling_policy
    from ray.serve.config import AutoscalingConfig, AutoscalingContext

    given_ = compiled["applications"][1]["deployments"][0]["autoscaling_config"]
    scaling = AutoscalingConfig(**{**given_, "target_ongoing_requests": float(concurrency)})
    context = AutoscalingContext(
        deployment_id=None,  # type: ignore[arg-type]
        deployment_name="S",
        app_name="d-main",
        current_num_replicas=current,
        target_num_replicas=current,
        running_replicas=[],
        total_num_requests=current * each,
        total_queued_requests=None,
        aggregated_metrics=None,
        raw_metrics=None,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=1000,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=None,
        config=scaling,
    )
    desired, _ = autoscaling_policy.replica_queue_length_autoscaling_policy(context)
    replicas = autoscaling_policy._apply_scaling_factors(desired, current, scaling)
    # A hair below a whole number, float arithmetic of two kinds may round to two sides of it.
    exact = current * each / concurrency
    assert replicas in {math.ceil(exact - 1e-9), math.ceil(exact + 1e-9)}
