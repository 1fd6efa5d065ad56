"""What a plan compiles to, and what an edit of the file leaves alone."""

import copy
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_canary import config
from ray_canary.bentos import BentoStore
from ray_canary.config import ServiceConfig, Version
from ray_canary.instances import Catalogue
from ray_canary.plan import Plan
from ray_canary.resolving import resolve
from ray_canary.serving import compile
from ray_canary.serving.settings import IngressSettings
from tests.unit.bento_store import demo_store, write_bento

CONFIGS = Path(__file__).parents[3] / "configs"
SUMMARIZATION = CONFIGS / "summarization.yaml"
FORMS: dict[str, Callable[[Plan], compile.Config]] = {
    "canary": compile.serve_config,
    "single-application": compile.single_application_config,
}


@pytest.fixture
def store(tmp_path: Path) -> BentoStore:
    store = demo_store(tmp_path)
    write_bento(tmp_path, "pair:1", {"Front": {}, "Back": {}}, depends={"Front": ["Back"]})
    write_bento(tmp_path, "pair:2", {"Front": {}, "Back": {}}, depends={"Front": ["Back"]})
    return store


def planned(store: BentoStore, data: Mapping[str, Any]) -> Plan:
    return resolve(config.parse(data), store, Catalogue.default())


def published(store: BentoStore) -> Plan:
    return resolve(config.load(SUMMARIZATION), store, Catalogue.default())


def code_version(application: Mapping[str, Any]) -> str:
    """Return what Serve stamps on all deployments of an application (facts/ray_serve.md 1.1)."""
    deployments = application.get("deployments", [])
    scaling = [one["autoscaling_config"] for one in deployments if isinstance(one.get("autoscaling_config"), dict)]
    hashed = {
        "import_path": application["import_path"],
        "runtime_env": application.get("runtime_env", {}),
        "args": application.get("args", {}),
        "autoscaling_policy": application.get("autoscaling_policy"),
        "deployment_autoscaling_policies": [block.get("policy") for block in scaling],
        "request_router_configs": [
            one["request_router_config"] for one in deployments if "request_router_config" in one
        ],
        "deployment_actors": [one["deployment_actors"] for one in deployments if "deployment_actors" in one],
    }
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()


RAYS = """
import json, sys, yaml
from ray.serve._private.deploy_utils import get_app_code_version
from ray.serve.schema import ServeDeploySchema
config = ServeDeploySchema.parse_obj(yaml.safe_load(open(sys.argv[1])))
print(json.dumps([get_app_code_version(application) for application in config.applications]))
"""


@pytest.mark.parametrize("form", FORMS)
def test_serve_takes_the_file_and_hashes_of_it_what_these_tests_hash(form: str) -> None:
    path = CONFIGS / f"{form}.yaml"
    done = subprocess.run([sys.executable, "-c", RAYS, str(path)], capture_output=True, text=True, check=True)
    applications = yaml.safe_load(path.read_text())["applications"]
    assert json.loads(done.stdout.splitlines()[-1]) == [code_version(application) for application in applications]


@pytest.mark.parametrize("form", FORMS)
def test_the_files_in_configs_are_what_the_published_file_compiles_to(store: BentoStore, form: str) -> None:
    plan = published(store)
    text = compile.to_yaml(FORMS[form](plan), plan, "configs/summarization.yaml", f"configs/{form}.yaml")
    assert text == (CONFIGS / f"{form}.yaml").read_text()


@pytest.mark.parametrize("form", FORMS)
def test_compiling_again_gives_the_same_text_and_the_text_holds_the_config(store: BentoStore, form: str) -> None:
    first, second = published(store), published(store)
    text = compile.to_yaml(FORMS[form](first), first, "x.yaml", "y.yaml")
    assert text == compile.to_yaml(FORMS[form](second), second, "x.yaml", "y.yaml")
    assert yaml.safe_load(text) == json.loads(json.dumps(FORMS[form](first)))


