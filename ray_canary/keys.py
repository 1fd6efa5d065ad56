"""Where a request's routing key stands: the bytes that are hashed (DESIGN decisions 6 and 7)."""

from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

Headers = Iterable[tuple[bytes, bytes]]


def header_key(headers: Headers, name: bytes) -> bytes | None:
    """Return the first value of header `name` (lower-case), or None if it is missing or empty.

    The first value counts, so that nobody can shop for a version by repeating the header.
    """
    for header, value in headers:
        if header == name:
            return value.strip() or None
    return None


def query_key(query: bytes, name: bytes) -> bytes | None:
    """Return the first value of query parameter `name`, percent-decoded, or None if it is missing or empty.

    Names are compared after percent-decoding and are case-sensitive; `+` stands for a space, as in every HTML form.
    """
    for pair in query.split(b"&"):
        raw_name, _, raw_value = pair.partition(b"=")
        if _decoded(raw_name) == name:
            return _decoded(raw_value) or None
    return None


def _decoded(raw: bytes) -> bytes:
    if b"%" not in raw and b"+" not in raw:
        return raw
    return unquote_to_bytes(raw.replace(b"+", b" "))
