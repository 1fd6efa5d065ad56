"""Every key of a Deployment file, read off the models: its legal values, its default, and what an edit of it restarts.

The last is the table `_EFFECTS`; `tests/unit/test_reference.py` proves each of its rows on compiled configs.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ray_canary.config import DeploymentFile, Env, Label, Placement, Secret, ServiceConfig, Version
from ray_canary.legal import Legal, bare_type

SERVICE: Final = "services.<service>"
VERSION: Final = "canary.versions.<version>"


class Restarts(StrEnum):
    """What an edit of a key restarts."""

    NOTHING = "nothing: live"
    IGNORED = "nothing: it has no effect"
    UNTIL_START = "nothing: Serve reads it only when it starts"
    PUSH = "nothing: the next `--push` reads it"
    ANOTHER = "nothing: another name is another Deployment"
    SERVICE = "that service"
    MAIN = "all services of main"
    TARGET = "all services of that version"
    EVERY = "all services of every version"
    REPLACED = "all services of that version, in a new application"
    COMES = "nothing: the version comes or goes"
    USERS = "all services of every version that has the secret"
    INGRESS = "the ingress"


#: The first pattern that a key's path matches says what an edit of the key restarts; `**` is any rest of a path.
_EFFECTS: Final[tuple[tuple[str, Restarts], ...]] = (
    ("name", Restarts.ANOTHER),
    ("bento", Restarts.MAIN),
    ("access_authorization", Restarts.NOTHING),
    ("envs", Restarts.EVERY),
    ("secrets", Restarts.EVERY),
    (f"{SERVICE}.instance_type", Restarts.SERVICE),
    (f"{SERVICE}.envs", Restarts.SERVICE),
    (f"{SERVICE}.config_overrides.**", Restarts.TARGET),
    (f"{SERVICE}.cold_start_timeout", Restarts.NOTHING),
    (f"{SERVICE}.extras", Restarts.IGNORED),
    (f"{SERVICE}.scaling.policy.scale_up_behavior", Restarts.IGNORED),
    (f"{SERVICE}.scaling.policy.scale_down_behavior", Restarts.IGNORED),
    (f"{SERVICE}.scaling.policy.metrics", Restarts.IGNORED),
    (f"{SERVICE}.scaling.**", Restarts.NOTHING),
    (f"{SERVICE}.deployment_strategy", Restarts.NOTHING),
    ("canary.route_type", Restarts.NOTHING),
    ("canary.route_by", Restarts.NOTHING),
    (VERSION, Restarts.COMES),
    (f"{VERSION}.bento", Restarts.TARGET),
    (f"{VERSION}.weight", Restarts.NOTHING),
    (f"{VERSION}.envs", Restarts.TARGET),
    (f"{VERSION}.secrets", Restarts.TARGET),
    ("ray.route_prefix", Restarts.NOTHING),
    ("ray.http.**", Restarts.UNTIL_START),
    ("ray.ingress.num_cpus", Restarts.INGRESS),
    ("ray.ingress.max_replicas_per_node", Restarts.INGRESS),
    ("ray.ingress.node_labels.<label>", Restarts.INGRESS),
    ("ray.ingress.**", Restarts.NOTHING),
    ("ray.queue.**", Restarts.NOTHING),
    ("ray.hosts.enforce_memory", Restarts.EVERY),
    ("ray.hosts.**", Restarts.NOTHING),
    ("ray.applications.<target>", Restarts.REPLACED),
    ("ray.secrets.**", Restarts.USERS),
    ("ray.dependencies", Restarts.TARGET),
    ("ray.placement.**", Restarts.TARGET),
    ("ray.arms.<target>", Restarts.NOTHING),
    ("ray.bento_store", Restarts.PUSH),
    ("ray.standalone", Restarts.TARGET),
    *((key, Restarts.IGNORED) for key in ("cluster", "labels", "dev", "description")),
)

#: What is used where the file says nothing and the model has no default of its own.
_LEFT_OUT: Final[Mapping[str, str]] = {
    f"{SERVICE}.instance_type": "by `config_overrides.resources`, else the Bento's, else 1 CPU",
    f"{SERVICE}.scaling.min_replicas": "`1`",
    f"{SERVICE}.scaling.max_replicas": "`min_replicas`, at least `1`",
    f"{SERVICE}.scaling.policy.scale_up_stabilization_window": "`30`",
    f"{SERVICE}.scaling.policy.scale_down_stabilization_window": "`600`",
    f"{SERVICE}.config_overrides.traffic.timeout": "the Bento's, else `60`",
    f"{SERVICE}.config_overrides.traffic.concurrency": "the Bento's, else `2` for scaling",
    f"{SERVICE}.config_overrides.workers": "none",
    f"{SERVICE}.deployment_strategy": "`RollingUpdate`",
    "canary.route_type": "required with versions",
    "canary.route_by": "required with `header` and `query`",
    "ray.ingress.max_replicas": "`num_replicas`",
    "ray.ingress.max_replicas_per_node": "any number",
    "ray.ingress.node_labels.<label>": "any node",
    "ray.placement.<target>.node_labels.<label>": "any node",
    "ray.placement.<target>.max_replicas_per_node": "any number",
    "ray.secrets.<secret>.keys": "all that its folder has",
    "ray.secrets.<secret>.path": "the secret's name",
    "ray.applications.<target>": "`<name>-main`, `<name>-canary-<version>`",
    "ray.arms.<target>": "the target's key",
}

_CONTAINERS: Final[Mapping[type[BaseModel], str]] = {
    Env: "a list of `{name, value}`",
    Label: "a list of `{key, value}`",
}


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the Deployment file."""

    path: str
    legal: str
    default: str
    description: str

    @property
    def restarts(self) -> Restarts:
        """What an edit of it restarts. Raises LookupError if the table doesn't say."""
        for pattern, effect in _EFFECTS:
            if _matches(pattern, self.path):
                return effect
        raise LookupError(f"what does an edit of {self.path} restart? file_keys._EFFECTS doesn't say")


