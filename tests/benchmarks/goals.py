"""The goals of the fast path, whether a run meets them, and where the time goes."""

from dataclasses import dataclass, replace
from statistics import median
from typing import Final

from tests.benchmarks import cells
from tests.benchmarks.results import Figure, Results

#: How much all ingress replicas together may grow for each large upload under way, MB, whatever the upload's size.
MB_PER_UPLOAD: Final = 4
_FULL: Final = 0.95
#: What a request costs the machine, and who spends it.
_COSTS: Final = {
    Figure.INGRESS_CPU: "the ingress",
    Figure.VERSIONS_CPU: "the versions",
    Figure.ELSE_CPU: "all else",
}


@dataclass(frozen=True)
class Verdict:
    """One goal: its number, what it asks for, what was measured; `met` is None where it wasn't.

    `close` where some rounds say otherwise than the median. `why` says where the time goes.
    """

    number: str
    goal: str
    measured: str
    met: bool | None
    close: bool = False
    why: str = ""


@dataclass(frozen=True)
class _Compared:
    """Two sides by one figure, round by round."""

    results: Results
    group: str
    cell: str
    figure: Figure
    side: str = cells.TWO
    base: str = cells.PLAIN
    base_group: str | None = None

    @property
    def rounds(self) -> tuple[list[float], list[float]]:
        """What was measured of each."""
        one = self.results.rounds_of(self.group, self.cell, self.side, self.figure)
        return one, self.results.rounds_of(self.base_group or self.group, self.cell, self.base, self.figure)

    def ratio(self, number: str, goal: str, least: float) -> Verdict:
        """Judge by the ratio of the medians."""
        one, base = self.rounds
        if not one or not base or not all(base):
            return Verdict(number, goal, "not measured", None)
        ratio = median(one) / median(base)
        ratios = [each / other for each, other in zip(one, base, strict=False)]
        met = ratio >= least
        close = any((each >= least) is not met for each in ratios)
        return Verdict(number, goal, f"{ratio:.2f} ({min(ratios):.2f}..{max(ratios):.2f})", met, close)

    def difference(self, number: str, most_ms: float) -> Verdict:
        """Judge by the difference of the medians, in milliseconds."""
        goal = f"{self.figure}, {self.cell}: at most {most_ms:g} ms more than {self.base}"
        one, base = self.rounds
        if not one or not base:
            return Verdict(number, goal, "not measured", None)
        more = median(one) - median(base)
        each = [late - early for late, early in zip(one, base, strict=False)]
        met = more <= most_ms
        close = any((delay <= most_ms) is not met for delay in each)
        return Verdict(number, goal, f"{more:+.2f} ms ({min(each):+.2f}..{max(each):+.2f})", met, close)


def verdicts(results: Results) -> list[Verdict]:
    """Return every goal with what this run says of it."""
    return [
        _rate(
            results,
            "1",
            "bento",
            cells.AT_32,
            cells.PLAIN,
            0.95,
            "The split costs a second Python server in the way of each request; hosting that leaves out what nobody "
            "reads wins that back.",
        ),
        _Compared(results, "bento", cells.AT_1, Figure.P50).difference("1", 0.5),
        _rate(
            results,
            "1",
            "bento",
            cells.AT_32,
            cells.NGINX,
            0.95,
            "A split in C costs next to nothing, one in Python as much as a part of the Bento's own work. What hosting "
            "in a Serve replica wins over `bentoml serve` pays for a part of it only.",
        ),
        _rate(
            results,
            "2",
            "trivial",
            cells.AT_64,
            cells.PLAIN,
            0.5,
            "The machine is full, so the ratio is that of what a request costs. An app that does nothing leaves the "
            "layers: with a split, two Python servers take each request in and give the answer out, where plain Serve "
            "has one, and the system carries two connections more.",
        ),
        _rate(
            results,
            "2",
            "defaults",
            cells.AT_64,
            cells.PLAIN,
            0.9,
            "By handle, the second hop costs what the first one does: Serve's router, pickle and gRPC there and back, "
            "in two processes. Without HAProxy mode replicas have no port that a request could be sent to directly.",
        ),
        _times_naive(results),
        _Compared(results, "bento", cells.STREAM, Figure.FIRST).difference("3", 1.0),
        _alone(results, _Compared(results, "bento", cells.TOKEN, Figure.FIRST).difference("3", 1.0)),
        _late(results, _Compared(results, "bento", cells.TOKENS, Figure.FIRST).difference("3", 1.0)),
        _late(results, _Compared(results, "bento", cells.TOKENS, Figure.DELAY_99).difference("3", 1.0)),
        _sixteen(results),
        _memory(results),
        _more_ingress(results),
        _metrics(results),
    ]


