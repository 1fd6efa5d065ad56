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
            "reads wins that back. What the split alone costs, "
            f"{_ratio(results, 'bento', cells.AT_32, Figure.RATE, cells.HOSTED)}",
        ),
        replace(
            _Compared(results, "bento", cells.AT_1, Figure.P50).difference("1", 0.5),
            why="As above, one request at a time. What the split alone costs, "
            f"{_ratio(results, 'bento', cells.AT_1, Figure.P50, cells.HOSTED)} "
            f"{_costs(results, 'bento', cells.AT_1, cells.TWO, cells.PLAIN, cells.HOSTED)}",
        ),
        _rate(
            results,
            "1",
            "bento",
            cells.AT_32,
            cells.NGINX,
            0.95,
            "nginx takes next to nothing of its own; an ingress in Python takes as much as a part of the Bento's own "
            "work. A request costs a version in a Serve replica less than it costs a `bentoml serve` behind nginx, "
            "which pays for a part of that only. Ray runs beside nginx too, and takes its share of the cores.",
        ),
        _rate(
            results,
            "2",
            "trivial",
            cells.AT_64,
            cells.PLAIN,
            0.5,
            "An app that does nothing leaves the layers: with a split, two Python servers take each request in and "
            "give the answer out, where plain Serve has one, and the system carries one connection more. What runs "
            "whether anybody asks or not is in all else, and is more for each request where fewer are answered.",
        ),
        _rate(
            results,
            "2",
            "defaults",
            cells.AT_64,
            cells.PLAIN,
            0.9,
            "By handle, the second hop is Serve's once more: its router, pickle and gRPC there and back, in two "
            "processes. Without HAProxy mode replicas have no port that a request could be sent to directly. One "
            "replica of the app answers more than two do on a machine this full: "
            f"{_ratio(results, 'defaults', cells.AT_64, Figure.RATE, cells.PLAIN_ONE)}",
        ),
        _times_naive(results),
        _alone(results, _Compared(results, "bento", cells.STREAM, Figure.FIRST).difference("3", 1.0)),
        _alone(results, _Compared(results, "bento", cells.TOKEN, Figure.FIRST).difference("3", 1.0)),
        _late(results, _Compared(results, "bento", cells.TOKENS, Figure.FIRST).difference("3", 1.0)),
        _late(results, _Compared(results, "bento", cells.TOKENS, Figure.DELAY_99).difference("3", 1.0)),
        _merged(results, cells.TOKEN),
        _merged(results, cells.TOKENS),
        _sixteen(results),
        _sixteen_with_keys(results),
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
        why="Single rounds differ by more than the goal's 3 %. "
        + _costs(results, "bento", cells.METERED, cells.TWO, cells.UNMETERED),
    )


def _sixteen(results: Results) -> Verdict:
    goal = f"requests/s with 16 versions against 2, {cells.AT_32}: at least 0.95"
    found = _Compared(results, "splits", cells.AT_32, Figure.RATE, cells.SIXTEEN, cells.TWO).ratio("4", goal, 0.95)
    why = (
        "All 16 processes run at either side; those that get no request are in all else, so that the versions' part "
        "and that of all else belong together here. What a choice between 16 costs the ingress shows in its own part. "
        f"{_costs(results, 'splits', cells.AT_32, cells.TWO, cells.SIXTEEN, cells.IN_TWO)}"
    )
    return replace(found, why=why)


def _sixteen_with_keys(results: Results) -> Verdict:
    goal = f"requests/s with 16 versions in 2 processes against 2, by header, {cells.WITH_KEYS}: at least 0.95"
    sides = cells.KEYED_16, cells.HEADER
    found = _Compared(results, "splits", cells.WITH_KEYS, Figure.RATE, *sides).ratio("4", goal, 0.95)
    why = (
        "With a key, a choice hashes 32 bytes more for every version; how long it takes, the first table says, in "
        f"nanoseconds. {_costs(results, 'splits', cells.WITH_KEYS, *reversed(sides))}"
    )
    return replace(found, why=why)


def _times_naive(results: Results) -> Verdict:
    goal = f"requests/s in HAProxy mode against the naive ingress on Serve's defaults, {cells.AT_64}: at least 12"
    compared = _Compared(results, "trivial", cells.AT_64, Figure.RATE, cells.TWO, cells.NAIVE, base_group="defaults")
    why = (
        "The two modes are two clusters, one after the other: these rounds did not meet the same noise. In HAProxy "
        f"mode: {_ratio(results, 'trivial', cells.AT_64, Figure.RATE, cells.NAIVE)} On Serve's defaults: "
        f"{_ratio(results, 'defaults', cells.AT_64, Figure.RATE, cells.NAIVE)}"
    )
    return replace(compared.ratio("2", goal, 12), why=why)


def _late(results: Results, found: Verdict) -> Verdict:
    """Add what is known of a chunk of one of several streams that waits."""
    sides = (cells.PLAIN, cells.HOSTED, cells.TWO, cells.UNMETERED)
    first, one, several = (
        _beside(results, cell, figure, " ms", *sides)
        for cell, figure in (
            (cells.TOKENS, Figure.FIRST),
            (cells.TOKEN, Figure.DELAY_99),
            (cells.TOKENS, Figure.DELAY_99),
        )
    )
    costs = results.median("bento", cells.AT_1, cells.TWO, Figure.INGRESS_CPU)
    each = f"{costs:.2f} ms of CPU for each" if costs is not None else "not measured"
    why = (
        "The streams of all 8 clients last equally long, so that they begin together: a request waits in an ingress "
        f"replica for those before it, which take it (one connection) {each}. Every chunk passes through one process "
        f"more, which has the chunks of the other streams to pass on too. To the first chunk, p50: {first}. From a "
        f"chunk's making to its arrival, p99: {several}; of one stream alone: {one}. "
        f"Of {results.machine['cores']} cores, busy: {_beside(results, cells.TOKENS, Figure.BUSY, '', *sides)}. "
        f"Of the ingress's samples in the profile: {_shares(results, f'bento, {cells.TOKENS}, an ingress replica')}."
    )
    return replace(found, why=why)


