"""What `bento:` may name beside a tag (a project directory, an archive, a URL), and where Bentos are kept for nodes."""

import re
from enum import Enum
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import parse_qsl, urlsplit

#: What Python's tarfile reads. `.bento` is what `bentoml export` writes, `.tar` what `--push` keeps.
ARCHIVES: Final = (".bento", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
#: Where a Bento may come from. Plain HTTP is not among them: what comes is code, and nothing vouches for it.
SCHEMES: Final = ("https", "s3", "gs", "gcs", "az", "abfs", "abfss", "file")
WORDS: Final = (
    "a Bento's tag, like name:version, name:latest or name; a project directory, like ./summarization; an archive, "
    "like ./summarization.bento; or a URL, like s3://bucket/summarization.bento"
)
STORE_WORDS: Final = "a folder that all nodes share, like /shared/bentos, or a URL, like s3://bucket/bentos"

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
#: Read-only, of one process, or wrapped around another one.
_NO_STORES: Final = ("http", "https", "memory", "data", "github", "zip", "tar", "cached", "filecache", "simplecache")
_CREDENTIAL: Final = re.compile("sig|token|key|cred|pass|pwd|secret|auth", re.IGNORECASE)


class Kind(Enum):
    """What a `bento:` is."""

    TAG = "tag"
    PROJECT = "project directory"
    ARCHIVE = "archive"
    URL = "URL"


class NotAPlace(ValueError):
    """A text is no place that can be used; it says why, and what to write instead, without the text itself."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def kind(bento: str) -> Kind:
    """Return what a `bento:` is, by how it is written: a path begins with `.` or `/`."""
    if _SCHEME.match(bento):
        return Kind.URL
    if not bento.startswith((".", "/")):
        return Kind.TAG
    return Kind.ARCHIVE if bento.endswith(ARCHIVES) else Kind.PROJECT


def check_bento(bento: str) -> None:
    """Raise NotAPlace for a path or URL that can't be what somebody means."""
    found = kind(bento)
    if "\0" in bento or "\n" in bento:
        raise NotAPlace("it has a line break or a NUL in it", "write it in one line")
    if found is Kind.TAG and "/" in bento:
        raise NotAPlace("it is neither a tag nor a path", "a path begins with ./, ../ or /")
    if found is Kind.URL:
        scheme = _checked_scheme(bento)
        if scheme not in SCHEMES:
            raise NotAPlace(f"{scheme}:// is not fetched from", f"the schemes are {', '.join(SCHEMES)}")
        _check_location(bento, scheme)
        if not urlsplit(bento).path.strip("/"):
            raise NotAPlace("it names no file", f"write {scheme}://{'' if scheme == 'file' else 'place'}/path.bento")


def check_store(place: str) -> None:
    """Raise NotAPlace for a text that is no place to keep Bentos in."""
    if place.startswith("/"):
        if not place.strip("/"):
            raise _no_folder()
        if "\0" in place or "\n" in place or ".." in PurePosixPath(place).parts:
            raise NotAPlace("it has .., a line break or a NUL in it", "write the plain path")
        return
    if not _SCHEME.match(place):
        raise NotAPlace("it is neither an absolute path nor a URL", "like /shared/bentos or s3://bucket/bentos")
    scheme = _checked_scheme(place)
    if scheme in _NO_STORES:
        raise NotAPlace(f"nothing can be kept at {scheme}://", "use a bucket (s3://, gs://), or a folder (file://)")
    _check_location(place, scheme)
    if scheme == "file" and not urlsplit(place).path.strip("/"):
        raise _no_folder()
    if urlsplit(place).query:
        raise NotAPlace("it has a query", "name a bucket and a folder in it, and nothing else")


def _no_folder() -> NotAPlace:
    return NotAPlace("it names no folder", "name one that all nodes share, like /shared/bentos")


def store_url(place: str) -> str:
    """Return a store as a URL without a slash at the end."""
    return (f"file://{place}" if place.startswith("/") else place).rstrip("/")


def scheme_of(url: str) -> str:
    """Return the scheme of a URL, in small letters."""
    return _checked_scheme(url)


def _checked_scheme(url: str) -> str:
    found = _SCHEME.match(url)
    assert found is not None  # Nobody asks for the scheme of anything else.
    if "::" in url:
        raise NotAPlace("it has a :: in it, which joins several URLs", "write one plain URL")
    return found[1].lower()


def _check_location(url: str, scheme: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise NotAPlace(str(error), "write scheme://place/path") from None
    if "@" in parts.netloc and (scheme not in ("abfs", "abfss") or ":" in parts.netloc):
        # abfs://container@account/path names no user.
        hint = "leave it out; each machine's own configuration or environment says who asks"
        raise NotAPlace("it has a user or a password in it, which would stand in Serve's config in clear text", hint)
    asked = (name for name, _ in parse_qsl(parts.query, keep_blank_values=True))
    if name := next((name for name in asked if _CREDENTIAL.search(name)), ""):
        hint = "fetch it yourself and name the file, or let the machines' own configuration say who asks"
        raise NotAPlace(f"{name} in its query looks like a credential, which would stand in clear text", hint)
    if not parts.netloc and scheme != "file":
        raise NotAPlace("it names no host or bucket", f"write {scheme}://place/path")
    if scheme == "file" and (parts.netloc or not parts.path.startswith("/")):
        raise NotAPlace("it is not an absolute path", "write file:///path with three slashes")
    if any(part == ".." for part in parts.path.split("/")) or parts.fragment:
        raise NotAPlace("it has .. or # in it", "write the plain path")
