"""A Bento on the node where a replica starts: in the node's own store, or fetched once into a cache beside it."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ray_canary import archive, remote
from ray_canary.bentos import BentoStore, missing_models, store_path
from ray_canary.errors import BentoError, BentoNotFound
from ray_canary.plan import ArchivePlan

#: Names a folder for what nodes fetch, where the one in `$BENTOML_HOME` won't do.
CACHE: Final = "RAY_CANARY_BENTO_CACHE"


class BentoMissing(Exception):
    """The node has not got the Bento, and can't fetch it."""


def find(tag: str, packed: ArchivePlan | None) -> Path | None:
    """Return the folder of a Bento that was fetched, or None if the node's own store has it. It may take minutes.

    Raises:
        BentoMissing: it is in neither, and can't be fetched; says why, and what to do.
    """
    bentos = store_path()
    lacks = lacking(tag, BentoStore(bentos))
    if not lacks:
        return None
    if packed is None:
        raise BentoMissing(
            f"{lacks}, and the Deployment names no place to fetch it from. Put it there, or deploy with --push"
        )
    cache = cache_path()
    try:
        return _fetched(packed, cache)
    except (BentoError, archive.BadArchive) as error:
        raise BentoMissing(f"{lacks}, and it can't be fetched: {error}") from None
    except OSError as error:
        hint = f"set {CACHE} to a folder that can be written, before `ray start`"
        raise BentoMissing(f"{lacks}, and {cache} can't keep what is fetched: {error}; {hint}") from None


def lacking(tag: str, store: BentoStore) -> str:
    """Return a sentence that says what a store lacks for a Bento, its models included; empty if it has all."""
    try:
        info = store.get(tag)
    except BentoNotFound:
        return f"Bento {tag} is not in {store.path} of this node"
    except BentoError as error:
        return f"Bento {tag} can't be used on this node: {error}"
    missing = missing_models(info, store.path)
    models = store.path.parent / "models"
    return f"Model {', '.join(missing)} of Bento {tag} is not in {models} of this node" if missing else ""


def cache_path() -> Path:
    """Return where this node keeps what it fetches: in `$BENTOML_HOME`, where BentoML keeps its own."""
    return Path(os.environ.get(CACHE) or store_path().parent / "ray-canary").expanduser().absolute()


def _fetched(packed: ArchivePlan, cache: Path) -> Path:
    """Return the folder of an archive, unpacked: of several replicas on a node, one fetches it, and the others wait."""
    folder = cache / packed.sha256
    if folder.is_dir():  # It appears whole, or not at all.
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache / f".{packed.sha256}.lock"):
        if folder.is_dir():
            return folder
        # Of replicas that were killed meanwhile: who has the lock is the only one at it.
        for left in cache.glob(f".{packed.sha256}.*.part"):
            shutil.rmtree(left, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{packed.sha256}.", suffix=".part", dir=cache))
        try:
            _download(packed, scratch / "archive.tar")
            archive.extract(scratch / "archive.tar", scratch / "bento")
            os.rename(scratch / "bento", folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _download(packed: ArchivePlan, into: Path) -> None:
    """Fetch an archive. Raises BadArchive unless its checksum is right: nothing of another one is even unpacked."""
    found = remote.fetch(packed.url, into, archive.LARGEST_BYTES)
    if found != packed.sha256:
        hint = "delete it there, and push the Bento again"
        raise archive.BadArchive(f"{packed.url} is not what was pushed: its SHA-256 is {found}; {hint}")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Have a file locked meanwhile; wait until nobody else has it. A process that dies gives it back."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
