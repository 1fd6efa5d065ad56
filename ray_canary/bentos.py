"""What was built: the Bento store, read without importing bentoml or any Bento's code."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from ray_canary.errors import BentoNotFound, BentoUnusable
from ray_canary.legal import BENTO_TAG, nearest_of

Stage = Literal["all", "build", "runtime"]

_TAG = re.compile(BENTO_TAG)
_SHOWN = 10
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class ModelRef(NamedTuple):
    """A model that a Bento refers to, and where it comes from: BentoML's own model store, or Hugging Face."""

    tag: str
    registry: str = "bentoml"


class BentoEnv(NamedTuple):
    """An environment variable that a Bento declares; without a value, one has to be given at deployment."""

    name: str
    value: str
    stage: str


@dataclass(frozen=True)
class ServiceInfo:
    """A Bento service: its name, the services of the same Bento that it calls, and its `@bentoml.service` settings."""

    name: str
    depends: tuple[str, ...]
    config: Mapping[str, Any]


@dataclass(frozen=True)
class BentoInfo:
    """What `bento.yaml` says about a Bento.

    `requirements` are its Python requirements as a requirements file: a lock, unless it was built without one.
    `asked_for` is what its author wrote, before it was locked.
    """

    name: str
    version: str
    entry_service: str
    services: Mapping[str, ServiceInfo]
    envs: tuple[BentoEnv, ...]
    bentoml_version: str
    python_version: str
    path: Path
    requirements: str = ""
    asked_for: str = ""
    has_tasks: bool = False
    models: tuple[ModelRef, ...] = ()

    @property
    def tag(self) -> str:
        """Return `name:version`."""
        return f"{self.name}:{self.version}"


@dataclass(frozen=True)
class BentoStore:
    """The Bentos in a directory, which need not exist."""

    path: Path

    def get(self, tag: str) -> BentoInfo:
        """Return the Bento that `name`, `name:latest`, `name:version` or the start of a version stands for."""
        name, version = _parts(tag)
        versions = self.versions(name)
        if not versions:
            raise BentoNotFound(self._no_such_name(name))
        if version in ("", "latest"):
            return read(self.path / name / self._latest(name, versions))
        if version in versions:
            return read(self.path / name / version)
        match [known for known in versions if known.startswith(version)]:
            case [only]:
                return read(self.path / name / only)
            case []:
                raise BentoNotFound(f"there is no Bento {name}:{version} in {self.path}; {_has(name, versions)}")
            case several:
                raise BentoNotFound(f"{name}:{version} could be any of {_listed(several)}: write more of the version")

    def names(self) -> tuple[str, ...]:
        """Return the names of all Bentos, sorted."""
        return tuple(sorted(_directories(self.path)))

    def versions(self, name: str) -> tuple[str, ...]:
        """Return the versions of a Bento, the newest first."""
        found = _directories(self.path / name)
        return tuple(sorted(found, key=lambda version: (_created(self.path / name / version), version), reverse=True))

    def _latest(self, name: str, versions: tuple[str, ...]) -> str:
        """Return the version that the store's `latest` file names, or the newest if it names none that is there."""
        try:
            named = (self.path / name / "latest").read_text(encoding="utf-8").strip()
        except OSError:
            named = ""
        return named if named in versions else versions[0]

    def _no_such_name(self, name: str) -> str:
        names = self.names()
        if not names:
            return f"there is no Bento {name} in {self.path}, which is empty; build one with `bentoml build`"
        nearest = nearest_of(name, names)
        rest = f"did you mean {nearest}?" if nearest else f"the Bentos there are {_listed(names)}"
        return f"there is no Bento {name} in {self.path}; {rest}"


def store_path() -> Path:
    """Return where bentoml keeps Bentos: $BENTOML_HOME/bentos, by default ~/bentoml/bentos."""
    home = os.environ.get("BENTOML_HOME")
    return (Path(home) if home else Path.home() / "bentoml") / "bentos"


def model_path(tag: str) -> Path:
    """Return where a model stands in a model store."""
    return Path(*tag.split(":", 1))


def missing_models(info: BentoInfo, bentos: Path) -> tuple[str, ...]:
    """Return the models that a Bento refers to, and that are neither in it nor in the model store beside a Bento store.

    Those of Hugging Face are never missing: BentoML fetches them when the Bento starts.
    """
    own = [model.tag for model in info.models if model.registry == "bentoml"]
    inside = (info.path / "models", bentos.parent / "models")
    return tuple(tag for tag in own if not any((root / model_path(tag)).is_dir() for root in inside))


def read(path: Path) -> BentoInfo:
    """Read the Bento in a directory, whose last two parts are its name and version."""
    tag = f"{path.parent.name}:{path.name}"
    data = _manifest(path, tag)
    try:
        return _info(path, tag, data)
    except (AttributeError, KeyError, TypeError) as error:
        raise BentoUnusable(f"{tag} is damaged: {path / 'bento.yaml'} is not as bentoml writes it: {error!r}") from None


