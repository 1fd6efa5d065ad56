"""`docs/benchmarks.md`: one run's numbers, and what they mean."""

from typing import Final

from tests.benchmarks.goals import Verdict, verdicts
from tests.benchmarks.results import Figure, Group, Measured, Results

_HEAD = """\
# Benchmarks

What ray-canary costs, measured against what one would run or build in its place. `make bench` runs all of it on one
machine and writes this page; [`benchmarks.json`](benchmarks.json) holds every single number.

## How it was run

{machine}

Each side answers on loopback of the same machine, where the load comes from too: [wrk](https://github.com/wg/wrk)
with one thread, and a small client in Python for streams. The sides of a row get their load one after the other,
{rounds} rounds of {seconds} s for each, after a second that doesn't count. So all of them meet the same noise, and
**the ratios are what counts**: absolute numbers belong to this machine. Logs, access logs included, are as each has
them by default. Every process has niceness 0: Ray's own default, 15, would let nginx, wrk and `bentoml serve` go
first. How fast the machine was at that hour, the first table shows: it is the same Python each time.

Each field of a table has the median of the rounds, the least and the greatest, and the ratio of the median to that of
the first column. CPU-seconds are those of the processes' own clocks, with what they do when nobody asks; the busy
cores are the whole machine's, wrk and HAProxy included. Requests that failed are counted where there were any.
"""

_GOALS = """\
## The goals

The numbers are those of the issues that asked for them. Each compares medians of one run; in brackets is what the
single rounds say, and where some of them say otherwise than the median, that stands behind the verdict. Goal 6 is no
number: no request fails at any change, no other process restarts, and splits are exact. The end-to-end tests show it,
`test_changes_under_load` and `test_requests` in HAProxy mode, directly, and on Serve's own proxy, by handle.
"""

_WHY = """\
### Where the time goes

Of the goals that are missed, or met by some of the rounds only. All else is HAProxy or Serve's proxy, wrk, the system's
network, Ray itself, and every process of the other sides, which all stand there: also when nobody asks. The three parts
are the busy cores' time by the number of requests. Whose code the ingress's and the versions' is, the profile says.
"""

_FAILURES = """\
## Failed requests
"""

#: What each group is, whatever its numbers are.
_ABOUT: Final = {
    "decision": (
        "The splitter's own time for one request, in one process: with a key it hashes the key, at random it takes "
        "the next version of a shuffled block."
    ),
    "bento": (
        "The same Bento everywhere, in HAProxy mode with the throughput preset. Its API takes a text and answers "
        "with the text's length, so that nearly all of the time is BentoML's, Serve's and ours. Plain Serve is one "
        "deployment with 2 replicas, `serve.ingress` around the Bento's own `to_asgi()`, and nothing of ray-canary. "
        "Our hosting is the same around the app that a version of ray-canary runs, which leaves out what nobody reads "
        "([how Bentos are hosted](decisions/hosting.md)): between that and ray-canary is what the split costs. nginx "
        "splits between two `bentoml serve`, and is as Debian has it, with connections kept and larger bodies let in: "
        "a body is in a file of its own before it is passed on. `bentoml serve` alone is one. Ray and every other side "
        "stand beside them all. The naive ingress is FastAPI and `await "
        "handle.remote(...)`, and its two versions call the Bento as a Python object: BentoML's HTTP server, with "
        "all that it checks and counts, isn't in it. ray-canary sends its requests `direct`, as `ray-canary get` "
        "calls it. Bodies are of 100 bytes unless a row says otherwise. Memory is that of an ingress replica; of a "
        "Bento's for plain Serve."
    ),
    "splits": (
        "Several Deployments in front of the same 16 version applications of the Bento, all of them running, in "
        "HAProxy mode: what differs is the split. In the row with keys, each request carries a key of its own, as "
        "header and as query parameter. By handle means `ray.ingress.transport: handle`. In 16 processes, versions "
        "take each other's place on the cores, and what each does for itself adds up; where 16 versions share 2 "
        "processes, nothing but the split itself is larger. Those of the 16 that a side doesn't ask are in all else."
    ),
    "trivial": (
        "An ASGI app that answers `ok` in the place of the Bento, in HAProxy mode: what is left is the layers "
        "themselves. Where a column doesn't say otherwise, there are two replicas of the app, and two of an "
        "ingress."
    ),
    "profile": (
        "Whose code is at work, as py-spy sees it 100 times a second, in one replica of each kind under load: 32 "
        "connections for the Bento, or streams; 64 for the app that does nothing. A sample is its innermost frame's "
        "owner's; what the standard library does is its caller's, and a system call is whoever's it is made by: the "
        "response is written to the socket in uvicorn's name where the Bento isn't ours, and in ray-canary's where it "
        "is. The event loop is uvloop, which reads the sockets. `bentoml serve` has no profile here."
    ),
    "defaults": (
        "The same on Serve's defaults: its Python proxy, without the throughput preset. Replicas have no ports of "
        "their own there, so that ray-canary sends its requests by handle."
    ),
}


