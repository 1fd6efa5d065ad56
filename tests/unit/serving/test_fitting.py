"""Whether a Deployment finds room and a place on a cluster."""

from pathlib import Path
from typing import Any

import pytest

from ray_canary import config
from ray_canary.bentos import BentoStore
from ray_canary.errors import Conflict, DoesNotFit
from ray_canary.instances import Catalogue
from ray_canary.nodelabels import Node
from ray_canary.plan import Plan
from ray_canary.resolving import resolve
from ray_canary.serving import compile, fitting, rollout
from ray_canary.serving.state import OnCluster
from tests.unit.bento_store import write_bento
from tests.unit.serving import details as shape

GIB = 2**30
EMPTY = OnCluster.of(shape.details(serving=False))


@pytest.fixture
def store(tmp_path: Path) -> BentoStore:
    write_bento(tmp_path, "s:1", {"S": {"resources": {"cpu": "2", "memory": "1Gi"}}})
    return BentoStore(tmp_path)


def planned(store: BentoStore, **data: Any) -> Plan:
    """Return a plan with one ingress replica of 1 CPU."""
    ray = {"ingress": {"num_replicas": 1, "num_cpus": 1}, **data.pop("ray", {})}
    return resolve(config.parse({"name": "d", "bento": "s:1", "ray": ray, **data}), store, Catalogue.default())


def canary(**services: Any) -> dict[str, Any]:
    version = {"bento": "s:1", "weight": 10, "services": {"S": services}}
    return {"route_type": "random", "versions": {"a": version}}


def node(cpu: float, gib: float = 100, *, labels: dict[str, str] | None = None, id: str = "", **more: float) -> Node:
    return Node({"CPU": cpu, "memory": gib * GIB, **more}, labels or {}, id)


def refusal(plan: Plan, *nodes: Node, cluster: OnCluster = EMPTY) -> str:
    with pytest.raises(DoesNotFit) as raised:
        fitting.check_fit(plan, cluster, nodes)
    return str(raised.value)


# Room. ----------------------------------------------------------------------------------------------------------------


def test_what_fits_exactly_fits(store: BentoStore) -> None:
    fitting.check_fit(planned(store), EMPTY, [node(3, 1)])
    fitting.check_fit(planned(store, canary=canary()), EMPTY, [node(3, 1), node(2, 1)])


def test_a_replica_larger_than_any_node_is_named_with_what_the_largest_has(store: BentoStore) -> None:
    plan = planned(store, canary=canary(instance_type="cpu.8"))
    assert refusal(plan, node(3, 20), node(3, 20), node(3, 20)) == (
        "a: services.S: a replica needs 4 CPU, 16.0 GiB of memory; "
        "no node has that much (the largest: 3 CPU, 20.0 GiB of memory)"
    )


def test_the_largest_node_is_one_that_there_is(store: BentoStore) -> None:
    plan = planned(store, canary=canary(instance_type="cpu.8"))
    said = refusal(plan, node(8, 4), node(2, 64), node(1, 1))
    assert said.endswith("no node has that much (the largest: 2 CPU, 64.0 GiB of memory)")
    assert "the largest: 8 CPU, 12.0 GiB of memory" in refusal(plan, node(8, 12), node(2, 64))


def test_replicas_that_fit_in_all_but_not_on_nodes_are_refused(store: BentoStore) -> None:
    plan = planned(store, canary=canary(scaling={"min_replicas": 3, "max_replicas": 3}))
    assert refusal(plan, node(3.5), node(3.5), node(1.9)) == (
        "a: services.S: 3 replicas, each of which needs 2 CPU, 1.0 GiB of memory; "
        "the nodes have room for 2 such replicas"
    )
    fitting.check_fit(plan, EMPTY, [node(4), node(4), node(1)])


def test_every_replica_that_is_too_large_is_named(store: BentoStore) -> None:
    said = refusal(planned(store, canary=canary(instance_type="cpu.8")), node(1))
    assert [line.partition(":")[0] for line in said.splitlines()] == ["main", "a"]


# Room for an update. --------------------------------------------------------------------------------------------------


def updated(store: BentoStore, strategy: str, cpus: float) -> tuple[str, ...]:
    """Return what is said when main's env changes on a cluster of so many CPUs, of which 3 are reserved."""
    before = shape.deployed(compile.serve_config(planned(store)))
    services = {"S": {"deployment_strategy": strategy}}
    plan = planned(store, services=services, envs=[{"name": "NEW", "value": "1"}])
    return fitting.stuck(plan, before, [node(cpus)], rollout.preview(plan, before))


