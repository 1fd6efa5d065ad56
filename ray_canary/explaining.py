"""Why a request goes where it goes."""

from typing import Any

from ray_canary.errors import ConfigError
from ray_canary.keys import header_key, query_key
from ray_canary.plan import MAIN
from ray_canary.serving.settings import IngressSettings
from ray_canary.serving.state import Live
from ray_canary.splitter import Splitter


def explain(
    live: Live, *, key: str | None = None, header: str | None = None, query: str | None = None
) -> dict[str, Any]:
    """Return the version for a request, every version's score, and who answers now.

    One of: `key` is the routing key itself; `header` is a header line, `X-User-ID: user123`; `query` a query string,
    `feature=test`. Raises ConfigError if `header` is no header line.
    """
    settings = live.settings
    found, reason = _key(settings, key, header, query)
    told: dict[str, Any] = {
        "deployment": live.name,
        "terminated": settings.terminated,
        "key": None if found is None else found.decode(errors="backslashreplace"),
        "reason": reason,
        "weights": settings.split.shares(),
        "scores": {},
        "version": None,
        "answers": None,
    }
    if found is None:
        return told
    splitter = Splitter(settings.split.shares(), settings.deployment, arms=settings.arms())
    version = splitter.choose(found)
    ready = {name: target.ready for name, target in live.targets.items()}
    answers = version if ready[version] else MAIN if version != MAIN and ready[MAIN] else None
    return {**told, "scores": splitter.scores(found), "version": version, "answers": answers}


def _key(settings: IngressSettings, key: str | None, header: str | None, query: str | None) -> tuple[bytes | None, str]:
    split = settings.split
    name = split.route_by or ""
    if split.route_type == "random":
        return None, "The split is random, so no request has a key"
    if key is not None:
        return key.encode() or None, "keyed" if key else "An empty key counts as none"
    if split.route_type == "header":
        headers = [_header(header)] if header is not None else []
        found = header_key(headers, name.lower().encode("latin-1"))
        return found, "keyed" if found else f"The split goes by header {name}, which this request doesn't have"
    found = query_key((query or "").lstrip("?").encode(), name.encode())
    return found, "keyed" if found else f"The split goes by query parameter {name}, which this request doesn't have"


def _header(line: str) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        raise ConfigError.of(f"{line!r} is not a header line, like 'X-User-ID: user123'", path="--header")
    return name.strip().lower().encode(), value.strip().encode()
