"""The splitter: exact shares, the same answer everywhere, few keys moved, and exact blocks where there is no key.

The statistical tests use fixed keys, so they never flicker; ALARM bounds how likely a sound splitter was to fail them.
"""

import hashlib
import json
import math
import os
import random
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import mmh3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_canary.splitter import BLOCK, SCHEME, Splitter, _unit, least_move, moved_share

ROOT = Path(__file__).parents[2]
VECTORS: list[dict[str, Any]] = json.loads((ROOT / "tests/vectors/splitter_v1.json").read_text(encoding="utf-8"))

KEYS = 100_000
ALARM = 1e-6 / 1_000
"""False-alarm rate of one comparison: 1e-6 for the whole file, which makes fewer than 1,000 (Bonferroni)."""
MISS = 1e-6
"""How likely the companion test may be to overlook an error of one point."""


# Bounds ---------------------------------------------------------------------------------------------------------------


def divergence(seen: float, share: float) -> float:
    """Return the Kullback-Leibler divergence; Chernoff: P(a binomial share is beyond `seen`) <= exp(-n * this)."""
    if share in (0.0, 1.0):
        return 0.0 if seen == share else math.inf
    sides = ((seen, share), (1 - seen, 1 - share))
    return sum(s * math.log(s / p) for s, p in sides if s > 0)


def fits(count: int, n: int, share: float) -> bool:
    """Tell whether `count` of `n` is within the binomial bound of `share`; false for a sound splitter with < ALARM."""
    return 2 * math.exp(-n * divergence(count / n, share)) >= ALARM


def all_fit(counts: Mapping[str, int], weights: Mapping[str, int]) -> bool:
    n = sum(counts.values())
    return all(fits(counts.get(version, 0), n, weight / 100) for version, weight in weights.items())


def keys_needed(share: float, wrong: float) -> int:
    """Return how many keys let `fits(.., share)` reject the share `wrong` with probability above 1 - MISS."""
    n = 1_000
    while math.exp(-n * divergence(farthest_fit(n, share, wrong), wrong)) >= MISS:
        n += 1_000
    return n


def farthest_fit(n: int, share: float, wrong: float) -> float:
    """Return the seen share, from `share` towards `wrong`, where `fits` ends (`wrong` itself when it never does)."""
    near, far = share, wrong
    for _ in range(50):
        middle = (near + far) / 2
        near, far = (middle, far) if 2 * math.exp(-n * divergence(middle, share)) >= ALARM else (near, middle)
    return far


def numbered(n: int) -> Iterator[bytes]:
    return (b"user-%d" % i for i in range(n))


def shares(splitter: Splitter, keys: Iterable[bytes]) -> Counter[str]:
    return Counter(map(splitter.choose, keys))


def units(splitter: Splitter, key: bytes, weights: Mapping[str, int]) -> dict[str, float]:
    """Return the uniform number behind each version's score."""
    return {version: math.exp(-score * weights[version]) for version, score in splitter.scores(key).items()}


@st.composite
def weight_maps(draw: st.DrawFn, versions: str = "abcd") -> dict[str, int]:
    cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=len(versions) - 1, max_size=len(versions) - 1)))
    return {v: high - low for v, low, high in zip(versions, [0, *cuts], [*cuts, 100], strict=True)}


# Shares ---------------------------------------------------------------------------------------------------------------