def test_an_update_that_has_no_room_for_one_replica_more_is_named_with_what_is_free(store: BentoStore) -> None:
    for strategy in ("RollingUpdate", "RampedSlowRollout"):
        (said,) = updated(store, strategy, 4.5)
        assert said.startswith(f"main: services.S: {strategy} starts a new replica before it stops an old one.")
        assert "It needs 2 CPU, 1.0 GiB of memory, and 1.5 CPU, 100.0 GiB of memory is free" in said


def test_an_update_with_room_or_without_a_surge_is_not(store: BentoStore) -> None:
    assert updated(store, "RollingUpdate", 5) == ()
    assert updated(store, "Recreate", 3) == ()
    assert updated(store, "BestEffortControlledRollout", 3) == ()


def test_what_does_not_restart_needs_no_room(store: BentoStore) -> None:
    before = shape.deployed(compile.serve_config(planned(store)))
    plan = planned(store, services={"S": {"scaling": {"max_replicas": 2}}})
    assert fitting.stuck(plan, before, [node(3)], rollout.preview(plan, before)) == ()


def test_no_node_at_all_is_too_small(store: BentoStore) -> None:
    assert "the largest: 0 CPU" in refusal(planned(store))


def test_what_is_short_in_all_is_named_and_nothing_else(store: BentoStore) -> None:
    plan = planned(store, canary=canary(scaling={"min_replicas": 2, "max_replicas": 9}))
    said = refusal(plan, node(4), node(2))
    assert said == "the Deployment needs 7 CPU to begin with; the cluster has 6 CPU"
    assert "memory" in refusal(plan, node(40, 2))


def test_a_service_that_scales_to_zero_needs_room_for_its_first_replica(store: BentoStore) -> None:
    plan = planned(store, canary=canary(scaling={"min_replicas": 0}))
    assert fitting.needs(plan) == {"CPU": 5.0, "memory": 2.0 * GIB}


def test_at_most_it_needs_every_replica_and_the_surge_rounded_up(store: BentoStore) -> None:
    plan = planned(store, canary=canary(scaling={"max_replicas": 5}))
    # The ingress doubles; main has 1 and 1 more; a has 5 and 2 more.
    assert fitting.needs(plan, most=True) == {"CPU": 2 * 1 + 2 * 2 + 7 * 2, "memory": 9.0 * GIB}
    ramped = planned(store, services={"S": {"deployment_strategy": "BestEffortControlledRollout"}})
    assert fitting.needs(ramped, most=True) == {"CPU": 2 * 1 + 2, "memory": 1.0 * GIB}


def test_the_ingress_needs_its_least_to_begin_with_and_twice_its_most_at_most(store: BentoStore) -> None:
    plan = planned(store, ray={"ingress": {"num_replicas": 2, "max_replicas": 5, "num_cpus": 1}})
    assert fitting.needs(plan)["CPU"] - 2 * 1 == fitting.needs(planned(store))["CPU"] - 1 * 1
    assert fitting.needs(plan, most=True)["CPU"] - 10 * 1 == fitting.needs(planned(store), most=True)["CPU"] - 2 * 1


def test_a_gpu_of_a_kind_that_no_node_has_is_named(store: BentoStore) -> None:
    plan = planned(store, canary=canary(instance_type="gpu.l4.1"))
    said = refusal(plan, node(16, GPU=4))
    assert "a: services.S: a replica needs 4 CPU, 1 GPU, a GPU of type L4, 16.0 GiB of memory" in said
    assert "4 GPU, no GPU of type L4" in said
    fitting.check_fit(plan, EMPTY, [Node({"CPU": 16, "memory": 100 * GIB, "GPU": 1, "accelerator_type:L4": 1.0})])
    assert "1 GPU; no node has that much" not in refusal(plan, node(16))


def test_what_others_hold_is_not_there_but_what_they_wait_for_is(store: BentoStore) -> None:
    plan = planned(store)

    def beside(*replicas: dict[str, Any]) -> OnCluster:
        part = shape.deployment("X", *replicas, resources={"CPU": 2.0})
        return OnCluster.of(shape.details(shape.application("theirs", part)))

    fitting.check_fit(plan, beside(shape.replica()), [node(5)])
    assert refusal(plan, node(5), cluster=beside(shape.replica(), shape.replica(id="r2"))) == (
        "the Deployment needs 3 CPU to begin with, beside 4 CPU that other applications have; the cluster has 5 CPU"
    )
    fitting.check_fit(plan, beside(shape.replica(), shape.pending()), [node(5)])
    fitting.check_fit(plan, beside(shape.replica(), *(shape.pending(f"p{n}") for n in range(99))), [node(5)])


