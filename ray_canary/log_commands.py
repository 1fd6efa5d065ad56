"""`ray-canary logs` and `ray-canary events`: what replicas say, and what became of them."""

import json
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import click
from rich.text import Text

from ray_canary import lookup, screens
from ray_canary.errors import ClusterError, ConfigError
from ray_canary.events import Event, events_of
from ray_canary.legal import did_you_mean
from ray_canary.loglines import LogLine, lines, merged, of_request, time_of
from ray_canary.options import address as _address
from ray_canary.options import output as _output
from ray_canary.screens import moment, out
from ray_canary.serving import actors
from ray_canary.serving.actors import ReplicaActor
from ray_canary.serving.cluster import Cluster
from ray_canary.serving.state import Live
from ray_canary.tokens import lifetime

INGRESS = "ingress"
#: Seconds between two looks for new events, or new replicas to follow.
_EVERY_S = 2.0
#: Lines of Serve's that are remembered while they are followed.
_REMEMBERED = 1000

_version = click.option(
    "--version", "version", metavar="VERSION", help="Only of this: main, a version's key, or ingress."
)


def since(text: str | None) -> float:
    """Return how many seconds ago `5m`, `2h` or `1d` is; infinity for none. Raises ConfigError."""
    if text is None:
        return float("inf")
    try:
        seconds = lifetime(text)
    except ValueError:
        seconds = None
    if seconds is None:
        raise ConfigError.of(f"{text!r} is not a time like 30s, 5m, 2h or 1d", path="--since")
    return float(seconds)


