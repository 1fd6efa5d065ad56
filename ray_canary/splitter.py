"""Which version answers this request: weighted rendezvous hashing of a key, or an exact shuffle where there is no key.

Pure: no I/O, no clock, no global randomness. What users see may never change silently, so the scheme has a number
(`SCHEME`) and frozen vectors (tests/vectors/splitter_v1.json). A change that would move a key is a new scheme.

Scheme 1, so that anyone can write it again in another language:

    seed(arm) = the first 16 bytes of SHA-256 of the UTF-8 text "<scheme>:<characters in salt>:<salt>:<arm>"
    digest    = 16 bytes of mmh3 x64 128 of the key, mmh3's own seed being the scheme's number
    h(arm)    = the first 64 bits of mmh3 x64 128 of seed(arm) + digest, mmh3's own seed being 0
    u(arm)    = ((h(arm) >> 12) + 1/2) / 2**52
    score     = -ln(u(arm)) / weight(arm); the lowest score wins, on a tie the arm that sorts first

Sources: rendezvous ("highest random weight") hashing is Thaler & Ravishankar 1998, "Using name-based mappings to
increase hit rates"; the form -ln(u)/w, which makes shares exact, is the logarithmic method of Schindelhauer & Schomaker
2005, "Weighted distributed hash tables". A score is an exponential variable of rate w, and the least of several such is
the i-th with probability w_i / sum(w): that is why no table and no state are needed.

Why two rounds of mmh3: its seed has 32 bits only, and two arms (or two Deployments) whose seeds met would split their
keys in exactly the same way. Here an arm's seed has 128 bits. The key itself, which may be 10 kB, is read once however
many arms there are; the second round is always 32 bytes, and costs less than a 64-bit finalizer written in Python.

Why 52 bits: with 53, the largest value plus 1/2 has no exact double and rounds up to u = 1.
"""

import hashlib
import random
from collections.abc import Callable, Mapping
from fractions import Fraction
from math import inf, log
from typing import Final

import mmh3

SCHEME: Final = 1
"""The version of the hash scheme. It is part of every arm's seed, so a new scheme is independent of this one."""

BLOCK: Final = 100
"""How many random draws hit the weights exactly."""

_digest: Callable[[bytes, int], bytes] = mmh3.mmh3_x64_128_digest
_halves: Callable[[bytes], tuple[int, int]] = mmh3.mmh3_x64_128_utupledigest

_Arm = tuple[str, bytes, int]  # the version, the arm's seed, the weight; a plain tuple unpacks fastest


