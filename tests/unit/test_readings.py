"""What two looks at the metrics come to."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_canary import metrics
from ray_canary.readings import Reading, Snapshot, Watch, between, quantile

NAME = "shop"
REQUESTS = metrics.exported(metrics.REQUESTS)
BUCKET = f"{metrics.exported(metrics.DURATION)}_bucket"


def line(name: str, value: float, **labels: str) -> str:
    pairs = ",".join(f'{label}="{text}"' for label, text in labels.items())
    return f"{name}{{{pairs}}} {value}"


def requests(value: float, version: str = "main", status: str = "2xx", replica: str = "r1", of: str = NAME) -> str:
    return line(REQUESTS, value, canary_deployment=of, bento_version=version, status_class=status, replica=replica)


def look(at: float, *lines: str, whole: bool = True) -> Snapshot:
    return Snapshot.of(at, ["\n".join(lines) + "\n"], whole)


def test_rates_are_increases_over_the_time_between_by_status_class() -> None:
    before = look(0, requests(10), requests(1, status="5xx"), requests(5, "a"))
    now = look(20, requests(50), requests(3, status="5xx"), requests(25, "a"), requests(99, of="other"))
    found = between(before, now, NAME)
    assert found.seconds == 20
    main, a = found.versions["main"], found.versions["a"]
    assert (main.rates, main.total) == ({"2xx": 2.0, "5xx": 0.1}, 53)
    assert main.success == pytest.approx(2.0 / 2.1)
    assert a.rate == 1.0
    assert main.share == pytest.approx(100 * 42 / 62)


def test_an_ingress_replica_that_is_new_counts_from_zero_and_one_that_began_anew_too() -> None:
    before = look(0, requests(100, replica="old"), requests(70, replica="again"))
    now = look(10, requests(30, replica="new"), requests(20, replica="again"))
    assert between(before, now, NAME).versions["main"].rate == 5.0


@given(st.lists(st.lists(st.integers(0, 1000), min_size=1, max_size=4), min_size=2, max_size=6))
def test_what_is_counted_step_by_step_is_what_came_in_all(steps: list[list[int]]) -> None:
    """However the requests fall on ingress replicas, no step counts one twice or loses one."""
    totals: dict[str, int] = {}
    looks = []
    for at, step in enumerate(steps):
        for replica, count in enumerate(step):
            totals[str(replica)] = totals.get(str(replica), 0) + count
        looks.append(look(at, *(requests(total, replica=replica) for replica, total in totals.items())))
    counted = sum(
        between(before, now, NAME).versions["main"].rate for before, now in zip(looks, looks[1:], strict=False)
    )
    assert counted == pytest.approx(sum(sum(step) for step in steps[1:]))


def test_gauges_are_added_up_over_ingress_replicas_and_weights_are_not() -> None:
    lines = [
        line(metrics.exported(metric), value, canary_deployment=NAME, bento_version="a", replica=replica)
        for metric, values in (
            (metrics.IN_FLIGHT, (2, 3)),
            (metrics.QUEUE_DEPTH, (0, 4)),
            (metrics.CONFIGURED_WEIGHT, (20, 20)),
            (metrics.EFFECTIVE_WEIGHT, (20, 0)),
        )
        for replica, value in zip(("r1", "r2"), values, strict=True)
    ]
    one = between(look(0), look(10, *lines), NAME).versions["a"]
    assert (one.in_flight, one.queued, one.weight, one.effective) == (5, 4, 20, 0)


def test_replicas_cpu_and_memory_are_those_of_the_application_that_serves_the_version() -> None:
    info = line(
        metrics.exported(metrics.TARGET_INFO),
        1,
        canary_deployment=NAME,
        bento_version="a",
        version_application="shop-a",
    )
    healthy = [
        line("ray_serve_deployment_replica_healthy", 1, application=name, replica=replica)
        for name, replica in (("shop-a", "x"), ("shop-a", "y"), ("shop-ab", "z"))
    ]
    used = [
        line(series, value, Component=f"ray::ServeReplica:{name}:Service")
        for series, values in (("ray_component_cpu_percentage", (30, 7)), ("ray_component_rss_bytes", (1e6, 5e6)))
        for name, value in zip(("shop-a", "shop-ab"), values, strict=True)
    ]
    one = between(look(0), look(10, info, *healthy, *used), NAME).versions["a"]
    assert (one.replicas, one.cpu, one.memory) == (2, 30, 1e6)


def test_a_version_without_a_request_has_no_quantile_and_no_success_rate() -> None:
    weight = line(metrics.exported(metrics.CONFIGURED_WEIGHT), 0, canary_deployment=NAME, bento_version="dark")
    found = between(look(0), look(10, weight), NAME).versions["dark"]
    assert found == Reading(weight=0)
    assert (found.success, found.share, found.rate) == (None, None, 0)


def test_a_version_that_has_left_the_deployment_is_not_shown_unless_it_still_answers() -> None:
    def info(version: str, there: int) -> str:
        name = metrics.exported(metrics.TARGET_INFO)
        labels = {"canary_deployment": NAME, "bento_version": version, "version_application": f"shop-{version}"}
        return line(name, there, **labels)

    before = look(0, requests(5, "gone"), requests(5, "going"))
    now = look(10, info("main", 1), info("gone", 0), info("going", 0), requests(5, "gone"), requests(6, "going"))
    assert set(between(before, now, NAME).versions) == {"main", "going"}


@given(st.lists(st.floats(0.0001, 900), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_is_in_the_bucket_of_the_observation_that_it_is(seconds: list[float], q: float) -> None:
    bounds = [*metrics.DURATION.buckets, math.inf]
    found = quantile(q, {bound: float(sum(one <= bound for one in seconds)) for bound in bounds})
    exact = sorted(seconds)[math.ceil(q * len(seconds)) - 1]
    index = next(i for i, bound in enumerate(bounds) if exact <= bound)
    low = bounds[index - 1] if index else 0.0
    assert found is not None
    if math.isinf(bounds[index]):
        assert found == bounds[-2]
    else:
        assert low <= found <= bounds[index]


def test_a_quantile_of_nothing_is_none() -> None:
    assert quantile(0.5, {}) is None
    assert quantile(0.5, {1.0: 0.0, math.inf: 0.0}) is None


def test_readings_are_over_a_window_and_old_ones_go() -> None:
    watch = Watch(window_s=20, keep_s=100)
    for at in range(0, 301, 5):
        watch.add(look(at, requests(at * 3)), [NAME])
    found = watch.of(NAME)
    assert [one.at for one in found] == list(range(200, 301, 5))
    assert {one.seconds for one in found} == {20}
    assert {one.versions["main"].rate for one in found} == {3.0}
    assert len(watch._snapshots) <= 6


def test_a_look_at_some_nodes_only_makes_no_jump() -> None:
    watch = Watch(window_s=10)
    watch.add(look(0, requests(1000)), [NAME])
    watch.add(look(5, whole=False), [NAME])
    watch.add(look(10, requests(1010)), [NAME])
    assert [one.versions["main"].rate for one in watch.of(NAME)] == [1.0]


def test_a_deployment_that_is_gone_is_forgotten() -> None:
    watch = Watch()
    watch.add(look(0, requests(1)), [NAME])
    watch.add(look(30, requests(2)), [NAME])
    assert watch.of(NAME)
    watch.add(look(60), [])
    assert watch.of(NAME) == ()