@click.command()
@click.argument("name")
@_version
@click.option(
    "--replica", metavar="ID", help="Only of this replica, by the id that `get` shows, or the beginning of it."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is added, until Ctrl-C.")
@click.option(
    "--tail", type=click.IntRange(min=0), default=200, show_default=True, help="Lines from the end of each file."
)
@click.option("--since", "ago", metavar="TIME", help="Only what was written in the last 30s, 5m, 2h or 1d.")
@click.option("--request-id", metavar="ID", help="Only what concerns one request: the X-Request-ID of its answer.")
@click.option("--previous", is_flag=True, help="Of replicas that have died, too.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How.")
@_address
def logs(
    name: str,
    version: str | None,
    replica: str | None,
    follow: bool,
    tail: int,
    ago: str | None,
    request_id: str | None,
    previous: bool,
    output: str,
    address: str | None,
) -> None:
    """Show what the replicas of a Deployment have logged, in the order of time.

    Each line begins with the version and the replica that wrote it. A version without a living replica shows its dead
    ones: why it doesn't start is in there.
    """
    oldest = time.time() - since(ago)
    cluster = Cluster(address)
    owners = _owners(lookup.find(cluster, name), version)
    found = _chosen(actors.replicas(cluster, frozenset(owners)), owners, replica, previous)
    show = _as_json if output == "json" else _as_text
    if follow:
        for line in _followed(cluster, found, owners, tail):
            if request_id is None or request_id in line.text:
                show(line)
        return
    read = (_lines(cluster, one, owners[one.application], tail) for one in found)
    wanted = merged(file for files in read for file in files)
    if request_id is not None:
        wanted = list(of_request(wanted, request_id))
        if not wanted:
            screens.notice(f"No line of these replicas names request {request_id}.")
    for line in wanted:
        if line.at >= oldest:
            show(line)


@click.command()
@click.argument("name")
@_version
@click.option("-f", "--follow", is_flag=True, help="Go on with new ones, until Ctrl-C.")
@_address
@_output
def events(name: str, version: str | None, follow: bool, address: str | None, output: str) -> None:
    """Show what became of a Deployment: changes, and replicas that started, ended and failed. The newest last."""
    cluster = Cluster(address)
    shown: list[Event] = []
    while True:
        live = lookup.find(cluster, name)
        owners = _owners(live, version)
        found = [one for one in events_of(cluster, live, owners) if one not in shown]
        if output == "table":
            for one in found:
                style = "yellow" if one.warning else ""
                kind = "Warning" if one.warning else "Normal"
                out.print(Text(f"{moment(one.at)}  {kind:8}{one.version:10}  {one.line}", style=style), soft_wrap=True)
        else:
            screens.data([one.plain() for one in found], output)
        shown += found
        if not follow:
            return
        time.sleep(_EVERY_S)


def _owners(live: Live, version: str | None) -> dict[str, str]:
    """Return which version each Serve application of a Deployment is. Raises ConfigError for an unknown version."""
    targets = live.user_config.get("targets") or {}
    owners = {str(one.get("application") or live.name): str(key) for key, one in targets.items()}
    for application in live.version_applications:
        owners.setdefault(application, application.removeprefix(f"{live.name}-").removeprefix("canary-"))
    owners[live.name] = INGRESS if not live.single else "all"
    if version is None:
        return owners
    if version not in owners.values():
        known = sorted(set(owners.values()))
        hint = did_you_mean(version, known) or f"there are {', '.join(known)}"
        raise ConfigError.of(f"{version!r} is no version of {live.name}", path="--version", hint=hint)
    return {application: key for application, key in owners.items() if key == version}


def _chosen(
    found: list[ReplicaActor], owners: dict[str, str], replica: str | None, previous: bool
) -> list[ReplicaActor]:
    """Return the replicas to read: those named, those alive, and of a version without any its last dead ones."""
    if replica is not None:
        named = [one for one in found if one.id.startswith(replica)]
        if not named:
            ids = ", ".join(one.id for one in found if one.alive) or "none"
            raise ConfigError.of(f"there is no replica {replica!r}", path="--replica", hint=f"those alive are {ids}")
        return named
    if previous:
        return found
    alive = [one for one in found if one.alive]
    without = owners.keys() - {one.application for one in alive if _has_started(one)}
    dead = [one for one in found if not one.alive and one.application in without]
    return sorted([*alive, *dead[-3:]], key=lambda one: one.began)


def _has_started(one: ReplicaActor) -> bool:
    """Whether a replica has lived long enough not to be the next try of one that fails at once."""
    return time.time() - one.began > 30


def _lines(cluster: Cluster, one: ReplicaActor, version: str, tail: int) -> Iterator[list[LogLine]]:
    missing = []
    for stream, file in actors.files(one).items():
        try:
            text = "".join(actors.read(cluster, file, tail))
        except ClusterError as error:
            missing.append(str(error))
            continue
        yield list(lines(text, one.began, version, one.id, stream))
    if len(missing) == len(actors.files(one)):
        screens.notice(f"The log of {version}'s replica {one.id} is gone: {missing[0]}")


def _followed(cluster: Cluster, found: list[ReplicaActor], owners: dict[str, str], tail: int) -> Iterator[LogLine]:
    """Yield lines as they are written, those of replicas that start meanwhile too."""
    new: queue.SimpleQueue[LogLine] = queue.SimpleQueue()
    followed: set[str] = set()

    def follow(one: ReplicaActor, stream: str, file: dict[str, str], from_end: int) -> None:
        rest = ""
        try:
            for piece in actors.read(cluster, file, from_end, follow=True):
                *whole, rest = (rest + piece).split("\n")
                for line in lines("\n".join(whole), time.time(), owners[one.application], one.id, stream):
                    new.put(line)
        except ClusterError:
            return  # Its node has gone, or the file isn't there; the others go on.

    def follow_all(some: list[ReplicaActor], from_end: int) -> None:
        for one in some:
            if one.actor not in followed:
                followed.add(one.actor)
                for stream, file in actors.files(one).items():
                    arguments = (one, stream, file, from_end)
                    threading.Thread(target=follow, args=arguments, daemon=True).start()

    follow_all(found, tail)
    # Where Serve writes its lines into a file and to standard error, one of each is enough.
    seen: deque[tuple[str, str]] = deque(maxlen=_REMEMBERED)
    looked = time.monotonic()
    while True:
        try:
            line = new.get(timeout=_EVERY_S)
        except queue.Empty:
            line = None
        if time.monotonic() - looked > _EVERY_S:
            looked = time.monotonic()
            alive = [one for one in actors.replicas(cluster, frozenset(owners)) if one.alive]
            follow_all(alive, -1)
        if line is None:
            continue
        if line.stream != "out" and time_of(line.text) is not None:
            if (line.replica, line.text) in seen:
                continue
            seen.append((line.replica, line.text))
        yield line


def _as_text(line: LogLine) -> None:
    click.echo(f"{line.version}/{line.replica} | {line.text}")


def _as_json(line: LogLine) -> None:
    fields: dict[str, Any] = {
        "time": moment(line.at),
        "version": line.version,
        "replica": line.replica,
        "stream": line.stream,
        "line": line.text,
    }
    click.echo(json.dumps(fields))
