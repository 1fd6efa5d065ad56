"""Archives of folders: the same content always gives the same bytes, and what is unpacked stays where it should.

Plain tar, sorted by name, with no times and no owners. A `.bento` of `bentoml export` can be unpacked too.
"""

import bz2
import gzip
import hashlib
import lzma
import os
import posixpath
import shutil
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, Protocol, cast

#: The most that an archive may unpack to, in bytes and in files; never more than the disk has room for.
LARGEST_BYTES: Final = 512 * 2**30
MOST_FILES: Final = 500_000

_CHUNK: Final = 2**20
#: tarfile reads a header of extended attributes whole, as long as the archive says that it is.
_LONGEST_READ: Final = 2 * _CHUNK
#: What Python leaves beside the code that it runs: not content, and different on every machine.
_LEFT_BY_PYTHON: Final = "__pycache__"
_MAGIC: Final[Mapping[bytes, Any]] = {b"\xfd7zXZ\x00": lzma.open, b"\x1f\x8b": gzip.open, b"BZh": bz2.open}


class NotArchivable(Exception):
    """There is something in a folder that can't travel."""


class BadArchive(Exception):
    """It is no archive, or there is something in it that must not be unpacked."""


class Sink(Protocol):
    """What an archive is written to."""

    def write(self, data: bytes, /) -> Any:
        """Take some bytes."""


# Writing. ------------------------------------------------------------------------------------------------------------


def write(folders: Mapping[str, Path], sink: Sink) -> str:
    """Write folders, each under its path in the archive (`""` is its root), and return the SHA-256 of all the bytes.

    Links stay links. `__pycache__` stays out.

    Raises:
        NotArchivable: a link leads out of its folder, or something is neither a file nor a folder nor a link.
        OSError: something can't be read.
    """
    hashing = _Hashing(sink)
    with tarfile.open(mode="w|", fileobj=cast(IO[bytes], hashing), format=tarfile.PAX_FORMAT, bufsize=_CHUNK) as tar:
        for name, path in sorted(_entries(folders)):
            info = _info(name, path)
            if info.isreg():
                with path.open("rb") as file:
                    tar.addfile(info, file)
            else:
                tar.addfile(info)
    return hashing.digest


def digest(folders: Mapping[str, Path]) -> str:
    """Return the SHA-256 that `write` would return, without keeping anything."""
    return write(folders, _Nothing())


class _Nothing:
    def write(self, data: bytes) -> int:
        return len(data)


class _Hashing:
    """Passes bytes on, and knows their SHA-256."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self._sink.write(data)
        return len(data)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


def _entries(folders: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
    for prefix, folder in folders.items():
        yield from _inside(prefix, folder, folder.resolve())


def _inside(name: str, folder: Path, root: Path) -> Iterator[tuple[str, Path]]:
    for path in folder.iterdir():
        if path.name == _LEFT_BY_PYTHON:
            continue
        inner = posixpath.join(name, path.name)
        if path.is_symlink():
            # `resolve` goes by what is there; the text alone says where it leads on another machine.
            if os.path.isabs(os.readlink(path)) or not path.resolve().is_relative_to(root):
                raise NotArchivable(f"{path} is a link to {os.readlink(path)}, which leads out of {folder}")
        elif path.is_dir():
            yield from _inside(inner, path, root)
        elif not path.is_file():
            raise NotArchivable(f"{path} is neither a file nor a folder nor a link")
        yield inner, path


def _info(name: str, path: Path) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    if path.is_symlink():
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, os.readlink(path), 0o777
    elif path.is_dir():
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    else:
        said = path.stat()
        info.size, info.mode = said.st_size, 0o755 if said.st_mode & 0o100 else 0o644
    return info


# Unpacking. ----------------------------------------------------------------------------------------------------------


def extract(archive: Path, into: Path, *, largest_bytes: int = LARGEST_BYTES, most_files: int = MOST_FILES) -> None:
    """Unpack a tar, plain or compressed, into a folder that is empty or not there yet.

    Nothing is written outside of `into`, and no link in it leads out. When it raises, `into` is gone.

    Raises:
        BadArchive: it is no archive, holds what must not be unpacked, or is larger than `largest_bytes`, `most_files`
            or the free disk.
        OSError: it can't be read, or `into` can't be written.
    """
    into.mkdir(parents=True, exist_ok=True)
    try:
        with _opened(archive, min(largest_bytes, shutil.disk_usage(into).free), most_files) as file:
            _Unpacking(into, most_files).all_of(file)
    except (tarfile.TarError, EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error, ValueError) as error:
        shutil.rmtree(into, ignore_errors=True)
        raise BadArchive(f"it is not a whole tar archive: {error}") from None
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        raise


def _opened(archive: Path, largest_bytes: int, most_files: int) -> "_Bounded":
    with archive.open("rb") as file:
        begins = file.read(8)
    opener = next((opener for magic, opener in _MAGIC.items() if begins.startswith(magic)), open)
    # Headers and padding count too: three blocks for each file, and one record at the end.
    return _Bounded(opener(archive, "rb"), largest_bytes + most_files * 3 * tarfile.BLOCKSIZE + tarfile.RECORDSIZE)


class _Bounded:
    """A file that refuses to be read further, or in larger pieces, than an honest archive needs."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file = file
        self._most = most
        self.tell, self.close = file.tell, file.close

    def __enter__(self) -> "_Bounded":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LONGEST_READ:
            raise BadArchive("it has a header that is far too long")
        self._check(self._file.tell() + size)
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 0:
            self._check(offset)
        return self._file.seek(offset, whence)

    def _check(self, offset: int) -> None:
        if offset > self._most:
            most = f"{self._most / 2**30:.1f} GiB"
            raise BadArchive(f"it unpacks to more than {most}: more than it may, or than the disk has free")