def test_a_text_has_no_aliases_though_the_same_data_stands_in_it_twice(store: BentoStore) -> None:
    data = yaml.safe_load(SUMMARIZATION.read_text())
    data["canary"]["versions"]["b"]["services"] = data["canary"]["versions"]["a"]["services"]
    plan = planned(store, data)
    text = compile.to_yaml(compile.serve_config(plan), plan, "x.yaml", "y.yaml")
    assert "&id" not in text
    assert "*id" not in text


def test_a_text_says_what_an_edit_restarts_beside_what_may_be_edited() -> None:
    canary, single = ((CONFIGS / f"{form}.yaml").read_text() for form in FORMS)
    for text in (canary, single):
        assert "# What the ingress decides by. main gets what the weights leave of 100.\n      split:\n" in text
        assert "# An edit of autoscaling_config or user_config restarts nothing.\n  - name: Ingress\n" in text
    assert "No replica restarts" in canary
    assert "AN EDIT OF `args` RESTARTS EVERY VERSION" in single
    assert canary.count("An edit of args restarts it") == 3


def test_a_service_that_is_called_like_our_ingress_is_not_commented_as_ours(tmp_path: Path) -> None:
    write_bento(tmp_path, "i:1", {"Ingress": {}})
    plan = planned(BentoStore(tmp_path), {"name": "d", "bento": "i:1"})
    text = compile.to_yaml(compile.serve_config(plan), plan, "x.yaml", "y.yaml")
    assert text.count("restarts nothing.\n  - name: Ingress\n") == 1


# The order and presence of blocks. ------------------------------------------------------------------------------------

SAID_LEAST: dict[str, Any] = {"name": "d", "bento": "pair:1", "canary": {"route_type": "random", "versions": {}}}
SAID_MOST: dict[str, Any] = {
    "name": "d",
    "bento": "pair:1",
    "envs": [{"name": "X", "value": "1"}],
    "services": {
        "Front": {
            "instance_type": "gpu.l4.1",
            "scaling": {"min_replicas": 0, "max_replicas": 2, "policy": {"scale_up_stabilization_window": 1}},
            "config_overrides": {"traffic": {"timeout": 9, "concurrency": 2}, "workers": 2},
            "deployment_strategy": "Recreate",
        }
    },
    "ray": {"hosts": {"max_ongoing_requests": 9}, "ingress": {"num_replicas": 3}},
}


@pytest.mark.parametrize("data", [SAID_LEAST, SAID_MOST], ids=["least", "most"])
def test_every_block_is_there_in_the_same_order_whatever_the_file_says(store: BentoStore, data: dict[str, Any]) -> None:
    found = compile.serve_config(planned(store, data))
    ingress, main = found["applications"]
    assert list(found) == ["proxy_location", "http_options", "applications"]
    for application in (ingress, main):
        assert list(application) == ["name", "route_prefix", "import_path", "args", "deployments"]
    assert list(ingress["deployments"][0]) == [
        "name",
        "max_ongoing_requests",
        "max_surge_percent",
        "graceful_shutdown_timeout_s",
        "autoscaling_config",
        "ray_actor_options",
        "user_config",
    ]
    assert [one["name"] for one in main["deployments"]] == ["Front", "Back"]
    for deployment in main["deployments"]:
        assert list(deployment) == [
            "name",
            "max_ongoing_requests",
            "max_surge_percent",
            "rolling_update_percentage",
            "graceful_shutdown_timeout_s",
            "autoscaling_config",
            "user_config",
            "ray_actor_options",
        ]
        assert list(deployment["autoscaling_config"]) == [
            "min_replicas",
            "initial_replicas",
            "max_replicas",
            "target_ongoing_requests",
            "upscale_delay_s",
            "downscale_delay_s",
        ]


def test_versions_have_no_route_of_their_own_and_the_ingress_has_the_deployments(store: BentoStore) -> None:
    plan = planned(store, {**SAID_LEAST, "ray": {"route_prefix": "/x", "http": {"port": 9, "host": "0.0.0.0"}}})
    found = compile.serve_config(plan)
    assert [application["route_prefix"] for application in found["applications"]] == ["/x", None]
    assert found["http_options"] == {"host": "0.0.0.0", "port": 9}


