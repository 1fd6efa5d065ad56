"""Whether a Deployment finds room on a cluster, and what it would run into there. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ray_canary import nodelabels
from ray_canary.errors import Conflict, DoesNotFit
from ray_canary.nodelabels import Node, Selector
from ray_canary.plan import Plan, ServicePlan, TargetPlan
from ray_canary.serving.changes import Change, Effect
from ray_canary.serving.compile import VERSION_IMPORT_PATH, ingress_surge
from ray_canary.serving.release import Release
from ray_canary.serving.state import OURS, ApplicationState, OnCluster

Resources = Mapping[str, float]
_NAMES = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
#: What Ray adds to the demand of a replica that names an accelerator: a mark of the node, of which it takes hardly any.
_ACCELERATOR = "accelerator_type:"
_MARK = 0.001


class Demand(NamedTuple):
    """What a deployment asks for: where the file says so, how many replicas, what each needs, and on which nodes."""

    where: str
    deployment: str
    replicas: int
    resources: Resources
    selector: Selector = {}
    per_node: int | None = None

    def fits(self, node: Node) -> bool:
        """Return whether one replica could be on a node, were it empty."""
        return nodelabels.fits(self.selector, node.labels) and within(self.resources, node.resources)

    def room(self, node: Node) -> int:
        """Return how many of its replicas could be on a node that one fits, were it empty."""
        each = (node.resources[name] / amount for name, amount in self.resources.items() if amount)
        return min([int(many + 1e-9) for many in each] + [self.replicas if self.per_node is None else self.per_node])

    @property
    def text(self) -> str:
        """Say what a replica needs."""
        labels = f", on a node with {nodelabels.text(self.selector)}" if self.selector else ""
        return f"{text(self.resources)}{labels}"


def check_release(release: Release, cluster: OnCluster) -> None:
    """Refuse a revision whose name or route somebody else has meanwhile.

    Raises:
        Conflict: with every conflict.
    """
    found = []
    for name, there in cluster.applications.items():
        if there.going:
            continue
        if name in (one["name"] for one in release.applications) and there.import_path not in OURS:
            found.append(f"the cluster has an application {name!r} of somebody else's ({there.import_path})")
        elif name != release.name and there.route_prefix == release.ingress.get("route_prefix", "/"):
            found.append(f"the route {there.route_prefix!r} is taken by application {name!r}")
    if found:
        raise Conflict("\n".join(found))


def check_conflicts(plan: Plan, cluster: OnCluster) -> None:
    """Refuse a Deployment whose names or route somebody else has.

    Raises:
        Conflict: with every conflict.
    """
    found = [*_taken_names(plan, cluster), *_taken_versions(plan, cluster), *_taken_routes(plan, cluster)]
    live = cluster.live().get(plan.name)
    if live is not None and live.single and not live.ingress.going:
        found.append(
            f"name: {plan.name!r} is on the cluster in the single-application form, and would be down while its "
            "versions move into applications of their own; delete it first, or choose another name"
        )
    if found:
        raise Conflict("\n".join(found))


def _taken_names(plan: Plan, cluster: OnCluster) -> Iterator[str]:
    for name in (plan.name, *(target.application for target in plan.targets.values())):
        there = cluster.applications.get(name)
        if there is not None and not there.going and there.import_path not in OURS:
            origin = there.import_path or "serve.run"
            yield f"name: the cluster has an application {name!r} of somebody else's ({origin}); choose another name"


def _taken_versions(plan: Plan, cluster: OnCluster) -> Iterator[str]:
    """Yield a sentence for every application of ours that is another Deployment's."""
    live = cluster.live()
    owners = {name: one.name for one in live.values() if one.name != plan.name for name in (one.name, *one.referred)}
    for key, name in ((key, target.application) for key, target in plan.targets.items()):
        if name in owners:
            yield f"ray.applications.{key}: {name!r} serves Deployment {owners[name]!r}; choose another name"
    there = cluster.applications.get(plan.name)
    if there is not None and there.import_path == VERSION_IMPORT_PATH and not there.going:
        yield f"name: the cluster has an application {plan.name!r}, which serves a version; choose another name"


def _taken_routes(plan: Plan, cluster: OnCluster) -> Iterator[str]:
    prefix = plan.ray.route_prefix
    for name, there in cluster.applications.items():
        if name != plan.name and there.route_prefix == prefix and not there.going:
            yield f"ray.route_prefix: {prefix!r} is taken by application {name!r}; choose another one"


def needs(plan: Plan, *, most: bool = False) -> dict[str, float]:
    """Return what a Deployment reserves, in Ray's terms: to begin with, or (`most`) with every replica and surge."""
    return _sum(demands(plan, most=most))


def _sum(found: Iterable[Demand]) -> dict[str, float]:
    total: dict[str, float] = {}
    for demand in found:
        for name, amount in demand.resources.items():
            total[name] = total.get(name, 0) + demand.replicas * amount
    return total


