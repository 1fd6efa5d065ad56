"""The demo's three Bentos, built with BentoML's own command into its own store.

Each build is a process of its own: all three projects have a module `service`, and a process that imported one would
build it under the next one's tag.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from ray_canary.errors import BentoError

PROJECTS = Path(__file__).parent / "bentos"

# The tags that the canary document's example names. `main` comes last, so that `summarization:latest` is main.
VERSIONS = {
    "diverse": "zgk7uja3goq62usu",
    "textrank": "t226bcshm2bqicvj",
    "frequency": "xq4dggshm25lecvj",
}

# In bento.yaml, it marks a Bento as one of ours, which we may replace.
LABEL = ("project", "ray-canary-demo")

# A project's files, by their suffix. What else a folder holds (bytecode, an editor's files) is nobody's content.
SUFFIXES = {".py", ".txt", ".yaml"}


def build_bentos(home: Path | None = None, *, say: Callable[[str], object] = print) -> list[str]:
    """Build the three Bentos, and return their tags: main, a, b.

    `home` is a BENTOML_HOME; without it BentoML's own choice holds: that variable, or `~/bentoml`. A Bento that is in
    the store with the same content is left alone, an older demo's is replaced, and anybody else's under one of the tags
    is refused. `say` is told in one line what became of each. No network is needed.
    """
    home = (home or Path(os.environ.get("BENTOML_HOME") or "~/bentoml")).expanduser().resolve()
    home.mkdir(parents=True, exist_ok=True)
    for project, version in VERSIONS.items():
        tag, stored = f"summarization:{version}", home / "bentos" / "summarization" / version
        if not stored.exists():
            _build(home, project, version)
            say(f"Built {tag} ({project})")
        elif _same(PROJECTS / project, stored / "src"):
            say(f"{tag} ({project}) is in the store already, with the same content")
        elif _ours(stored):
            _bentoml(home, "delete", tag, "--yes")
            _build(home, project, version)
            say(f"Replaced {tag} ({project}), which was an older demo's")
        else:
            raise BentoError(f"{stored} is not a Bento of this demo: delete it, or choose another BENTOML_HOME")
    return [f"summarization:{version}" for version in reversed(VERSIONS.values())]


def _build(home: Path, project: str, version: str) -> None:
    _bentoml(home, "build", ".", "--version", version, folder=PROJECTS / project)


def _bentoml(home: Path, *arguments: str, folder: Path | None = None) -> None:
    environment = os.environ | {
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        # Importing a service would leave a __pycache__ in our package.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    # -P: a bentoml.py in the caller's directory is not BentoML.
    command = [sys.executable, "-P", "-m", "bentoml", *arguments]
    # BentoML builds only what lies beneath its working directory.
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise BentoError(f"`bentoml {' '.join(arguments)}` failed:\n{done.stdout}{done.stderr}".rstrip())


def _same(project: Path, source: Path) -> bool:
    return _contents(project) == _contents(source)


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*") if path.suffix in SUFFIXES}


def _ours(stored: Path) -> bool:
    try:
        manifest = yaml.safe_load((stored / "bento.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    key, value = LABEL
    return bool((manifest.get("labels") or {}).get(key) == value)


if __name__ == "__main__":
    build_bentos()
