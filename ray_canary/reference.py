"""The pages that are generated from the code: `docs/configuration.md` and `docs/metrics.md`.

`python -m ray_canary.reference` writes both. What an edit of a key restarts is the table `_EFFECTS`, and
`tests/unit/test_reference.py` proves each of its rows on compiled configs.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ray_canary import metrics
from ray_canary.config import DeploymentFile, Env, Label, Placement, Secret, ServiceConfig, Version
from ray_canary.legal import Legal, bare_type

DOCS: Final = Path(__file__).parents[1] / "docs"

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
        raise LookupError(f"what does an edit of {self.path} restart? reference._EFFECTS doesn't say")


def keys() -> tuple[Key, ...]:
    """Return every key of the Deployment file that holds a value, in the order of the models.

    `services` of a version has the keys of `services.<service>`, and is left out.
    """
    return tuple(_keys(DeploymentFile, ""))


def configuration() -> str:
    """Return the page on the Deployment file."""
    found = keys()
    top = [key for key in found if "." not in key.path and not key.path.startswith("canary")]
    parts = [
        _CONFIGURATION.format(extra=_RULES),
        "## The top level\n\n" + _key_table(top),
        _ENVS + _plain_table(Env),
        _SERVICES + _key_table([key for key in found if key.path.startswith(f"{SERVICE}.")], f"{SERVICE}."),
        _CANARY + _key_table([key for key in found if key.path.startswith("canary.")]),
        _RAY + _key_table([key for key in found if key.path.startswith("ray.")]),
    ]
    return "\n\n".join(parts) + "\n"


def metrics_table() -> str:
    """Return the page on the metrics."""
    header = ("Metric", "Kind", "Labels", "What it says")
    rows = [(f"`{metrics.exported(m)}`", m.kind, _labels(m.labels), m.description) for m in metrics.ALL]
    buckets = [
        f"Buckets of `{metrics.exported(metric)}`, in seconds: {', '.join(f'{bound:g}' for bound in metric.buckets)}."
        for metric in metrics.ALL
        if metric.buckets
    ]
    of_class = [metric for metric in metrics.ALL if "status_class" in metric.labels]
    of_version = [metric for metric in metrics.ALL if "bento_version" in metric.labels]
    end = _METRICS_END.format(most=_series(of_version), more=_series(of_class))
    return "\n\n".join([_METRICS, _table(header, rows), *buckets, end]) + "\n"


def _series(found: Iterable[metrics.Metric]) -> int:
    """Return how many series these metrics have for one set of labels: a histogram has its buckets, sum and count."""
    return sum(len(metric.buckets) + 3 if metric.kind == "histogram" else 1 for metric in found)


def write(folder: Path = DOCS) -> None:
    """Write both pages."""
    (folder / "configuration.md").write_text(configuration(), encoding="utf-8")
    (folder / "metrics.md").write_text(metrics_table(), encoding="utf-8")


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
            yield Key(path, _legal(field), _left_out(path, field), str(field.description))


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


def _legal(field: FieldInfo) -> str:
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


# As text. ------------------------------------------------------------------------------------------------------------


def _key_table(found: list[Key], prefix: str = "") -> str:
    header = ("Key", "Legal values", "Default", "What it is", "An edit restarts")
    rows = [
        (f"`{key.path.removeprefix(prefix)}`", key.legal, key.default, key.description, str(key.restarts))
        for key in found
    ]
    return _table(header, rows)


def _plain_table(model: type[BaseModel]) -> str:
    rows = [(f"`{name}`", _legal(field), str(field.description)) for name, field in model.model_fields.items()]
    return _table(("Key", "Legal values", "What it is"), rows)


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Escape what Markdown would take for something else; what stands in backquotes is safe, but for a bar."""
    parts = re.split(r"(`[^`]*`)", text.replace("|", "\\|"))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;").replace("_", "\\_") for part in parts)


def _labels(labels: tuple[str, ...]) -> str:
    return ", ".join(f"`{label}`" for label in labels)


_GENERATED: Final = (
    "<!-- Generated by `python -m ray_canary.reference` from the models: edit ray_canary/, not this page. -->"
)

_RULES: Final = """\
- The weights of all versions add up to at most 100; main gets the rest.
- `route_type` is required as soon as there are versions, `route_by` with `header` and `query`.
- `min_replicas` is at most `max_replicas`, also after main's scaling is inherited.
- `ray.ingress.num_replicas` is at most `max_replicas`, and with `max_replicas` `target_ongoing_requests` at most
  `max_ongoing_requests`.
- `external_queue: true` needs a `concurrency`.
- A list of `envs` names a variable once.
- A list of `secrets` names a secret once. `ray.secrets` says something of secrets that a list names, `keys` of those of
  type `env` and `path` of those of type `file`. No two file secrets of a version stand in the same place.
- `ray.applications` names targets of this Deployment, and no application twice.
- A mapping in `ray.dependencies` names targets of this Deployment.
- `ray.placement` names targets of this Deployment.
- A path or a URL holds a Bento. A URL has neither a user nor a password, nor a credential in its query.
- Against the Bento store: every Bento is there, has the services that the file names, and finds every environment
  variable that it requires. Every instance type is in the catalogue (`ray-canary list-instance-types`)."""

