"""The decision alone: what the splitter takes to choose a version."""

import string
import timeit
from collections.abc import Callable
from functools import partial

from ray_canary.splitter import Splitter
from tests.benchmarks.results import Figure, Group, Measured, Sample
from tests.benchmarks.settings import Settings

NAME = "decision"
COUNTS = (2, 3, 16, 100)
_KEYS = [f"user-{number}".encode() for number in range(1000)]


def weights(names: list[str]) -> dict[str, int]:
    """Return weights as even as whole percents allow; the first name gets the rest."""
    each = 100 // len(names)
    return {name: each for name in names} | {names[0]: 100 - each * (len(names) - 1)}


def keys(count: int) -> list[str]:
    """Return the keys of so many versions, main's first."""
    letters = list(string.ascii_lowercase)
    return ["main", *letters, *(one + other for one in letters for other in letters)][:count]


def run(settings: Settings) -> Group:
    """Time `choose`, for a request with a key, and `draw`, for one without, at several numbers of versions."""
    splitters = {f"{count} versions": Splitter(weights(keys(count)), "bench") for count in COUNTS}
    cells = [_timed("with a key", _choose, splitters, settings), _timed("at random", _draw, splitters, settings)]
    return Group(name=NAME, cells=cells)


def _timed(
    name: str, run_once: Callable[[Splitter], None], splitters: dict[str, Splitter], settings: Settings
) -> Measured:
    samples: dict[str, list[Sample]] = {side: [] for side in splitters}
    for _ in range(settings.rounds):
        for side, splitter in splitters.items():
            timer = timeit.Timer(partial(run_once, splitter))
            times, took = timer.autorange()
            samples[side].append(Sample(values={Figure.CHOICE: took / times / len(_KEYS) * 1e9}))
    return Measured(name=name, base=next(iter(splitters)), samples=samples)


def _choose(splitter: Splitter) -> None:
    for key in _KEYS:
        splitter.choose(key)


def _draw(splitter: Splitter) -> None:
    for _ in _KEYS:
        splitter.draw()
