"""From a Bento's own `/schema.json`: the fields of a form for each API, and what the form sends. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ray_canary.errors import ConfigError, Problem

#: What a field is filled with: a file's name, media type and content.
File = tuple[str, str, bytes]

_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class Field:
    """One field: `kind` is text, integer, number, boolean, choice, json, file or files."""

    name: str
    kind: str
    title: str
    required: bool
    says: str = ""
    default: Any = None
    choices: tuple[Any, ...] = ()
    least: float | None = None
    most: float | None = None
    media_type: str = ""

    @property
    def is_file(self) -> bool:
        """Whether it is filled with files."""
        return self.kind in ("file", "files")

    @property
    def is_image(self) -> bool:
        """Whether it is filled with an image."""
        return self.media_type.startswith("image/")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One API: where it is, what it takes, and whether it streams; of a `root` one the only field is the whole body."""

    name: str
    route: str
    fields: tuple[Field, ...]
    root: bool = False
    streams: bool = False
    task: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent: JSON, or a form of texts and files; of a `raw` one the only file is the whole body."""

    json: Any = None
    texts: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, File], ...] = ()
    raw: bool = False


def endpoints(schema: Mapping[str, Any]) -> tuple[Endpoint, ...]:
    """Read `/schema.json`.

    Raises:
        ValueError: it is none.
    """
    routes = schema.get("routes") if isinstance(schema, Mapping) else None
    if not isinstance(routes, list):
        raise ValueError("it names no routes")
    try:
        return tuple(_endpoint(route) for route in routes)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"it is not as BentoML writes it: {type(error).__name__}: {error}") from None


def body_of(endpoint: Endpoint, values: Mapping[str, Any]) -> Body:
    """Return what a filled form sends. `values` holds texts, booleans, choices and lists of files by field.

    Raises:
        ConfigError: every field that is wrong: its name, the value, what is legal.
    """
    problems: list[Problem] = []
    read: dict[str, Any] = {}
    files: list[tuple[str, File]] = []
    for field in endpoint.fields:
        given = values.get(field.name)
        if field.is_file:
            given = given or ()
            if field.required and not given:
                problems.append(Problem(field.name, "is required: choose a file"))
            files += [(field.name, file) for file in given]
            continue
        try:
            value = _read(field, given)
        except ValueError as error:
            problems.append(Problem(field.name, str(error), given))
            continue
        if value is not _MISSING:
            read[field.name] = value
    if problems:
        raise ConfigError(problems)
    if endpoint.root and files:
        return Body(files=tuple(files[:1]), raw=True)
    if endpoint.root:
        return Body(json=next(iter(read.values()), None))
    if any(field.is_file for field in endpoint.fields):
        # BentoML reads what isn't a file of a form as JSON.
        return Body(texts=tuple((name, json.dumps(value)) for name, value in read.items()), files=tuple(files))
    return Body(json=read)


def _endpoint(route: Mapping[str, Any]) -> Endpoint:
    taken = route.get("input") or {}
    known = taken.get("$defs") or {}
    root = bool(taken.get("root_input"))
    fields: tuple[Field, ...]
    if root:
        fields = (_field("body", _resolved(taken, known), True, known),)
    else:
        required = set(taken.get("required") or ())
        properties = taken.get("properties") or {}
        fields = tuple(_field(name, _resolved(one, known), name in required, known) for name, one in properties.items())
    given = route.get("output") or {}
    streams, task = bool(given.get("is_stream")), bool(route.get("is_task"))
    path = str(route["route"])
    if not path.startswith("/") or not path.isprintable():
        raise ValueError(f"{path!r} is no path")
    return Endpoint(str(route["name"]), path, fields, root, streams, task)


def _resolved(one: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Follow a reference, and take what may also be null for what it is otherwise."""
    for _ in range(20):  # A schema that refers to itself has no end.
        if "$ref" in one:
            one = {
                **known.get(str(one["$ref"]).rpartition("/")[2], {}),
                **{k: v for k, v in one.items() if k != "$ref"},
            }
        elif len(one.get("allOf") or ()) == 1:
            one = {**one["allOf"][0], **{k: v for k, v in one.items() if k != "allOf"}}
        elif "anyOf" in one:
            others = [each for each in one["anyOf"] if each.get("type") != "null"]
            if len(others) != 1:
                return dict(one)
            one = {**others[0], **{k: v for k, v in one.items() if k != "anyOf"}}
        else:
            break
    return dict(one)


def _field(name: str, one: Mapping[str, Any], required: bool, known: Mapping[str, Any]) -> Field:
    kind, choices, media_type = _kind(one, known)
    return Field(
        name=name,
        kind=kind,
        title=str(one.get("title") or name),
        required=required,
        says=str(one.get("description") or ""),
        default=_fitting(kind, one.get("default")),
        choices=choices,
        least=_fitting("number", one.get("minimum", one.get("exclusiveMinimum"))),
        most=_fitting("number", one.get("maximum", one.get("exclusiveMaximum"))),
        media_type=media_type,
    )


def _fitting(kind: str, value: Any) -> Any:
    """Return a default or a bound, None if it doesn't fit its field."""
    if kind in ("integer", "number") and (isinstance(value, bool) or not isinstance(value, int | float)):
        return None
    return value


def _kind(one: Mapping[str, Any], known: Mapping[str, Any]) -> tuple[str, tuple[Any, ...], str]:
    """Return the kind of a field, its choices, and the media type of its file."""
    named = one.get("type")
    if one.get("enum"):
        return "choice", tuple(one["enum"]), ""
    if "const" in one:
        return "choice", (one["const"],), ""
    if named == "file":
        return "file", (), _media_type(one)
    if named == "array":
        item = _resolved(one.get("items") or {}, known)
        if item.get("type") == "file":
            return "files", (), _media_type(item)
    kinds = {"string": "text", "integer": "integer", "number": "number", "boolean": "boolean"}
    return kinds.get(str(named), "json"), (), ""


def _media_type(one: Mapping[str, Any]) -> str:
    image = "image/*" if one.get("format") == "image" else ""
    return str(one.get("content_type") or image)


def _read(field: Field, given: Any) -> Any:
    """Return what a field's value means, `_MISSING` if it is left out. Raises ValueError."""
    if field.kind == "boolean":
        return bool(given) if given is not None else _MISSING
    if given is None or given == "":
        if not field.required:
            return _MISSING
        if field.kind == "text" and given == "":
            return ""
        raise ValueError("is required")
    if field.kind in ("text", "choice"):
        return given
    if field.kind == "json":
        try:
            return json.loads(given)
        except (TypeError, ValueError) as error:
            raise ValueError(f"is not JSON: {error}") from None
    number = _number(field.kind, given)
    if field.least is not None and number < field.least:
        raise ValueError(f"is less than {field.least}")
    if field.most is not None and number > field.most:
        raise ValueError(f"is greater than {field.most}")
    return number


def _number(kind: str, given: Any) -> float:
    try:
        number = float(given)
    except (TypeError, ValueError):
        raise ValueError("is not a number") from None
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError("is not a number")
    if kind == "integer":
        if number != int(number):
            raise ValueError("is not a whole number")
        return int(number)
    return number