@pytest.mark.parametrize("form", FORMS)
def test_the_ingress_takes_the_user_config_that_is_compiled_for_it(store: BentoStore, form: str) -> None:
    ingress = FORMS[form](published(store))["applications"][0]["deployments"][0]
    settings = IngressSettings.model_validate(ingress["user_config"])
    assert settings.split.shares() == {"main": 50, "a": 20, "b": 30}
    assert {key: (one.timeout_s, one.capacity) for key, one in settings.targets.items()} == {
        "main": (30.0, 1000),
        "a": (30.0, 8),
        "b": (30.0, 1000),
    }


def test_a_version_that_may_have_no_replica_is_marked_so_for_the_ingress(store: BentoStore) -> None:
    settings = compile.ingress_settings(planned(store, SAID_MOST))
    assert settings.targets["main"].scales_to_zero
    assert not compile.ingress_settings(planned(store, SAID_LEAST)).targets["main"].scales_to_zero


# What an edit leaves alone: one test per key of a version (decision 2). -----------------------------------------------

SERVICE: dict[str, Any] = {
    "instance_type": "cpu.1",
    "scaling": {"min_replicas": 1, "max_replicas": 2, "policy": {"scale_up_stabilization_window": 1}},
    "envs": [{"name": "X", "value": "1"}],
    "config_overrides": {"traffic": {"timeout": 9}},
    "deployment_strategy": "RollingUpdate",
}
FILE: dict[str, Any] = {
    "name": "d",
    "bento": "pair:1",
    "canary": {
        "route_type": "query",
        "route_by": "q",
        "versions": {
            "a": {"bento": "pair:1", "weight": 10, "services": {"Front": SERVICE}},
            "b": {"bento": "pair:1", "weight": 10},
        },
    },
}

FRONT = ("services", "Front")
TRAFFIC = (*FRONT, "config_overrides", "traffic")
POLICY = (*FRONT, "scaling", "policy")
#: Where in version `a`, what is put there, and whether that restarts `a` by its application's code version.
EDITS: dict[str, tuple[tuple[str, ...], Any, bool]] = {
    "bento": (("bento",), "pair:2", True),
    "weight": (("weight",), 80, False),
    "envs": (("envs",), [{"name": "Y", "value": "2"}], False),
    "secrets": (("secrets",), ["s"], True),
    "services": (("services",), {}, True),
    "services.instance_type": ((*FRONT, "instance_type"), "cpu.8", False),
    "services.scaling": ((*FRONT, "scaling"), {}, False),
    "services.scaling.min_replicas": ((*FRONT, "scaling", "min_replicas"), 0, False),
    "services.scaling.max_replicas": ((*FRONT, "scaling", "max_replicas"), 9, False),
    "services.scaling.policy": ((*FRONT, "scaling", "policy"), {}, False),
    "services.scaling.policy.scale_up_stabilization_window": ((*POLICY, "scale_up_stabilization_window"), 9, False),
    "services.scaling.policy.scale_down_stabilization_window": ((*POLICY, "scale_down_stabilization_window"), 9, False),
    "services.scaling.policy.scale_up_behavior": ((*POLICY, "scale_up_behavior"), "fast", False),
    "services.scaling.policy.scale_down_behavior": ((*POLICY, "scale_down_behavior"), "fast", False),
    "services.scaling.policy.metrics": ((*POLICY, "metrics"), [{"type": "cpu", "value": 1}], False),
    "services.envs": ((*FRONT, "envs"), [{"name": "X", "value": "2"}], False),
    "services.deployment_strategy": ((*FRONT, "deployment_strategy"), "Recreate", False),
    "services.cold_start_timeout": ((*FRONT, "cold_start_timeout"), 9, False),
    "services.extras": ((*FRONT, "extras"), {"x": 1}, False),
    "services.config_overrides": ((*FRONT, "config_overrides"), {}, True),
    "services.config_overrides.traffic": (TRAFFIC, {}, True),
    "services.config_overrides.traffic.timeout": ((*TRAFFIC, "timeout"), 5, True),
    "services.config_overrides.traffic.max_concurrency": ((*TRAFFIC, "max_concurrency"), 5, True),
    "services.config_overrides.traffic.concurrency": ((*TRAFFIC, "concurrency"), 5, True),
    "services.config_overrides.traffic.external_queue": ((*TRAFFIC, "external_queue"), False, True),
} | {
    f"services.config_overrides.{key}": ((*FRONT, "config_overrides", key), value, True)
    for key, value in {
        "resources": {"cpu": "1"},
        "workers": 2,
        "threads": 2,
        "replicate_process": True,
        "backlog": 99,
        "extra_ports": [9000],
        "max_runner_connections": 2,
        "runner_connection": {"x": 1},
        "metrics": {"enabled": False},
        "logging": {"x": 1},
        "ssl": {"x": 1},
        "http": {"x": 1},
        "grpc": {"x": 1},
        "runner_probe": {"x": 1},
        "tracing": {"x": 1},
        "monitoring": {"x": 1},
        "endpoints": {"livez": "/x"},
    }.items()
}


