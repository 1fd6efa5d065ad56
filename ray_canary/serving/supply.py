"""Whether every node has the Bentos of a plan, or can fetch them; and shipping them there."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from ray_canary import remote, shipping
from ray_canary.bentos import BentoStore, store_path
from ray_canary.errors import BentoError, ClusterError, ConfigError, NotOnNodes, PlanError, Problem
from ray_canary.nodelabels import Node
from ray_canary.places import STORE_WORDS, NotAPlace, check_store, store_url
from ray_canary.plan import MAIN, Plan, TargetPlan
from ray_canary.serving import fitting, node_stores, rollout
from ray_canary.serving.adoption import adopt
from ray_canary.serving.changes import Effect
from ray_canary.serving.cluster import Cluster
from ray_canary.serving.node_stores import NodeStore
from ray_canary.serving.state import OnCluster

Notice = Callable[[str], None]

#: Seconds that asking all nodes may take in all; the job itself starts two processes.
_TIMEOUT_S: Final = node_stores.NODE_TIMEOUT_S + 60
_SHOWN: Final = 10


@dataclass(frozen=True)
class Shipping:
    """Whether Bentos are shipped, and where to; `store` wins over the environment and the file."""

    push: bool = False
    store: str | None = None

    def place(self, plan: Plan) -> str:
        """Return where Bentos are kept. Raises ConfigError."""
        given = (("--store", self.store), (f"${shipping.STORE}", os.environ.get(shipping.STORE)))
        for path, value in given:
            if value:
                return _checked(path, value)
        if plan.ray.bento_store is None:
            hint = f"give --store or ${shipping.STORE}, or set this in the file: {STORE_WORDS}"
            raise ConfigError.of("says nowhere to push to", path="ray.bento_store", hint=hint)
        return store_url(plan.ray.bento_store)


#: Whoever ships nothing is told what is missing.
NOTHING: Final = Shipping()


def _checked(path: str, value: str) -> str:
    try:
        check_store(value)
    except NotAPlace as error:
        # Not the value: it may be what has a password in it.
        raise ConfigError.of(f"is not {STORE_WORDS}: {error}", path, hint=error.hint) from None
    return store_url(value)


def supplied(plan: Plan, cluster: Cluster, state: OnCluster, how: Shipping, notice: Notice) -> Plan:
    """Return a plan whose Bentos every node has, or finds: pushed, where that is asked for.

    A version that runs on unchanged is left as it is where no node lacks its Bento: it would restart.

    Raises:
        NotOnNodes: nodes lack Bentos, and nothing is to be pushed.
        ConfigError, BentoError: they can't be pushed.
    """
    placed = adopt(plan, state)
    starting = _starting(placed, state)
    bare = {key: target for key, target in placed.targets.items() if target.archive is None}
    wanted = bare if how.push else {key: bare[key] for key in bare if key in starting}
    lacks = _asked(wanted, cluster, notice)
    if not how.push:
        if lacks:
            raise NotOnNodes(_refusal(lacks, placed))
        return plan
    unshipped = [key for key in bare if key in starting or key in lacks]
    for key in unshipped:
        if key not in starting:
            notice(f"{key} restarts, so that nodes without {placed.targets[key].bento} can fetch it.")
    keys = (*unshipped, *_lost(placed))
    if not keys:
        notice(_nothing_to_push(bare))
        return placed
    return pushed(placed, keys, how, notice)


def missing(plan: Plan, cluster: Cluster, state: OnCluster, notice: Notice = lambda _: None) -> tuple[str, ...]:
    """Return what `supplied` would refuse without a push, in sentences."""
    placed = adopt(plan, state)
    starting = _starting(placed, state)
    bare = {key: target for key, target in placed.targets.items() if target.archive is None and key in starting}
    return tuple(_sentence(key, placed, nodes) for key, nodes in _asked(bare, cluster, notice).items())


def pushed(plan: Plan, keys: Iterable[str], how: Shipping, notice: Notice) -> Plan:
    """Push the Bentos of some targets, and return the plan that says where they are.

    Raises:
        ConfigError: no place is named, or none that can be used.
        PlanError: with every Bento that can't be pushed.
    """
    place, bentos = how.place(plan), store_path()
    targets, problems = dict(plan.targets), list[Problem]()
    for key in keys:
        try:
            packed = shipping.push(BentoStore(bentos).get(targets[key].bento), bentos, place, notice)
        except BentoError as error:
            problems.append(Problem(_bento_path(key), str(error)))
        else:
            targets[key] = targets[key].model_copy(update={"archive": packed})
    if problems:
        raise PlanError(problems)
    return plan.model_copy(update={"targets": targets})


def _nothing_to_push(bare: Iterable[str]) -> str:
    """Say why nothing is pushed, and what that means for nodes to come; `bare` are the targets that have no archive."""
    if not (keys := ", ".join(bare)):
        return "Nothing to push: every Bento is where nodes fetch it from."
    return (
        f"Nothing to push: no node is known to lack a Bento, and what runs without a pushed one ({keys}) would restart "
        "for it. A node that joins later has to have it in its own store; `deploy --push` with the next change that "
        "restarts it pushes it too."
    )


def _starting(plan: Plan, state: OnCluster) -> frozenset[str]:
    """Return the targets of which replicas would start."""
    found = rollout.preview(plan, state)
    applications = {one.application for one in found if one.effect in (Effect.ADD, Effect.RESTART)}
    return frozenset(key for key, target in plan.targets.items() if target.application in applications)


def _lost(plan: Plan) -> list[str]:
    """Return the targets whose archives are not where they were pushed to. Raises Unreachable."""
    packed = {key: target.archive for key, target in plan.targets.items() if target.archive is not None}
    return [key for key, archive in packed.items() if not remote.exists(archive.url)]


def _asked(
    targets: Mapping[str, TargetPlan], cluster: Cluster, notice: Notice
) -> dict[str, list[tuple[NodeStore, str]]]:
    """Return, for each target that some node may have to run and can't, these nodes and what each of them lacks."""
    tags = sorted({target.bento for target in targets.values()})
    if not tags:
        return {}
    try:
        raylets = cluster.raylets()
        if _only_here([one.gcs_address for one in raylets]):
            return {}
        python = raylets[0].python if raylets else "python"
        nodes = node_stores.read(cluster.run(node_stores.command(python, tags), _TIMEOUT_S))
    except ClusterError as error:
        notice(f"Whether every node has {', '.join(tags)} can't be asked. {error}")
        return {}
    for node in nodes:
        if node.trouble:
            notice(f"Whether node {node.name} has {', '.join(tags)} can't be asked: {node.trouble}")
    found = {
        key: [(node, node.lacks[target.bento]) for node in nodes if _concerns(target, node)]
        for key, target in targets.items()
    }
    return {key: lacking for key, lacking in found.items() if lacking}


