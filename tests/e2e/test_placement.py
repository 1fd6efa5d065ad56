"""On which nodes versions run: apart from each other, spread, and an ingress on every node."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from ray_canary.serving import local
from ray_canary.serving.cluster import Cluster
from tests.e2e.conftest import settings_of
from tests.e2e.deployments import OFFSET
from tests.e2e.harness import RealCluster, wait_for
from tests.e2e.nodes import Nodes
from tests.e2e.test_lifecycle import all_pids, build_light, deploy, light, requests_to

CPUS = 4


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A head for main, which has no label `pool`, and two workers for canaries; all have the Bento."""
    work = tmp_path_factory.mktemp("work")
    settings = settings_of(work / "head", work, haproxy=False)
    settings = replace(settings, cpus=CPUS, arguments=(*settings.arguments, "--labels=zone=main"))
    local.down(settings.name)
    local.up(settings)
    try:
        cluster = RealCluster(work / "head", work, settings)
        build_light(work / "head")
        found = Nodes(cluster, OFFSET)
        for name in ("one", "two"):
            found.start(name, CPUS, {"BENTOML_HOME": str(work / "head")}, "pool=canary")
        yield found
    finally:
        local.down(settings.name, grace_s=2)


def file(**placement: Any) -> dict[str, Any]:
    """Return a Deployment: main has two replicas and so has a; each node may have one ingress replica."""
    found = light({"a": 30}, name="placed", ingress_replicas=3)
    two = {"min_replicas": 2, "max_replicas": 2}
    found["services"]["Fragile"] = {**found["services"]["Fragile"], "scaling": two}
    found["ray"]["ingress"]["max_replicas_per_node"] = 1
    found["ray"]["placement"] = placement
    return found


MAIN = {"node_labels": {"pool": "!canary"}}
APART = {"node_labels": {"pool": "canary"}, "max_replicas_per_node": 1}


def where(cluster: RealCluster, application: str) -> Counter[str]:
    """Return how many running replicas of an application each node has, by the node's pool and its id."""
    pools = {
        node["node_id"]: (node.get("labels") or {}).get("pool", "main")
        for node in Cluster(cluster.local.address).nodes()
    }
    found = cluster.state().applications[application]
    running = [one for each in found.deployments.values() for one in each.replicas if one.state == "RUNNING"]
    return Counter(f"{pools.get(one.node_id, 'gone')} {one.node_id[:6]}" for one in running)


def as_told(cluster: RealCluster) -> bool:
    """Whether main is on its node alone, `a` on both of the others, and an ingress replica on each."""
    main, a, ingress = (where(cluster, name) for name in ("placed-main", "placed-canary-a", "placed"))
    pools = [sorted(name.split()[0] for name in found.elements()) for found in (main, a, ingress)]
    return (
        pools == [["main", "main"], ["canary", "canary"], ["canary", "canary", "main"]]
        and len(a) == len(ingress) - 1 == 2
    )


def test_versions_that_are_kept_apart_share_no_node_and_each_node_has_an_ingress_also_after_a_node_is_replaced(
    nodes: Nodes,
) -> None:
    cluster = nodes.cluster
    deploy(cluster, file(main=MAIN, a=APART))
    assert as_told(cluster), [where(cluster, name) for name in ("placed", "placed-main", "placed-canary-a")]
    planned = cluster.canary("plan", "-f", cluster.write("placed.yaml", file(main=MAIN, a=APART))).stdout
    assert "nodes with pool=canary, at most 1 on a node" in " ".join(planned.split())

    nodes.kill("two")
    nodes.start("three", CPUS, {"BENTOML_HOME": str(cluster.home)}, "pool=canary")
    wait_for(lambda: as_told(cluster), "the new node has what the old one had", 90)


def test_what_no_node_can_take_is_refused_and_nothing_changes(nodes: Nodes) -> None:
    cluster = nodes.cluster
    before = all_pids(cluster)
    said = deploy(cluster, file(main=MAIN, a={"node_labels": {"pool": "gpu"}}), code=2)
    assert "a: services.Fragile: a replica needs a node with pool=gpu; the nodes have pool=canary" in said
    three = {**file(main=MAIN, a=APART)}
    three["services"]["Fragile"]["scaling"] = {"min_replicas": 3, "max_replicas": 3}
    assert "3 replicas, on each node at most 1 of them; nodes that can take one: 2" in deploy(cluster, three, code=2)
    assert all_pids(cluster) == before


def test_an_edit_of_where_a_version_runs_moves_it_and_restarts_no_other(nodes: Nodes) -> None:
    cluster = nodes.cluster
    before = all_pids(cluster)
    # Two on one node are allowed now; Serve alone would not notice that.
    edited = file(main=MAIN, a={**APART, "max_replicas_per_node": 2})
    planned = cluster.canary("plan", "-f", cluster.write("edited.yaml", edited)).stderr
    assert "the update will wait for another node" in " ".join(planned.split())
    edited["services"]["Fragile"]["deployment_strategy"] = "BestEffortControlledRollout"
    assert "wait for another node" not in deploy(cluster, edited)
    after = all_pids(cluster)
    assert after.pop("placed-canary-a").isdisjoint(before.pop("placed-canary-a"))
    assert after == before
    deploy(cluster, file(main=MAIN, a={"node_labels": {"zone": "in(main, other)"}}))
    assert {name.split()[0] for name in where(cluster, "placed-canary-a")} == {"main"}
    after = all_pids(cluster)
    del after["placed-canary-a"]
    assert after == before


def test_an_ingress_on_every_node_is_replaced_without_a_request_that_fails(nodes: Nodes) -> None:
    cluster = nodes.cluster
    told = file(main=MAIN, a=APART)
    deploy(cluster, told)
    before = all_pids(cluster)
    told["ray"]["ingress"]["num_cpus"] = 0.2
    with requests_to(cluster) as load:
        wait_for(lambda: len(load.sent) > 20, "some requests")
        deploy(cluster, told)
        replaced = lambda: len(all_pids(cluster)["placed"] - before["placed"]) == 3  # noqa: E731
        wait_for(replaced, "every ingress replica is a new one", 60)
        sent = len(load.sent)
        wait_for(lambda: len(load.sent) > sent + 20, "some more")
    assert not load.failures, load.failures[:3]
    after = all_pids(cluster)
    assert after.pop("placed").isdisjoint(before.pop("placed"))
    assert after == before
    wait_for(lambda: as_told(cluster), "each node has one again", 60)
