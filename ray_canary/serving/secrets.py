"""Secrets, looked up by name on the node where a replica starts: the only place where their values are read."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ray_canary.fields import ENV_NAME, reserved_env
from ray_canary.plan import DEFAULT_SECRETS_DIR, SECRETS_DIR, SecretPlan

#: A larger file of a file secret is not read to hide what is in it.
_LARGEST: Final = 1024 * 1024
#: Folders of BentoML's home that it makes where they are missing, and that have to outlive the replica.
_LASTING: Final = ("bentos", "models")


class SecretUnusable(Exception):
    """A secret is not on the node, or not in a form that can be used."""


@dataclass(frozen=True)
class Found:
    """The secrets of one replica, with their values: nothing to print, log or send."""

    envs: Mapping[str, str]
    folders: Mapping[str, Path]
    values: tuple[str, ...]

    def __repr__(self) -> str:
        """Say nothing of the values: this may end up in somebody's traceback."""
        return f"Found({len(self.envs)} environment variables, {len(self.folders)} folders)"

    def use(self, own: Path, kept: Set[str]) -> None:
        """Put them where the Bento looks: in the environment, but for the variables in `kept`, and in its home.

        `own` is the replica's own folder, which goes with it. File secrets make `BENTOML_HOME` a folder in there, with
        links to all that is in the real one: so no version sees another's, and no value is copied.

        Raises:
            SecretUnusable: the path of a file secret is taken.
        """
        os.environ.update({name: value for name, value in self.envs.items() if name not in kept})
        if self.folders:
            real = Path(os.environ.get("BENTOML_HOME") or "~/bentoml").expanduser().absolute()
            with suppress(OSError):  # A home that can't be written to has nothing to keep.
                for name in _LASTING:
                    (real / name).mkdir(parents=True, exist_ok=True)
            os.environ["BENTOML_HOME"] = str(_view(real, own / "home", self.folders))


def look_up(wanted: Sequence[SecretPlan], environment: Mapping[str, str], node: str) -> Found:
    """Read secrets from their folders, or from the node's environment; of two with one key, the later wins.

    Raises:
        SecretUnusable: one is not there, or its keys can't be environment variables; says which, where, what to do.
    """
    root = Path(environment.get(SECRETS_DIR) or DEFAULT_SECRETS_DIR)
    envs: dict[str, str] = {}
    folders: dict[str, Path] = {}
    values: list[str] = []
    for secret in wanted:
        look = _Look(secret, root / secret.name, node)
        if secret.type == "file":
            folders[secret.path or secret.name] = look.folder()
            values += look.texts()
        else:
            found = look.envs(environment)
            envs |= found
            values += found.values()
    return Found(envs, folders, tuple(values))


@dataclass(frozen=True)
class _Look:
    """One secret, looked up in one folder of one node."""

    secret: SecretPlan
    place: Path
    node: str

    def folder(self) -> Path:
        """Return the folder. Raises SecretUnusable if it isn't there."""
        if not self.place.is_dir():
            raise self._unusable(f"there is no folder {self.place}", "mount the secret there, with a file for each key")
        return self.place.absolute()

    def envs(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the environment variables that it becomes."""
        keys = self.secret.keys
        if keys and not self.place.is_dir():
            return {key: self._from_node(key, environment) for key in keys}
        files = self._files(self.folder())
        if missing := [key for key in keys if key not in files]:
            there = ", ".join(files) or "nothing"
            raise self._unusable(f"{self.place} has no {', '.join(missing)}, but {there}", "add the file")
        return {key: self._value(key, files[key]) for key in keys or files}

    def texts(self) -> Iterator[str]:
        """Yield what stands in its files, where that is text."""
        for path in self._files(self.folder()).values():
            try:
                if path.stat().st_size <= _LARGEST:
                    yield path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue  # It is the Bento's to read; here it is only for what has to be hidden.

    def _from_node(self, key: str, environment: Mapping[str, str]) -> str:
        if key not in environment:
            said = f"there is neither a folder {self.place} nor an environment variable {key} on it"
            raise self._unusable(said, "mount the secret there, or start Ray with the variable set")
        return environment[key]

    def _files(self, folder: Path) -> dict[str, Path]:
        """Return the files of its keys. A Kubernetes mount also has `..data` and the like, which are no keys."""
        try:
            entries = sorted(folder.iterdir())
            return {entry.name: entry for entry in entries if not entry.name.startswith(".") and entry.is_file()}
        except OSError as error:
            raise self._unreadable(folder, error) from None

    def _value(self, key: str, path: Path) -> str:
        if not re.fullmatch(ENV_NAME, key) or reserved_env(key):
            why = "is reserved for the replica's host" if reserved_env(key) else "is not the name of a variable"
            hint = f"rename it, leave it out with ray.secrets.{self.secret.name}.keys, or use type: file"
            raise self._unusable(f"its key {key} in {self.place} {why}", hint)
        try:
            value = path.read_bytes().decode("utf-8")
        except OSError as error:
            raise self._unreadable(path, error) from None
        except UnicodeDecodeError:
            raise self._unusable(f"{path} is not text in UTF-8", "use type: file") from None
        if "\0" in value:
            raise self._unusable(f"{path} has a NUL byte, which no variable can hold", "use type: file")
        return value.removesuffix("\n")

    def _unreadable(self, path: Path, error: OSError) -> SecretUnusable:
        return self._unusable(f"{path} can't be read: {error.strerror}", f"let user {os.getuid()} read it")

    def _unusable(self, said: str, hint: str) -> SecretUnusable:
        return SecretUnusable(
            f"Secret {self.secret.name!r} can't be used on node {self.node}: {said}. What to do: {hint}. "
            f"Secrets are looked up in ${SECRETS_DIR} of the node, by default {DEFAULT_SECRETS_DIR}."
        )


def _view(real: Path, view: Path, folders: Mapping[str, Path]) -> Path:
    """Make a folder with links to all that is in `real`, and links to `folders` at their paths; return it.

    A folder of `real` on the way to one of the paths becomes a folder with links itself. Raises SecretUnusable if there
    is something at one of the paths.
    """
    view.mkdir()
    here = {path: target for path, target in folders.items() if "/" not in path}
    deeper: dict[str, dict[str, Path]] = {}
    for path, target in folders.items():
        first, slash, rest = path.partition("/")
        if slash:
            deeper.setdefault(first, {})[rest] = target
    for entry in real.iterdir() if real.is_dir() else ():
        if entry.name in here:
            raise SecretUnusable(f"The path of a file secret is taken: there is {entry}. Choose another path.")
        if entry.name not in deeper:
            (view / entry.name).symlink_to(entry)
    for name, target in here.items():
        (view / name).symlink_to(target)
    for name, inner in deeper.items():
        _view(real / name, view / name, inner)
    return view