def check_fit(plan: Plan, cluster: OnCluster, nodes: Iterable[Node]) -> None:
    """Refuse a Deployment that would hang pending: replicas that no nodes can take, or more than is there in all.

    What is refused has no place even on empty nodes, so that what is refused is so, but not everything that is so is.

    Raises:
        DoesNotFit: with what is needed, what is there, and which version is too large.
    """
    nodes = list(nodes)
    asked = list(demands(plan, most=False))
    found = [sentence for demand in asked if (sentence := _nowhere(demand, nodes))]
    found += [] if found else _crowded(asked, nodes)
    total, others = _sum(asked), _reserved_by_others(plan, cluster)
    there = _there(nodes, total)
    short = {name for name in total if total[name] + others.get(name, 0) > there[name] + 1e-9}
    if short and not found:
        taken = {name: others.get(name, 0) for name in short if others.get(name)}
        beside = f", beside {text(taken)} that other applications have" if taken else ""
        found.append(
            f"the Deployment needs {text({name: total[name] for name in short})} to begin with{beside}; "
            f"the cluster has {text({name: there[name] for name in short})}"
        )
    if found:
        raise DoesNotFit("\n".join(found))


def _nowhere(demand: Demand, nodes: list[Node]) -> str | None:
    """Say why not all of a deployment's replicas could be on these nodes, were they empty; None if they could."""
    labelled = [node for node in nodes if nodelabels.fits(demand.selector, node.labels)]
    able = [node for node in labelled if within(demand.resources, node.resources)]
    room = sum(demand.room(node) for node in able)
    if able and room >= demand.replicas:
        return None
    if able and (demand.per_node is None or demand.per_node * len(able) >= demand.replicas):
        said = f"{demand.replicas} replicas, each of which needs {demand.text}"
        return f"{demand.where}: {said}; the nodes have room for {room} such replicas"
    if able:
        said = f"{demand.replicas} replicas, on each node at most {demand.per_node} of them"
        return f"{demand.where}: {said}; nodes that can take one: {len(able)}"
    if not labelled and demand.selector:
        there = {f"{key}={node.labels[key]}" for key in demand.selector for node in nodes if key in node.labels}
        have = ", ".join(sorted(there)) or "no such label"
        return f"{demand.where}: a replica needs a node with {nodelabels.text(demand.selector)}; the nodes have {have}"
    largest = text(_largest([node.resources for node in labelled], demand.resources))
    return f"{demand.where}: a replica needs {demand.text}; no node has that much (the largest: {largest})"


def _crowded(asked: Iterable[Demand], nodes: list[Node]) -> list[str]:
    """Say where deployments that all have to go to the same nodes, by these nodes' labels, need more than is there."""
    by_place: dict[frozenset[int], list[Demand]] = {}
    for demand in asked:
        place = frozenset(at for at, node in enumerate(nodes) if nodelabels.fits(demand.selector, node.labels))
        by_place.setdefault(place, []).append(demand)
    sentences = []
    for place in by_place:
        confined = [demand for inner, found in by_place.items() if inner <= place for demand in found]
        total, there = _sum(confined), _there([nodes[at] for at in place], _sum(confined))
        short = {name: amount for name, amount in total.items() if amount > there[name] + 1e-9}
        if short and len(place) < len(nodes):
            who = ", ".join(demand.where for demand in confined)
            have = text({name: there[name] for name in short})
            sentences.append(f"{who}: need {text(short)} to begin with; the nodes that they may go to have {have}")
    return sentences


def _there(nodes: Iterable[Node], names: Iterable[str]) -> dict[str, float]:
    nodes = list(nodes)
    return {name: sum(node.resources.get(name, 0) for node in nodes) for name in names}


def stuck(plan: Plan, cluster: OnCluster, nodes: Iterable[Node], found: Iterable[Change]) -> tuple[str, ...]:
    """Return a sentence for every update among `found` that could not even begin: no room for one replica more.

    A strategy with a surge starts new replicas before it stops old ones. What is free is counted over all nodes
    together, so that what is said is so, but not everything that is so is said.
    """
    nodes = list(nodes)
    restarts = {(change.application, change.deployment) for change in found if change.effect is Effect.RESTART}
    sentences = []
    for target in plan.targets.values():
        for service in target.services.values():
            if (target.application, service.name) not in restarts or not service.rollout.max_surge_percent:
                continue
            demand = _demand(target, service, 1)
            there = cluster.applications[target.application]
            needed = demand.resources
            free = _free(cluster, nodes, needed)
            able = [node for node in nodes if demand.fits(node)]
            if able and all(_full(demand, node, there) for node in able):
                sentences.append(
                    f"{target.key}: services.{service.name}: {service.rollout.strategy} starts a new replica before it "
                    "stops an old one, and every node has as many as max_replicas_per_node lets it: the old replicas "
                    "will go on serving, and the update will wait for another node. Recreate and "
                    "BestEffortControlledRollout need none"
                )
            elif not within(needed, free):
                sentences.append(
                    f"{target.key}: services.{service.name}: {service.rollout.strategy} starts a new replica before it "
                    f"stops an old one. It needs {text(needed)}, and {text(free)} is free: the old replicas will go "
                    "on serving, and the update will wait for room. Recreate and BestEffortControlledRollout need none"
                )
    return tuple(sentences)


