"""Which nodes a label selector asks for."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray._private import label_utils

from ray_canary import nodelabels


@pytest.mark.parametrize(
    ("wanted", "values"),
    [
        ("gpu", {"gpu"}),
        ("!gpu", {"cpu", None}),
        ("in(gpu, cpu)", {"gpu", "cpu"}),
        ("in(gpu,cpu)", {"gpu", "cpu"}),
        ("!in(gpu, tpu)", {"cpu", None}),
    ],
)
def test_a_node_fits_by_what_its_label_is_and_one_without_it_only_what_is_negated(
    wanted: str, values: set[str | None]
) -> None:
    there = ("gpu", "cpu", "tpu", None)
    labels = {value: {"pool": value} if value else {"zone": "a"} for value in there}
    found = {value for value in there if nodelabels.fits({"pool": wanted}, labels[value])}
    assert found & {"gpu", "cpu", None} == values & {"gpu", "cpu", None}
    assert nodelabels.fits({"pool": wanted}, {"pool": "tpu"}) is (wanted == "!gpu")


def test_a_node_fits_if_all_of_its_labels_do() -> None:
    selector = {"pool": "gpu", "zone": "!b"}
    assert nodelabels.fits(selector, {"pool": "gpu", "zone": "a"})
    assert not nodelabels.fits(selector, {"pool": "gpu", "zone": "b"})
    assert not nodelabels.fits(selector, {"zone": "a"})
    assert nodelabels.fits({}, {})
    assert nodelabels.text(selector) == "pool=gpu, zone=!b"


_TEXTS = st.one_of(
    st.text(alphabet="a-Z09._!(), /", max_size=12),
    st.lists(st.sampled_from(["in", "(", ")", "!", "a", "b-c", ",", ", ", "_", "/"]), max_size=8).map("".join),
)


@given(_TEXTS)
def test_every_selector_that_we_take_ray_takes_too(text: str) -> None:
    if re.fullmatch(nodelabels.SELECTOR, text):
        assert label_utils.validate_label_selector({"pool": text}) is None
        assert nodelabels.fits({"pool": text}, {}) is text.startswith("!")


@given(_TEXTS)
def test_every_label_that_we_take_ray_takes_too(text: str) -> None:
    if re.fullmatch(nodelabels.KEY, text):
        assert label_utils.validate_label_selector({text: "a"}) is None
    if re.fullmatch(nodelabels.VALUE, text):
        label_utils.validate_label_value(text)
