"""The kinds of values that a Deployment file is made of, each with its legal values in words."""

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from ray_canary import places, quantities
from ray_canary.legal import BENTO_TAG, Legal, one_of, refuse, show
from ray_canary.nodelabels import KEY, SELECTOR

T = TypeVar("T")

_RESERVED_ENVS = ("BENTOML_HOME", "BENTOML_RESULT_STORE", "PROMETHEUS_MULTIPROC_DIR")


#: What BentoML itself keeps in its home.
_BENTOMLS_FOLDERS = ("bentos", "models", "tmp")
ENV_NAME = "^[A-Za-z_][A-Za-z0-9_]*$"
"""What the name of an environment variable may be."""


def reserved_env(name: str) -> bool:
    """Return whether an environment variable is the replica's host's own."""
    return name in _RESERVED_ENVS or name.startswith("RAY_")


def _place(check: Callable[[str], None], what: str) -> Callable[[object], object]:
    """Return a validator that refuses a text which `check` refuses, without a word of what may be a credential."""

    def checked(place: object) -> object:
        if isinstance(place, str):
            try:
                check(place)
            except places.NotAPlace as error:
                clear = "://" not in place and "@" not in place
                said = f"{show(place)} is not {what}" if clear else f"this URL is not {what}"
                raise refuse(f"{said}: {error}", error.hint, secret=not clear) from None
        return place

    return checked


def _unambiguous(name: str) -> str:
    # The applications of Deployment `d` are called `d`, `d-main` and `d-canary-<key>`: no name may look like
    # another Deployment's application, nor make one that does.
    if "-canary-" in f"{name}-" or name.endswith("-main"):
        message = f"{show(name)} could be taken for an application of another Deployment"
        raise refuse(message, "a name can't contain `-canary-`, nor end with `-canary` or `-main`")
    return name


def _not_main(key: str) -> str:
    if key == "main":
        raise refuse('"main" is the name of the main Bento, not of a canary version', "give the version another key")
    return key


def _not_bentomls(path: str) -> str:
    if path.partition("/")[0] in _BENTOMLS_FOLDERS:
        raise refuse(f"{show(path)} is in a folder of BentoML's own", "choose another path")
    return path


def _not_reserved(name: str) -> str:
    if reserved_env(name):
        raise refuse(f"{show(name)} is reserved: the replica's own host sets it", "remove it")
    return name