MAPS = [
    {"main": 50, "a": 50},
    {"main": 90, "a": 10},
    {"main": 99, "a": 1},
    {"main": 20, "a": 30, "b": 50},
    {"main": 1, "a": 1, "b": 1, "c": 97},
    {"main": 40, "a": 0, "b": 60},
    {f"v{i}": 10 for i in range(10)},
]
KINDS_OF_KEY: dict[str, Callable[[int], bytes]] = {
    "numbers": lambda i: b"%d" % i,
    "padded numbers": lambda i: b"%016d" % i,
    "four bytes, little-endian": lambda i: i.to_bytes(4, "little"),
    "sixteen bytes, high bits only": lambda i: (i << 108).to_bytes(16, "little"),
    "addresses": lambda i: b"user.%d@example.com" % i,
    "random UUIDs": lambda i: hashlib.md5(b"%d" % i, usedforsecurity=False).hexdigest().encode(),
    "200 bytes in common": lambda i: b"session=" * 25 + b"%d" % i,
    "zeros of every length": lambda i: bytes(i % 300) + b"%d" % (i // 300),
}


@pytest.mark.parametrize("weights", MAPS, ids=str)
def test_the_shares_of_many_keys_are_the_weights(weights: dict[str, int]) -> None:
    counts = shares(Splitter(weights, "shop"), numbered(KEYS))
    assert all_fit(counts, weights), counts


@pytest.mark.parametrize("kind", KINDS_OF_KEY)
def test_the_shares_are_the_weights_whatever_the_keys_look_like(kind: str) -> None:
    weights = {"main": 20, "a": 30, "b": 50}
    counts = shares(Splitter(weights, "shop"), map(KINDS_OF_KEY[kind], range(KEYS)))
    assert all_fit(counts, weights), counts


@pytest.mark.parametrize(
    ("stated", "actual"),
    [
        ({"main": 50, "a": 50}, {"main": 49, "a": 51}),
        ({"main": 90, "a": 10}, {"main": 89, "a": 11}),
        ({"main": 99, "a": 1}, {"main": 98, "a": 2}),
        ({"main": 100, "a": 0}, {"main": 99, "a": 1}),
        ({"main": 20, "a": 30, "b": 50}, {"main": 20, "a": 31, "b": 49}),
    ],
    ids=str,
)
def test_the_bound_catches_an_error_of_one_point(stated: dict[str, int], actual: dict[str, int]) -> None:
    # One comparison with enough power is enough: take the version that needs the fewest keys.
    n = min(keys_needed(w / 100, actual[v] / 100) for v, w in stated.items() if w != actual[v])
    assert all_fit(shares(Splitter(stated, "shop"), numbered(n)), stated)
    assert not all_fit(shares(Splitter(actual, "shop"), numbered(n)), stated)


def test_the_bound_at_100_000_keys_is_itself_about_a_point_wide() -> None:
    assert fits(50_900, KEYS, 0.5)
    assert not fits(51_100, KEYS, 0.5)
    assert not fits(48_900, KEYS, 0.5)
    assert 300_000 < keys_needed(0.5, 0.51) < 400_000


@given(weights=weight_maps(), salt=st.text(), key=st.binary())
def test_a_version_of_weight_0_is_never_chosen(weights: dict[str, int], salt: str, key: bytes) -> None:
    splitter = Splitter(weights, salt)
    assert weights[splitter.choose(key)] > 0
    assert all(weights[version] > 0 for version in splitter.scores(key))
    assert all(weights[splitter.draw()] > 0 for _ in range(BLOCK))


@given(key=st.binary())
def test_one_version_at_100_is_always_chosen(key: bytes) -> None:
    for weights in ({"main": 100}, {"a": 0, "main": 100, "b": 0}):
        splitter = Splitter(weights, "shop")
        assert splitter.choose(key) == splitter.draw() == "main"
        assert list(splitter.scores(key)) == ["main"]


# Keys and scores ------------------------------------------------------------------------------------------------------


@given(weights=weight_maps(), key=st.one_of(st.binary(), st.text().map(str.encode)))
def test_the_scores_are_positive_and_sorted_and_the_first_is_the_choice(weights: dict[str, int], key: bytes) -> None:
    splitter = Splitter(weights, "shop")
    scores = splitter.scores(key)
    assert set(scores) == {version for version, weight in weights.items() if weight}
    assert list(scores.values()) == sorted(scores.values())
    assert all(0 < score < math.inf for score in scores.values())
    assert next(iter(scores)) == splitter.choose(key)


@pytest.mark.parametrize("key", [b"", b"\0", "Zoë-日本-🦊".encode(), b"\xff\xfe\0binary", b"x" * 10_000], ids=len)
def test_any_bytes_are_a_key(key: bytes) -> None:
    counts = Counter(Splitter({"main": 50, "a": 50}, f"salt-{i}").choose(key) for i in range(2_000))
    assert all_fit(counts, {"main": 50, "a": 50})  # over the salts, every single key is split fairly too


def test_the_last_byte_of_a_10_kb_key_counts() -> None:
    splitter = Splitter({"main": 50, "a": 50}, "shop")
    assert len({splitter.scores(b"x" * 9_999 + bytes([last]))["main"] for last in range(256)}) == 256


@pytest.mark.parametrize("bits", [0, 1, 2**63, 2**64 - 2, 2**64 - 1])
def test_the_uniform_number_is_never_0_or_1(bits: int) -> None:
    assert 0 < _unit(bits) < 1
    assert -math.log(_unit(bits)) > 0


def test_on_a_tie_the_arm_that_sorts_first_wins_whatever_the_order_of_the_weights() -> None:
    for weights in ({"main": 50, "a": 50}, {"a": 50, "main": 50}):
        splitter = Splitter(weights, "shop", arms={"main": "0", "a": "1"})
        (first, seed, weight), (second, _, _) = splitter._arms
        splitter._arms = ((first, seed, weight), (second, seed, weight))  # no two real arms share a seed
        for key in numbered(100):
            assert splitter.choose(key) == "main"
            assert list(splitter.scores(key)) == ["main", "a"]


# The same answer everywhere -------------------------------------------------------------------------------------------

ANSWER = """
import json
from ray_canary.splitter import Splitter
splitter = Splitter({"main": 20, "a": 30, "b": 50}, "shop")
print(json.dumps([[splitter.choose(b"user-%d" % i), splitter.scores(b"user-%d" % i)] for i in range(500)]))
"""


def test_every_process_gives_the_same_answer_whatever_its_hash_seed() -> None:
    answers = set()
    for seed in ("0", "1", "random"):
        env = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        answers.add(subprocess.run([sys.executable, "-c", ANSWER], env=env, check=True, capture_output=True).stdout)
    splitter = Splitter({"main": 20, "a": 30, "b": 50}, "shop")
    assert len(answers) == 1
    assert json.loads(answers.pop()) == [[splitter.choose(key), splitter.scores(key)] for key in numbered(500)]


@given(weights=weight_maps(), key=st.binary(), order=st.permutations("abcd"), seed=st.integers())
def test_the_order_of_the_weights_does_not_matter(
    weights: dict[str, int], key: bytes, order: list[str], seed: int
) -> None:
    one = Splitter(weights, "shop", rng=random.Random(seed))
    other = Splitter({version: weights[version] for version in order}, "shop", rng=random.Random(seed))
    assert one.choose(key) == other.choose(key)
    assert list(one.scores(key).items()) == list(other.scores(key).items())
    assert [one.draw() for _ in range(BLOCK)] == [other.draw() for _ in range(BLOCK)]


def test_draws_and_global_randomness_do_not_touch_each_other() -> None:
    before = random.getstate()
    splitter = Splitter({"main": 50, "a": 50}, "shop")
    chosen = [splitter.choose(key) for key in numbered(100)]
    drawn = [splitter.draw() for _ in range(BLOCK)]
    assert random.getstate() == before
    assert chosen == [splitter.choose(key) for key in numbered(100)]
    assert Counter(drawn) == {"main": 50, "a": 50}


def test_the_weights_are_copied_so_changing_them_later_changes_nothing() -> None:
    weights = {"main": 50, "a": 50}
    splitter = Splitter(weights, "shop")
    before = [splitter.choose(key) for key in numbered(1_000)]
    weights["a"] = 0
    assert [splitter.choose(key) for key in numbered(1_000)] == before
    assert repr(splitter) == "Splitter({'main': 50, 'a': 50}, 'shop', arms={'main': 'main', 'a': 'a'})"


# Independence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "other"), [("shop", "shop2"), ("shop", "Shop"), ("", "a"), ("a:1", "a"), ("é", "e")])
def test_different_salts_split_the_same_keys_independently(one: str, other: str) -> None:
    weights = {"main": 20, "a": 30, "b": 50}
    first, second = Splitter(weights, one), Splitter(weights, other)
    both = Counter((first.choose(key), second.choose(key)) for key in numbered(KEYS))
    for x, y in ((x, y) for x in weights for y in weights):
        assert fits(both[x, y], KEYS, weights[x] * weights[y] / 10_000), (x, y, both)


@pytest.mark.parametrize("names", [("main", "a", "b"), ("a", "b", "c"), ("v1", "v10", "v11")], ids=str)
def test_the_arms_of_one_deployment_are_independent_of_each_other(names: tuple[str, str, str]) -> None:
    weights = dict(zip(names, (20, 30, 50), strict=True))
    splitter, n = Splitter(weights, "shop"), 20_000
    cells: Counter[tuple[int, ...]] = Counter()
    for key in numbered(n):
        u = units(splitter, key, weights)
        cells[tuple(int(u[name] * 4) for name in names)] += 1
    assert len(cells) == 64
    assert all(fits(count, n, 1 / 64) for count in cells.values()), cells


@given(a=st.text(), b=st.text(), c=st.text(), d=st.text())
def test_no_two_pairs_of_salt_and_arm_share_a_seed(a: str, b: str, c: str, d: str) -> None:
    def seed(salt: str, arm: str) -> bytes:
        return Splitter({"main": 100}, salt, arms={"main": arm})._arms[0][1]

    assert (seed(a, b) == seed(c, d)) == ((a, b) == (c, d))
    assert (seed(f"{a}:{b}", c) == seed(a, f"{b}:{c}")) is False


# Moving ---------------------------------------------------------------------------------------------------------------


@given(old=weight_maps(), new=weight_maps(), key=st.binary())
def test_a_key_goes_from_i_to_j_only_if_the_weight_of_j_grew_by_a_larger_factor(
    old: dict[str, int], new: dict[str, int], key: bytes
) -> None:
    i, j = Splitter(old, "shop").choose(key), Splitter(new, "shop").choose(key)
    assert i == j or new[j] * old[i] > new[i] * old[j]


MOVES = [
    ({"main": 20, "a": 30, "b": 50}, {"main": 30, "a": 30, "b": 40}),
    ({"main": 90, "a": 10}, {"main": 75, "a": 25}),
    ({"main": 100}, {"main": 99, "a": 1}),
    ({"main": 60, "a": 20, "b": 20}, {"main": 80, "b": 20}),
    ({"main": 100}, {"a": 100}),
    ({"main": 10, "a": 20, "b": 30, "c": 40}, {"main": 40, "a": 30, "b": 20, "c": 10}),
    ({"main": 50, "a": 50}, {"a": 50, "main": 50}),
]


@pytest.mark.parametrize(("old", "new"), MOVES, ids=str)
def test_the_share_of_keys_that_move_is_what_the_formula_says(old: dict[str, int], new: dict[str, int]) -> None:
    before, after = Splitter(old, "shop"), Splitter(new, "shop")
    moved = sum(before.choose(key) != after.choose(key) for key in numbered(KEYS))
    assert fits(moved, KEYS, moved_share(old, new)), (moved / KEYS, moved_share(old, new))


def test_20_30_50_to_30_30_40_moves_12_7_percent_where_10_is_the_least() -> None:
    old, new = MOVES[0]
    assert round(moved_share(old, new), 3) == 0.127
    assert least_move(old, new) == 0.1


def test_nothing_moves_when_nothing_changes_and_everything_when_everything_does() -> None:
    old = {"main": 33, "a": 33, "b": 34}
    assert moved_share(old, old) == least_move(old, old) == 0.0
    assert moved_share({"a": 100}, {"b": 100}) == least_move({"a": 100}, {"b": 100}) == 1.0


@given(w=st.integers(0, 100), v=st.integers(0, 100))
def test_with_two_targets_exactly_the_least_share_moves(w: int, v: int) -> None:
    old, new = {"main": w, "a": 100 - w}, {"main": v, "a": 100 - v}
    assert moved_share(old, new) == least_move(old, new) == abs(w - v) / 100


@given(old=weight_maps("abcdef"), new=weight_maps("defghi"))
def test_the_share_that_moves_is_between_d_and_2d_over_1_plus_d(old: dict[str, int], new: dict[str, int]) -> None:
    d, moved = least_move(old, new), moved_share(old, new)
    assert 0 <= d <= moved + 1e-12
    assert moved <= 2 * d / (1 + d) + 1e-12
    assert moved == moved_share(new, old)


@given(old=weight_maps("abc"), new=weight_maps("bcd"))
def test_an_arm_left_out_is_an_arm_of_weight_0(old: dict[str, int], new: dict[str, int]) -> None:
    full_old, full_new = old | {"d": 0}, new | {"a": 0}
    assert moved_share(old, new) == moved_share(full_old, full_new)
    assert least_move(old, new) == least_move(full_old, full_new)


@pytest.mark.parametrize("share", [moved_share, least_move])
def test_the_share_that_moves_refuses_bad_weights(
    share: Callable[[Mapping[str, int], Mapping[str, int]], float],
) -> None:
    with pytest.raises(ValueError, match="add up to 90"):
        share({"main": 90}, {"main": 100})
    with pytest.raises(ValueError, match="no weights"):
        share({"main": 100}, {})


# Arms -----------------------------------------------------------------------------------------------------------------


def test_renaming_a_version_while_keeping_its_arm_moves_nobody() -> None:
    before = Splitter({"main": 70, "a": 30}, "shop")
    after = Splitter({"main": 70, "blue": 30}, "shop", arms={"blue": "a"})
    names = {"main": "main", "a": "blue"}
    assert all(names[before.choose(key)] == after.choose(key) for key in numbered(10_000))


def test_promoting_a_version_moves_only_as_many_keys_as_its_arm_gained() -> None:
    before = Splitter({"main": 70, "a": 30}, "shop")
    after = Splitter({"main": 80, "b": 20}, "shop", arms={"main": "a"})
    assert all(after.choose(key) in ("main", "b") for key in numbered(100))
    stayed = sum(before.choose(key) == "a" and after.choose(key) == "main" for key in numbered(KEYS))
    # An exponential race: the arm a stays ahead of the old main (rate 7/3 of its own) and of b (rate 1/4).
    staying = 1 / (1 + 7 / 3 + 1 / 4)
    assert fits(stayed, KEYS, staying)
    assert moved_share({"main": 70, "a": 30}, {"a": 80, "b": 20}) == pytest.approx(1 - staying)


def test_a_new_canary_under_a_freed_key_does_not_inherit_the_keys_of_the_first() -> None:
    before = Splitter({"main": 70, "a": 30}, "shop")
    again = Splitter({"main": 70, "a": 30}, "shop", arms={"main": "a", "a": "a2"})
    both = sum(before.choose(key) == again.choose(key) == "a" for key in numbered(KEYS))
    # Ahead of the old main but behind a2: the race without a2 less the race with it (rate 3/7 of its own).
    assert fits(both, KEYS, 1 / (1 + 7 / 3) - 1 / (1 + 7 / 3 + 3 / 7))


def test_an_arm_given_as_the_key_itself_changes_nothing() -> None:
    plain = Splitter({"main": 70, "a": 30}, "shop")
    given_arms = Splitter({"main": 70, "a": 30}, "shop", arms={"main": "main", "a": "a"})
    assert all(plain.scores(key) == given_arms.scores(key) for key in numbered(100))


# Draws ----------------------------------------------------------------------------------------------------------------


@given(weights=weight_maps(), seed=st.integers())
def test_every_block_of_100_draws_is_exact(weights: dict[str, int], seed: int) -> None:
    splitter = Splitter(weights, "shop", rng=random.Random(seed))
    for _ in range(5):
        assert Counter(splitter.draw() for _ in range(BLOCK)) == {v: w for v, w in weights.items() if w}


def test_draws_are_reproducible_with_an_injected_seed() -> None:
    def draws(rng: random.Random) -> list[str]:
        splitter = Splitter({"main": 50, "a": 50}, "shop", rng=rng)
        return [splitter.draw() for _ in range(3 * BLOCK)]

    assert draws(random.Random(7)) == draws(random.Random(7))
    assert draws(random.Random(7)) != draws(random.Random(8))


def test_draws_of_two_splitters_come_in_different_order_and_so_do_two_blocks() -> None:
    one, other = Splitter({"main": 50, "a": 50}, "shop"), Splitter({"main": 50, "a": 50}, "shop")
    blocks = [tuple(splitter.draw() for _ in range(BLOCK)) for splitter in (one, one, other, other)]
    assert len(set(blocks)) == 4  # two alike: one chance in 10**28


def test_any_position_of_a_block_holds_any_version_by_its_weight() -> None:
    splitter, blocks = Splitter({"main": 80, "a": 20}, "shop", rng=random.Random(1)), 2_000
    canary_at = [0] * BLOCK
    for _ in range(blocks):
        for position in range(BLOCK):
            canary_at[position] += splitter.draw() == "a"
    assert all(fits(count, blocks, 0.20) for count in canary_at), canary_at


def test_at_50_50_the_first_of_two_draws_does_not_give_the_second_away() -> None:
    splitter, pairs = Splitter({"main": 50, "a": 50}, "shop", rng=random.Random(2)), 20_000
    alike = sum(splitter.draw() == splitter.draw() for _ in range(pairs))
    assert fits(alike, pairs, 49 / 99)  # what is left after the first: 49 like it, 50 unlike


def test_draws_do_not_use_more_and_more_memory() -> None:
    splitter = Splitter({"main": 50, "a": 50}, "shop")
    splitter.draw()
    tracemalloc.start()
    for _ in range(20_000):
        splitter.draw()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "no weights: at least one version is needed"),
        ({"main": 90, "a": True}, "the weight of 'a' is True, not a whole number from 0 to 100"),
        ({"main": 90, "a": 10.0}, "the weight of 'a' is 10.0, not a whole number"),
        ({"main": 90, "a": "10"}, "the weight of 'a' is '10', not a whole number"),
        ({"main": 90, "a": None}, "the weight of 'a' is None, not a whole number"),
        ({"main": 101, "a": -1}, "the weight of 'main' is 101, not a whole number"),
        ({"a": -1, "main": 101}, "the weight of 'a' is -1, not a whole number"),
        ({"main": 90, "a": 9}, "the weights add up to 99, not 100: {'main': 90, 'a': 9}"),
        ({"main": 90, "a": 11}, "the weights add up to 101, not 100"),
        ({"main": 0}, "the weights add up to 0, not 100"),
    ],
    ids=str,
)
def test_bad_weights_are_refused_with_the_value_that_is_wrong(weights: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="weight") as refusal:
        Splitter(weights, "shop")
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({"c": "x"}, "arms name 'c', which isn't one of the versions ['a', 'b', 'main']"),
        ({"main": "a"}, "the versions 'main' and 'a' have the same arm, 'a'"),
        ({"main": "x", "b": "x"}, "the versions 'main' and 'b' have the same arm, 'x'"),
    ],
    ids=str,
)
def test_arms_that_are_unknown_or_not_distinct_are_refused(arms: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match="arm") as refusal:
        Splitter({"main": 90, "a": 10, "b": 0}, "shop", arms=arms)
    assert message in str(refusal.value)


