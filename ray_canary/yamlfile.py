"""YAML as data, with the line of every key."""

import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ray_canary.errors import ConfigError, Problem, path_text

_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
_PLAIN = {_TAG + kind for kind in ("str", "int", "float", "bool", "null", "map", "seq")}
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)(\.[0-9]*)?([eE][-+]?[0-9]+)?|[-+]?\.[0-9]+([eE][-+]?[0-9]+)?")
_MOST_NODES = 20_000

Loc = tuple[str | int, ...]


@dataclass(frozen=True)
class Loaded:
    """What a file says: its data, the line of each path in it, and what is wrong before anyone looks at the meaning."""

    data: Any
    lines: Mapping[str, int]
    problems: tuple[Problem, ...]


def read(path: str | Path) -> str:
    """Return the text of a file."""
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError.of(f"can't be read: {error.strerror or error}", str(path)) from None
    except UnicodeDecodeError as error:
        at = f"byte 0x{error.object[error.start]:02x} at offset {error.start}"
        raise ConfigError.of(f"is not UTF-8 text: {at}", str(path)) from None


def loads(text: str, source: str) -> Loaded:
    """Read one YAML document; what is not YAML at all is raised, lesser mistakes are in `problems`."""
    loader = _open(text, source)
    reader = _Reader(loader)
    try:
        node = loader.get_single_node()
        data = None if node is None else reader.value(node, ())
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(error, source) from None
    except RecursionError:
        raise ConfigError.of("is nested too deeply", source) from None
    finally:
        loader.dispose()
    return Loaded(data, reader.lines, tuple(reader.problems))


def load_mapping(text: str, source: str, what: str) -> Loaded:
    """Read a document that has to be a mapping with something in it."""
    loaded = loads(text, source)
    if loaded.data is None:
        raise ConfigError.of(f"is empty: it should hold {what}", source)
    if not isinstance(loaded.data, dict):
        held = "a list" if isinstance(loaded.data, list) else "a single value"
        raise ConfigError.of(f"holds {held}: it should hold {what}", source)
    return loaded


class _Loader(yaml.SafeLoader):
    """A safe loader that leaves dates (and a bare `=`) the text that they are."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag in _PLAIN | {_MERGE}]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _open(text: str, source: str) -> _Loader:
    try:
        return _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = Problem("", f"is not valid YAML: the character #x{error.character:04x} is not allowed", line=line)
        raise ConfigError((problem,), source) from None


def _not_yaml(error: yaml.MarkedYAMLError, source: str) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    said = " ".join(part for part in (error.problem, error.context and f"({error.context})") if part)
    return ConfigError((Problem("", f"is not valid YAML: {said}", line=mark.line + 1 if mark else None),), source)


@dataclass
class _Reader:
    """Turns nodes into values. Its state: the lines and problems found so far, the places that have
    been reported, and how many nodes it has seen."""

    loader: _Loader
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    reported: set[tuple[int, int]] = field(default_factory=set)
    seen: int = 0

    def value(self, node: yaml.Node, loc: Loc) -> Any:
        """Return the node's value and note where it stands."""
        self.lines.setdefault(path_text(loc), node.start_mark.line + 1)
        self.seen += 1
        if self.seen > _MOST_NODES:  # an alias in an alias in an alias ...
            raise yaml.MarkedYAMLError(problem=f"more than {_MOST_NODES:,} values", problem_mark=node.start_mark)
        if node.tag not in _PLAIN:
            self.report(loc, f"the tag {node.tag.replace(_TAG, '!!')} is not supported", node)
            return None
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, loc)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*loc, index)) for index, item in enumerate(node.value)]
        return self.scalar(node, loc)

    def scalar(self, node: yaml.Node, loc: Loc) -> Any:
        """Return a text, number, bool or null; a number that doesn't look like what YAML makes of it is reported."""
        try:
            value = self.loader.construct_object(node)
        except (ValueError, LookupError):  # `!!bool maybe`, or a number of thousands of digits
            self.report(loc, f"{node.value[:20]} is not a value of its type", node)
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        if not math.isfinite(value):
            self.report(loc, f"{node.value} is not a number that can be used", node)
        elif not _DECIMAL.fullmatch(node.value):
            self.report(loc, f"YAML reads {node.value} as the number {value}; quote it, or write {value}", node)
        return value

    def mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        """Return a dict with text for keys; what `<<` merges in comes after what is written here."""
        own: dict[str, Any] = {}
        given: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                continue
            key, line = self.key(key_node, loc), key_node.start_mark.line + 1
            if key in given:
                self.report((*loc, key), f"is given twice, first in line {given[key]}", key_node)
            given[key] = line
            self.lines.setdefault(path_text((*loc, key)), line)
            own[key] = self.value(value_node, (*loc, key))
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                own = self.merged(value_node, loc) | own
        return own

    def key(self, node: yaml.Node, loc: Loc) -> str:
        """Return a key as it is written, and report one that isn't text."""
        if not isinstance(node, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=node.start_mark)
        key = str(node.value)
        if node.tag != _TAG + "str":
            self.report((*loc, key), f"the key {key} is not text; quote it", node)
        return key

    def merged(self, node: yaml.Node, loc: Loc) -> dict[str, Any]:
        """Return what `<<: *alias` or `<<: [*one, *other]` brings in; the first that has a key wins."""
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        found: dict[str, Any] = {}
        for part in parts:
            if not isinstance(part, yaml.MappingNode):
                raise yaml.MarkedYAMLError(problem="<< can only merge mappings", problem_mark=part.start_mark)
            found = self.mapping(part, loc) | found
        return found

    def report(self, loc: Loc, message: str, node: yaml.Node) -> None:
        """Note a problem, once for each place in the text: an alias leads to the same one again."""
        place = (node.start_mark.line, node.start_mark.column)
        if place not in self.reported:
            self.reported.add(place)
            self.problems.append(Problem(path_text(loc), message, line=place[0] + 1))


def rewrite(path: str | Path, data: Mapping[str, Any]) -> None:
    """Make a file say `data`, and leave its comments, its order and all that stays the same as they are.

    The file is replaced at once, or not at all. Raises ConfigError if it can't be written.
    """
    from io import StringIO

    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    text = read(path)
    document = yaml.load(text)
    _become(document, loads(text, str(path)).data, data)
    written = StringIO()
    yaml.dump(document, written)
    _replace(Path(path), written.getvalue())


def _become(there: Any, means: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Edit what ruamel has read. `means` is the same as we read it, which isn't always what YAML 1.2 says it is."""
    for key in [key for key in there if key not in wanted]:
        del there[key]
    for key, value in wanted.items():
        before = means.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping) and isinstance(there.get(key), dict):
            _become(there[key], before, value)
        elif key not in means or before != value or type(before) is not type(value):
            there[_written(key)] = _written(value)


def _written(value: Any) -> Any:
    """Return a value as ruamel has to write it for us to read it as it is: with quotes, wherever we need some."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, Mapping):
        return {_written(key): _written(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_written(inner) for inner in value]
    return DoubleQuotedScalarString(value) if isinstance(value, str) and _needs_quotes(value) else value


def _needs_quotes(text: str) -> bool:
    try:
        return bool(loads(text, "").data != text)
    except ConfigError:
        return True


def _replace(path: Path, text: str) -> None:
    target = path.resolve()
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        shutil.copymode(target, beside)
        os.replace(beside, target)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ConfigError.of(f"can't be written: {error.strerror}", str(path)) from None