def _concerns(target: TargetPlan, node: NodeStore) -> bool:
    return target.bento in node.lacks and fitting.could_run(target, Node(node.resources, node.labels))


def _only_here(gcs: list[str]) -> bool:
    """Whether the cluster's only node is this machine, with the Bento store that the plan was made with."""
    if len(gcs) != 1:
        return False
    stores = [found for process in psutil.process_iter(["name"]) if (found := _store_of(process, gcs[0])) is not None]
    return len(stores) == 1 and os.path.realpath(stores[0]) == os.path.realpath(store_path())


def _store_of(process: psutil.Process, gcs: str) -> Path | None:
    """Return the Bento store of a raylet of this cluster; None if the process is none, or isn't ours to look at."""
    try:
        if process.info["name"] != "raylet" or f"--gcs-address={gcs}" not in process.cmdline():
            return None
        environment = process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    home = environment.get("BENTOML_HOME")
    return (Path(home) if home else Path(environment.get("HOME") or "~").expanduser() / "bentoml") / "bentos"


def _refusal(lacks: Mapping[str, list[tuple[NodeStore, str]]], plan: Plan) -> str:
    sentences = "\n".join(_sentence(key, plan, nodes) for key, nodes in lacks.items())
    return f"{sentences}\nNothing was changed. Deploy with --push, which ships it, or put it into these nodes' stores."


def _sentence(key: str, plan: Plan, nodes: list[tuple[NodeStore, str]]) -> str:
    more = f"\n  and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else ""
    lines = "".join(f"\n  {node.name}: {said}" for node, said in nodes[:_SHOWN])
    count = f"{len(nodes)} node{'s' if len(nodes) > 1 else ''} on which its replicas could start"
    return f"{_bento_path(key)}: {plan.targets[key].bento} is missing on {count}:{lines}{more}"


def _bento_path(key: str) -> str:
    return "bento" if key == MAIN else f"canary.versions.{key}.bento"