def _info(path: Path, tag: str, data: Mapping[str, Any]) -> BentoInfo:
    services = {service["name"]: _service(service) for service in data.get("services") or ()}
    entry = data.get("entry_service") or ""
    if entry not in services:
        raise BentoUnusable(f"{tag} has no service class: it was built with bentoml before 1.2; build it anew")
    return BentoInfo(
        name=path.parent.name,
        version=path.name,
        entry_service=entry,
        services=services,
        envs=tuple(_envs(data)),
        bentoml_version=str(data.get("bentoml_version") or ""),
        python_version=_python_version(data),
        path=path,
        requirements=_requirements(path, data),
        asked_for=_text(path / "env" / "python" / "requirements.in"),
        has_tasks=any(route.get("is_task") for route in (data.get("schema") or {}).get("routes") or ()),
        models=tuple(dict.fromkeys(_models(data))),
    )


def required_envs(info: BentoInfo) -> tuple[str, ...]:
    """Return the environment variables that have to be given for the Bento to start."""
    return tuple(dict.fromkeys(env.name for env in info.envs if not env.value and env.stage != "build"))


def _parts(tag: str) -> tuple[str, str]:
    """Split a tag in name and version; like bentoml, make its letters small."""
    if not _TAG.fullmatch(tag):
        raise BentoNotFound(f"{tag!r} is not a Bento's tag, like name:version, name:latest or name")
    name, _, version = tag.lower().partition(":")
    return name, version


def _manifest(path: Path, tag: str) -> dict[str, Any]:
    try:
        data = yaml.safe_load((path / "bento.yaml").read_bytes())
    except OSError as error:
        raise BentoUnusable(f"{tag} is not whole: {path / 'bento.yaml'}: {error.strerror or error}") from None
    except yaml.YAMLError as error:
        raise BentoUnusable(f"{tag} is damaged: {path / 'bento.yaml'} is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise BentoUnusable(f"{tag} is damaged: {path / 'bento.yaml'} holds no mapping")
    return data


def _service(data: Mapping[str, Any]) -> ServiceInfo:
    inside = (_dependency(item) for item in data.get("dependencies") or ())
    depends = tuple(dict.fromkeys(name for name in inside if name))
    return ServiceInfo(data["name"], depends, data.get("config") or {})


def _dependency(item: str | Mapping[str, Any]) -> str | None:
    """Return the service of the same Bento that is meant; one with a `url` or a `deployment` is somewhere else."""
    if isinstance(item, str):  # as bentoml before 1.4 wrote it
        return item
    elsewhere = item.get("url") or item.get("deployment")
    return None if elsewhere else item.get("service")


def _envs(data: Mapping[str, Any]) -> Iterator[BentoEnv]:
    for env in data.get("envs") or ():
        yield BentoEnv(env["name"], str(env.get("value") or ""), env.get("stage") or "all")


def _models(data: Mapping[str, Any]) -> Iterator[ModelRef]:
    """Yield the models of a Bento, and those of its services."""
    for block in (data, *(data.get("services") or ())):
        for model in block.get("models") or ():
            if isinstance(model, str):  # as bentoml before 1.2 wrote it
                yield ModelRef(model)
            else:
                yield ModelRef(str(model["tag"]), model.get("registry") or "bentoml")


def _python_version(data: Mapping[str, Any]) -> str:
    image, docker = data.get("image") or {}, data.get("docker") or {}  # the second in Bentos of the older layout
    return str(image.get("python_version") or docker.get("python_version") or "")


def _requirements(path: Path, data: Mapping[str, Any]) -> str:
    said = (data.get("image") or {}).get("python_requirements")
    if said is not None:
        return str(said)
    python = path / "env" / "python"  # Bentos of the older layout have a lock of its own name
    return _text(python / "requirements.lock.txt") or _text(python / "requirements.txt")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _created(path: Path) -> datetime:
    """Return when a Bento was built, without reading more of its manifest than needed."""
    try:
        with (path / "bento.yaml").open(encoding="utf-8") as lines:
            line = next((line for line in lines if line.startswith("creation_time:")), "")
        created = datetime.fromisoformat(line.partition(":")[2].strip().strip("'\""))
    except (OSError, ValueError):
        return _LONG_AGO
    return created if created.tzinfo else created.replace(tzinfo=UTC)


def _directories(path: Path) -> list[str]:
    try:
        return [entry.name for entry in path.iterdir() if entry.is_dir()]
    except OSError:
        return []


def _has(name: str, versions: tuple[str, ...]) -> str:
    return f"{name} has {_listed(versions)}"


def _listed(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