def test_what_the_deployment_itself_holds_is_its_own(store: BentoStore) -> None:
    plan = planned(store, canary=canary())
    fitting.check_fit(plan, shape.deployed(compile.serve_config(plan)), [node(5)])
    without = planned(store)
    fitting.check_fit(without, shape.deployed(compile.serve_config(plan)), [node(3)])


# A place. -------------------------------------------------------------------------------------------------------------


def conflict(plan: Plan, *applications: dict[str, Any]) -> str:
    with pytest.raises(Conflict) as raised:
        fitting.check_conflicts(plan, OnCluster.of(shape.details(*applications)))
    return str(raised.value)


def theirs(name: str, prefix: str | None = None, **given: Any) -> dict[str, Any]:
    config = {"name": name, "import_path": "m:app", "route_prefix": prefix}
    return shape.application(name, **{"config": config, "route_prefix": prefix, **given})


def test_a_deployment_does_not_conflict_with_itself_or_with_an_empty_cluster(store: BentoStore) -> None:
    plan = planned(store, canary=canary())
    fitting.check_conflicts(plan, EMPTY)
    fitting.check_conflicts(plan, shape.deployed(compile.serve_config(plan)))
    fitting.check_conflicts(plan, shape.deployed(compile.serve_config(plan), theirs("x", "/x")))


@pytest.mark.parametrize("name", ["d", "d-main", "d-canary-a"])
def test_a_name_that_somebody_else_has_is_refused(store: BentoStore, name: str) -> None:
    plan = planned(store, canary=canary())
    assert conflict(plan, theirs(name)) == (
        f"name: the cluster has an application '{name}' of somebody else's (m:app); choose another name"
    )
    assert "(serve.run)" in conflict(plan, shape.application(name))


def test_a_prefix_that_somebody_else_has_is_refused_also_while_they_are_being_deployed(store: BentoStore) -> None:
    plan = planned(store, ray={"route_prefix": "/x"})
    said = "ray.route_prefix: '/x' is taken by application 'theirs'; choose another one"
    assert conflict(plan, theirs("theirs", "/x")) == said
    assert conflict(plan, theirs("theirs", "/x") | {"route_prefix": None, "status": "DEPLOYING"}) == said
    fitting.check_conflicts(plan, OnCluster.of(shape.details(theirs("theirs", "/"))))


def test_an_application_that_says_no_prefix_has_serves_default(store: BentoStore) -> None:
    unsaid = shape.application("theirs", config={"name": "theirs", "import_path": "m:app"}, status="DEPLOYING")
    assert "'/' is taken by application 'theirs'" in conflict(planned(store), unsaid)


def test_what_is_being_deleted_is_in_nobodys_way(store: BentoStore) -> None:
    going = [theirs(name, "/", status="DELETING") for name in ("d", "d-main", "x")]
    fitting.check_conflicts(planned(store), OnCluster.of(shape.details(*going)))


def test_all_conflicts_are_told_at_once(store: BentoStore) -> None:
    said = conflict(planned(store), theirs("d", None), theirs("x", "/"))
    assert [line.partition(":")[0] for line in said.splitlines()] == ["name", "ray.route_prefix"]


def test_another_deployments_version_can_not_be_made_ones_own(store: BentoStore) -> None:
    other = compile.serve_config(planned(store, name="e", ray={"route_prefix": "/e"}))["applications"]
    there = [shape.application(one["name"], config=one, route_prefix=one["route_prefix"]) for one in other]
    for name in ("e", "e-main"):
        plan = planned(store, ray={"applications": {"main": name}})
        assert conflict(plan, *there) == (f"ray.applications.main: '{name}' serves Deployment 'e'; choose another name")
    fitting.check_conflicts(planned(store), OnCluster.of(shape.details(*there)))


def test_a_deployment_can_not_take_the_name_of_an_application_that_serves_a_version(store: BentoStore) -> None:
    version = shape.application("d", config={"name": "d", "import_path": "ray_canary:version"})
    assert "'d', which serves a version" in conflict(planned(store), version)


def test_the_single_application_form_is_not_taken_apart_while_it_serves(store: BentoStore) -> None:
    plan = planned(store)
    (made,) = compile.single_application_config(plan)["applications"]
    single = shape.application("d", config=made, route_prefix="/")
    assert "is on the cluster in the single-application form" in conflict(plan, single)
    fitting.check_conflicts(plan, OnCluster.of(shape.details({**single, "status": "DELETING"})))


# Node labels, and replicas on a node. ---------------------------------------------------------------------------------


