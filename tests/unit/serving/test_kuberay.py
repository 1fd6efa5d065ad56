"""The RayService: what KubeRay, Kubernetes, Ray and Serve read in it, and what no edit of a canary touches.

No registry carries KubeRay's CRD. The whole of it is checked where RAY_CANARY_KUBERAY_CRD names the file (in KubeRay's
repository: ray-operator/config/crd/bases/ray.io_rayservices.yaml); the keys of ours always are, see `RAY_SERVICE`.
"""

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from cloudcoil.models.kubernetes.core.v1 import PodTemplateSpec
from cloudcoil.models.kubernetes.networking.v1 import NetworkPolicy
from jsonschema import Draft202012Validator

from ray_canary import config
from ray_canary.bentos import BentoStore
from ray_canary.errors import ConfigError, DoesNotFit
from ray_canary.instances import Catalogue
from ray_canary.plan import Plan
from ray_canary.resolving import resolve
from ray_canary.serving import in_place, kuberay, local
from ray_canary.serving.compile import serve_config
from ray_canary.serving.kuberay import Surroundings
from ray_canary.serving.pods import Pods, late_starts
from ray_canary.serving.settings import IngressSettings
from ray_canary.serving.workers import DEFAULT, Size, Workers
from tests.unit.bento_store import write_bento

CRD = os.environ.get("RAY_CANARY_KUBERAY_CRD")
L4 = Workers("l4", Size(8, 2**35), 1, "L4")

