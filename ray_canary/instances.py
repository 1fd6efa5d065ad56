"""What it may run on: the instance-type catalogue."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from ray_canary import legal, quantities, yamlfile
from ray_canary.accelerators import ACCELERATORS as ACCELERATORS
from ray_canary.errors import ConfigError, Problem
from ray_canary.fields import LabelKey, LabelSelector
from ray_canary.legal import Legal, refuse

ENVIRONMENT_VARIABLE = "RAY_CANARY_INSTANCE_TYPES"
"""Names a catalogue file to use in place of the built-in one."""

_LEAST_MEMORY = 2**20  # `memory: 2` is two bytes to Kubernetes, and a slip of the pen


@dataclass(frozen=True)
class InstanceType:
    """What one replica reserves."""

    name: str
    cpu: float
    memory_bytes: int
    gpu: int = 0
    gpu_type: str | None = None
    accelerator_type: str | None = None
    node_labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Catalogue:
    """The instance types there are, by name."""

    types: Mapping[str, InstanceType]
    source: str

    @classmethod
    def default(cls) -> "Catalogue":
        """Return the built-in catalogue, which is the one of BentoCloud's documentation."""
        return _default()

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a catalogue file."""
        return cls.loads(yamlfile.read(path), str(path))

    @classmethod
    def find(cls, path: str | Path | None = None) -> "Catalogue":
        """Return the catalogue in `path`, else the one that $RAY_CANARY_INSTANCE_TYPES names, else the built-in one.

        Raises:
            ConfigError: it can't be read, or has mistakes; `path` is empty, as where a shell variable isn't set.
        """
        if path is not None and not str(path).strip():
            raise ConfigError.of("is empty; name a file, or leave the option out", "--instance-types")
        chosen = path or os.environ.get(ENVIRONMENT_VARIABLE)
        return cls.load(chosen) if chosen else cls.default()

    @classmethod
    def loads(cls, text: str, source: str = "<string>") -> Self:
        """Read the text of a catalogue file, or raise a ConfigError with every mistake in it."""
        loaded = yamlfile.load_mapping(text, source, "instance types by name, like `cpu.1: {cpu: 500m, memory: 2Gi}`")
        found = list(loaded.problems)
        specs: dict[str, _Spec] = {}
        try:
            specs = _SPECS.validate_python(loaded.data)
        except ValidationError as error:
            known = {problem.path for problem in found}
            found += [problem for problem in legal.problems(error, dict[str, _Spec]) if problem.path not in known]
        if found:
            located = (problem.located(loaded.lines) for problem in found)
            raise ConfigError(sorted(located, key=lambda problem: problem.line or 0), source)
        return cls({name: spec.instance(name) for name, spec in specs.items()}, source)

    def get(self, name: str) -> InstanceType:
        """Return an instance type by its name."""
        if name in self.types:
            return self.types[name]
        there_are = f"{self.source} has {', '.join(self.types)}"
        question = legal.did_you_mean(name, self.types)
        hint = f"{question} {there_are}" if question else there_are
        problem = Problem("instance_type", f"there is no instance type {legal.show(name)}", name, hint=hint)
        raise ConfigError((problem,))

    def resources(self, instance: InstanceType) -> dict[str, Any]:
        """Return what an instance type is in Ray's terms: `ray_actor_options` without the `runtime_env`."""
        found: dict[str, Any] = {"num_cpus": instance.cpu, "memory": instance.memory_bytes}
        if instance.gpu:
            found["num_gpus"] = instance.gpu
        if instance.accelerator_type:
            found["accelerator_type"] = instance.accelerator_type
        return found

    def __iter__(self) -> Iterator[InstanceType]:
        return iter(self.types.values())

    def __len__(self) -> int:
        return len(self.types)