def _from_int(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _checked(read: Callable[[str | int | float], object]) -> Callable[[str | int | float], str | int | float]:
    """Return a validator that passes on what `read` can read, as it is written."""

    def check(quantity: str | int | float) -> str | int | float:
        read(quantity)
        return quantity

    return check


Text = Annotated[str, Legal("text")]
Flag = Annotated[bool, Legal("true or false")]
Scalar = Annotated[str | int | float | bool, Legal("a single value")]
Percent = Annotated[int, Field(ge=0, le=100), Legal("a whole number from 0 to 100")]
Natural = Annotated[int, Field(ge=0), Legal("a whole number, 0 or more")]
Positive = Annotated[int, Field(ge=1), Legal("a whole number, 1 or more")]
Seconds = Annotated[int | float, Field(gt=0, lt=math.inf), Legal("a number of seconds above 0")]
Backlog = Annotated[int, Field(ge=64), Legal("a whole number, 64 or more")]
PerNode = Annotated[int, Field(ge=1, le=100), Legal("a whole number from 1 to 100")]  # Serve's own bounds
Window = Annotated[int, Field(ge=0, le=3600), Legal("a whole number of seconds from 0 to 3600")]
Port = Annotated[int, Field(ge=1, le=65535), Legal("a port from 1 to 65535")]
AboveZero = Annotated[int | float, Field(gt=0, lt=math.inf), Legal("a number above 0")]
Amount = Annotated[int | float, Field(ge=0, lt=math.inf), Legal("a number, 0 or more")]
Name = Annotated[
    str,
    Field(pattern="^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"),
    Legal("a name of 1 to 63 of a-z, 0-9 and -, with no - at the ends"),
    AfterValidator(_unambiguous),
]
VersionKey = Annotated[
    str,
    Field(pattern="^[a-z0-9]([-a-z0-9]{0,18}[a-z0-9])?$"),
    Legal("a version key of 1 to 20 of a-z, 0-9 and -, with no - at the ends"),
    AfterValidator(_not_main),
]
ServiceName = Annotated[str, Field(min_length=1), Legal("the name of a Bento service")]
ApplicationName = Annotated[str, Field(min_length=1), Legal("the name of a Serve application")]
_TAG = BENTO_TAG.removeprefix("^").removesuffix("$")
BentoSource = Annotated[
    str,
    Field(pattern=f"^({_TAG}|[./].*|[A-Za-z][A-Za-z0-9+.-]*://.*)$"),
    Legal(places.WORDS),
    BeforeValidator(_place(places.check_bento, "a place of a Bento")),
]
BentoStoreUrl = Annotated[
    str, Legal(places.STORE_WORDS), BeforeValidator(_place(places.check_store, "a place to keep Bentos in"))
]
EnvName = Annotated[
    str,
    Field(pattern=ENV_NAME),
    Legal("a name of letters, digits and _, with no digit first"),
    AfterValidator(_not_reserved),
]
EnvValue = Annotated[str, BeforeValidator(_from_int), Legal("text", secret=True)]
SecretName = Annotated[
    str,
    Field(pattern="^[A-Za-z0-9]([-._A-Za-z0-9]{0,251}[A-Za-z0-9])?$"),
    Legal("a secret's name of letters, digits, -, _ and ., with a letter or a digit at the ends"),
]
SecretType = Annotated[Literal["env", "file"], one_of("env", "file")]
_PATH_PART = r"\.?[A-Za-z0-9_][-._A-Za-z0-9]*"
SecretPath = Annotated[
    str,
    Field(pattern=f"^{_PATH_PART}(/{_PATH_PART})*$"),
    Legal("a path under $BENTOML_HOME, like certs or app/certs"),
    AfterValidator(_not_bentomls),
]
RoutePrefix = Annotated[
    str,
    Field(pattern=r"^(/|(/[A-Za-z0-9._~][-A-Za-z0-9._~]*)+)$"),
    Legal("a path like / or /summaries, with no / at the end"),
]
RouteType = Annotated[Literal["random", "header", "query"], one_of("random", "header", "query")]
TransportName = Annotated[Literal["auto", "handle"], one_of("auto", "handle")]
_STRATEGIES = ("RollingUpdate", "Recreate", "RampedSlowRollout", "BestEffortControlledRollout")
Strategy = Annotated[
    Literal["RollingUpdate", "Recreate", "RampedSlowRollout", "BestEffortControlledRollout"], one_of(*_STRATEGIES)
]
#: One word for all targets, or a word for each target that is named; `rules` looks into the mapping.
Dependencies = Annotated[
    Literal["shared", "isolated"] | dict[str, Any],
    Legal("shared or isolated, or one of them for each target, like {a: isolated}", ("shared", "isolated")),
]
LabelKey = Annotated[
    str,
    Field(pattern=KEY, max_length=253),
    Legal("the name of a node label, like pool or ray.io/market-type"),
]
LabelSelector = Annotated[
    str,
    Field(pattern=SELECTOR),
    Legal('what a node label may be, in quotes: "gpu", "!spot", "in(a, b)" or "!in(a, b)"'),
]
Workers = Annotated[Positive | Literal["cpu_count"], Legal('a whole number, 1 or more, or "cpu_count"')]
Cpu = Annotated[str | int | float, AfterValidator(_checked(quantities.cpu)), Legal("CPU cores, like 500m or 2")]
Memory = Annotated[
    str | int | float,
    AfterValidator(_checked(partial(quantities.memory, bare="Gi"))),
    Legal("an amount of memory, like 512Mi or 2Gi"),
]
Gpus = Annotated[
    int | float,
    AfterValidator(_checked(quantities.gpus)),
    Legal("a whole number of GPUs, 1 or more, or a part of one, like 0.5"),
]
GpuType = Annotated[str, Legal("a kind of GPU in BentoML's words, like nvidia-l4")]
Free = Annotated[dict[str, Any], Legal("a mapping")]
Many = Annotated[
    tuple[T, ...], Field(strict=False), BeforeValidator(lambda value: () if value is None else value)
]  # `envs:` with nothing after it
Block = Annotated[T, BeforeValidator(lambda value: {} if value is None else value)]  # `services:` likewise
