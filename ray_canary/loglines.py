"""Lines of replicas' logs: when each was written, and by whom. Pure."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

#: Serve writes `INFO 2026-11-26 19:32:59,341 app_deployment replica request -- text` in the node's own time, BentoML
#: `2026-11-26T19:32:59+0000 [INFO] [service] text`.
_SERVES: Final = re.compile(
    r"(?:[A-Z]+) (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) \S+ (?:\S+ )?(?:([0-9a-f-]{36}|\S+) )?-- "
)
_BENTOML: Final = re.compile(r"(?:\[[^]]*\] )?(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)([+-]\d{4})")
#: What Ray writes at the beginning of a worker's files.
_MARKERS: Final = (":job_id:", ":actor_name:", ":task_name:")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line: when (seconds since 1970), which version and replica, from which file (log, out, err)."""

    at: float
    version: str
    replica: str
    stream: str
    text: str


def lines(text: str, began: float, version: str, replica: str, stream: str) -> Iterator[LogLine]:
    """Yield the lines of a file. One without a time, such as in a traceback, has the time of the line before it.

    `began` is when the replica started, in seconds since 1970.
    """
    at = began
    for line in text.splitlines():
        if line.startswith(_MARKERS):
            continue
        said = time_of(line)
        at = at if said is None else said
        yield LogLine(at, version, replica, stream, line)


def time_of(line: str) -> float | None:
    """Return when a line says that it was written, in seconds since 1970."""
    if found := _SERVES.match(line):
        try:
            return datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S").timestamp() + int(found[2]) / 1000
        except ValueError:
            return None
    if found := _BENTOML.match(line):
        try:
            return datetime.strptime(found[1] + found[2], "%Y-%m-%dT%H:%M:%S%z").astimezone(UTC).timestamp()
        except ValueError:
            return None
    return None


def merged(files: Iterable[Iterable[LogLine]]) -> list[LogLine]:
    """Return the lines of several files in the order of their times; those of one file keep theirs.

    Where Serve writes its lines into a file and to standard error, one of each remains.
    """
    found: list[LogLine] = []
    written: set[tuple[str, str]] = set()
    ordered = sorted((list(each) for each in files), key=lambda each: bool(each) and each[0].stream == "err")
    for each in ordered:
        for line in each:
            if line.stream == "err" and (line.replica, line.text) in written and time_of(line.text) is not None:
                continue
            if line.stream == "log":
                written.add((line.replica, line.text))
            found.append(line)
    return sorted(found, key=lambda line: line.at)


def of_request(found: Iterable[LogLine], request_id: str) -> Iterator[LogLine]:
    """Yield the lines that name a request, and those without a time of their own that follow one of them."""
    following: set[tuple[str, str]] = set()
    for line in found:
        file = (line.replica, line.stream)
        if request_id in line.text:
            following.add(file)
        elif time_of(line.text) is not None:
            following.discard(file)
        if file in following:
            yield line
