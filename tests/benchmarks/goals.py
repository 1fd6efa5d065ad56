"""The goals of the fast path, and whether a run meets them."""

from dataclasses import dataclass

from tests.benchmarks import cells
from tests.benchmarks.results import Figure, Results

#: How much all ingress replicas together may grow, in multiples of what is under way: connections x body.
MEMORY_BOUND = 2.0
_FULL = 0.95


@dataclass(frozen=True)
class Verdict:
    """One goal: its number, what it asks for, what was measured; `met` is None where it wasn't."""

    number: str
    goal: str
    measured: str
    met: bool | None


def verdicts(results: Results) -> list[Verdict]:
    """Return every goal with what this run says of it."""
    return [
        _rate(results, "1", "bento", cells.AT_32, cells.PLAIN, 0.95),
        _later(results, "1", cells.AT_1, Figure.P50, 0.5),
        _rate(results, "1", "bento", cells.AT_32, cells.NGINX, 0.95),
        _rate(results, "2", "trivial", cells.AT_64, cells.PLAIN, 0.5),
        _rate(results, "2", "defaults", cells.AT_64, cells.PLAIN, 0.9),
        _times_naive(results),
        _later(results, "3", cells.STREAM, Figure.FIRST, 1.0),
        _later(results, "3", cells.TOKENS, Figure.DELAY_99, 1.0),
        _sixteen(results),
        _memory(results),
        _more_ingress(results),
        _metrics(results),
    ]


def _rate(results: Results, number: str, group: str, cell: str, base: str, least: float) -> Verdict:
    goal = f"requests/s against {base}, `{group}`, {cell}: at least {least:g}"
    one, other = (results.median(group, cell, side, Figure.RATE) for side in (cells.TWO, base))
    return _at_least(number, goal, one, other, least)


def _metrics(results: Results) -> Verdict:
    goal = f"requests/s with metrics against none, {cells.METERED}: at least 0.97"
    one, other = (results.median("bento", cells.METERED, side, Figure.RATE) for side in (cells.TWO, cells.UNMETERED))
    return _at_least("5.3", goal, one, other, 0.97)


def _sixteen(results: Results) -> Verdict:
    goal = f"requests/s with 16 versions against 2, {cells.AT_32}: at least 0.95"
    one, other = (results.median("splits", cells.AT_32, side, Figure.RATE) for side in (cells.SIXTEEN, cells.TWO))
    return _at_least("4", goal, one, other, 0.95)


def _times_naive(results: Results) -> Verdict:
    goal = f"requests/s in HAProxy mode against the naive ingress on Serve's defaults, {cells.AT_64}: at least 12"
    one = results.median("trivial", cells.AT_64, cells.TWO, Figure.RATE)
    return _at_least("2", goal, one, results.median("defaults", cells.AT_64, cells.NAIVE, Figure.RATE), 12)


def _at_least(number: str, goal: str, one: float | None, other: float | None, least: float) -> Verdict:
    if one is None or not other:
        return Verdict(number, goal, "not measured", None)
    return Verdict(number, goal, f"{one / other:.2f}", one / other >= least)


def _later(results: Results, number: str, cell: str, figure: Figure, most_ms: float) -> Verdict:
    goal = f"{figure}, {cell}: at most {most_ms:g} ms more than plain Serve"
    one, base = (results.median("bento", cell, side, figure) for side in (cells.TWO, cells.PLAIN))
    if one is None or base is None:
        return Verdict(number, goal, "not measured", None)
    return Verdict(number, goal, f"{one - base:+.2f} ms", one - base <= most_ms)


def _memory(results: Results) -> Verdict:
    in_flight = cells.LARGE * cells.LARGE_CONNECTIONS / 1e6
    bound = MEMORY_BOUND * in_flight
    goal = (
        f"growth of the ingress with {cells.MB_20}: at most {bound:g} MB, {MEMORY_BOUND:g} times the {in_flight:g} MB "
        "under way"
    )
    grown = results.cell("bento", cells.MB_20)
    spread = grown.spread(cells.TWO, Figure.GROWTH) if grown else None
    if spread is None:
        return Verdict("4", goal, "not measured", None)
    return Verdict("4", goal, f"{spread.most:.0f} MB at most", spread.most <= bound)


def _more_ingress(results: Results) -> Verdict:
    """Judge what a second ingress replica brings: more, unless the machine was full with one."""
    goal = f"requests/s with 2 ingress replicas against 1, `trivial`, {cells.AT_64}: more, unless all cores are busy"
    sides = (cells.TWO, cells.ONE_INGRESS)
    two, one = (results.median("trivial", cells.AT_64, side, Figure.RATE) for side in sides)
    busy = results.median("trivial", cells.AT_64, cells.ONE_INGRESS, Figure.BUSY)
    if two is None or not one or busy is None:
        return Verdict("5", goal, "not measured", None)
    cores = float(results.machine["cores"])
    measured = f"{two / one:.2f}, with {busy:.2f} of {cores:g} cores busy at 1"
    return Verdict("5", goal, measured, two > one or busy >= _FULL * cores)
