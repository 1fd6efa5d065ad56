"""Makes a tag of every `bento:` that is a project, an archive or a URL: built or fetched into this machine's store.

BentoML does it, in a process of its own: building imports the project's code, and nobody else may (decision 10).
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from ray_canary import archive, remote
from ray_canary.bentos import BentoStore
from ray_canary.config import DeploymentFile
from ray_canary.errors import BentoError, BentoUnusable, PlanError, Problem
from ray_canary.legal import BENTO_TAG
from ray_canary.places import ARCHIVES, Kind, kind

Say = Callable[[str], None]

_PROJECT_FILES: Final = ("bentofile.yaml", "pyproject.toml", "service.py")
_TAG: Final = re.compile(r"__tag__:(\S+)")
_PLAIN_TAG: Final = re.compile(BENTO_TAG)
#: As `bentoml import` does, but of a folder that has been looked through.
_IMPORT: Final = "import bentoml, sys; print(f'__tag__:{bentoml.import_bento(sys.argv[1], \"folder\").tag}')"
#: What differs between two builds of one project: generated, and in no fixed order.
_GENERATED: Final = ("apis", "bento.yaml", "models")
_OF_ONE_BUILD: Final = ("version", "creation_time")
_SAID: Final = 20


def sources_of(file: DeploymentFile) -> dict[str, str]:
    """Return every `bento:` of a file that is no tag, with its first place in the file."""
    named = {"bento": file.bento}
    if file.canary:
        named |= {f"canary.versions.{key}.bento": version.bento for key, version in file.canary.versions.items()}
    found: dict[str, str] = {}
    for place, bento in named.items():
        if kind(bento) is not Kind.TAG:
            found.setdefault(bento, place)
    return found


def settle(file: DeploymentFile, store: BentoStore, folder: Path, say: Say = lambda _: None) -> dict[str, str]:
    """Return the tag of every `bento:` of a file that is no tag, built or fetched into `store` where it has to be.

    Paths are relative to `folder`. `say` is told in one sentence what became of each.

    Raises:
        PlanError: with every one that can't be built or fetched. What could be stays in the store, and harms nobody.
    """
    wanted = sources_of(file)
    problems = [found for bento, place in wanted.items() if (found := _refused(bento, place, folder))]
    if problems:
        raise PlanError(problems)
    tags: dict[str, str] = {}
    for bento, place in wanted.items():
        try:
            tags[bento] = _settled(bento, store, folder, say)
        except BentoError as error:
            problems.append(Problem(place, str(error)))
    if problems:
        raise PlanError(problems)
    return tags


def _refused(bento: str, place: str, folder: Path) -> Problem | None:
    """Return what is wrong with a path, as far as that shows at once."""
    path = folder / bento
    match kind(bento):
        case Kind.PROJECT if not path.is_dir():
            hint = f"it is there as a file: an archive ends with {', '.join(ARCHIVES)}" if path.exists() else None
            return Problem(place, f"there is no directory {path}", bento, hint=hint)
        case Kind.PROJECT if not any((path / name).is_file() for name in _PROJECT_FILES):
            return Problem(place, f"{path} is not a Bento project: it has no {', '.join(_PROJECT_FILES)}", bento)
        case Kind.ARCHIVE if not path.is_file():
            return Problem(place, f"there is no file {path}", bento)
    return None


def _settled(bento: str, store: BentoStore, folder: Path, say: Say) -> str:
    match kind(bento):
        case Kind.PROJECT:
            return _built(bento, folder / bento, store, say)
        case Kind.ARCHIVE:
            return _imported(bento, folder / bento, store, say)
    with _scratch(store) as scratch:
        fetched = scratch / "fetched"
        remote.fetch(bento, fetched, archive.LARGEST_BYTES)
        return _imported(bento, fetched, store, say)


# A project. ----------------------------------------------------------------------------------------------------------


def _built(said: str, project: Path, store: BentoStore, say: Say) -> str:
    """Build a project. What is the same as an older build of it is taken to be that one, so that nothing restarts."""
    # BentoML builds only what lies beneath its working directory.
    tag = _bentoml(store, ["-m", "bentoml", "build", ".", "--output", "tag"], f"bentoml build {said}", folder=project)
    name, _, version = tag.partition(":")
    for older in store.versions(name):
        if older != version and _same_build(store.path / name / older, store.path / name / version):
            _bentoml(store, ["-m", "bentoml", "delete", tag, "--yes"], f"bentoml delete {tag}", quiet=True)
            say(f"{said} is unchanged since {name}:{older}")
            return f"{name}:{older}"
    say(f"Built {said}: {tag}")
    return tag


def _same_build(one: Path, other: Path) -> bool:
    first, second = _manifest(one), _manifest(other)
    for manifest in (first, second):
        for key in _OF_ONE_BUILD:
            manifest.pop(key, None)
    try:
        return first == second and archive.same(one, other, without=_GENERATED)
    except (OSError, archive.NotArchivable):
        return False


# An archive. ---------------------------------------------------------------------------------------------------------


def _imported(said: str, path: Path, store: BentoStore, say: Say) -> str:
    """Import an archive, unless the store has what is in it."""
    with _scratch(store) as scratch:
        folder = scratch / "bento"
        try:
            archive.extract(path, folder)
        except archive.BadArchive as error:
            raise BentoUnusable(f"{said} can't be imported: {error}") from None
        except OSError as error:
            raise BentoUnusable(f"{said} can't be unpacked: {error}") from None
        tag = _tag_in(folder, said)
        name, _, version = tag.partition(":")
        there = store.path / name / version
        if not there.exists():
            _bentoml(store, ["-c", _IMPORT, str(folder)], f"bentoml import {said}")
            say(f"Imported {said}: {tag}")
        elif _same_import(folder, there):
            say(f"{said} is {tag}, which is in the Bento store already")
        else:
            raise BentoUnusable(
                f"{said} holds another {tag} than {store.path} has: delete that one with `bentoml delete {tag}`, or "
                "build this one under another version"
            )
        return tag


def _tag_in(folder: Path, said: str) -> str:
    manifest = _manifest(folder)
    tag = f"{manifest.get('name')}:{manifest.get('version')}"
    if not isinstance(manifest.get("name"), str) or not _PLAIN_TAG.fullmatch(tag) or tag.lower() != tag:
        raise BentoUnusable(f"{said} holds no Bento: it has no bento.yaml with a name and a version")
    return tag


def _same_import(one: Path, other: Path) -> bool:
    try:
        return archive.same(one, other, without=("models",))
    except (OSError, archive.NotArchivable):
        return False


# BentoML. ------------------------------------------------------------------------------------------------------------


def _bentoml(
    store: BentoStore, command: list[str], shown: str, *, folder: Path | None = None, quiet: bool = False
) -> str:
    """Run Python with BentoML on a store, and return the tag that it says. Raises BentoUnusable."""
    environment = os.environ | {
        "BENTOML_HOME": str(store.path.parent.absolute()),
        "BENTOML_DO_NOT_TRACK": "True",
        # Importing a service would leave a __pycache__ in the project.
        "PYTHONDONTWRITEBYTECODE": "1",
        # A tag is told in one line.
        "COLUMNS": "4096",
    }
    # -P: a bentoml.py in the project is not BentoML.
    done = subprocess.run([sys.executable, "-P", *command], env=environment, cwd=folder, capture_output=True, text=True)
    found = _TAG.search(done.stdout)
    if done.returncode != 0 or not (found or quiet):
        lines = (done.stdout + done.stderr).strip().splitlines()
        raise BentoUnusable("\n".join([f"`{shown}` failed:", *lines[-_SAID:]]))
    return found[1] if found else ""


@contextmanager
def _scratch(store: BentoStore) -> Iterator[Path]:
    """Make a folder beside a Bento store, on the same disk, and remove it."""
    home = store.path.parent / "tmp"
    try:
        home.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="ray-canary-", dir=home))
    except OSError as error:
        raise BentoUnusable(f"{home} can't be written: {error.strerror}") from None
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _manifest(bento: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load((bento / "bento.yaml").read_bytes())
    except (OSError, yaml.YAMLError):
        return {}
    return dict(data) if isinstance(data, Mapping) else {}
