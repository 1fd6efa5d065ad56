"""Files elsewhere: buckets, servers and shared folders, by URL, through fsspec, which is imported only when it is used.

Who asks is what each machine's own environment or configuration says (`AWS_PROFILE`, a node's role): never the URL.
"""

import hashlib
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from ray_canary.errors import BentoError, Unreachable
from ray_canary.places import scheme_of

#: What a scheme needs beside fsspec, and what of ours installs it.
_DRIVERS: Final = {
    "s3": ("s3fs", "ray-canary[s3]"),
    "gs": ("gcsfs", "ray-canary[gcs]"),
    "gcs": ("gcsfs", "ray-canary[gcs]"),
    "az": ("adlfs", "adlfs"),
    "abfs": ("adlfs", "adlfs"),
    "abfss": ("adlfs", "adlfs"),
    "https": ("aiohttp", "aiohttp requests"),
}
_BLOCK: Final = 2**24


def exists(url: str) -> bool:
    """Return whether there is a file. Raises Unreachable."""
    with _told(url, "can't be looked up"):
        files, path = _files(url)
        files.invalidate_cache()
        return bool(files.isfile(path))


def fetch(url: str, into: Path, largest_bytes: int) -> str:
    """Copy a file to this machine, and return the SHA-256 of its bytes.

    Raises:
        Unreachable: it can't be read, or is larger than `largest_bytes` or the free disk.
    """
    most = min(largest_bytes, shutil.disk_usage(into.parent).free)
    found = hashlib.sha256()
    with _told(url, "can't be fetched"):
        files, path = _files(url)
        with files.open(path, "rb", block_size=_BLOCK) as source, into.open("wb") as file:
            while piece := source.read(_BLOCK):
                found.update(piece)
                file.write(piece)
                if file.tell() > most:
                    raise Unreachable(
                        f"{url} has more than {most:,} bytes: more than it may, or than the disk has free"
                    )
    return found.hexdigest()


def put(url: str, write: Callable[[IO[bytes]], None]) -> None:
    """Make a file of what `write` writes: whole under its name, or not at all.

    It is written under another name beside it, and renamed. Raises Unreachable, and what `write` raises of our own.
    """
    with _told(url, "can't be written"):
        files, path = _files(url)
        name = PurePosixPath(path)
        beside = str(name.with_name(f".{name.name}.{secrets.token_hex(4)}.part"))
        files.makedirs(str(name.parent), exist_ok=True)
        try:
            with files.open(beside, "wb", block_size=_BLOCK) as file:
                write(file)
            files.mv(beside, path)
        except BaseException:
            with suppress(Exception):
                files.rm(beside)
            raise


def _files(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path there."""
    scheme = scheme_of(url)
    try:
        from fsspec.core import url_to_fs

        # fsspec knows its drivers by small letters only.
        files, path = url_to_fs(f"{scheme}{url[len(scheme) :]}")
    except ImportError as error:
        needs, install = _DRIVERS.get(scheme, (str(error), ""))
        hint = f": pip install '{install}', here and on every node" if install else ""
        raise Unreachable(f"{scheme}:// needs {needs}, which is not installed here{hint}") from None
    except ValueError as error:
        raise Unreachable(f"{url}: {error}") from None
    return files, str(path)


@contextmanager
def _told(url: str, what: str) -> Iterator[None]:
    """Raise everything that a driver raises as one kind of error, with its first line."""
    try:
        yield
    except (BentoError, KeyboardInterrupt, GeneratorExit, SystemExit):
        raise
    except Exception as error:
        raise Unreachable(f"{url} {what}: {_why(error)}") from error


def _why(error: BaseException) -> str:
    status = getattr(error, "status", None)  # Of aiohttp's errors, as an HTTP server's answer.
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        # fsspec's driver for HTTP raises this one for whatever happened (2026.9).
        return _why(error.__cause__)
    if isinstance(error, FileNotFoundError) or status == 404:
        return "there is no such file"
    if isinstance(status, int):
        return f"the server answered {status} {getattr(error, 'message', '')}".rstrip()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