def _rate(results: Results, number: str, group: str, cell: str, base: str, least: float, why: str) -> Verdict:
    goal = f"requests/s against {base}, `{group}`, {cell}: at least {least:g}"
    found = _Compared(results, group, cell, Figure.RATE, base=base).ratio(number, goal, least)
    return replace(found, why=f"{why} {_costs(results, group, cell, cells.TWO, base)}")


def _metrics(results: Results) -> Verdict:
    goal = f"requests/s with metrics against none, {cells.METERED}: at least 0.97"
    compared = _Compared(results, "bento", cells.METERED, Figure.RATE, base=cells.UNMETERED)
    return replace(
        compared.ratio("5.3", goal, 0.97),
        why=_costs(results, "bento", cells.METERED, cells.TWO, cells.UNMETERED),
    )


def _sixteen(results: Results) -> Verdict:
    goal = f"requests/s with 16 versions against 2, {cells.AT_32}: at least 0.95"
    found = _Compared(results, "splits", cells.AT_32, Figure.RATE, cells.SIXTEEN, cells.TWO).ratio("4", goal, 0.95)
    why = (
        "16 processes share the cores, and each works for itself: the versions' part grows, the ingress's doesn't. "
        f"{_costs(results, 'splits', cells.AT_32, cells.TWO, cells.SIXTEEN, cells.IN_TWO)}"
    )
    return replace(found, why=why)


def _times_naive(results: Results) -> Verdict:
    goal = f"requests/s in HAProxy mode against the naive ingress on Serve's defaults, {cells.AT_64}: at least 12"
    compared = _Compared(results, "trivial", cells.AT_64, Figure.RATE, cells.TWO, cells.NAIVE, base_group="defaults")
    return compared.ratio("2", goal, 12)


def _late(results: Results, found: Verdict) -> Verdict:
    """Add what keeps a chunk of one of several streams waiting."""
    busy = _beside(results, cells.TOKENS, Figure.BUSY, "")
    one, several = (_beside(results, cell, Figure.DELAY_99, " ms") for cell in (cells.TOKEN, cells.TOKENS))
    why = (
        "1,600 chunks a second pass through one process more, and wait there for a core and for those before them. "
        f"From a chunk's making to its arrival, p99: {several}; of one stream alone: {one}. "
        f"Of {results.machine['cores']} cores, busy: {busy}."
    )
    return replace(found, why=why)


def _alone(results: Results, found: Verdict) -> Verdict:
    """Add what one stream alone waits for: its request's way, or each of its chunks."""
    why = (
        "The first chunk comes when the request has been read and sent on, by one process more; no chunk waits for "
        f"another. From a chunk's making to its arrival, p50: {_beside(results, cells.TOKEN, Figure.DELAY, ' ms')}."
    )
    return replace(found, why=why)


def _beside(results: Results, cell: str, figure: Figure, unit: str) -> str:
    """Say a figure of plain Serve and of ray-canary, one beside the other."""
    found = {side: results.median("bento", cell, side, figure) for side in (cells.PLAIN, cells.TWO)}
    said = [f"{value:.2f}{unit} with {side}" for side, value in found.items() if value is not None]
    return ", ".join(said) or "not measured"


def _costs(results: Results, group: str, cell: str, *sides: str) -> str:
    """Say what 1,000 requests cost the machine behind each side, and who spends it."""
    said = []
    for side in sides:
        parts = {who: results.median(group, cell, side, figure) for figure, who in _COSTS.items()}
        known = {who: value for who, value in parts.items() if value is not None}
        if known:
            whole = ", ".join(f"{who} {value:.2f}" for who, value in known.items())
            said.append(f"{side} {sum(known.values()):.2f} ({whole})")
    return f"CPU-seconds per 1,000 requests: {'; '.join(said)}." if said else ""


def _memory(results: Results) -> Verdict:
    bound = MB_PER_UPLOAD * cells.LARGE_CONNECTIONS
    goal = (
        f"growth of the ingress with {cells.MB_20}: at most {bound} MB, {MB_PER_UPLOAD} for each upload under way, "
        "whatever its size"
    )
    grown = results.rounds_of("bento", cells.MB_20, cells.TWO, Figure.GROWTH)
    if not grown:
        return Verdict("4", goal, "not measured", None)
    return Verdict("4", goal, f"{max(grown):.0f} MB at most", max(grown) <= bound)


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
    why = (
        "What a second replica may use is what the first leaves idle of the machine; the rest of the cores' time is "
        f"the versions', HAProxy's and wrk's. {_costs(results, 'trivial', cells.AT_64, *sides)}"
    )
    return Verdict("5", goal, measured, two > one or busy >= _FULL * cores, why=why)
