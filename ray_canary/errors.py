"""Every exception that ray-canary raises, in one tree.

RayCanaryError                 exit code 1
├── ConfigError                exit code 2   what the user wrote is wrong: every mistake, with its path and line
│   └── PlanError              exit code 2   the file is legal, but doesn't fit the Bentos or the instance types
├── BentoError                 exit code 2
│   ├── BentoNotFound                        no such Bento in the store, or more than one fits
│   ├── BentoUnusable                        it is in the store, but can't be deployed from there
│   └── Unreachable                          it can't be fetched from or kept in a place elsewhere
├── Conflict                   exit code 2   something else on the cluster already has what this needs
├── DoesNotFit                 exit code 2   the cluster has too little for it
├── NotOnNodes                 exit code 2   nodes of the cluster lack a Bento
├── Forbidden                  exit code 2   this needs an access token that covers the Deployment
├── NotFound                   exit code 1   no such Deployment on the cluster
├── Busy                       exit code 1   somebody else is changing the Deployment
├── ClusterError               exit code 1   Ray can't be reached, or refused
└── DeployFailed               exit code 1   it was submitted and didn't become ready
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar, Final, Self

_PLAIN_KEY = re.compile(r"[^\s.\[\]\"]+")
_LAST_STEP = re.compile(r"""(\.?[^\s.\[\]"]+|\[\d+\]|\["(?:[^"\\]|\\.)*"\])$""")


class Missing(Enum):
    """The type of `MISSING`."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING
"""Stands where there is no value to show: the key is absent, or its value may be a secret."""


def path_text(loc: Iterable[str | int]) -> str:
    """Write a place in a file as people do: `services.Summarization.envs[0].name`."""
    text = ""
    for step in loc:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN_KEY.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{json.dumps(step, ensure_ascii=False)}]"
    return text


@dataclass(frozen=True)
class Problem:
    """One mistake: where it is, what is wrong with it, and what to write instead."""

    path: str
    message: str
    value: object = MISSING
    line: int | None = None
    hint: str | None = None

    @classmethod
    def at(cls, loc: Iterable[str | int], message: str, value: object = MISSING, hint: str | None = None) -> Self:
        """Make a problem from a place given as keys and indexes."""
        return cls(path_text(loc), message, value, hint=hint)

    def located(self, lines: Mapping[str, int]) -> Self:
        """Return the problem with its line: the one of its path, or of the nearest path around it."""
        path = self.path
        while self.line is None and path not in lines and (shorter := _LAST_STEP.sub("", path)) != path:
            path = shorter
        return self if self.line is not None else replace(self, line=lines.get(path))

    def text(self, source: str = "") -> str:
        """Return the problem in one line, like `configs/x.yaml:23: canary.route_by: is required`."""
        place = f"{source}:{self.line}" if source and self.line is not None else source
        said = f"{self.message}; {self.hint}" if self.hint else self.message
        return ": ".join(part for part in (place, self.path, said) if part)

    def __str__(self) -> str:
        return self.text()


class RayCanaryError(Exception):
    """The base of all that ray-canary raises."""

    exit_code: ClassVar[int] = 1


class ConfigError(RayCanaryError):
    """What the user wrote is wrong; `problems` holds every mistake of the file."""

    exit_code: ClassVar[int] = 2

    def __init__(self, problems: Iterable[Problem], source: str = "") -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        self.source = source
        super().__init__("\n".join(problem.text(source) for problem in self.problems))

    @classmethod
    def of(cls, message: str, source: str = "", *, path: str = "", hint: str | None = None) -> Self:
        """Make the error for a single problem."""
        return cls((Problem(path, message, hint=hint),), source)

    def __reduce__(self) -> tuple[type[Self], tuple[tuple[Problem, ...], str]]:
        return type(self), (self.problems, self.source)


class PlanError(ConfigError):
    """The file is legal, but doesn't fit the Bentos, the instance types or the environment."""


class BentoError(RayCanaryError):
    """Something is wrong with a Bento."""

    exit_code: ClassVar[int] = 2


class BentoNotFound(BentoError):
    """No Bento in the store has this tag, or more than one does."""


class BentoUnusable(BentoError):
    """The Bento is in the store, but can't be deployed from there."""


class Unreachable(BentoError):
    """A place where Bentos are fetched from or kept can't be read or written."""


class Conflict(RayCanaryError):
    """Something else on the cluster already has what this Deployment needs."""

    exit_code: ClassVar[int] = 2


class DoesNotFit(RayCanaryError):
    """The cluster has too little for the Deployment, which would hang pending."""

    exit_code: ClassVar[int] = 2


class NotOnNodes(RayCanaryError):
    """Nodes on which replicas would start lack a Bento, and have nowhere to fetch it from."""

    exit_code: ClassVar[int] = 2


class Forbidden(RayCanaryError):
    """Who does this to the Deployment has to say an access token of it."""

    exit_code: ClassVar[int] = 2


class NotFound(RayCanaryError):
    """There is no such Deployment on the cluster."""


class Busy(RayCanaryError):
    """Somebody else is changing the Deployment."""


class ClusterError(RayCanaryError):
    """Ray can't be reached, or refused."""


class DeployFailed(RayCanaryError):
    """What was submitted didn't become ready."""
