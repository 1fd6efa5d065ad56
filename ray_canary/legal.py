"""What a value in a file may be, and the one sentence that says so when it is something else."""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, GetCoreSchemaHandler, ValidationError, ValidatorFunctionWrapHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from ray_canary.errors import MISSING, Problem

_PART = "[a-zA-Z0-9]([-._a-zA-Z0-9]{0,61}[a-zA-Z0-9])?"
BENTO_TAG = f"^{_PART}(:{_PART})?$"
"""`name` or `name:version`, as BentoML takes it (which turns capitals into small letters)."""

_MEANT = re.compile(r"did you mean '([^']+)'")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?", re.ASCII)
_CONTAINERS = {
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "string_type": "text",
}


@dataclass(frozen=True)
class Legal:
    """Annotates a type with its legal values in words, and makes one message of whatever is wrong with a value."""

    words: str
    choices: tuple[str, ...] = ()
    secret: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._check, handler(source))

    def _check(self, value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
        try:
            return inner(value)
        except ValidationError:
            shown = kind(value) if self.secret else show(value)
            hint = _quotes(value, inner) or did_you_mean(value, self.choices)
            raise refuse(f"{shown} is not {self.words}", hint, secret=self.secret) from None


def one_of(*choices: str) -> Legal:
    """Return the legal values of an enumeration."""
    return Legal(" or ".join(filter(None, (", ".join(choices[:-1]), choices[-1]))), choices)


def refuse(message: str, hint: str | None = None, *, secret: bool = False) -> PydanticCustomError:
    """Return the error for a validator to raise."""
    return PydanticCustomError("refused", "{message}", {"message": message, "hint": hint, "secret": secret})


def show(value: object) -> str:
    """Return a value as it would stand in the file, shortened."""
    if isinstance(value, str):
        return json.dumps(value if len(value) <= 60 else value[:57] + "...", ensure_ascii=False)
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value) if isinstance(value, int | float) else kind(value)


def kind(value: object) -> str:
    """Return what sort of value this is, without showing it."""
    if value is None:
        return "null"
    kinds = ((bool, "a boolean"), (int | float, "a number"), (str, "a text"), (list | tuple, "a list"))
    names = (name for types, name in kinds if isinstance(value, types))
    return next(names, "a mapping" if isinstance(value, Mapping) else type(value).__name__)


def did_you_mean(value: object, choices: Iterable[str]) -> str | None:
    """Return a question that names the nearest of the choices, if one is near."""
    nearest = nearest_of(str(value), choices)
    return f"did you mean '{nearest}'?" if nearest else None


def nearest_of(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that is spelled most like the word, whatever its capitals, if one is near."""
    spelled = {choice.lower(): choice for choice in choices}
    return next((spelled[match] for match in difflib.get_close_matches(word.lower(), spelled, n=1)), None)


def problems(error: ValidationError, root: Any) -> Iterator[Problem]:
    """Say what pydantic found in the words of this module; `root` is the type that was validated."""
    for details in error.errors(include_url=False):
        loc = tuple(step for step in details["loc"] if step != "[key]")
        value, given = details["input"], details.get("ctx", {})
        match details["type"]:
            case "refused":
                yield Problem.at(loc, given["message"], MISSING if given["secret"] else value, given["hint"])
            case "missing":
                yield Problem.at(loc, "is required")
            case "extra_forbidden":
                yield Problem.at(loc, "is not a known key", hint=_where_it_belongs(root, loc))
            case known if known in _CONTAINERS:
                yield Problem.at(loc, f"{show(value)} is not {_CONTAINERS[known]}", value)
            case _:
                yield Problem.at(loc, f"{show(value)}: {details['msg']}", value)


def _quotes(value: object, inner: ValidatorFunctionWrapHandler) -> str | None:
    """Return a hint if the value would be legal with quotes around it, or without them."""
    if isinstance(value, str):
        readings: list[object] = [read for read in (_number(value), _boolean(value)) if read is not None]
        hint = "take the quotes off"
    else:
        readings, hint = ([str(value)], "quote it") if isinstance(value, int | float) else ([], "")
    for reading in readings:
        try:
            inner(reading)
        except ValidationError:
            continue
        return hint
    return None


def _number(text: str) -> int | float | None:
    if not _NUMBER.fullmatch(text):
        return None
    return float(text) if "." in text else int(text)


def _boolean(text: str) -> bool | None:
    return {"true": True, "false": False}.get(text.lower())


def _where_it_belongs(root: Any, loc: tuple[str | int, ...]) -> str | None:
    """Return a hint for an unknown key: its likely spelling, the block it belongs in, or the keys there are."""
    block, key = _model(root, loc[:-1]), str(loc[-1])
    assert block is not None  # nothing but a model knows its keys
    inside = (name for name in block.model_fields if key in _keys(_step(block, name)))
    if (found := next(inside, None)) is not None:
        return f"it belongs under '{found}'"
    return did_you_mean(key, block.model_fields) or f"the keys here are {', '.join(block.model_fields)}"


def _keys(annotation: Any) -> Iterable[str]:
    model = _model(annotation, ())
    return model.model_fields if model else ()


def _model(annotation: Any, loc: tuple[str | int, ...]) -> type[BaseModel] | None:
    """Return the model that validates what stands at `loc`."""
    for step in loc:
        annotation = _step(bare_type(annotation), step)
    bare = bare_type(annotation)
    return bare if isinstance(bare, type) and issubclass(bare, BaseModel) else None


def _step(annotation: Any, step: str | int) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation.model_fields[str(step)].annotation
    arguments = get_args(annotation)
    return arguments[1] if get_origin(annotation) is dict else arguments[0]


def bare_type(annotation: Any) -> Any:
    """Take `Annotated[...]` and `... | None` off a type."""
    if get_origin(annotation) is Annotated:
        return bare_type(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return bare_type(next(part for part in get_args(annotation) if part is not type(None)))
    return annotation


def once(found: Iterable[Problem]) -> list[Problem]:
    """Tell a misspelt key once: that the key it was meant to be is missing is the same mistake."""
    told = list(found)
    meant = {
        f"{problem.path.rpartition('.')[0]}.{match[1]}".lstrip(".")
        for problem in told
        if (match := _MEANT.search(problem.hint or "")) and "is not a known key" in problem.message
    }
    return [problem for problem in told if not (problem.path in meant and problem.message.startswith("is required"))]
