"""Worker groups of a Kubernetes cluster: what one worker has, and how many a Deployment needs. Pure."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final, Self

from ray_canary import legal, nodelabels, quantities
from ray_canary.errors import ConfigError, DoesNotFit
from ray_canary.instances import ACCELERATORS
from ray_canary.nodelabels import Node
from ray_canary.plan import Plan
from ray_canary.serving import fitting
from ray_canary.serving.fitting import Demand

Resources = dict[str, float]

#: Less is a slip of the pen: `16` is 16 bytes.
_LEAST_MEMORY: Final = 2**20
#: BentoML's words for GPUs; not Ray's.
_BENTOML_KIND = re.compile("(nvidia|amd)-[a-z0-9-]*")
#: Ray's names of what Kubernetes hands out neither as NVIDIA's GPUs nor as AMD's.
_OTHER_MAKERS = re.compile(
    r"(intel|tpu|aws|apple|mobilint|furiosa|npu)([-_].*)?|ascend.*|mxc.*|m[1-3](-.*)?", re.IGNORECASE
)
#: What Ray's autoscaler calls the head.
_HEAD: Final = "headgroup"
_GROUP_LABEL: Final = "ray.io/node-group"
_KIND_LABEL: Final = "ray.io/accelerator-type"

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
        if not int(cpus):
            raise ConfigError.of(f"{text!r}: it needs a CPU at least", what)
        try:
            size = quantities.memory(memory)
        except ValueError as error:
            raise ConfigError.of(f"{text!r} is not {form}: {error}", what) from None
        if size < _LEAST_MEMORY:
            hint = f"did you mean {memory}Gi?" if memory.isdigit() else None
            raise ConfigError.of(f"{text!r}: {memory} of memory is less than 1Mi", what, hint=hint)
        return cls(int(cpus), size)


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
            if key in (_GROUP_LABEL, _KIND_LABEL):
                raise ConfigError.of(f"{text!r}: Ray gives each node {key} by itself; leave it out", "--workers")
            if not re.fullmatch(nodelabels.KEY, key) or not re.fullmatch(nodelabels.VALUE, value):
                raise ConfigError.of(f"{text!r}: {key}={value} is not a node's label, like pool=canary", "--workers")
        gpus = parts[2] if len(parts) > 2 else "0"
        if not _GROUP.fullmatch(name) or len(parts) not in (2, 3, 4) or not (gpus.isascii() and gpus.isdigit()):
            raise ConfigError.of(f"{text!r} is not {_FORM}", "--workers")
        if name == _HEAD:
            raise ConfigError.of(f"{text!r}: {_HEAD} is the head's own name; choose another one", "--workers")
        size = Size.parse(",".join(parts[:2]), "--workers", _FORM)
        kind = parts[3] if len(parts) > 3 else None
        if kind and not int(gpus):
            raise ConfigError.of(f"{text!r} is given a kind of GPU, {kind}, but no GPU", "--workers")
        return cls(name, size, int(gpus), _kind(text, kind) if kind else None, labels)

    def node(self) -> Node:
        """Return what one worker has."""
        kind = {_KIND_LABEL: self.accelerator_type} if self.accelerator_type else {}
        # Ray gives a node these two by itself; its autoscaler has to be told them of nodes that are not there yet.
        return Node(self.resources(), {_GROUP_LABEL: self.name, **kind, **self.labels})

    def resources(self) -> Resources:
        """Return what one worker has, in Ray's terms."""
        found: Resources = {"CPU": self.size.cpus, "memory": self.size.memory_bytes}
        if self.gpus:
            found["GPU"] = self.gpus
        if self.accelerator_type:
            found[f"accelerator_type:{self.accelerator_type}"] = 1
        return found


def _kind(text: str, kind: str) -> str:
    """Return Ray's name of a kind of GPU that is given in Ray's or in BentoML's words. Raises ConfigError."""
    if _OTHER_MAKERS.fullmatch(kind):
        message = f"{text!r}: {kind} is no GPU of NVIDIA or AMD; how a pod gets one is not known here"
        raise ConfigError.of(message, "--workers")
    known = set(ACCELERATORS.values())
    if found := ACCELERATORS.get(kind, kind if kind in known else None):
        return found
    nearest = legal.nearest_of(kind, (*sorted(known), *ACCELERATORS))
    slip = _BENTOML_KIND.fullmatch(kind) or (nearest and nearest.lower() == kind.lower())
    if slip or not re.fullmatch(nodelabels.VALUE, kind):
        raise ConfigError.of(
            f"{text!r}: {kind!r} is not Ray's name of a GPU, like L4, nor BentoML's, like nvidia-l4",
            "--workers",
            hint=f"did you mean {nearest}?" if nearest else None,
        )
    return kind


DEFAULT: Final = Workers("workers", Size(4, 16 * 2**30))

#: CPUs of each worker beside the room for replicas: Serve spreads ingress replicas over all workers, and one that took
#: a part of that room would keep a replica that needs all of it waiting for ever.
INGRESS_CPUS: Final = 1


