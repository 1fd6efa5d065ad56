"""How many workers a Deployment needs, and what one may be asked for."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ray.util import accelerators

from ray_canary import config
from ray_canary.bentos import BentoStore
from ray_canary.errors import ConfigError, DoesNotFit
from ray_canary.instances import Catalogue
from ray_canary.plan import Plan
from ray_canary.resolving import resolve
from ray_canary.serving.fitting import Demand
from ray_canary.serving.workers import DEFAULT, Size, Workers, counts, crowded, enough
from tests.unit.bento_store import write_bento

TYPES = (
    "s: {cpu: 1, memory: 1Gi}\nl: {cpu: 3, memory: 8Gi}\ngpu: {cpu: 1, memory: 4Gi, gpu: 1, gpu_type: nvidia-l4}\n"
    "full: {cpu: 4, memory: 1Gi}\nfullgpu: {cpu: 4, memory: 1Gi, gpu: 1, gpu_type: nvidia-l4}\n"
)
L4 = Workers.parse("l4=4,16Gi,1,L4")


def planned(root: Path, services: Mapping[str, Any], **more: Any) -> Plan:
    """Return a plan of main with these settings of its service S."""
    if not root.joinpath("b").exists():
        write_bento(root, "b:1", {"S": {}})
    file = {"name": "d", "bento": "b:1", "services": {"S": dict(services)}, **more}
    return resolve(config.parse(file), BentoStore(root), Catalogue.loads(TYPES, "types"))


def replicas(least: int, most: int, kind: str = "s") -> dict[str, Any]:
    return {"instance_type": kind, "scaling": {"min_replicas": least, "max_replicas": most}}


def test_one_small_replica_needs_one_worker(tmp_path: Path) -> None:
    assert counts(planned(tmp_path, replicas(1, 1)), (DEFAULT,), most=False) == {"workers": 1}


def test_replicas_and_ingress_replicas_share_workers_as_long_as_there_is_room(tmp_path: Path) -> None:
    plan = planned(tmp_path, {**replicas(3, 3), "deployment_strategy": "Recreate"})
    assert counts(plan, (DEFAULT,), most=False) == {"workers": 1}  # 3 and 2 x 0.25 CPUs on 4
    assert counts(plan, (Workers("w", Size(3, 2**34)),), most=False) == {"w": 1}  # the ingress has a CPU of its own
    assert counts(plan, (Workers("w", Size(2, 2**34)),), most=False) == {"w": 2}


def test_at_the_greatest_there_is_room_for_all_replicas_and_the_surge(tmp_path: Path) -> None:
    plan = planned(tmp_path, replicas(1, 4))
    assert counts(plan, (DEFAULT,), most=False) == {"workers": 1}
    assert counts(plan, (DEFAULT,), most=True) == {"workers": 2}  # 4, 1 of surge, and the ingress


def test_replicas_that_fill_a_worker_have_one_each_wherever_ingress_replicas_are(tmp_path: Path) -> None:
    plan = planned(tmp_path, replicas(3, 3, "full"))
    assert counts(plan, (DEFAULT,), most=False) == {"workers": 3}
    assert counts(plan, (DEFAULT,), most=True) == {"workers": 4}  # and one of surge
    # A large ingress doesn't fit into what a worker has for it, and may keep as many workers from them.
    large = planned(tmp_path, replicas(3, 3, "full"), ray={"ingress": {"num_cpus": 2}})
    assert counts(large, (DEFAULT,), most=False) == {"workers": 5}


def test_ingress_replicas_may_be_on_workers_of_any_group(tmp_path: Path) -> None:
    plan = planned(tmp_path, replicas(2, 2, "fullgpu"), ray={"ingress": {"num_cpus": 2}})
    assert counts(plan, (DEFAULT, L4), most=False) == {"workers": 1, "l4": 4}
    elsewhere = {"ingress": {"num_cpus": 2, "node_labels": {"pool": "i"}}}
    plan = planned(tmp_path, replicas(2, 2, "fullgpu"), ray=elsewhere)
    assert counts(plan, (Workers.parse("i=4,16Gi,pool=i"), L4), most=False) == {"i": 1, "l4": 2}


def test_who_may_fill_the_workers_that_are_for_others_is_named_unless_labels_keep_them_off(tmp_path: Path) -> None:
    def plan(**more: Any) -> Plan:
        a = {"bento": "b:1", "weight": 1, "services": {"S": replicas(1, 1, "full")}}
        canary = {"route_type": "random", "versions": {"a": a}}
        return planned(tmp_path, replicas(2, 2, "fullgpu"), canary=canary, **more)

    (said,) = crowded(plan(), (DEFAULT, L4))
    assert said.startswith("workers of l4 are for main: services.S, and may be filled by a: services.S,")
    assert 'ray.placement.KEY.node_labels: {ray.io/node-group: "!l4"}' in said
    kept_off = {"placement": {"a": {"node_labels": {"ray.io/node-group": "!l4"}}}}
    assert crowded(plan(ray=kept_off), (DEFAULT, L4)) == ()
    assert crowded(plan(), (L4,)) == ()
    # Who is small fits beside them, in what a worker has for ingress replicas.
    small = planned(tmp_path, replicas(2, 2, "fullgpu"))
    assert crowded(small, (DEFAULT, L4)) == ()


def test_hardly_more_workers_are_counted_than_can_be_filled() -> None:
    def demand(replicas: int, cpus: float, gib: float) -> Demand:
        return Demand("d", "S", replicas, {"CPU": cpus, "memory": gib * 2**30})

    # Two of these fit on a worker; each of the five small ones can keep one of them off a worker of its own.
    assert enough(DEFAULT, [demand(38, 2, 8), demand(5, 0.5, 2)], [demand(4, 0.25, 0)]) == 22
    assert enough(DEFAULT, [demand(38, 2, 8)], []) == 19
    assert enough(DEFAULT, [demand(30, 0.5, 5)], []) == 10
    assert enough(DEFAULT, [demand(30, 0.5, 5), demand(1, 0.5, 2)], []) == 11


SIZES = [(0.25, 1), (0.5, 2), (1, 2), (1.5, 3), (2, 8), (3, 1), (4, 4), (4, 16)]


@pytest.mark.parametrize("seed", range(60))
def test_every_replica_finds_room_in_whatever_order_and_on_whichever_worker_they_start(seed: int) -> None:
    """Replicas start on any worker that has room, end, and start again, as in updates of everything at once."""
    chance = random.Random(seed)
    kinds = chance.choices(SIZES, k=chance.randint(1, 4))
    per_node = [chance.choice((None, None, 1, 2)) for _ in kinds]
    there = [
        Demand(str(index), "S", chance.randint(1, 6), {"CPU": cpus, "memory": gib * 2**30}, per_node=most)
        for index, ((cpus, gib), most) in enumerate(zip(kinds, per_node, strict=True))
    ]
    workers: list[list[Demand]] = [[] for _ in range(enough(DEFAULT, there, ()))]

    def has_room(worker: list[Demand], wanted: Demand) -> bool:
        cpus, size = (sum(one.resources[name] for one in (*worker, wanted)) for name in ("CPU", "memory"))
        same = sum(one is wanted for one in worker)
        return cpus <= 5 and size <= 16 * 2**30 and (wanted.per_node is None or same < wanted.per_node)

    waiting = [one for one in there for _ in range(one.replicas)]
    for _ in range(20):
        chance.shuffle(waiting)
        for wanted in waiting:
            able = [worker for worker in workers if has_room(worker, wanted)]
            assert able, f"{wanted} has no room beside {workers}"
            chance.choice((able[0], able[-1], chance.choice(able), min(able, key=len))).append(wanted)
        waiting = []
        for worker in workers:
            chance.shuffle(worker)
            waiting += [worker.pop() for _ in range(chance.randint(0, len(worker)))]


def test_a_large_replica_is_never_split_over_two_workers(tmp_path: Path) -> None:
    plan = planned(tmp_path, replicas(3, 3, "l"))
    assert counts(plan, (DEFAULT,), most=False) == {"workers": 3}


def test_a_service_that_starts_at_zero_has_room_for_its_first_replica(tmp_path: Path) -> None:
    assert counts(planned(tmp_path, replicas(0, 3, "l")), (DEFAULT,), most=False) == {"workers": 1}


def test_workers_with_gpus_are_for_replicas_that_ask_for_one(tmp_path: Path) -> None:
    plan = planned(tmp_path, replicas(2, 2, "gpu"))
    assert counts(plan, (L4, DEFAULT), most=False) == {"l4": 2, "workers": 1}
    assert counts(planned(tmp_path, replicas(2, 2)), (DEFAULT, L4), most=False) == {"workers": 1, "l4": 0}


def test_a_cluster_of_gpu_workers_alone_takes_everybody(tmp_path: Path) -> None:
    assert counts(planned(tmp_path, replicas(2, 2)), (L4,), most=False) == {"l4": 1}


def test_a_replica_larger_than_every_worker_is_refused_with_what_to_add(tmp_path: Path) -> None:
    with pytest.raises(DoesNotFit, match=r"main: services\.S: a replica needs .*GPU.*--workers NAME=CPUS,MEMORY"):
        counts(planned(tmp_path, replicas(1, 1, "gpu")), (DEFAULT,), most=False)


def test_another_kind_of_gpu_is_no_room(tmp_path: Path) -> None:
    with pytest.raises(DoesNotFit, match="GPU of type L4"):
        counts(planned(tmp_path, replicas(1, 1, "gpu")), (Workers.parse("t4=4,16Gi,1,T4"),), most=False)


def test_ingress_replicas_that_are_to_be_spread_get_as_many_workers(tmp_path: Path) -> None:
    ray = {"ingress": {"num_replicas": 3, "max_replicas_per_node": 1}}
    assert counts(planned(tmp_path, replicas(1, 1), ray=ray), (DEFAULT,), most=False) == {"workers": 3}


def test_replicas_that_are_to_be_spread_or_to_be_on_labelled_nodes_get_workers_that_are_so(tmp_path: Path) -> None:
    pool = Workers.parse("b=4,16Gi,pool=b")
    ray = {"placement": {"main": {"max_replicas_per_node": 1, "node_labels": {"pool": "b"}}}}
    assert counts(planned(tmp_path, replicas(2, 2), ray=ray), (DEFAULT, pool), most=False) == {"workers": 1, "b": 2}
    with pytest.raises(DoesNotFit, match=r"on a node with pool=b; no worker has that \(workers: 4 CPU, 16.0 GiB"):
        counts(planned(tmp_path, replicas(2, 2), ray=ray), (DEFAULT,), most=False)


def test_rays_own_labels_of_a_node_can_be_asked_for(tmp_path: Path) -> None:
    for label, value in (("ray.io/node-group", "l4"), ("ray.io/accelerator-type", "L4")):
        ray = {"placement": {"main": {"node_labels": {label: value}}}}
        assert counts(planned(tmp_path, replicas(1, 1), ray=ray), (DEFAULT, L4), most=False) == {"workers": 1, "l4": 1}
        with pytest.raises(DoesNotFit, match=f"{label}={value}"):
            counts(planned(tmp_path, replicas(1, 1), ray=ray), (DEFAULT,), most=False)


@pytest.mark.parametrize(("text", "said"), [("0,8Gi", "needs a CPU"), ("2,8", "less than 1Mi; did you mean 8Gi?")])
def test_a_size_that_is_a_slip_of_the_pen_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Size.parse(text, "--head")


def test_groups_are_read_as_they_are_written() -> None:
    assert Workers.parse("workers=4,16Gi") == DEFAULT
    assert Workers("l4", Size(4, 2**34), 1, "L4") == L4
    assert Workers.parse("l4=4,16Gi,1,nvidia-l4") == L4
    assert Workers.parse("l=4,16Gi,1,L40S").accelerator_type == "L40S"
    assert Workers.parse("g=2,512Mi,2") == Workers("g", Size(2, 2**29), 2)
    labels = {"pool": "b", "example.com/zone": "a"}
    assert Workers.parse("b=4,16Gi,pool=b,example.com/zone=a") == Workers("b", Size(4, 2**34), labels=labels)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("workers", "is not NAME=CPUS,MEMORY"),
        ("workers=4", "is not NAME=CPUS,MEMORY"),
        ("Workers=4,16Gi", "is not NAME=CPUS,MEMORY"),
        ("w=4,16Gi,1,L4,more", "is not NAME=CPUS,MEMORY"),
        ("w=4,16Gi,one,L4", "is not NAME=CPUS,MEMORY"),
        ("w=500m,16Gi", "is not NAME=CPUS,MEMORY"),
        ("w=4,16Gb", "an amount of memory ends in"),
        ("w=0,16Gi", "needs a CPU"),
        ("w=4,16", "16 of memory is less than 1Mi; did you mean 16Gi?"),
        ("w=4,16Gi,1,L 4", "'L 4' is not Ray's name of a GPU, like L4, .*did you mean L4"),
        ("w=4,16Gi,1,l4", "did you mean L4"),
        ("w=4,16Gi,1,nvidia-l5", "did you mean nvidia-l4"),
        ("w=4,16Gi,0,L4", "a kind of GPU, L4, but no GPU"),
        ("w=4,16Gi,pool=b,1,L4", "is not NAME=CPUS,MEMORY"),
        ("w=4,16Gi,pool=!b", "pool=!b is not a node's label"),
        ("w=4,16Gi,pool=", "pool= is not a node's label"),
    ],
)
def test_a_group_that_is_none_is_refused_with_the_form(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Workers.parse(text)


@pytest.mark.parametrize("name", sorted(name for name in vars(accelerators) if name.isupper()))
def test_a_pod_gets_gpus_of_two_makers_only(name: str) -> None:
    kind = getattr(accelerators, name)
    if name.startswith(("NVIDIA_", "AMD_")):
        assert Workers.parse(f"w=4,16Gi,1,{kind}").accelerator_type == kind
    else:
        with pytest.raises(ConfigError, match="is no GPU of NVIDIA or AMD"):
            Workers.parse(f"w=4,16Gi,1,{kind}")
