"""The commands that change a live Deployment and look back: weights, promote, rollback, revisions, diff."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from ray_canary import deployment, edits, lookup, screens, yamlfile
from ray_canary.errors import ConfigError
from ray_canary.history import differences, history_of
from ray_canary.options import address as _address
from ray_canary.options import output as _output
from ray_canary.promotion import check_promotable, is_promoted, promoted_file
from ray_canary.screens import out
from ray_canary.serving.rollout import Progress

_file = click.option(
    "-f", "--config-file", "file", metavar="FILE", help="Write the change into this Deployment file, too."
)
_now = click.option("--now", is_flag=True, help="Move requests at once, without starting replicas for them first.")


def _timeout(seconds: float) -> Callable[[Any], Any]:
    return click.option("--timeout", type=click.FloatRange(min=0), default=seconds, show_default=True, help="Seconds.")


@click.command()
@click.argument("name")
@click.argument("weights", nargs=-1, required=True, metavar="VERSION=WEIGHT...")
@_file
@_now
@_timeout(600)
@_address
def weights(
    name: str, weights: tuple[str, ...], file: str | None, now: bool, timeout: float, address: str | None
) -> None:
    """Change weights live; main gets what the versions leave of 100. Nothing restarts.

    Versions that aren't named keep their weight. One whose share grows gets the replicas for it first.
    """
    wanted = _weights(weights)
    with _FileEdit(file, name, lambda data: edits.with_weights(data, wanted)):
        change = deployment.set_weights(
            name, wanted, address, at_once=now, timeout=timeout, report=_report(), notice=screens.notice
        )
    screens.weight_change(change)
    out.print("In force on every ingress replica.")


@click.command()
@click.argument("name")
@click.argument("version")
@_file
@_now
@_timeout(3600)
@_address
def promote(name: str, version: str, file: str | None, now: bool, timeout: float, address: str | None) -> None:
    """Make a canary version the main one, live.

    It gets main's share beside its own. None of its replicas restarts, its users stay on it, and every other version
    runs on as it does. Main's old version goes; `rollback` brings it back.
    """
    live = lookup.accepted(deployment.get(name, address).live)

    def edit(data: Mapping[str, Any]) -> dict[str, Any]:
        if is_promoted(live, version) or _has_arm(data, live.settings.targets[version].arm):
            return dict(data)
        if version not in ((data.get("canary") or {}).get("versions") or {}):
            raise ConfigError.of(f"{version!r} is not a version in this file", str(file), path="canary.versions")
        return promoted_file(data, live, version)

    check_promotable(live, version)
    with _FileEdit(file, name, edit):
        change = deployment.promote(
            name, version, address, at_once=now, timeout=timeout, report=_report(), notice=screens.notice
        )
    screens.weight_change(change)
    out.print(f"{version} is main now, on every ingress replica.")


@click.command()
@click.argument("name")
@click.option("--to", type=click.IntRange(min=1), metavar="N", help="The revision.  [default: the one before]")
@_file
@_now
@_timeout(3600)
@_address
def rollback(name: str, to: int | None, file: str | None, now: bool, timeout: float, address: str | None) -> None:
    """Deploy a revision again.

    What of it still runs is kept as it is; what is gone starts first, and then gets its share. No revision is deleted.
    """
    done = deployment.rollback(name, to, address, at_once=now, timeout=timeout, report=_report(), notice=screens.notice)
    if file:
        stored = done.release.settings
        tags = {key: target.bento for key, target in stored.targets.items()}
        back = edits.pinned(edits.with_weights(stored.file or {}, stored.split.weights), tags)
        with _FileEdit(file, name, lambda _: back):
            pass
    shares = ", ".join(f"{key} {share} %" for key, share in done.release.settings.split.shares().items())
    out.print(f"{name} is back at revision {done.number} ({done.cause}): {shares}.")


@click.command()
@click.argument("name")
@_address
@_output
def revisions(name: str, address: str | None, output: str) -> None:
    """List what was deployed, the newest first.

    `rollback` goes back to any of it.
    """
    history = history_of(name, address)
    if output == "table":
        screens.revisions(history)
    else:
        screens.data([screens.revision(one, history) for one in history.revisions], output)


@click.command()
@click.argument("name")
@click.argument("before", type=click.IntRange(min=1), required=False, metavar="[N]")
@click.argument("after", type=click.IntRange(min=1), required=False, metavar="[M]")
@_address
@_output
def diff(name: str, before: int | None, after: int | None, address: str | None, output: str) -> None:
    """Show what differs between two revisions.

    N and M are their numbers.

    Without M, between N and what is deployed; without both, between what is deployed and the revision before it.
    """
    history = history_of(name, address)
    old, new = history.pair(before, after)
    found = differences(old, new)
    if output == "table":
        screens.differences(old, new, found)
    else:
        rows = [{"path": path, "before": was, "after": now} for path, was, now in found]
        screens.data({"before": old.number, "after": new.number, "differences": rows}, output)


def _has_arm(data: Mapping[str, Any], arm: str) -> bool:
    """Whether main of a file has this arm: a promotion that was killed has written the file already."""
    return bool(((data.get("ray") or {}).get("arms") or {}).get("main") == arm)


class _FileEdit:
    """Writes an edit into a Deployment file, and takes it back if what is done meanwhile fails.

    The file comes first: a command that is killed in between is run again, and finds the file as it should be.
    """

    def __init__(self, file: str | None, name: str, edit: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
        self._file = file
        self._name = name
        self._edit = edit
        self._text = ""

    def __enter__(self) -> None:
        if self._file is None:
            return
        self._text = yamlfile.read(self._file)
        read = deployment.read(self._file)
        if read.name != self._name:
            raise ConfigError.of(f"is {read.name!r}, not {self._name!r}", self._file, path="name")
        yamlfile.rewrite(self._file, self._edit(read.to_dict()))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._file is None:
            return
        if kind is not None and issubclass(kind, Exception):
            Path(self._file).write_text(self._text, encoding="utf-8")
        elif kind is None:
            out.print(f"Wrote {self._file}.")


def _report() -> Callable[[tuple[Progress, ...]], None]:
    seen: dict[str, Progress] = {}
    return lambda now: screens.progress(seen, now)


def _weights(texts: tuple[str, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for key, weight in map(_weight, texts):
        if key in found:
            raise ConfigError.of(f"{key} is given twice: {key}={found[key]} and {key}={weight}")
        found[key] = weight
    return found


def _weight(text: str) -> tuple[str, int]:
    key, equals, weight = text.partition("=")
    if not key or not equals or not (weight.isascii() and weight.isdigit()):
        raise ConfigError.of(f"{text!r} is not VERSION=WEIGHT with a whole number from 0 to 100, like a=30")
    return key, int(weight)
