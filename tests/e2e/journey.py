"""The changes of a long run, one after the other as a user makes them, and which splits were in force when."""

import time
from bisect import bisect_left
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from ray_canary.splitter import Splitter
from tests.e2e.deployments import probe
from tests.e2e.harness import RealCluster, wait_for
from tests.e2e.traffic import Sent

NAME = "soak"


@dataclass(frozen=True)
class Change:
    """One change: what it was, when it began and when it was in force (monotonic s), and the split after it."""

    what: str
    began: float
    ended: float
    split: Splitter


def base() -> dict[str, Any]:
    """Return the file of the Deployment that changes, as it is at first and after each round."""
    return probe({"a": 30, "b": 20}, name=NAME)


def _with(edit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    file = deepcopy(base())
    edit(file)
    return file


def _environment(file: dict[str, Any]) -> None:
    file["canary"]["versions"]["b"]["envs"].append({"name": "EDITED", "value": "1"})


def _bento(file: dict[str, Any]) -> None:
    file["canary"]["versions"]["b"]["bento"] = "probe:v1"


def _more(file: dict[str, Any]) -> None:
    two = {"min_replicas": 2, "max_replicas": 2}
    file["canary"]["versions"]["a"]["services"] = {"Probe": {"scaling": two}}


def _main(file: dict[str, Any]) -> None:
    file["envs"].append({"name": "EDITED", "value": "1"})


def _another(file: dict[str, Any]) -> None:
    file["canary"]["versions"]["c"] = {**deepcopy(file["canary"]["versions"]["b"]), "weight": 10}


def _none(file: dict[str, Any]) -> None:
    del file["canary"]


def _ingress(file: dict[str, Any]) -> None:
    file["ray"]["ingress"]["num_replicas"] = 3


@dataclass
class Journey:
    """What has been changed so far."""

    cluster: RealCluster
    changes: list[Change] = field(default_factory=list)

    #: One round: what is done, as a sentence, and how.
    def round(self) -> list[tuple[str, Callable[[], None]]]:
        """Return the changes of one round; afterwards the Deployment is as it was."""
        back = lambda: self._deploy(base())  # noqa: E731
        return [
            ("weights of a 30 -> 50", lambda: self._canary("weights", NAME, "a=50")),
            ("weights of a and b", lambda: self._canary("weights", NAME, "a=10", "b=60")),
            ("rolled back", lambda: self._canary("rollback", NAME)),
            ("an environment variable of b", lambda: self._deploy(_with(_environment))),
            ("b gets another Bento", lambda: self._deploy(_with(_bento))),
            ("back to the file", back),
            ("a version c comes with 10 %", lambda: self._deploy(_with(_another))),
            ("c is promoted", lambda: self._canary("promote", NAME, "c")),
            ("rolled back", lambda: self._canary("rollback", NAME)),
            ("c goes", back),
            ("a gets a second replica", lambda: self._deploy(_with(_more))),
            ("an environment variable of main", lambda: self._deploy(_with(_main))),
            ("canary off", lambda: self._deploy(_with(_none))),
            ("canary on again", back),
            ("a third ingress replica", lambda: self._deploy(_with(_ingress))),
            ("back to the file", back),
        ]

    def begin(self) -> None:
        """Deploy the file for the first time."""
        self.make("deployed", lambda: self._deploy(base()))

    def make(self, what: str, change: Callable[[], None]) -> Change:
        """Make a change, and see that afterwards the Deployment runs as told."""
        began = time.monotonic()
        change()
        wait_for(self._runs, f"the Deployment runs after: {what}", 60)
        self.changes.append(Change(what, began, time.monotonic(), self._split()))
        return self.changes[-1]

    def _canary(self, *arguments: str) -> None:
        self.cluster.canary(*arguments, timeout_s=600)

    def _deploy(self, file: dict[str, Any]) -> None:
        self._canary("deploy", "-f", self.cluster.write(f"{NAME}.yaml", file))

    def _runs(self) -> bool:
        live = self.cluster.state().live()[NAME]
        return live.status == "running" and all(one.status == "running" for one in live.targets.values())

    def _split(self) -> Splitter:
        settings = self.cluster.state().live()[NAME].settings
        return Splitter(settings.split.shares(), settings.deployment, arms=settings.arms())

    def astray(self, sent: list[Sent]) -> list[tuple[Sent, set[str]]]:
        """Return the requests that no split of their time would have sent where they went, each with where it would.

        While a change is under way, the split before it and the one after it are both right.
        """
        ends = [change.ended for change in self.changes]
        found = []
        for one in sent:
            first = max(0, bisect_left(ends, one.at) - 1)
            splits = [self.changes[first].split]
            splits += [change.split for change in self.changes[first + 1 :] if change.began <= one.at + one.took]
            allowed = {split.choose(one.key.encode()) for split in splits}
            if one.version not in allowed and one.reason != "failover":
                found.append((one, allowed))
        return found