class _Unpacking:
    """Unpacks one archive. Its state: which names there were, and the links, which are made at last."""

    def __init__(self, into: Path, most_files: int) -> None:
        self._into = into
        self._most_files = most_files
        self._seen: set[str] = set()
        self._links: dict[str, str] = {}

    def all_of(self, file: _Bounded) -> None:
        with tarfile.open(mode="r:", fileobj=cast(IO[bytes], file)) as tar:
            for member in tar:
                self._one(tar, member)
                # It would remember every one, for questions that nobody asks.
                tar.members.clear()  # type: ignore[attr-defined]
        for name, target in self._links.items():
            self._link(name, target)
        # Links that lead through each other may lead elsewhere than each of them says.
        root = self._into.resolve()
        for name in self._links:
            if not Path(os.path.realpath(self._into / name)).is_relative_to(root):
                raise BadArchive(f"{name!r} is a link that leads out of it")

    def _one(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = member_name(member.name)
        if not name:
            return
        if len(self._seen) >= self._most_files:
            raise BadArchive(f"it holds more than {self._most_files:,} files")
        if name in self._seen and not member.isdir():
            raise BadArchive(f"{name!r} is in it twice")
        self._seen.add(name)
        path = self._into / name
        try:
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
            elif member.issym():
                self._links[name] = link_target(name, member.linkname)
            elif member.isreg() and not member.issparse():
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file(cast(IO[bytes], tar.extractfile(member)), path, member)
            else:
                raise BadArchive(f"{name!r} is neither a file nor a folder nor a symbolic link")
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise BadArchive(f"{name!r} is in it as a file and as a folder") from None

    @staticmethod
    def _file(source: IO[bytes], path: Path, member: tarfile.TarInfo) -> None:
        with path.open("xb") as file:
            shutil.copyfileobj(source, file, _CHUNK)
        if path.stat().st_size != member.size:
            raise BadArchive(f"it ends within {member.name!r}")
        path.chmod(0o755 if member.mode & 0o100 else 0o644)

    def _link(self, name: str, target: str) -> None:
        path = self._into / name
        if any(str(parent) in self._links for parent in PurePosixPath(name).parents):
            raise BadArchive(f"{name!r} is behind a link")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(target)
        except (FileExistsError, NotADirectoryError):
            raise BadArchive(f"{name!r} is in it twice, or behind a file") from None


def member_name(name: str) -> str:
    """Return the plain relative path of an archive's member; empty for the root. Raises BadArchive if it leads out."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise BadArchive(f"{name!r} leads out of it")
    return "/".join(parts)


def link_target(name: str, target: str) -> str:
    """Return where a link at `name` points, as it is written. Raises BadArchive if it leads out as it is written."""
    inside = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
    if not target or "\0" in target or posixpath.isabs(target) or inside == ".." or inside.startswith("../"):
        raise BadArchive(f"{name!r} is a link to {target!r}, which leads out of it")
    return target


def same(one: Path, other: Path, *, without: Iterable[str] = ()) -> bool:
    """Return whether two folders hold the same; what `without` names at their roots doesn't count."""
    left, right = (_contents(folder, frozenset(without)) for folder in (one, other))
    if left.keys() != right.keys():
        return False
    return all(_bytes_of(left[name]) == _bytes_of(right[name]) for name in left)


def _contents(folder: Path, without: frozenset[str]) -> dict[str, Path]:
    found = _inside("", folder, folder.resolve())
    return {name: path for name, path in found if name.partition("/")[0] not in without}


def _bytes_of(path: Path) -> tuple[str, bytes]:
    if path.is_symlink():
        return "link", os.fsencode(os.readlink(path))
    if path.is_dir():
        return "folder", b""
    with path.open("rb") as file:
        return "file", hashlib.file_digest(file, "sha256").digest()