def counts(plan: Plan, groups: Sequence[Workers], *, most: bool) -> dict[str, int]:
    """Return how many workers of each group have room for a Deployment: to begin with, or (`most`) at its greatest.

    Each replica goes to the first group whose workers it fits, labels included; those with GPUs are for replicas that
    ask for one, as long as there is another group. Serve spreads replicas instead of packing them, and in no order that
    could be relied on; there are so many workers that each replica finds one wherever the others of its group are, and
    wherever ingress replicas are. The first group has one worker at least.

    Raises:
        DoesNotFit: a replica fits no worker.
    """
    homes = _homes(plan, groups, most=most)
    found = {group.name: enough(group, *_there(group, homes)[:2]) for group in groups}
    first = groups[0].name
    return {**found, first: max(found[first], 1)}


def crowded(plan: Plan, groups: Sequence[Workers]) -> tuple[str, ...]:
    """Return a sentence for every group whose workers others may fill: Ray keeps replicas off a node by labels only."""
    homes = _homes(plan, groups, most=True)
    found = []
    for group in groups:
        own, ingress, others = _there(group, homes)
        if own and enough(group, own, (*ingress, *others)) > enough(group, own, ingress):
            found.append(
                f"workers of {group.name} are for {_places(own)}, and may be filled by {_places(others)}, which fit "
                "there as well; keep those off with ray.placement.KEY.node_labels: "
                f'{{{_GROUP_LABEL}: "!{group.name}"}}, or there may be no room for the former'
            )
    return tuple(found)


def _there(group: Workers, homes: Sequence[tuple[Demand, Workers]]) -> tuple[list[Demand], list[Demand], list[Demand]]:
    """Return what is for a group's workers, and what else fits them: ingress replicas, and others."""
    own = [demand for demand, home in homes if home is group]
    guests = [demand for demand, home in homes if home is not group and demand.fits(group.node())]
    return own, [one for one in guests if _is_ingress(one)], [one for one in guests if not _is_ingress(one)]


def _places(demands: Sequence[Demand]) -> str:
    return ", ".join(demand.where for demand in demands)


def _homes(plan: Plan, groups: Sequence[Workers], *, most: bool) -> list[tuple[Demand, Workers]]:
    """Return what each deployment asks for, and the group whose workers are for it."""
    ordered = sorted(groups, key=lambda group: bool(group.gpus))
    found = []
    for demand in fitting.demands(plan, most=most):
        group = next((one for one in ordered if demand.fits(one.node())), None)
        if group is None:
            raise DoesNotFit(
                f"{demand.where}: a replica needs {demand.text}; no worker has that ({'; '.join(map(_said, groups))}). "
                f"Add a group that has it, behind those that are there, with --workers {_FORM}"
            )
        found.append((demand, group))
    return found


def _is_ingress(demand: Demand) -> bool:
    return demand.where == "ray.ingress"


def enough(group: Workers, own: Sequence[Demand], guests: Sequence[Demand]) -> int:
    """Return how many workers of a group have room for each of `own`, wherever the others of them and `guests` are."""
    return max((1 + _full(group, wanted, (*own, *guests)) for wanted in own), default=0)


def _full(group: Workers, wanted: Demand, there: Sequence[Demand]) -> int:
    """Return how many workers could be so full of other replicas that one more of `wanted` has no room there, at most.

    A worker has none when the others take more of some resource than `wanted` leaves of it. Each of them is a part of
    the least that does so, 1 at most. Amounts are counted in what all of them are multiples of: where `wanted` leaves 8
    of 16 GiB and the others have 2 or 8 each, that least is 10.
    """
    room = _amounts({**group.resources(), "CPU": group.size.cpus + INGRESS_CPUS})
    taken = [_amounts(one.resources) for one in there]
    least: dict[str, int] = {}
    for name, amount in _amounts(wanted.resources).items():
        step = math.gcd(*(one.get(name, 0) for one in taken))
        least[name] = ((room[name] - amount) // step + 1) * step
    parts: Counter[Fraction] = Counter()
    for one, amounts in zip(there, taken, strict=True):
        of_it = [Fraction(amounts.get(name, 0), amount) for name, amount in least.items()]
        if one is wanted and wanted.per_node is not None:
            of_it.append(Fraction(1, wanted.per_node))
        parts[min(Fraction(1), max(of_it, default=Fraction(0)))] += one.replicas - (one is wanted)
    return _filled(parts)


def _filled(parts: Mapping[Fraction, int]) -> int:
    """Return how many wholes can be covered with these parts (from 0 to 1) at most, or a few more.

    Whatever weights the parts have, if all that cover a whole weigh 1 together, no more are covered than all weigh.
    For each `most`, these are such weights: when no part is larger than it, `k` are needed, and `k - 1` of them leave
    `rest`; so each weighs 1/k, one smaller than `rest` less in proportion, and one larger than `most` weighs 1.
    """

    def weight(part: Fraction, most: Fraction) -> Fraction:
        k = math.ceil(1 / most)
        rest = 1 - (k - 1) * most
        return Fraction(1) if part > most else min(Fraction(1), part / rest) / k

    mosts = {Fraction(1), *(part for part in parts if part)}
    return math.floor(min(sum(weight(part, most) * count for part, count in parts.items()) for most in mosts))


def _amounts(resources: Mapping[str, float]) -> dict[str, int]:
    """Return resources in whole numbers of what Ray counts by, ten-thousandths; without those that are less."""
    return {name: whole for name, amount in resources.items() if (whole := round(amount * 10_000))}


def _said(group: Workers) -> str:
    labels = f", {nodelabels.text(group.labels)}" if group.labels else ""
    return f"{group.name}: {fitting.text(group.resources())}{labels}"
