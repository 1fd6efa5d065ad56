"""What share of requests each target gets now, and that the table of metrics is sound."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_canary import metrics
from ray_canary.metrics import effective_shares


@pytest.mark.parametrize(
    ("configured", "ready", "shares"),
    [
        ({"main": 100}, {"main": True}, {"main": 100}),
        ({"main": 100}, {"main": False}, {"main": 100}),
        ({"main": 80, "a": 20}, {"main": True, "a": True}, {"main": 80, "a": 20}),
        ({"main": 80, "a": 20}, {"main": True, "a": False}, {"main": 100, "a": 0}),
        ({"main": 80, "a": 20}, {"main": False, "a": True}, {"main": 80, "a": 20}),
        ({"main": 0, "a": 100}, {"main": True, "a": False}, {"main": 100, "a": 0}),
        (
            {"main": 50, "a": 20, "b": 30},
            {"main": True, "a": False, "b": True},
            {"main": 70, "a": 0, "b": 30},
        ),
        (
            {"main": 50, "a": 20, "b": 30},
            {"main": False, "a": False, "b": False},
            {"main": 100, "a": 0, "b": 0},
        ),
        ({"main": 100, "a": 0}, {"main": True, "a": True}, {"main": 100, "a": 0}),
    ],
)
def test_the_share_of_a_canary_that_is_not_ready_is_mains_and_mains_is_never_given_away(
    configured: dict[str, int], ready: dict[str, bool], shares: dict[str, int]
) -> None:
    assert effective_shares(configured, ready) == shares


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=20), st.booleans())
def test_effective_shares_always_add_up_to_100(canaries: list[tuple[int, bool]], main_ready: bool) -> None:
    weights = {f"v{index}": weight for index, (weight, _) in enumerate(canaries)}
    ready = {f"v{index}": is_ready for index, (_, is_ready) in enumerate(canaries)}
    shares = effective_shares({"main": 100 - sum(weights.values()), **weights}, {"main": main_ready, **ready})
    assert sum(shares.values()) == 100
    assert all(shares[key] == (weight if ready[key] else 0) for key, weight in weights.items())


def test_effective_shares_leave_what_was_configured_as_it_was() -> None:
    configured = {"main": 80, "a": 20}
    effective_shares(configured, {"main": True, "a": False})
    assert configured == {"main": 80, "a": 20}


def test_every_metric_has_a_name_of_its_own_and_names_its_deployment() -> None:
    assert len({metric.name for metric in metrics.ALL}) == len(metrics.ALL)
    assert all("canary_deployment" in metric.labels for metric in metrics.ALL)


def test_histograms_and_nothing_else_have_buckets_in_rising_order() -> None:
    for metric in metrics.ALL:
        assert bool(metric.buckets) == (metric.kind == "histogram")
        assert list(metric.buckets) == sorted(set(metric.buckets))