def bento_resources(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return a Bento service's own `resources` in Ray's terms; a bare number of memory is in Gi, as in BentoML."""
    found: dict[str, Any] = {}
    try:
        if wanted.get("cpu") is not None:
            found["num_cpus"] = quantities.cpu(wanted["cpu"])
        if wanted.get("memory") is not None:
            found["memory"] = quantities.memory(wanted["memory"], bare="Gi")
        if wanted.get("gpu"):
            found["num_gpus"] = quantities.gpus(wanted["gpu"])
    except ValueError as error:
        raise ConfigError.of(str(error), path="resources") from None
    if "num_gpus" in found and (accelerator := ACCELERATORS.get(wanted.get("gpu_type") or "")):
        found["accelerator_type"] = accelerator
    return found


def gpu_warning(wanted: Mapping[str, Any]) -> str | None:
    """Return what a user should know of the kind of GPU that a Bento service's own `resources` name."""
    kind = wanted.get("gpu_type")
    if not kind:
        return None
    if not wanted.get("gpu"):
        return f"the gpu_type {kind} has no effect, as no `gpu` says how many a replica gets"
    if kind in ACCELERATORS:
        return None
    mean = f"; {hint}" if (hint := legal.did_you_mean(str(kind), ACCELERATORS)) else "."
    return (
        f"the gpu_type {kind} is not known here, so any GPU will do{mean} An instance type can name another kind, by "
        "accelerator_type"
    )


def _cores(quantity: str | int | float) -> float:
    return quantities.cpu(quantity)


def _bytes(quantity: str | int | float) -> int:
    size = quantities.memory(quantity)
    if size < _LEAST_MEMORY:
        raise ValueError(f"{quantity} is less than 1Mi")
    return size


_Text = Annotated[str, Legal("text")]


class _Spec(BaseModel):
    """One instance type, as it stands in the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    cpu: Annotated[str | int | float, AfterValidator(_cores), Legal("CPU cores, like 500m or 2")] = Field(
        description="CPU cores, like 500m or 2."
    )
    memory: Annotated[
        str | int | float, AfterValidator(_bytes), Legal("an amount of memory of at least 1Mi, like 512Mi or 2Gi")
    ] = Field(description="Memory, like 512Mi or 2Gi.")
    gpu: Annotated[int, Field(ge=0), Legal("a whole number, 0 or more")] = Field(
        default=0, description="The number of GPUs."
    )
    gpu_type: _Text | None = Field(default=None, description="The kind of GPU in BentoML's words, like nvidia-l4.")
    accelerator_type: _Text | None = Field(
        default=None,
        description="The kind of GPU in Ray's words, like L4, where gpu_type isn't one that is known here.",
    )

    node_labels: dict[LabelKey, LabelSelector] = Field(
        default={}, description="Which nodes a replica may go to, by the nodes' labels."
    )

    @model_validator(mode="after")
    def _gpus_fit(self) -> Self:
        kind = self.gpu_type or self.accelerator_type
        if kind and not self.gpu:
            raise refuse(f"is given a kind of GPU, {kind}, but no GPU", "set gpu: 1")
        if self.gpu_type and not self.accelerator_type and self.gpu_type not in ACCELERATORS:
            question = legal.did_you_mean(self.gpu_type, ACCELERATORS)
            hint = " ".join(filter(None, (question, "else add accelerator_type, Ray's name of it")))
            raise refuse(f"the gpu_type {legal.show(self.gpu_type)} is not known here", hint)
        return self

    def instance(self, name: str) -> InstanceType:
        """Return the instance type under its name."""
        accelerator = self.accelerator_type or ACCELERATORS.get(self.gpu_type or "")
        # The two quantities are numbers now: their validators read them.
        return InstanceType(
            name, float(self.cpu), int(self.memory), self.gpu, self.gpu_type, accelerator, self.node_labels
        )


_SPECS = TypeAdapter(dict[str, _Spec])


@cache
def _default() -> Catalogue:
    text = resources.files("ray_canary").joinpath("instance_types.yaml").read_text(encoding="utf-8")
    return Catalogue.loads(text, "the built-in catalogue")