_CONFIGURATION: Final = (
    """\
# Configuration

"""
    + _GENERATED
    + """

This page lists every key of a Deployment file. [Concepts](concepts.md) explains the words.
A key that is not listed is refused, with the nearest key that is.

**An edit restarts**: what `ray-canary deploy` or `serve deploy` restarts when you change the value. Each row is proved
by a test that compiles a file before and after the edit.

- *Restarts* means that new replicas come up and old ones finish their requests and go. `deployment_strategy` says in
  which order.
- No edit under `canary` restarts main or another version. Only an edit of `ray.ingress.num_cpus` or
  `ray.ingress.max_replicas_per_node` restarts the ingress.
- *live* means that the new value is in force without any new replica.
- Every edit gives the ingress a new `user_config`, which it takes into force live: the file itself is a part of it.
- `ray-canary plan -f FILE` says for your edit what will happen on your cluster.

All of this is about the usual form, one Serve application for each version. In the
[single-application form](concepts.md#the-single-application-form) an edit of the file restarts everything.

Rules that join several keys:

{extra}"""
)

_ENVS: Final = """\
## Environment variables

Each `envs` is a list of these. The later wins: the file's `envs`, main's `services.<service>.envs`, the version's
`envs`, the version's `services.<service>.envs`. Names that begin with `RAY_`, and `BENTOML_HOME`,
`BENTOML_RESULT_STORE` and `PROMETHEUS_MULTIPROC_DIR`, are the replica's own, and refused. All of these lists win over a
secret's key of the same name, and a secret's key over the default in the Bento. What is written here is readable for
everybody who sees Serve's config: credentials belong in [secrets](operations.md#secrets).

"""

_SERVICES: Final = """\
## `services.<service>`: how a Bento service runs

`<service>` is the name of a Bento service, as in the Bento's `bento.yaml`. The same keys stand under
`canary.versions.<version>.services.<service>`, for that version.

An edit in main's `services` concerns main, and every version that inherits the key. An edit in a version's `services`
concerns that version alone. "The Bento's" is what `@bentoml.service(...)` says. In a version, a key that is left out is
as in main.

"""

_CANARY: Final = """\
## `canary`: the versions and the split

A version's `services` has the keys of the section above. "That version" is the one whose key you edit.

"""

_RAY: Final = """\
## `ray`: what BentoCloud has no words for

BentoCloud ignores this block, so the file stays valid there.

"""

_METRICS: Final = (
    """\
# Metrics

"""
    + _GENERATED
    + """

Every ingress replica counts these, and Ray exports them on each node beside its own metrics. `canary_deployment` is
the Deployment's name, `bento_version` is `main` or a version's key. The labels `deployment`, `application` and
`replica` are Serve's own, and name the ingress. `bento` is the tag of the Bento that answered, and `route_type` how
the split goes: `header`, `query` or `random`. `status_class` is `2xx`, `3xx`, `4xx` or `5xx`. `split_reason` is what
`X-Bento-Split` says: `keyed`, `random`, `no-key`, `pinned`, `system`, `task` or `failover`.
[Operations](operations.md#what-to-alert-on) has queries."""
)

_METRICS_END: Final = """\
What the ingress answers before it asks a version is not counted: 400, 403 and 413, and the 503 of a terminated
Deployment. A request whose client leaves before the answer begins is not counted either. A websocket counts when it is
accepted or refused, with the time until then; how long it lasts and what it carries is not measured.

How many series there are is bounded by the file, not by what clients send: nothing is labelled by a path, a key or a
client. A version has at most {most} for each ingress replica while its answers are of one status class, and {more} more
for each further class. Every further reason of the split is one more, and an edit of its Bento begins a new set. A
version that gets no request has ten. Ray exports each counter a second time, as a gauge without `_total`, unless
`RAY_EXPORT_COUNTER_AS_GAUGE=0`.

Counts are handed to Ray once a second. A series appears with its first count. A gauge is each ingress replica's own:
sum `ray_canary_in_flight` over the replicas, and take the maximum or minimum of the others. Ray rebuilds a histogram's
sum from the middles of its buckets, so use quantiles rather than means."""


if __name__ == "__main__":
    write()