class Splitter:
    """Chooses a version for a key (`choose`) or for a request without one (`draw`).

    `weights` maps version keys ('main', 'a', ...) to whole percentages, 0 to 100, that add up to 100. `salt` is the
    Deployment's name: other salts split the same keys independently. `arms` maps a version to its arm, the id that
    seeds its hash, for versions whose arm isn't their key; it lets a version be renamed, or promoted, without moving
    anybody. `rng` is the randomness of `draw`, by default a `random.Random` seeded by the operating system: a draw
    costs it a sixth of what it costs `random.SystemRandom`, and which version comes next is no secret worth that.

    Raises ValueError when there are no weights, when one isn't an int (a bool isn't) from 0 to 100, when they don't add
    up to 100, when `arms` names an unknown version, or when two versions have the same arm.

    The only mutable state is what is left of the current block of `draw`: at most 100 references. Nothing awaits, so
    one Splitter may be shared by everything on one event loop; it isn't meant to be shared by threads.
    """

    def __init__(
        self,
        weights: Mapping[str, int],
        salt: str,
        *,
        arms: Mapping[str, str] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """Check everything and precompute all that a request needs."""
        _check_weights(weights)
        self._weights = dict(weights)
        self._salt = salt
        self._arm_of = _resolve_arms(self._weights, arms or {})
        live = sorted((version for version in weights if weights[version]), key=self._arm_of.__getitem__)
        self._arms: tuple[_Arm, ...] = tuple((v, _arm_seed(salt, self._arm_of[v]), weights[v]) for v in live)
        self._full_block = [version for version in live for _ in range(weights[version])]
        self._block: list[str] = []
        self._rng = random.Random() if rng is None else rng

    def __repr__(self) -> str:
        """Show what would rebuild an equal splitter."""
        return f"Splitter({self._weights!r}, {self._salt!r}, arms={self._arm_of!r})"

    def choose(self, key: bytes) -> str:
        """Return the version for `key`: bytes of any length, empty included.

        The same key gets the same version in every process and on every machine, whatever the order of the weights.
        Over many keys the shares are the weights; a version of weight 0 is never chosen.
        """
        digest = _digest(key, SCHEME)
        winner, lowest = "", inf
        for version, seed, weight in self._arms:  # in the order of the arms, so on a tie the first arm stays
            score = -log(_unit(_halves(seed + digest)[0])) / weight
            if score < lowest:
                winner, lowest = version, score
        return winner

    def scores(self, key: bytes) -> dict[str, float]:
        """Return every version of weight > 0 with its score for `key`, best (lowest) first: the first is `choose(key)`.

        A score has no unit and is more than 0; divided by another version's, it says how close the choice was.
        """
        digest = _digest(key, SCHEME)
        scores = {version: -log(_unit(_halves(seed + digest)[0])) / weight for version, seed, weight in self._arms}
        return dict(sorted(scores.items(), key=lambda item: item[1]))  # stable: a tie keeps the order of the arms

    def draw(self) -> str:
        """Return a version at random, for a request without a key.

        Each run of 100 draws (the first to the 100th, the 101st to the 200th, ...) holds every version exactly as often
        as its weight says, in shuffled order. A block is never shorter: at 50/50 the least exact block is 2, where the
        first draw gives the second away.
        """
        if not self._block:
            self._block = self._full_block.copy()
            self._rng.shuffle(self._block)
        return self._block.pop()


def moved_share(old: Mapping[str, int], new: Mapping[str, int]) -> float:
    """Return the share of keys, 0 to 1, that change their arm when the weights go from `old` to `new`.

    Both are keyed by arm (not by version: a promoted version keeps its arm), as percentages that add up to 100; an arm
    that one of them lacks has weight 0 there. A key goes from i to j only if j's weight grew by a larger factor than
    i's.

    It is 1 - sum over i of 1 / sum over k of max(w_k/w_i, w'_k/w'_i), for every i that has weight before and after, and
    it is never more than 2d/(1+d) with d = `least_move(old, new)`. The formula is Moulton & Jiang 2018, "Maximally
    consistent sampling and the Jaccard index of probability distributions"; that no scheme without a store can promise
    less than that bound is Bavarian et al. 2016, "The optimality of correlated sampling" (arXiv:1612.01041).

    Raises ValueError for weights that `Splitter` refuses.
    """
    pairs = _paired(old, new)
    stay = (Fraction(w * v, sum(max(x * v, y * w) for x, y in pairs)) for w, v in pairs if w and v)
    return float(1 - sum(stay))


def least_move(old: Mapping[str, int], new: Mapping[str, int]) -> float:
    """Return the share of keys, 0 to 1, that must move, whatever the scheme, for `old` to become `new`.

    It is the total variation distance, half the sum of |w - w'|: d in the bound of `moved_share`, which takes the same
    arguments. With two arms both are equal. Raises ValueError for weights that `Splitter` refuses.
    """
    return sum(abs(after - before) for before, after in _paired(old, new)) / 200


def _unit(bits: int) -> float:
    """Map 64 random bits to a float strictly between 0 and 1."""
    return ((bits >> 12) + 0.5) * 2.0**-52


def _arm_seed(salt: str, arm: str) -> bytes:
    """Return 16 bytes that differ for every (scheme, salt, arm); the length keeps 'a:b', 'c' apart from 'a', 'b:c'."""
    return hashlib.sha256(f"{SCHEME}:{len(salt)}:{salt}:{arm}".encode()).digest()[:16]


def _check_weights(weights: Mapping[str, int]) -> None:
    if not weights:
        raise ValueError("no weights: at least one version is needed")
    for version, weight in weights.items():
        if type(weight) is not int or not 0 <= weight <= 100:
            raise ValueError(f"the weight of {version!r} is {weight!r}, not a whole number from 0 to 100")
    if (total := sum(weights.values())) != 100:
        raise ValueError(f"the weights add up to {total}, not 100: {dict(weights)!r}")


def _resolve_arms(weights: Mapping[str, int], arms: Mapping[str, str]) -> dict[str, str]:
    """Return the arm of every version, those of weight 0 too: they may get weight later."""
    if unknown := [version for version in arms if version not in weights]:
        raise ValueError(f"arms name {unknown[0]!r}, which isn't one of the versions {sorted(weights)!r}")
    owner: dict[str, str] = {}
    for version in weights:
        arm = arms.get(version, version)
        if arm in owner:
            raise ValueError(f"the versions {owner[arm]!r} and {version!r} have the same arm, {arm!r}")
        owner[arm] = version
    return {version: arm for arm, version in owner.items()}


def _paired(old: Mapping[str, int], new: Mapping[str, int]) -> list[tuple[int, int]]:
    """Return the weight of every arm before and after."""
    _check_weights(old)
    _check_weights(new)
    return [(old.get(arm, 0), new.get(arm, 0)) for arm in {**old, **new}]