def edited(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Return `FILE` with `value` at `path` of version `a`."""
    data = copy.deepcopy(FILE)
    block = data["canary"]["versions"]["a"]
    for key in path[:-1]:
        block = block[key]
    assert block.get(path[-1]) != value
    block[path[-1]] = value
    return data


def versions_of(store: BentoStore, data: Mapping[str, Any]) -> dict[str, str]:
    applications = compile.serve_config(planned(store, data))["applications"]
    return {application["name"]: code_version(application) for application in applications}


@pytest.mark.parametrize(("path", "value", "restarts"), EDITS.values(), ids=EDITS.keys())
def test_an_edit_of_a_versions_key_restarts_neither_the_ingress_nor_another_version(
    store: BentoStore, path: tuple[str, ...], value: Any, restarts: bool
) -> None:
    before, after = (compile.serve_config(planned(store, data))["applications"] for data in (FILE, edited(path, value)))
    for old, new in zip(before, after, strict=True):
        if old["name"] == "d-canary-a":
            assert (code_version(old) != code_version(new)) is restarts
        else:
            assert code_version(old) == code_version(new), old["name"]
        own = [one["ray_actor_options"] for one in old["deployments"]] == [
            one["ray_actor_options"] for one in new["deployments"]
        ]
        assert own or old["name"] == "d-canary-a", f"the actor options of {old['name']} would restart it"
        if old["name"] not in ("d", "d-canary-a") and path != ("weight",):
            assert old == new


def test_every_key_of_a_version_is_among_the_edits() -> None:
    overrides = set(config.ConfigOverrides.model_fields)
    wanted = {
        *Version.model_fields,
        *(f"services.{key}" for key in ServiceConfig.model_fields),
        *(f"services.scaling.{key}" for key in config.Scaling.model_fields),
        *(f"services.scaling.policy.{key}" for key in config.Policy.model_fields),
        *(f"services.config_overrides.{key}" for key in overrides),
        *(f"services.config_overrides.traffic.{key}" for key in config.Traffic.model_fields),
    }
    assert set(EDITS) == wanted


@pytest.mark.parametrize("change", ["added", "removed", "renamed", "reordered"])
def test_versions_that_come_and_go_restart_nothing_that_stays(store: BentoStore, change: str) -> None:
    data = copy.deepcopy(FILE)
    versions = data["canary"]["versions"]
    match change:
        case "added":
            versions["c"] = {"bento": "pair:2", "weight": 5}
        case "removed":
            del versions["a"]
        case "renamed":
            versions["c"] = versions.pop("a")
        case "reordered":
            data["canary"]["versions"] = dict(reversed(versions.items()))
    before, after = versions_of(store, FILE), versions_of(store, data)
    assert {name: after[name] for name in after if name in before} == {
        name: before[name] for name in before if name in after
    }
    assert {"d", "d-main", "d-canary-b"} <= set(after)


@pytest.mark.parametrize(
    ("said", "least", "most"),
    [
        ({}, 2, 2),
        ({"num_replicas": 3}, 3, 3),
        ({"max_replicas": 5}, 2, 5),
        ({"num_replicas": 4, "max_replicas": 5}, 4, 5),
    ],
)
def test_the_ingress_is_scaled_between_its_numbers_and_reckons_with_the_greater(
    store: BentoStore, said: dict[str, int], least: int, most: int
) -> None:
    (ingress,) = compile.ingress_application(planned(store, {**FILE, "ray": {"ingress": said}}))["deployments"]
    scaling = ingress["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["initial_replicas"], scaling["max_replicas"]) == (least, None, most)
    assert "num_replicas" not in ingress  # Serve takes one or the other.
    assert ingress["user_config"]["ingress_replicas"] == most


@pytest.mark.parametrize(("said", "block"), [({}, {}), ({"max_replicas_per_node": 1}, {"max_replicas_per_node": 1})])
def test_the_ingress_is_spread_over_the_nodes_only_where_the_file_says_so(
    store: BentoStore, said: dict[str, int], block: dict[str, int]
) -> None:
    (ingress,) = compile.ingress_application(planned(store, {**FILE, "ray": {"ingress": said}}))["deployments"]
    assert {key: value for key, value in ingress.items() if key == "max_replicas_per_node"} == block


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("route_type", "header"),
        ("route_by", "other"),
        ("ray", {"ingress": {"num_replicas": 5}}),
        ("ray", {"ingress": {"max_replicas": 5}}),
        ("ray", {"ingress": {"target_ongoing_requests": 5}}),
        ("ray", {"ingress": {"access_log": True}}),
        ("ray", {"ingress": {"max_ongoing_requests": 5}}),
        ("ray", {"ingress": {"max_body_bytes": 5}}),
        ("ray", {"ingress": {"target_wait_s": 5.0}}),
        ("ray", {"hosts": {"max_ongoing_requests": 5}}),
        ("ray", {"hosts": {"graceful_shutdown_timeout_s": 5.0}}),
        ("ray", {"route_prefix": "/x"}),
        ("description", "x"),
        ("labels", [{"key": "k", "value": "v"}]),
    ],
)
def test_the_split_and_the_ray_block_are_changed_live(store: BentoStore, key: str, value: Any) -> None:
    data = copy.deepcopy(FILE)
    (data["canary"] if key.startswith("route") else data)[key] = value
    assert versions_of(store, data) == versions_of(store, FILE)


def test_in_the_single_application_form_weights_are_all_that_the_users_config_needs(store: BentoStore) -> None:
    plan = published(store)
    (application,) = compile.single_application_config(plan)["applications"]
    names = [deployment["name"] for deployment in application["deployments"]]
    assert names == ["Ingress", "main.Summarization", "a.Summarization", "b.Summarization"]
    settings = IngressSettings.model_validate(application["deployments"][0]["user_config"])
    assert {one.application for one in settings.targets.values()} == {None}
    assert [one.deployment for one in settings.targets.values()] == names[1:]
    assert application["args"] == plan.file


def test_an_ingress_takes_what_may_wait_in_the_queues_behind_it_too(store: BentoStore) -> None:
    traffic = {"traffic": {"external_queue": True, "concurrency": 4}}
    file = {"name": "d", "bento": "pair:1", "services": {"Front": {"config_overrides": traffic}}}
    data = {**file, "ray": {"queue": {"max_depth": 50}, "ingress": {"max_ongoing_requests": 300}}}
    plan = resolve(config.parse(data), store, Catalogue.default())
    assert compile.ingress_deployment(plan, compile.ingress_settings(plan))["max_ongoing_requests"] == 350
    assert compile.ingress_settings(plan).targets["main"].max_queue_depth == 50
    front, back = compile.version_application(plan.targets["main"])["deployments"]
    assert (front["max_ongoing_requests"], back["max_ongoing_requests"]) == (4, 1000)


# On which nodes. ------------------------------------------------------------------------------------------------------


def located(store: BentoStore, placement: Mapping[str, Any], **ingress: Any) -> list[compile.Config]:
    """Return the compiled applications: of the ingress, of main, and of a."""
    versions = {"a": {"bento": "pair:2", "weight": 10}}
    data = {
        "name": "d",
        "bento": "pair:1",
        "canary": {"route_type": "random", "versions": versions},
        "ray": {"placement": placement, "ingress": ingress},
    }
    return list(compile.serve_config(planned(store, data))["applications"])


def test_the_nodes_of_a_target_are_serves_label_selector_on_all_of_its_deployments_and_on_no_other(
    store: BentoStore,
) -> None:
    usual = located(store, {})
    found = located(store, {"a": {"node_labels": {"pool": "canary"}}})
    assert found[1] == usual[1]
    assert found[0]["deployments"][0]["ray_actor_options"] == usual[0]["deployments"][0]["ray_actor_options"]
    for before, after in zip(usual[2]["deployments"], found[2]["deployments"], strict=True):
        assert after["ray_actor_options"] == {**before["ray_actor_options"], "label_selector": {"pool": "canary"}}
        assert {**after, "ray_actor_options": None} == {**before, "ray_actor_options": None}
    assert found[2]["args"] == usual[2]["args"]


def test_a_limit_of_replicas_on_a_node_is_in_the_actor_options_too_where_serve_notices_its_change(
    store: BentoStore,
) -> None:
    for number in (1, 2):
        (front, back) = located(store, {"a": {"max_replicas_per_node": number}})[2]["deployments"]
        for one in (front, back):
            assert one["max_replicas_per_node"] == number
            assert one["ray_actor_options"]["runtime_env"]["env_vars"][compile.PER_NODE] == str(number)


def test_an_ingress_on_every_node_makes_room_before_it_is_replaced(store: BentoStore) -> None:
    (ingress,) = located(store, {}, num_replicas=3, max_replicas_per_node=1, node_labels={"front": "yes"})[0][
        "deployments"
    ]
    assert ingress["max_surge_percent"] == 0
    assert ingress["max_replicas_per_node"] == 1
    assert ingress["ray_actor_options"]["label_selector"] == {"front": "yes"}
    (alone,) = located(store, {}, num_replicas=1, max_replicas_per_node=1)[0]["deployments"]
    assert alone["max_surge_percent"] == 100, "there is no other meanwhile"


def test_what_a_target_says_of_a_label_wins_over_its_instance_type(store: BentoStore) -> None:
    text = "t: {cpu: 1, memory: 1Gi, node_labels: {pool: general, zone: b}}"
    service = {"services": {"Front": {"instance_type": "t"}}}
    data = {
        "name": "d",
        "bento": "pair:1",
        **service,
        "ray": {"placement": {"main": {"node_labels": {"pool": "main"}}}},
    }
    plan = resolve(config.parse(data), store, Catalogue.loads(text))
    services = plan.targets["main"].services
    assert services["Front"].node_labels == {"pool": "main", "zone": "b"}
    assert services["Back"].node_labels == {"pool": "main"}


def test_a_memory_limit_is_told_to_replicas_that_reserve_memory_where_the_file_wants_it(store: BentoStore) -> None:
    service = {"services": {"Front": {"config_overrides": {"resources": {"cpu": 1, "memory": "2Gi"}}}}}

    def environments(enforce: bool) -> dict[str, dict[str, str]]:
        data = {"name": "d", "bento": "pair:1", **service, "ray": {"hosts": {"enforce_memory": enforce}}}
        deployments = compile.serve_config(planned(store, data))["applications"][1]["deployments"]
        return {one["name"]: one["ray_actor_options"]["runtime_env"]["env_vars"] for one in deployments}

    assert environments(True) == {"Front": {compile.MEMORY_LIMIT: str(2 * 2**30)}, "Back": {}}
    assert environments(False) == {"Front": {}, "Back": {}}