# Frozen vectors -------------------------------------------------------------------------------------------------------


def key_of(case: Mapping[str, Any]) -> bytes:
    key: bytes = case["key"].encode() if "key" in case else bytes.fromhex(case["key_hex"])
    return key * int(case.get("times", 1))


def by_recipe(case: Mapping[str, Any]) -> dict[str, float]:
    """Follow the recipe in the module's docstring, word by word."""
    digest = mmh3.mmh3_x64_128_digest(key_of(case), 1)
    scores = {}
    for version, weight in case["weights"].items():
        if weight > 0:
            arm, salt = case.get("arms", {}).get(version, version), case["salt"]
            seed = hashlib.sha256(f"1:{len(salt)}:{salt}:{arm}".encode()).digest()[:16]
            bits = int.from_bytes(mmh3.mmh3_x64_128_digest(seed + digest, 0)[:8], "little")
            scores[version] = -math.log((bits // 2**12 + 0.5) / 2**52) / weight
    return scores


def test_the_frozen_vectors_hold() -> None:
    """Never edit the vectors to make this pass: whoever moves a key makes a new scheme."""
    assert SCHEME == 1
    for case in VECTORS:
        splitter = Splitter(case["weights"], case["salt"], arms=case.get("arms"))
        assert splitter.choose(key_of(case)) == case["version"], case
        assert list(splitter.scores(key_of(case))) == list(case["scores"]), case
        assert splitter.scores(key_of(case)) == pytest.approx(case["scores"], rel=1e-12, abs=0), case


def test_the_frozen_vectors_follow_from_the_recipe_in_the_docstring() -> None:
    for case in VECTORS:
        assert by_recipe(case) == pytest.approx(case["scores"], rel=1e-12, abs=0), case


def test_the_frozen_vectors_cover_every_kind_of_case() -> None:
    assert len(VECTORS) >= 60
    assert len({json.dumps(case["weights"]) for case in VECTORS}) >= 5
    assert any("arms" in case for case in VECTORS)
    assert any("key_hex" in case for case in VECTORS)
    assert any(not case.get("key", "").isascii() for case in VECTORS)
    assert any(case.get("key") == "" for case in VECTORS)
    assert any(len(key_of(case)) == 10_000 for case in VECTORS)
