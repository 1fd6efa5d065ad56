"""Worker groups of a Kubernetes cluster: what one worker has, and how many a Deployment needs. Pure."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from ray_canary import nodelabels, quantities
from ray_canary.errors import ConfigError, DoesNotFit
from ray_canary.nodelabels import Node
from ray_canary.plan import Plan
from ray_canary.serving import fitting
from ray_canary.serving.fitting import Demand

Resources = dict[str, float]

#: A part of the names of pods, and a label's value.
_GROUP = re.compile(r"[a-z]([-a-z0-9]{0,20}[a-z0-9])?")
_FORM: Final = (
    "NAME=CPUS,MEMORY or NAME=CPUS,MEMORY,GPUS,KIND, and after that node labels, like workers=4,16Gi or "
    "l4=8,32Gi,1,L4,pool=canary"
)


@dataclass(frozen=True)
class Size:
    """Room for replicas: whole CPU cores, and memory in bytes."""

    cpus: int
    memory_bytes: int

    @classmethod
    def parse(cls, text: str, what: str, form: str = "CPUS,MEMORY, like 2,8Gi") -> Self:
        """Read `4,16Gi`. Raises ConfigError."""
        cpus, comma, memory = text.partition(",")
        if not (comma and cpus.isascii() and cpus.isdigit()):
            raise ConfigError.of(f"{text!r} is not {form}", what)
        try:
            return cls(int(cpus), quantities.memory(memory))
        except ValueError as error:
            raise ConfigError.of(f"{text!r} is not {form}: {error}", what) from None


@dataclass(frozen=True)
class Workers:
    """One group of workers, all alike, and the room that one of them has for replicas.

    `accelerator_type` is Ray's name for its GPUs, like L4; `labels` are the labels of these nodes in Ray.
    """

    name: str
    size: Size
    gpus: int = 0
    accelerator_type: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `workers=4,16Gi` or `l4=8,32Gi,1,L4`, with labels at the end: `b=4,16Gi,pool=b`. Raises ConfigError."""
        name, _, rest = text.partition("=")
        said = rest.split(",")
        parts = [part for part in said if "=" not in part]
        labels = dict(part.split("=", 1) for part in said[len(parts) :] if "=" in part)
        if len(parts) + len(labels) != len(said):
            raise ConfigError.of(f"{text!r} is not {_FORM}", "--workers")
        for key, value in labels.items():
            if not re.fullmatch(nodelabels.KEY, key) or not re.fullmatch(nodelabels.VALUE, value):
                raise ConfigError.of(f"{text!r}: {key}={value} is not a node's label, like pool=canary", "--workers")
        gpus = parts[2] if len(parts) > 2 else "0"
        if not _GROUP.fullmatch(name) or len(parts) not in (2, 3, 4) or not (gpus.isascii() and gpus.isdigit()):
            raise ConfigError.of(f"{text!r} is not {_FORM}", "--workers")
        size = Size.parse(",".join(parts[:2]), "--workers", _FORM)
        if not size.cpus:
            raise ConfigError.of(f"{text!r}: a worker needs a CPU at least", "--workers")
        kind = parts[3] if len(parts) > 3 else None
        if kind and not int(gpus):
            raise ConfigError.of(f"{text!r} is given a kind of GPU, {kind}, but no GPU", "--workers")
        return cls(name, size, int(gpus), kind or None, labels)

    def node(self) -> Node:
        """Return what one worker has."""
        return Node(self.resources(), self.labels)

    def resources(self) -> Resources:
        """Return what one worker has, in Ray's terms."""
        found: Resources = {"CPU": self.size.cpus, "memory": self.size.memory_bytes}
        if self.gpus:
            found["GPU"] = self.gpus
        if self.accelerator_type:
            found[f"accelerator_type:{self.accelerator_type}"] = 1
        return found


DEFAULT: Final = Workers("workers", Size(4, 16 * 2**30))


@dataclass
class _Worker:
    """One worker: what of it is free, and how many replicas of each deployment it has."""

    free: Resources
    has: Counter[str] = field(default_factory=Counter)

    def takes(self, demand: Demand) -> bool:
        """Take one more replica, if there is room for it."""
        if demand.per_node is not None and self.has[demand.where] >= demand.per_node:
            return False
        if not fitting.within(demand.resources, self.free):
            return False
        self.has[demand.where] += 1
        for name, amount in demand.resources.items():
            self.free[name] -= amount
        return True


def counts(plan: Plan, groups: Sequence[Workers], *, most: bool) -> dict[str, int]:
    """Return how many workers of each group have room for a Deployment: to begin with, or (`most`) at its greatest.

    Each replica goes to the first group whose workers it fits, labels included; those with GPUs are for replicas that
    ask for one, as long as there is another group. The largest replicas are placed first, each on the first worker
    that has room. The first group has one worker at least.

    Raises:
        DoesNotFit: a replica fits no worker.
    """
    there: dict[str, list[_Worker]] = {group.name: [] for group in groups}
    for group, demand in _placed(plan, groups, most=most):
        workers = there[group.name]
        if not any(worker.takes(demand) for worker in workers):
            workers.append(_Worker(group.resources()))
            workers[-1].takes(demand)
    first = groups[0].name
    return {name: max(len(workers), 1 if name == first else 0) for name, workers in there.items()}


def _placed(plan: Plan, groups: Sequence[Workers], *, most: bool) -> Iterator[tuple[Workers, Demand]]:
    """Yield every replica with its group, the largest first."""
    ordered = sorted(groups, key=lambda group: bool(group.gpus))
    found: list[tuple[Workers, Demand]] = []
    for demand in fitting.demands(plan, most=most):
        group = next((one for one in ordered if demand.fits(one.node())), None)
        if group is None:
            raise DoesNotFit(
                f"{demand.where}: a replica needs {demand.text}; no worker has that ({'; '.join(map(_said, groups))}). "
                f"Add a group that has it, behind those that are there, with --workers {_FORM}"
            )
        found += [(group, demand)] * demand.replicas
    yield from sorted(
        found,
        key=lambda one: tuple(one[1].resources.get(name, 0) for name in ("GPU", "CPU", "memory")),
        reverse=True,
    )


def _said(group: Workers) -> str:
    labels = f", {nodelabels.text(group.labels)}" if group.labels else ""
    return f"{group.name}: {fitting.text(group.resources())}{labels}"