#: The keys that we use of a RayService (ray.io/v1), with their types, after KubeRay 1.6.2, 1.7.0 and its main branch of
#: August 2026. A key that is not in here is refused.
RAY_SERVICE: Mapping[str, Any] = {
    "upgradeStrategy": {"type": str},
    "rayClusterDeletionDelaySeconds": int,
    "excludeHeadPodFromServeSvc": bool,
    "serveConfigV2": str,
    "rayClusterConfig": {
        "rayVersion": str,
        "enableInTreeAutoscaling": bool,
        "autoscalerOptions": {
            "version": str,
            "idleTimeoutSeconds": int,
            "securityContext": dict,
            "resources": {"requests": dict, "limits": dict},
        },
        "authOptions": {"mode": str, "secretName": str},
        "gcsFaultToleranceOptions": {
            "redisAddress": str,
            "redisPassword": {"valueFrom": {"secretKeyRef": {"name": str, "key": str}}},
        },
        "headGroupSpec": {"rayStartParams": {str: str}, "template": dict},
        "workerGroupSpecs": [
            {
                "groupName": str,
                "labels": {str: str},
                "replicas": int,
                "minReplicas": int,
                "maxReplicas": int,
                "rayStartParams": {str: str},
                "template": dict,
            }
        ],
    },
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> BentoStore:
    root = tmp_path_factory.mktemp("bentos")
    for version in ("1", "2", "3"):
        write_bento(root, f"w:{version}", {"Front": {}, "Back": {}}, depends={"Front": ["Back"]}, requirements="six==1")
    return BentoStore(root)


def file(**more: Any) -> dict[str, Any]:
    """Return a Deployment of main and `a`."""
    versions = {"a": {"bento": "w:2", "weight": 20}}
    canary = {"route_type": "header", "route_by": "X-User", "versions": versions}
    return {"name": "words", "bento": "w:1", "canary": canary, **more}


def planned(store: BentoStore, data: Mapping[str, Any]) -> Plan:
    return resolve(config.parse(data), store, Catalogue.default())


def made(
    plan: Plan,
    around: Surroundings | None = None,
    *,
    secrets: tuple[str, ...] = (),
    new_cluster: bool = False,
    **pods: Any,
) -> dict[str, Any]:
    wanted = Pods(image="i:1", secrets=kuberay.secrets_of(plan, secrets), **pods)
    return kuberay.ray_service(plan, wanted, around or Surroundings(), "2.60.0", new_cluster=new_cluster)


FORMS: Mapping[str, dict[str, Any]] = {
    "as it is": {},
    "everything": {
        "around": Surroundings("prod", "redis.prod:6379", "redis-secret", "token-secret"),
        "secrets": ("db", "hf.token"),
        "workers": (DEFAULT, L4, Workers("b", Size(4, 2**34), labels={"pool": "b"})),
        "autoscale": True,
        "new_cluster": True,
    },
    "nothing": {"around": Surroundings(redis=None, token_secret=None), "bentos": None},
}


@pytest.fixture(params=FORMS)
def manifest(request: pytest.FixtureRequest, store: BentoStore) -> dict[str, Any]:
    """Return a RayService in each of the forms that the options give it, as `kubectl` reads it."""
    form = made(planned(store, file()), **FORMS[request.param])
    text = kuberay.to_yaml([form], "words", "f.yaml", "ray-canary render")
    read: dict[str, Any] = yaml.safe_load(text)
    assert read == form
    return read


def cluster_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["spec"]["rayClusterConfig"]
    return found


def templates(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    cluster = cluster_of(manifest)
    return [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]


def containers(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [template["spec"]["containers"][0] for template in templates(manifest)]


# What reads it. -------------------------------------------------------------------------------------------------------


def assert_shape(value: Any, shape: Any, path: str) -> None:
    if isinstance(shape, type):
        assert type(value) is shape, f"{path}: {value!r} is no {shape.__name__}"
    elif isinstance(shape, list):
        for index, item in enumerate(value):
            assert_shape(item, shape[0], f"{path}[{index}]")
    elif set(shape) == {str}:
        assert all(type(key) is str and type(item) is shape[str] for key, item in value.items()), f"{path}: {value!r}"
    else:
        for key, item in value.items():
            assert key in shape, f"{path}.{key}: KubeRay has no such key"
            assert_shape(item, shape[key], f"{path}.{key}")


def test_kuberay_knows_every_key(manifest: dict[str, Any]) -> None:
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayService")
    assert_shape(manifest["spec"], RAY_SERVICE, "spec")


def strict(schema: Any) -> Any:
    """Return an OpenAPI schema of Kubernetes as JSON schema that refuses unknown keys, as `kubectl apply` does."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if made.get("x-kubernetes-int-or-string") is True:
        return {"type": ["integer", "string"]}
    if made.get("type") == "object" and "properties" in made and "additionalProperties" not in made:
        made["additionalProperties"] = False
    return made


@pytest.mark.skipif(not CRD, reason="RAY_CANARY_KUBERAY_CRD names no file")
def test_the_published_crd_takes_it_whole(manifest: dict[str, Any]) -> None:
    versions = yaml.safe_load(Path(str(CRD)).read_text())["spec"]["versions"]
    schema = strict(next(one for one in versions if one["name"] == "v1")["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    assert [error.message for error in Draft202012Validator(schema).iter_errors(manifest)] == []
    manifest["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]["imag"] = "x"
    assert [error.message for error in Draft202012Validator(schema).iter_errors(manifest)] != []


def test_kubernetes_reads_the_pods_and_finds_no_key_that_it_does_not_know(manifest: dict[str, Any]) -> None:
    for template in templates(manifest):
        # What a model doesn't know, it drops.
        assert (
            PodTemplateSpec.model_validate(template).model_dump(mode="json", by_alias=True, exclude_none=True)
            == template
        )


def test_kubernetes_reads_the_network_policy(store: BentoStore) -> None:
    policy = kuberay.network_policy(planned(store, file()), Surroundings("prod"))
    assert NetworkPolicy.model_validate(policy).model_dump(mode="json", by_alias=True, exclude_none=True) == policy


def test_serve_takes_the_config(manifest: dict[str, Any]) -> None:
    from ray.serve.schema import ServeDeploySchema

    read = ServeDeploySchema.model_validate(yaml.safe_load(manifest["spec"]["serveConfigV2"]))
    assert [one.name for one in read.applications] == ["words", "words-main", "words-canary-a"]
    assert read.http_options.host == "0.0.0.0"


def test_rays_autoscaler_reads_the_room_of_each_worker(store: BentoStore) -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    labelled = Workers("b", Size(4, 2**34), labels={"pool": "b"})
    spec = cluster_of(made(planned(store, file()), workers=(DEFAULT, L4, labelled), autoscale=True))
    read = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "n", "namespace": "ns"}, "spec": spec})
    types = read["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert types["workers"]["resources"] == {"CPU": 5, "memory": 16 * 2**30}
    # It makes a node for a replica only where it knows the labels that the replica asks for.
    assert types["b"]["labels"] == {"pool": "b", "ray.io/node-group": "b"}
    assert types["l4"]["labels"] == {"ray.io/accelerator-type": "L4", "ray.io/node-group": "l4"}
    assert types["l4"]["resources"] == {"CPU": 9, "memory": 2**35, "GPU": 1, "accelerator_type:L4": 1}


def test_kuberays_own_rules_are_kept(manifest: dict[str, Any]) -> None:
    """Those of `ValidateRayServiceSpec` that no schema has (KubeRay, August 2026)."""
    cluster = cluster_of(manifest)
    assert manifest["spec"]["upgradeStrategy"]["type"] in ("None", "NewCluster")
    assert "upgradeStrategy" not in cluster
    head = containers(manifest)[0]
    assert {one["name"] for one in head["env"]}.isdisjoint({"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME"})
    assert "redis-password" not in cluster["headGroupSpec"]["rayStartParams"]
    names = [group["groupName"] for group in cluster["workerGroupSpecs"]]
    assert all("labels" not in group["rayStartParams"] for group in cluster["workerGroupSpecs"])
    assert len(names) == len(set(names))
    for group in cluster["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    # KubeRay makes a Service for users only where the head has a port of this name.
    assert {"name": "serve", "containerPort": 8000} in head["ports"]


# What it says. --------------------------------------------------------------------------------------------------------


def test_every_pod_has_the_settings_that_a_local_ray_is_started_with(manifest: dict[str, Any]) -> None:
    settings = local.Local().settings()
    settings.pop(local.MARK)
    for container in containers(manifest):
        given = {one["name"]: one.get("value") for one in container["env"]}
        assert given.items() >= settings.items()


def test_no_pod_runs_as_root_or_may_become_it(manifest: dict[str, Any]) -> None:
    for template in templates(manifest):
        spec, container = template["spec"], template["spec"]["containers"][0]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] != 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert not set(spec) & {"hostNetwork", "hostPID", "hostIPC"}
    scaler = cluster_of(manifest).get("autoscalerOptions")
    assert scaler is None or scaler["securityContext"]["allowPrivilegeEscalation"] is False


def test_only_the_head_with_an_autoscaler_may_speak_to_kubernetes(manifest: dict[str, Any]) -> None:
    said = [template["spec"]["automountServiceAccountToken"] for template in templates(manifest)]
    assert said == [cluster_of(manifest)["enableInTreeAutoscaling"], *(False for _ in said[1:])]


def test_every_container_has_the_same_requests_and_limits(manifest: dict[str, Any]) -> None:
    for container in containers(manifest):
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert set(container["resources"]["limits"]) >= {"cpu", "memory"}


def test_a_workers_pod_has_more_memory_than_its_replicas_may_reserve(store: BentoStore) -> None:
    group = cluster_of(made(planned(store, file())))["workerGroupSpecs"][0]
    limit = group["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]
    reserved = int(group["rayStartParams"]["memory"]) + int(group["rayStartParams"]["object-store-memory"])
    assert int(limit.removesuffix("Mi")) * 2**20 == reserved + 2 * 2**30


def test_a_worker_has_a_cpu_for_ingress_replicas_beside_the_room_for_others_and_its_pod_too(store: BentoStore) -> None:
    group = cluster_of(made(planned(store, file())))["workerGroupSpecs"][0]
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "5"
    assert group["rayStartParams"]["num-cpus"] == "5"


def test_gpus_are_asked_of_kubernetes_and_told_to_ray(store: BentoStore) -> None:
    group = cluster_of(made(planned(store, file()), workers=(DEFAULT, L4)))["workerGroupSpecs"][1]
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert group["rayStartParams"]["num-gpus"] == "1"


def test_gpus_have_their_makers_name(store: BentoStore) -> None:
    amd = Workers.parse("amd=4,16Gi,1,amd-mi300x")
    group = cluster_of(made(planned(store, file()), workers=(DEFAULT, amd)))["workerGroupSpecs"][1]
    for amount in group["template"]["spec"]["containers"][0]["resources"].values():
        assert amount["amd.com/gpu"] == "1"
        assert "nvidia.com/gpu" not in amount
    assert "AMD-Instinct-MI300X-OAM" in group["rayStartParams"]["resources"]


def test_draining_has_the_time_that_replicas_and_streams_have(store: BentoStore) -> None:
    hosts = {"hosts": {"graceful_shutdown_timeout_s": 1200}}
    manifest = made(planned(store, file(ray=hosts)))
    spec = templates(manifest)[1]["spec"]
    container = spec["containers"][0]
    waits = deadline(manifest)
    assert 1200 < waits < spec["terminationGracePeriodSeconds"]
    env = {one["name"]: one.get("value") for one in container["env"]}
    assert 1200 < int(env["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"]) < waits
    assert manifest["spec"]["rayClusterDeletionDelaySeconds"] > 1200


def deadline(manifest: Mapping[str, Any]) -> float:
    """Return the seconds after which a worker's drain is over."""
    hook = containers(manifest)[1]["lifecycle"]["preStop"]["exec"]["command"]
    return float(hook[-1].removeprefix("--seconds="))


@pytest.mark.parametrize("timeout_s", [20, 1200])
@pytest.mark.parametrize(("said", "drain_s"), [({}, 600), ({"drain_s": 90}, 90), ({"drain_s": 1800}, 1800)])
def test_a_replacement_has_the_time_to_start_that_is_asked_for(
    store: BentoStore, timeout_s: int, said: dict[str, Any], drain_s: int
) -> None:
    plan = planned(store, file(ray={"hosts": {"graceful_shutdown_timeout_s": timeout_s}}))
    manifest = made(plan, **said)
    # When so much is left as a replica has for its shutdown, Serve stops it, whether another one runs or not.
    assert deadline(manifest) - timeout_s == drain_s
    assert deadline(manifest) < templates(manifest)[1]["spec"]["terminationGracePeriodSeconds"]


def test_serve_stops_replicas_of_a_draining_node_when_their_shutdown_timeout_is_left() -> None:
    """What the drain's deadline is made from; private to Serve (ray 2.60)."""
    import inspect

    from ray.serve._private.deployment_state import DeploymentState

    source = inspect.getsource(DeploymentState._partition_groups_to_stop)
    assert "effective_deadline - timeout_ms" in source


def test_a_version_that_may_start_slower_than_a_drain_waits_is_named(store: BentoStore) -> None:
    data = file()
    data["canary"]["versions"]["a"]["services"] = {"Front": {"cold_start_timeout": 900}}
    plan = planned(store, data)
    (said,) = late_starts(plan, Pods("i:1"))
    assert said.startswith("a: services.Front.cold_start_timeout is 900 s")
    assert "--drain 900 gives them the time" in said
    assert late_starts(plan, Pods("i:1", drain_s=900)) == ()
    assert late_starts(planned(store, file()), Pods("i:1")) == ()


def test_the_head_has_no_replicas_and_no_users(manifest: dict[str, Any]) -> None:
    assert manifest["spec"]["excludeHeadPodFromServeSvc"] is True
    assert cluster_of(manifest)["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_port_of_users_is_the_files(store: BentoStore) -> None:
    plan = planned(store, file(ray={"http": {"port": 9000}}))
    manifest = made(plan)
    for container in containers(manifest):
        assert {"name": "serve", "containerPort": 9000} in container["ports"]
    served = yaml.safe_load(manifest["spec"]["serveConfigV2"])
    assert served["http_options"] == {"host": "0.0.0.0", "port": 9000}
    assert kuberay.network_policy(plan, Surroundings())["spec"]["ingress"][1]["ports"][0]["port"] == 9000


def test_tokens_and_passwords_are_named_and_not_there(store: BentoStore) -> None:
    cluster = cluster_of(made(planned(store, file()), Surroundings(redis_secret="r", token_secret="t")))
    assert cluster["authOptions"] == {"mode": "token", "secretName": "t"}
    password = {"valueFrom": {"secretKeyRef": {"name": "r", "key": "password"}}}
    assert cluster["gcsFaultToleranceOptions"] == {"redisAddress": "redis:6379", "redisPassword": password}


def test_a_secret_of_the_file_is_mounted_where_replicas_look_it_up(store: BentoStore) -> None:
    data = file(secrets=["db"])
    data["canary"]["versions"]["a"]["secrets"] = ["hf.token"]
    head, worker = (template["spec"] for template in templates(made(planned(store, data))))
    mounts = {one["mountPath"]: one["name"] for one in worker["containers"][0]["volumeMounts"]}
    volumes = {one["name"]: one.get("secret") for one in worker["volumes"]}
    for name in ("db", "hf.token"):
        secret = volumes[mounts[f"/etc/ray-canary/secrets/{name}"]]
        # One that is missing fails who names it, and no worker.
        assert (secret["secretName"], secret["optional"]) == (name, True)
    assert "volumes" not in head


def test_a_secret_that_kubernetes_has_no_name_for_is_refused(store: BentoStore) -> None:
    with pytest.raises(ConfigError, match="'My_Secret' can't be the name of a Kubernetes Secret"):
        kuberay.secrets_of(planned(store, file(secrets=["My_Secret"])))


def test_bentos_are_on_a_volume_or_in_the_image(store: BentoStore) -> None:
    mounted, baked = (templates(made(planned(store, file()), bentos=claim))[1]["spec"] for claim in ("claim", None))
    assert mounted["volumes"][0]["persistentVolumeClaim"] == {"claimName": "claim", "readOnly": True}
    assert "volumes" not in baked
    assert "volumeMounts" not in baked["containers"][0]


def test_without_an_autoscaler_there_are_workers_for_every_replica_at_once(store: BentoStore) -> None:
    data = file(services={"Front": {"scaling": {"min_replicas": 1, "max_replicas": 12}}})
    fixed = cluster_of(made(planned(store, data)))["workerGroupSpecs"][0]
    scaled = cluster_of(made(planned(store, data), autoscale=True))["workerGroupSpecs"][0]
    assert fixed["minReplicas"] == fixed["replicas"] == fixed["maxReplicas"] == scaled["maxReplicas"]
    assert scaled["minReplicas"] == scaled["replicas"] < scaled["maxReplicas"]


def test_the_config_is_the_one_that_build_makes_with_its_owner(store: BentoStore) -> None:
    plan = planned(store, file())
    built, served = serve_config(plan), yaml.safe_load(kuberay.serve_config(plan))
    settings = served["applications"][0]["deployments"][0]["user_config"]
    assert IngressSettings.model_validate(settings).owner == "RayService words"
    settings["owner"] = None
    served["http_options"]["host"] = "127.0.0.1"
    assert served == built


@pytest.mark.parametrize("name", ["1-words", "w" * 48])
def test_a_name_that_kuberay_refuses_is_refused_before(store: BentoStore, name: str) -> None:
    with pytest.raises(ConfigError, match="can't be the name of a RayService"):
        made(planned(store, file(name=name)))


def test_a_replica_that_fits_no_worker_is_refused(store: BentoStore) -> None:
    with pytest.raises(DoesNotFit, match="--workers"):
        made(
            planned(store, file(services={"Front": {"instance_type": "cpu.4"}})),
            workers=(Workers("w", Size(1, 2**35)),),
        )


# What no edit of a canary touches. ------------------------------------------------------------------------------------

CANARY_EDITS: Mapping[str, Any] = {
    "its weight": {"weight": 50},
    "its Bento": {"bento": "w:3"},
    "its instance type": {"services": {"Front": {"instance_type": "cpu.4"}}},
    "its scaling": {"services": {"Front": {"scaling": {"min_replicas": 0, "max_replicas": 9}}}},
    "its environment": {"envs": [{"name": "X", "value": "y"}]},
    "its time to start": {"services": {"Front": {"cold_start_timeout": 3600}}},
    "its timeout": {"services": {"Front": {"config_overrides": {"traffic": {"timeout": 3600}}}}},
    "its strategy": {"services": {"Back": {"deployment_strategy": "Recreate"}}},
}


@pytest.mark.parametrize("edit", CANARY_EDITS)
def test_an_edit_of_a_canary_makes_no_new_cluster(store: BentoStore, edit: str) -> None:
    edited = file()
    edited["canary"]["versions"]["a"].update(CANARY_EDITS[edit])
    before, after = (made(planned(store, data)) for data in (file(), edited))
    assert before["spec"]["serveConfigV2"] != after["spec"]["serveConfigV2"]
    assert in_place.makes_new_cluster(before, after) == ()


def test_a_canary_that_comes_or_goes_or_is_split_otherwise_makes_no_new_cluster(store: BentoStore) -> None:
    alone, two = file(canary=None), file()
    two["canary"] |= {"route_type": "random", "route_by": None}
    two["canary"]["versions"]["b"] = {"bento": "w:3", "weight": 30}
    isolated = file(ray={"dependencies": {"a": "isolated"}})
    all_of_them = [made(planned(store, data)) for data in (alone, file(), two, isolated)]
    for before in all_of_them:
        for after in all_of_them:
            assert in_place.makes_new_cluster(before, after) == ()


def test_an_edit_of_main_makes_none_either(store: BentoStore) -> None:
    edited = file(bento="w:3", envs=[{"name": "X", "value": "y"}], access_authorization=True)
    assert in_place.makes_new_cluster(made(planned(store, file())), made(planned(store, edited))) == ()


def test_numbers_of_workers_and_groups_at_the_end_make_none(store: BentoStore) -> None:
    before = made(planned(store, file()))
    after = made(planned(store, file()), workers=(DEFAULT, L4))
    cluster_of(after)["workerGroupSpecs"][0]["maxReplicas"] = 99
    assert in_place.makes_new_cluster(before, after) == ()


def test_what_changes_the_pods_makes_one_and_is_named(store: BentoStore) -> None:
    before = made(planned(store, file()))
    path = "headGroupSpec.template.spec.containers.ray-head.image"
    after = made(planned(store, file()))
    containers(after)[0]["image"] = "i:2"
    assert in_place.makes_new_cluster(before, after) == ((path, "i:1", "i:2"),)
    mounted = in_place.makes_new_cluster(before, made(planned(store, file()), secrets=("db",)))
    assert any("/etc/ray-canary/secrets/db" in where for where, _, _ in mounted)
    assert in_place.makes_new_cluster(made(planned(store, file()), workers=(DEFAULT, L4)), before) != ()
    assert in_place.makes_new_cluster(before, made(planned(store, file()), workers=(L4, DEFAULT))) != ()


def test_groups_in_another_order_make_one(store: BentoStore) -> None:
    before, after = (made(planned(store, file()), workers=groups) for groups in ((DEFAULT, L4), (L4, DEFAULT)))
    assert in_place.makes_new_cluster(before, after) == (("workerGroupSpecs", ["workers", "l4"], ["l4", "workers"]),)
    swapped = made(planned(store, file()))
    containers(swapped)[1]["env"].reverse()
    ((path, was, now),) = in_place.makes_new_cluster(made(planned(store, file())), swapped)
    assert (path, was) == ("workerGroupSpecs.workers.template.spec.containers.ray-worker.env", now[::-1])


def test_other_numbers_of_workers_are_found_with_what_carries_them(store: BentoStore) -> None:
    def of(most: int, *groups: Workers, autoscale: bool = False) -> dict[str, Any]:
        data = file(services={"Front": {"scaling": {"min_replicas": 1, "max_replicas": most}}})
        return made(planned(store, data), workers=(L4, DEFAULT, *groups), autoscale=autoscale)

    assert in_place.recounted(of(1), of(1)) == ()
    assert in_place.recounted(of(1), of(1, Workers("more", Size(4, 2**34)))) == ()
    before, after = of(1), of(30)
    was, now = (cluster_of(one)["workerGroupSpecs"][1]["replicas"] for one in (before, after))
    counts = {"replicas": now, "minReplicas": now, "maxReplicas": now}
    found = in_place.recounted(before, after)
    assert found == (in_place.Recount(1, f"workers: {was} -> {now}", counts, grows=True),)
    command = in_place.recount_command(found, "words", "prod")
    assert "kubectl -n prod patch $(kubectl -n prod get raycluster -l ray.io/originated-from-cr-name=words" in command
    assert json.loads(command.split("'")[1]) == [
        {"op": "add", "path": f"/spec/workerGroupSpecs/1/{key}", "value": now} for key in counts
    ]
    (scaled,) = in_place.recounted(of(1, autoscale=True), of(30, autoscale=True))
    assert f"to {now}" in scaled.change
    assert set(scaled.counts) == {"maxReplicas"}, "how many run now is the autoscaler's"
    assert [one.grows for one in in_place.recounted(after, before)] == [False]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"metadata": ["a"]}, "metadata is ['a']"),
        ({"spec": ["a"]}, "spec is ['a']"),
        ({"spec": {"rayClusterConfig": "x"}}, "spec.rayClusterConfig is 'x'"),
        ({"spec": {"rayClusterConfig": {"workerGroupSpecs": {"a": 1}}}}, "workerGroupSpecs is {'a': 1}"),
        ({"spec": {"rayClusterConfig": {"workerGroupSpecs": [{}, "a"]}}}, "workerGroupSpecs[1] is 'a'"),
    ],
)
def test_what_no_rayservice_can_have_is_named(wrong: dict[str, Any], said: str) -> None:
    assert said in str(in_place.misshapen(wrong))