def _full(demand: Demand, node: Node, there: ApplicationState) -> bool:
    """Whether a node has so many replicas of a deployment that one more could not start there.

    To Serve, each replica is a part of its node: one over the limit that it was started with.
    """
    deployment = there.deployments.get(demand.deployment)
    config = {one["name"]: one for one in (there.config or {}).get("deployments", ())}.get(demand.deployment, {})
    limit = config.get("max_replicas_per_node")
    has = sum(one.node_id == node.id for one in deployment.replicas) if deployment else 0
    return (has / limit if limit else 0.0) + (1 / demand.per_node if demand.per_node else 0.0) > 1 + 1e-9


def could_run(target: TargetPlan, node: Node) -> bool:
    """Whether a node could take a replica of any of a target's services, were it empty."""
    return any(_demand(target, service, 1).fits(node) for service in target.services.values())


def _free(cluster: OnCluster, nodes: list[Node], names: Iterable[str]) -> dict[str, float]:
    reserved: dict[str, float] = {}
    for application in cluster.applications.values():
        for deployment in application.deployments.values():
            for name, amount in deployment.reserved.items():
                reserved[name] = reserved.get(name, 0) + amount
    return {name: max(amount - reserved.get(name, 0), 0) for name, amount in _there(nodes, names).items()}


def _replica(service: ServicePlan) -> dict[str, float]:
    """Return what one replica needs, in Ray's terms."""
    resources = {_NAMES[name]: float(service.resources[name]) for name in _NAMES if name in service.resources}
    if kind := service.resources.get("accelerator_type"):
        resources[f"{_ACCELERATOR}{kind}"] = _MARK
    return resources


def demands(plan: Plan, *, most: bool) -> Iterator[Demand]:
    """Yield what each deployment asks for: to begin with, or (`most`) with every replica and surge."""
    ingress = plan.ray.ingress
    surge = -(-ingress_surge(ingress) * ingress.most_replicas // 100)
    replicas = ingress.most_replicas + surge if most else ingress.num_replicas
    cpus = {"CPU": float(ingress.num_cpus)}
    yield Demand("ray.ingress", "Ingress", replicas, cpus, ingress.node_labels, ingress.max_replicas_per_node)
    for target in plan.targets.values():
        for service in target.services.values():
            scaling = service.scaling
            surge = -(-service.rollout.max_surge_percent * scaling.max_replicas // 100)
            count = scaling.max_replicas + surge if most else max(scaling.min_replicas, 1)
            yield _demand(target, service, count)


def _demand(target: TargetPlan, service: ServicePlan, replicas: int) -> Demand:
    where = f"{target.key}: services.{service.name}"
    return Demand(where, service.name, replicas, _replica(service), service.node_labels, service.max_replicas_per_node)


def _reserved_by_others(plan: Plan, cluster: OnCluster) -> dict[str, float]:
    own = {plan.name, *(target.application for target in plan.targets.values()), *cluster.versions_of(plan.name)}
    total: dict[str, float] = {}
    for name, application in cluster.applications.items():
        for deployment in () if name in own else application.deployments.values():
            for resource, amount in deployment.reserved.items():
                total[resource] = total.get(resource, 0) + amount
    return total


def within(needed: Resources, node: Resources) -> bool:
    """Return whether what is needed fits into what a node has."""
    return all(node.get(name, 0) + 1e-9 >= amount for name, amount in needed.items())


def _largest(nodes: list[Resources], needed: Resources) -> Resources:
    """Return what one node has of what is needed: the node that comes nearest to it."""

    def near(node: Resources) -> tuple[float, float]:
        parts = [min(node.get(name, 0) / amount, 1) for name, amount in needed.items() if amount]
        return min(parts, default=1), sum(parts)

    best = max(nodes, key=near, default={})
    return {name: best.get(name, 0) for name in needed}


def text(resources: Resources) -> str:
    """Return resources as people read them, like `8 CPU, 2.0 GiB of memory`."""

    def one(name: str, amount: float) -> str:
        if name.startswith(_ACCELERATOR):
            return f"{'a' if amount else 'no'} GPU of type {name.removeprefix(_ACCELERATOR)}"
        return f"{amount / 2**30:.1f} GiB of memory" if name == "memory" else f"{amount:g} {name}"

    return ", ".join(one(name, amount) for name, amount in sorted(resources.items())) or "nothing"
