"""The command: `python -m tests.benchmarks` measures and writes the page; `... page` only writes it again."""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from tests.benchmarks import decision, machine, profile, report
from tests.benchmarks.cells import STAGES, Cell, Sides, Stage
from tests.benchmarks.results import Group, Measured, Results
from tests.benchmarks.settings import Settings
from tests.e2e.harness import AUTH, build_bento

NUMBERS = "benchmarks.json"
_WARM_UP_S = 1
_BENTO = Path(__file__).with_name("bento")


def main(arguments: list[str]) -> None:
    """Run what is asked for."""
    settings = Settings.read()
    if arguments == ["page"]:
        write(settings, Results.model_validate_json((settings.folder / NUMBERS).read_text()))
        return
    # What was started is ended on the way out, which a signal alone would not do.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    os.environ.update(AUTH)
    with tempfile.TemporaryDirectory(prefix="ray-canary-bench-") as folder:
        measure(settings, Path(folder))


def measure(settings: Settings, folder: Path) -> None:
    """Run every stage that is wanted, and write the page after each: a later one may fail.

    Of stages that are not wanted, the page keeps what an earlier run has measured.
    """
    results = Results(machine=machine.describe(), rounds=settings.rounds, seconds=settings.seconds)
    stages = _stages(settings, folder / "bentoml", folder)
    if settings.only:
        results.groups += _kept(settings)
    build_bento(folder / "bentoml", "bench", "v1", _BENTO)
    for name, run in stages.items():
        if not settings.only or name in settings.only:
            group = run().model_copy(update={"measured": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"})
            found = {each.name: each for each in (*results.groups, group)}
            results.groups = [found[each] for each in stages if each in found]
            write(settings, results)


def _kept(settings: Settings) -> list[Group]:
    """Return what an earlier run has measured, as long and as often as this one."""
    path = settings.folder / NUMBERS
    if not path.exists():
        return []
    earlier = Results.model_validate_json(path.read_text())
    if (earlier.rounds, earlier.seconds) != (settings.rounds, settings.seconds):
        sys.exit(
            f"{path} has {earlier.rounds} rounds of {earlier.seconds} s: measure everything, or as long as it has."
        )
    return earlier.groups


def _stages(settings: Settings, home: Path, folder: Path) -> dict[str, Callable[[], Group]]:
    found: dict[str, Callable[[], Group]] = {decision.NAME: partial(decision.run, settings)}
    found |= {stage.name: partial(_run, stage, settings, home, folder) for stage in STAGES}
    return found | {profile.NAME: partial(profile.run, settings, home, folder)}


def _run(stage: Stage, settings: Settings, home: Path, folder: Path) -> Group:
    _say(f"{stage.name}: starting")
    with stage.start(home, folder) as sides:
        return Group(name=stage.name, cells=[_measured(cell, sides, settings) for cell in stage.cells])


def _measured(cell: Cell, sides: Sides, settings: Settings) -> Measured:
    """Give each side its load in turn, round by round."""
    for side in cell.sides:
        cell.measure(sides[side], _WARM_UP_S)
    found = Measured(name=cell.name, base=cell.sides[0], samples={side: [] for side in cell.sides})
    for _ in range(settings.rounds * cell.repeats):
        for side in cell.sides:
            found.samples[side].append(cell.measure(sides[side], settings.seconds))
    for side in cell.sides:
        _say(f"  {cell.name}, {side}: " + "; ".join(_line(found, side)))
    return found


def _line(cell: Measured, side: str) -> list[str]:
    found = ((figure, report.field(cell, side, figure)) for figure in cell.figures())
    return [f"{figure} {text}" for figure, text in found if text]


def write(settings: Settings, results: Results) -> None:
    """Write the page and the numbers."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    (settings.folder / NUMBERS).write_text(results.model_dump_json(indent=1) + "\n")
    (settings.folder / "benchmarks.md").write_text(report.page(results))
    _say(f"written: {settings.folder / 'benchmarks.md'}")


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
