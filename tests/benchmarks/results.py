"""What was measured, and what follows from it: medians, spreads and ratios. Pure."""

from collections.abc import Mapping
from enum import StrEnum
from statistics import median
from typing import NamedTuple

from pydantic import BaseModel, Field


class Figure(StrEnum):
    """What a number is, and its unit."""

    RATE = "requests/s"
    P50 = "p50, ms"
    P99 = "p99, ms"
    INGRESS_CPU = "CPU-seconds of the ingress per 1,000 requests"
    VERSIONS_CPU = "CPU-seconds of the versions per 1,000 requests"
    ELSE_CPU = "CPU-seconds of all else per 1,000 requests"
    BUSY = "busy cores of the machine"
    PEAK = "highest RSS of an ingress replica, MB"
    GROWTH = "growth of all ingress replicas together, MB"
    FIRST = "time to the first chunk, p50, ms"
    CHUNKS = "chunks/s of one stream"
    DELAY = "from a chunk's making to its arrival, p50, ms"
    DELAY_99 = "from a chunk's making to its arrival, p99, ms"
    MERGED = "chunks that arrived in another one's, per stream"
    CHOICE = "ns per choice"
    SHARE = "percent of the samples"
    RSS = "RSS of each replica, MB"
    PSS = "PSS of each replica, MB"


class Sample(BaseModel):
    """One run of one load against one side: what came of it, and how many requests were answered and failed."""

    values: dict[Figure, float]
    done: int = 0
    failed: int = 0


class Spread(NamedTuple):
    """The median of several runs, the least and the most."""

    median: float
    least: float
    most: float


class Measured(BaseModel):
    """One cell: the samples of each side. Ratios are to `base`."""

    name: str
    base: str
    samples: dict[str, list[Sample]] = Field(default_factory=dict)

    def figures(self) -> list[Figure]:
        """Return what was measured, in the order of `Figure`."""
        found = {figure for samples in self.samples.values() for sample in samples for figure in sample.values}
        return [figure for figure in Figure if figure in found]

    def spread(self, side: str, figure: Figure) -> Spread | None:
        """Return a side's numbers; None if it has none."""
        found = [sample.values[figure] for sample in self.samples.get(side, ()) if figure in sample.values]
        return Spread(median(found), min(found), max(found)) if found else None

    def ratio(self, side: str, figure: Figure) -> float | None:
        """Return a side's median by the base's; None where one of them is missing, or the base's is nothing."""
        one, base = self.spread(side, figure), self.spread(self.base, figure)
        return one.median / base.median if one and base and base.median else None

    def failed(self, side: str) -> int:
        """Return how many requests of a side failed."""
        return sum(sample.failed for sample in self.samples.get(side, ()))

    def sent(self, side: str) -> int:
        """Return how many requests a side got, failed ones included."""
        return sum(sample.done for sample in self.samples.get(side, ())) + self.failed(side)


class Group(BaseModel):
    """The cells of one stage, which stood on one cluster."""

    name: str
    cells: list[Measured] = Field(default_factory=list)
    #: When: the UTC time at its end; empty where it isn't known.
    measured: str = ""


class Results(BaseModel):
    """One whole run."""

    machine: Mapping[str, str]
    rounds: int
    seconds: int
    groups: list[Group] = Field(default_factory=list)

    def cell(self, group: str, name: str) -> Measured | None:
        """Return a cell; None if it wasn't run."""
        found = (cell for each in self.groups if each.name == group for cell in each.cells if cell.name == name)
        return next(found, None)

    def rounds_of(self, group: str, name: str, side: str, figure: Figure) -> list[float]:
        """Return a side's numbers, round by round; none if it wasn't measured."""
        cell = self.cell(group, name)
        return [one.values[figure] for one in cell.samples.get(side, ()) if figure in one.values] if cell else []

    def median(self, group: str, name: str, side: str, figure: Figure) -> float | None:
        """Return a median; None if it wasn't measured."""
        found = self.rounds_of(group, name, side, figure)
        return median(found) if found else None
