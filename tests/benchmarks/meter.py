"""What processes use while a load runs: CPU time and memory."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import psutil

from tests.benchmarks.results import Figure, Sample

_MB = 1e6
#: What a request costs, in CPU time.
COSTS = (Figure.INGRESS_CPU, Figure.VERSIONS_CPU, Figure.ELSE_CPU)
#: Written to `clear_refs`, it makes the kernel forget how large a process once was.
_FORGET_PEAK = "5"


@dataclass(frozen=True)
class Side:
    """One of those that are compared: where it answers, and its processes."""

    url: str
    ingress: tuple[int, ...] = ()
    versions: tuple[int, ...] = ()


def metered(side: Side, load: Callable[[], Sample]) -> Sample:
    """Run a load against a side, and add what its processes and the machine used meanwhile."""
    before = (_cpu_s(side.ingress), _cpu_s(side.versions), *_machine_s())
    sample = load()
    after = (_cpu_s(side.ingress), _cpu_s(side.versions), *_machine_s())
    ingress, versions, busy, passed = (late - early for late, early in zip(after, before, strict=True))
    count = psutil.cpu_count() or 1
    found = {Figure.BUSY: busy / passed * count if passed else 0.0}
    if sample.done:
        found |= {Figure.INGRESS_CPU: ingress / sample.done * 1000} if side.ingress else {}
        found |= {Figure.VERSIONS_CPU: versions / sample.done * 1000} if side.versions else {}
        found |= {Figure.ELSE_CPU: max(0.0, busy - ingress - versions) / sample.done * 1000}
    return sample.model_copy(update={"values": {**sample.values, **found}})


def with_memory(side: Side, load: Callable[[], Sample]) -> Sample:
    """The same, and how much memory the ingress took at most, and how much more than when the load began."""
    before = {pid: psutil.Process(pid).memory_info().rss for pid in side.ingress}
    for pid in side.ingress:
        Path(f"/proc/{pid}/clear_refs").write_text(_FORGET_PEAK)
    sample = metered(side, load)
    peaks = {pid: _peak(pid) for pid in side.ingress}
    grown = sum(max(0, peaks[pid] - before[pid]) for pid in peaks)
    found = {Figure.PEAK: max(peaks.values()) / _MB, Figure.GROWTH: grown / _MB} if peaks else {}
    return sample.model_copy(update={"values": {**sample.values, **found}})


def idle(side: Side, seconds: float) -> Sample:
    """Let a side rest, and return the memory of an ingress replica on average; of a version's if it has no ingress.

    Of what several processes share, PSS counts each one's part.
    """
    time.sleep(seconds)
    found = [psutil.Process(pid).memory_full_info() for pid in side.ingress or side.versions]
    rss, pss = mean(one.rss for one in found), mean(one.pss for one in found)
    return Sample(values={Figure.RSS: rss / _MB, Figure.PSS: pss / _MB})


def _peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    said = next(line for line in status if line.startswith("VmHWM:"))
    return int(said.split()[1]) * 1024


def _cpu_s(pids: Iterable[int]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(one.user + one.system for one in times)


def _machine_s() -> tuple[float, float]:
    """Return the seconds that all cores were busy, and the seconds that have passed on them."""
    times = psutil.cpu_times()
    passed = sum(times[:8])  # guest time is in the user's already
    return passed - times.idle - times.iowait, passed