def _shares(results: Results, cell: str) -> str:
    """Say whose code is at work in a process, as far as it is a tenth."""
    profiled = results.cell("profile", cell)
    found = {side: profiled.spread(side, Figure.SHARE) for side in profiled.samples} if profiled else {}
    said = [f"{spread.median:.0f} % {side}" for side, spread in found.items() if spread and spread.median >= 10]
    return ", ".join(said) or "not measured"


def _alone(results: Results, found: Verdict) -> Verdict:
    """Add what is known of one stream alone."""
    token, stream = (_beside(results, cell, Figure.FIRST, " ms") for cell in (cells.TOKEN, cells.STREAM))
    why = (
        "The first chunk comes when the request has been read and sent on, by one process more. It is the same request "
        f"in both rows, so their difference is noise. A chunk every 5 ms: {token}, in the median of the few streams "
        f"that a round has time for; as fast as it goes: {stream}. From a chunk's making to its arrival, p50: "
        f"{_beside(results, cells.TOKEN, Figure.DELAY, ' ms')}."
    )
    return replace(found, why=why)


def _merged(results: Results, cell: str) -> Verdict:
    """Judge whether chunks arrive in another one's more often than without the split."""
    goal = f"{Figure.MERGED}, {cell}: no more than with plain Serve"
    one, base = _Compared(results, "bento", cell, Figure.MERGED).rounds
    if not one or not base:
        return Verdict("3", goal, "not measured", None)
    met = median(one) <= median(base)
    close = any((each <= other) is not met for each, other in zip(one, base, strict=False))
    measured = f"{median(one):g} ({min(one):g}..{max(one):g}) of 200, {median(base):g} with plain Serve"
    why = (
        "No chunk is held back to wait for another; one that a process has not come to pass on when the next one is "
        "there leaves together with it."
    )
    return Verdict("3", goal, measured, met, close, why)


def _beside(results: Results, cell: str, figure: Figure, unit: str, *sides: str) -> str:
    """Say a figure of some sides, one beside the other: with the split and without it, if none are given."""
    found = {
        side: results.median("bento", cell, side, figure) for side in sides or (cells.PLAIN, cells.HOSTED, cells.TWO)
    }
    said = [f"{value:.2f}{unit} with {side}" for side, value in found.items() if value is not None]
    return ", ".join(said) or "not measured"


def _ratio(results: Results, group: str, cell: str, figure: Figure, base: str) -> str:
    """Say how ray-canary compares with one more side."""
    one, other = (results.median(group, cell, side, figure) for side in (cells.TWO, base))
    if one is None or not other:
        return ""
    return f"{figure} against {base}: {one:,.4g} to {other:,.4g}, x{one / other:.2f}."


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
        f"growth of the ingress in a round with {cells.MB_20}: at most {bound} MB, {MB_PER_UPLOAD} for each upload "
        "under way"
    )
    grown = results.rounds_of("bento", cells.MB_20, cells.TWO, Figure.GROWTH)
    if not grown:
        return Verdict("4", goal, "not measured", None)
    measured = f"{max(grown):.0f} MB at most"
    rest = results.median("bento", cells.IDLE, cells.TWO, Figure.RSS)
    peaks = results.rounds_of("bento", cells.MB_20, cells.TWO, Figure.PEAK)
    if rest is not None and peaks:
        measured += f"; a replica had {rest:.0f} MB before any load, and {max(peaks):.0f} at its highest here"
    return Verdict("4", goal, measured, max(grown) <= bound)


def _more_ingress(results: Results) -> Verdict:
    """Judge what a second ingress replica brings: more, unless the machine was full with one."""
    goal = (
        f"requests/s with 2 ingress replicas against 1, `trivial`, {cells.AT_64}: more, unless {_FULL * 100:g} % of "
        "the cores are busy with 1"
    )
    sides = (cells.ONE_INGRESS, cells.TWO, cells.FOUR_INGRESS)
    one, two = (results.rounds_of("trivial", cells.AT_64, side, Figure.RATE) for side in sides[:2])
    busy = results.rounds_of("trivial", cells.AT_64, cells.ONE_INGRESS, Figure.BUSY)
    if not one or not two or not busy:
        return Verdict("5", goal, "not measured", None)
    cores = float(results.machine["cores"])

    def said(rate: float, other: float, cores_busy: float) -> bool:
        return rate > other or cores_busy >= _FULL * cores

    met = said(median(two), median(one), median(busy))
    close = any(said(*each) is not met for each in zip(two, one, busy, strict=False))
    ratios = [rate / other for rate, other in zip(two, one, strict=False)]
    measured = (
        f"{median(two) / median(one):.2f} ({min(ratios):.2f}..{max(ratios):.2f}), with "
        f"{median(busy) / cores * 100:.1f} % of the cores busy at 1"
    )
    rates = [results.median("trivial", cells.AT_64, side, Figure.RATE) for side in sides]
    why = (
        "Where the cores are nearly full, a replica more finds none that is idle, and each replica takes more for a "
        f"request. requests/s with 1, 2 and 4: {', '.join(f'{rate:,.0f}' for rate in rates if rate is not None)}. "
        f"{_costs(results, 'trivial', cells.AT_64, *sides)}"
    )
    return Verdict("5", goal, measured, met, close, why)