def placed(store: BentoStore, target: str = "a", **said: Any) -> Plan:
    return planned(store, canary=canary(), ray={"placement": {target: said}})


def test_a_replica_fits_only_nodes_with_its_labels_and_what_there_is_is_said(store: BentoStore) -> None:
    plan = placed(store, node_labels={"pool": "canary"})
    main, apart = node(8, labels={"pool": "main"}), node(2, labels={"pool": "canary", "zone": "a"})
    fitting.check_fit(plan, EMPTY, [main, apart])
    assert refusal(plan, main, node(8)) == (
        "a: services.S: a replica needs a node with pool=canary; the nodes have pool=main"
    )
    assert refusal(plan, node(16)) == (
        "a: services.S: a replica needs a node with pool=canary; the nodes have no such label"
    )
    assert refusal(plan, main, node(1, labels={"pool": "canary"})) == (
        "a: services.S: a replica needs 2 CPU, 1.0 GiB of memory, on a node with pool=canary; "
        "no node has that much (the largest: 1 CPU, 100.0 GiB of memory)"
    )


def test_replicas_that_fit_on_nodes_of_other_labels_only_are_refused(store: BentoStore) -> None:
    scaling = {"min_replicas": 4, "max_replicas": 4}
    said = {"ray": {"placement": {"a": {"node_labels": {"pool": "c"}}}}}
    plan = planned(store, canary=canary(scaling=scaling), **said)
    small, large = node(4, labels={"pool": "c"}), node(8, labels={"pool": "c"})
    assert refusal(plan, small, node(16)) == (
        "a: services.S: 4 replicas, each of which needs 2 CPU, 1.0 GiB of memory, on a node with pool=c; "
        "the nodes have room for 2 such replicas"
    )
    fitting.check_fit(plan, EMPTY, [large, node(16)])


def test_deployments_that_all_have_to_go_to_the_same_few_nodes_are_refused_together(store: BentoStore) -> None:
    there = {"node_labels": {"pool": "c"}}
    plan = planned(store, canary=canary(), ray={"placement": {"main": there, "a": {"node_labels": {"pool": "in(c)"}}}})
    assert refusal(plan, node(3, labels={"pool": "c"}), node(16)) == (
        "main: services.S, a: services.S: need 4 CPU to begin with; the nodes that they may go to have 3 CPU"
    )
    fitting.check_fit(plan, EMPTY, [node(4, labels={"pool": "c"}), node(16)])


def test_more_replicas_than_nodes_may_have_are_refused(store: BentoStore) -> None:
    scaling = {"scaling": {"min_replicas": 3, "max_replicas": 3}}
    file = {"services": {"S": scaling}, "ray": {"placement": {"main": {"max_replicas_per_node": 1}}}}
    plan = planned(store, **file)
    fitting.check_fit(plan, EMPTY, [node(9), node(9), node(9)])
    assert refusal(plan, node(9), node(9), node(1)) == (
        "main: services.S: 3 replicas, on each node at most 1 of them; nodes that can take one: 2"
    )
    ingress = planned(store, ray={"ingress": {"num_replicas": 2, "max_replicas_per_node": 1}})
    assert refusal(ingress, node(99)).startswith("ray.ingress: 2 replicas, on each node at most 1 of them")


def test_an_update_that_has_to_wait_for_another_node_is_told_before(store: BentoStore) -> None:
    one: dict[str, Any] = {"max_replicas_per_node": 1}
    before = shape.deployed(compile.serve_config(placed(store, **one)))
    edited = canary(envs=[{"name": "EDITED", "value": "1"}])
    plan = planned(store, canary=edited, ray={"placement": {"a": one}})
    there = node(99, id="n")
    (said,) = fitting.stuck(plan, before, [there], rollout.preview(plan, before))
    assert said.startswith("a: services.S: RollingUpdate starts a new replica before it stops an old one")
    assert "wait for another node" in said
    assert fitting.stuck(plan, before, [there, node(99, id="m")], rollout.preview(plan, before)) == ()
    # What runs already takes the whole node, though new ones would not.
    more = planned(store, canary=edited, ray={"placement": {"a": {"max_replicas_per_node": 2}}})
    assert fitting.stuck(more, before, [there], rollout.preview(more, before))


def test_a_node_that_a_target_may_not_go_to_could_not_run_it(store: BentoStore) -> None:
    plan = placed(store, node_labels={"pool": "canary"})
    there = node(99, labels={"pool": "main"})
    assert not fitting.could_run(plan.targets["a"], there)
    assert fitting.could_run(plan.targets["main"], there)