def page(results: Results) -> str:
    """Write the page."""
    head = _HEAD.format(machine=_machine(results), rounds=results.rounds, seconds=results.seconds)
    groups = [_group(group) for group in results.groups]
    return "\n".join([head, *groups, _FAILURES, _failures(results), *_judged(verdicts(results))])


def _machine(results: Results) -> str:
    said = dict(results.machine)
    date, cores, processor = (said.pop(key) for key in ("date", "cores", "processor"))
    first = f"- {date}, {cores} cores of {processor}, {said.pop('memory')} of memory, {said.pop('system')}"
    return first + "\n- " + ", ".join(f"{name} {version}" for name, version in said.items())


def _group(group: Group) -> str:
    when = f"Measured {group.measured}. " if group.measured else ""
    tables = [_table(group, figure) for figure in Figure if any(figure in cell.figures() for cell in group.cells)]
    return "\n".join([f"## {group.name.capitalize()}\n", f"{_wrapped(when + _ABOUT[group.name])}\n", *tables])


def _table(group: Group, figure: Figure) -> str:
    cells = [cell for cell in group.cells if figure in cell.figures()]
    sides = list(dict.fromkeys(side for cell in cells for side in cell.samples if cell.spread(side, figure)))
    rows = [[cell.name, *(field(cell, side, figure) for side in sides)] for cell in cells]
    return f"**{figure[0].upper()}{figure[1:]}**\n\n{table(['', *sides], rows)}"


def field(cell: Measured, side: str, figure: Figure) -> str:
    """Write one field: median, spread, ratio to the base, failures."""
    spread = cell.spread(side, figure)
    if spread is None:
        return ""
    text = f"{number(spread.median)} ({number(spread.least)}..{number(spread.most)})"
    ratio = cell.ratio(side, figure)
    if side != cell.base and ratio is not None:
        text += f" x{ratio:.2f}"
    return text + (f" **{failed} failed**" if (failed := cell.failed(side)) else "")


def number(value: float) -> str:
    """Write a number with three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Write a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _failures(results: Results) -> str:
    found = [
        f"- `{group.name}`, {cell.name}, {side}: {cell.failed(side)} of {cell.sent(side)}"
        for group in results.groups
        for cell in group.cells
        for side in cell.samples
        if cell.failed(side)
    ]
    return "\n".join(found or ["None, anywhere."]) + "\n"


def _judged(found: list[Verdict]) -> list[str]:
    goals = table(["", "goal", "measured", ""], [[one.number, one.goal, one.measured, _said(one)] for one in found])
    missed: dict[str, list[str]] = {}
    for one in found:
        if one.why and (one.met is False or one.close):
            missed.setdefault(one.why, []).append(f"**{one.goal}**")
    whys = [_wrapped(f"- {', '.join(of)} {why}") + "\n" for why, of in missed.items()]
    return [_GOALS, goals, *([_WHY, *whys] if whys else [])]


def _said(verdict: Verdict) -> str:
    said = {True: "met", False: "**missed**", None: "-"}[verdict.met]
    return f"{said}; some rounds say otherwise" if verdict.close else said


def _wrapped(text: str, width: int = 118) -> str:
    lines: list[str] = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)