@pytest.mark.parametrize("right", [{}, {"spec": None}, {"spec": {"rayClusterConfig": {"workerGroupSpecs": None}}}])
def test_what_is_left_out_of_a_rayservice_can_be_compared(store: BentoStore, right: dict[str, Any]) -> None:
    assert in_place.misshapen(right) is None
    assert in_place.makes_new_cluster(right, made(planned(store, file()))) != ()
    assert in_place.recounted(right, made(planned(store, file()))) == ()


def test_a_new_cluster_is_made_only_where_it_is_asked_for(store: BentoStore) -> None:
    plan = planned(store, file())
    said = [made(plan, new_cluster=asked)["spec"]["upgradeStrategy"]["type"] for asked in (False, True)]
    assert said == ["None", "NewCluster"]
    before, after = (made(plan, new_cluster=asked) for asked in (False, True))
    assert in_place.makes_new_cluster(before, after) == ()


def test_comparing_changes_neither(store: BentoStore) -> None:
    one = made(planned(store, file()))
    kept = copy.deepcopy(one)
    in_place.makes_new_cluster(one, one)
    assert one == kept


# The network. ---------------------------------------------------------------------------------------------------------


def test_only_users_the_operator_and_prometheus_reach_the_pods_from_elsewhere(store: BentoStore) -> None:
    plan = planned(store, file())
    policy = kuberay.network_policy(plan, Surroundings())["spec"]
    labels = policy["podSelector"]["matchLabels"]
    for template in templates(made(plan)):
        assert template["metadata"]["labels"].items() >= labels.items()
    own, users, operator, metrics = policy["ingress"]
    assert own == {"from": [{"podSelector": {"matchLabels": labels}}]}
    assert users == {"ports": [{"port": 8000, "protocol": "TCP"}]}
    assert [one["port"] for one in operator["ports"]] == [8265]
    assert "podSelector" in operator["from"][0]
    # Neither GCS, nor Ray's client, nor the dashboard.
    assert {one["port"] for one in metrics["ports"]}.isdisjoint({6379, 8265, 10001, 8404})