def keys() -> tuple[Key, ...]:
    """Return every key of the Deployment file that holds a value, in the order of the models.

    `services` of a version has the keys of `services.<service>`, and is left out.
    """
    return tuple(_keys(DeploymentFile, ""))


# The keys, read off the models. --------------------------------------------------------------------------------------


def _keys(model: type[BaseModel], prefix: str) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        inner, step = _inside(field.annotation)
        if inner is ServiceConfig and prefix:
            continue
        if step:
            path = f"{path}.{step}"
        if inner is Version:
            yield Key(path, _words(get_args(bare_type(field.annotation))[0]), "none", _docstring(Version))
        if inner is not None:
            yield from _keys(inner, f"{path}.")
        else:
            yield Key(path, legal(field), _left_out(path, field), str(field.description))


def _inside(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """Return the model whose keys stand under an annotation, and the name of the key between, if it is a mapping."""
    bare = bare_type(annotation)
    if get_origin(bare) is dict:
        inner = bare_type(get_args(bare)[1])
        named = {ServiceConfig: "<service>", Version: "<version>", Secret: "<secret>", Placement: "<target>"}
        if inner in named:
            return inner, named[inner]
        if inner is not str or Legal not in map(type, _notes(get_args(bare)[1])):
            return None, ""
        return None, "<label>" if _notes(get_args(bare)[0]) else "<target>"
    return (bare, "") if isinstance(bare, type) and issubclass(bare, BaseModel) else (None, "")


def legal(field: FieldInfo) -> str:
    """Return the legal values of a field in words."""
    notes = [note for note in field.metadata if isinstance(note, Legal)]
    return notes[0].words if notes else _words(field.annotation)


def _words(annotation: Any) -> str:
    """Return the legal values of a type in words."""
    for note in _notes(annotation):
        if isinstance(note, Legal):
            return note.words
    bare = bare_type(annotation)
    if get_origin(bare) is tuple:
        inner = get_args(bare)[0]
        return _CONTAINERS.get(bare_type(inner)) or f"a list; each {_words(inner)}"
    if get_origin(bare) is dict:
        return _words(get_args(bare)[1])
    raise TypeError(f"{annotation!r} has no legal values in words")


def _notes(annotation: Any) -> tuple[Any, ...]:
    """Return what an annotation is annotated with, inside of `... | None` too."""
    if get_origin(annotation) is Annotated:
        bare, *notes = get_args(annotation)
        return (*notes, *_notes(bare))
    if get_origin(annotation) in (Union, UnionType):
        return _notes(next(part for part in get_args(annotation) if part is not type(None)))
    return ()


def _left_out(path: str, field: FieldInfo) -> str:
    """Say what is used where the file leaves a key out."""
    if path in _LEFT_OUT:
        return _LEFT_OUT[path]
    if field.is_required():
        return "required"
    if path.startswith(f"{SERVICE}.config_overrides."):
        return "the Bento's"
    if field.default is None or field.default in ((), {}):
        return "none"
    return f"`{json.dumps(field.default)}`" if isinstance(field.default, bool) else f"`{field.default}`"


def _docstring(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _matches(pattern: str, path: str) -> bool:
    return path.startswith(pattern[:-2]) if pattern.endswith(".**") else path == pattern
