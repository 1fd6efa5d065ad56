"""What the Configuration page does on the cluster: through the same plan, checks and lease as the command line.

All of it blocks, and knows nothing of pages.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray_canary import access, deployment, lookup
from ray_canary.bentos import BentoStore, store_path
from ray_canary.config import DeploymentFile, parse
from ray_canary.console.desk import Desk
from ray_canary.console.draft import Draft
from ray_canary.errors import Conflict, Forbidden
from ray_canary.history import History, differences, history_of
from ray_canary.instances import Catalogue
from ray_canary.plan import Plan
from ray_canary.preview import Preview, preview
from ray_canary.serving.compile import single_prefix
from ray_canary.serving.rollout import Report
from ray_canary.serving.state import Live
from ray_canary.tokens import Tokens, Verdict

Notice = Callable[[str], None]


@dataclass(frozen=True)
class Choices:
    """What can be chosen here: Bentos of this machine's store, and instance types."""

    bentos: tuple[str, ...]
    instance_types: tuple[str, ...]

    @classmethod
    def here(cls) -> "Choices":
        """Look into the store and the catalogue. Raises ConfigError for a catalogue that is wrong."""
        store = BentoStore(store_path())
        tags = (f"{name}:{version}" for name in store.names() for version in store.versions(name))
        return cls(tuple(tags), tuple(one.name for one in Catalogue.find()))


def live(desk: Desk, name: str) -> Live:
    """Return a Deployment as it is. Raises NotFound, or ConfigError if its ingress refuses its user_config."""
    return lookup.accepted(lookup.find(desk.cluster(), name))


def services(found: Live) -> dict[str, tuple[str, ...]]:
    """Return the Bento services of every target that runs, its entry service first."""
    named: dict[str, tuple[str, ...]] = {}
    for key, target in found.targets.items():
        prefix = single_prefix(key) if found.single else ""
        there = target.application.deployments if target.application else ()
        names = (target.settings.deployment, *sorted(there))
        named[key] = tuple(dict.fromkeys(name.removeprefix(prefix) for name in names))
    return named


def previewed(desk: Desk, data: Mapping[str, Any]) -> Preview:
    """Return what saving would do. Raises what `ray-canary plan` raises."""
    cluster = desk.cluster()
    file = parse(data, "the draft")
    return preview(_planned(file, lookup.find(cluster, file.name)), cluster)


def save(desk: Desk, draft: Draft, token: str, report: Report, notice: Notice) -> None:
    """Make the Deployment what the draft says. Only a change of weights needs no Bento store.

    Raises:
        Conflict: somebody else has changed it since the draft was begun, or what `ray-canary deploy` raises.
        Forbidden: the Deployment wants a token for this.
    """
    permit(desk, draft.name, token)
    before = live(desk, draft.name)
    if before.file() != draft.base:
        raise Conflict("Somebody else has changed it meanwhile. Nothing was saved; begin again with what is there now.")
    if weights := draft.only_weights():
        deployment.set_weights(draft.name, weights, desk.settings.address, report=report, notice=notice)
        return
    deployment.apply_plan(
        _planned(parse(draft.data, "the draft"), before), desk.cluster(), report=report, notice=notice
    )


def _planned(file: DeploymentFile, before: Live) -> Plan:
    """Resolve a draft. A path or a URL stands for what runs: nobody builds a Bento by a click in a browser."""
    return deployment.plan(file, pinned=lookup.known(before))


def history(desk: Desk, name: str) -> History:
    """Return its revisions. Raises NotFound, ClusterError."""
    return history_of(name, desk.settings.address)


def what_differs(found: History, number: int) -> tuple[tuple[str, Any, Any], ...]:
    """Return what would change by a rollback to a revision: path, now, then; empty where that is not known."""
    if found.active is None:
        return ()
    return differences(found.find(found.active), found.find(number))


def roll_back(desk: Desk, name: str, number: int, token: str, report: Report, notice: Notice) -> None:
    """Deploy a revision again. Raises what `ray-canary rollback` raises, and Forbidden."""
    permit(desk, name, token)
    deployment.rollback(name, number, desk.settings.address, report=report, notice=notice)


def permit(desk: Desk, name: str, token: str) -> None:
    """Let a change pass unless the Deployment has `access_authorization` and the token isn't one for it.

    Raises:
        Forbidden: with the reason.
        ClusterError: the tokens can't be read.
    """
    if not live(desk, name).settings.access_authorization:
        return
    records = Tokens(access.list_tokens(desk.settings.address))
    said = [f"Bearer {token.strip()}".encode()] if token.strip() else []
    verdict = records.check(said, name, time.time())
    if verdict is not Verdict.OK:
        hint = f"make one by: ray-canary token create --deployment {name}"
        raise Forbidden(f"{verdict.sentence.partition(': ')[2].capitalize()}; {hint}")
