"""What a Deployment file means: inheritance, defaults, and what shows only against the Bentos."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ray_canary import config
from ray_canary.bentos import BentoStore
from ray_canary.errors import PlanError
from ray_canary.instances import Catalogue
from ray_canary.plan import Plan, ServicePlan, application_name
from ray_canary.resolving import resolve
from tests.unit.bento_store import demo_store, write_bento

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def store(tmp_path: Path) -> BentoStore:
    """Bentos `m` (services S and T), `n` (service N), `asking` (needs A), `tasks` and `limited`."""
    bento = {"S": {"traffic": {"timeout": 7, "concurrency": 3}, "resources": {"cpu": "2", "memory": "1Gi"}}, "T": {}}
    write_bento(tmp_path, "m:v1", bento, depends={"S": ["T"]}, created="2026-01-02T00:00:00+00:00")
    write_bento(tmp_path, "m:w20", bento, depends={"S": ["T"]}, created="2026-01-01T00:00:00+00:00")
    write_bento(tmp_path, "m:w21", bento, depends={"S": ["T"]}, created="2026-01-01T00:00:00+00:00")
    write_bento(tmp_path, "n:1", {"N": {}})
    envs = [{"name": "A"}, {"name": "B", "value": "b"}, {"name": "C", "stage": "build"}]
    write_bento(tmp_path, "asking:1", {"S": {}, "T": {}}, depends={"S": ["T"]}, envs=envs)
    write_bento(tmp_path, "tasks:1", {"S": {"traffic": {"external_queue": True, "concurrency": 1}}})
    write_bento(tmp_path, "limited:1", {"S": {"traffic": {"max_concurrency": 3000}}})
    return BentoStore(tmp_path)


def plan(store: BentoStore, data: Mapping[str, Any]) -> Plan:
    return resolve(config.parse({"name": "d", "bento": "m:v1", **data}), store, Catalogue.default())


def canary(**versions: Any) -> dict[str, Any]:
    """Return a `canary` block whose versions run `m:v1` at 10 %."""
    return {
        "route_type": "random",
        "versions": {key: {"bento": "m:v1", "weight": 10, **version} for key, version in versions.items()},
    }


def problems(store: BentoStore, data: Mapping[str, Any]) -> list[str]:
    with pytest.raises(PlanError) as raised:
        plan(store, data)
    return [problem.text() for problem in raised.value.problems]


def env(**values: str) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values.items()]


# Inheritance. ---------------------------------------------------------------------------------------------------------

MAINS: dict[str, Any] = {
    "instance_type": "cpu.4",
    "scaling": {
        "min_replicas": 2,
        "max_replicas": 5,
        "policy": {"scale_up_stabilization_window": 11, "scale_down_stabilization_window": 22},
    },
    "config_overrides": {"traffic": {"timeout": 9, "concurrency": 4, "max_concurrency": 600}, "workers": 2},
    "deployment_strategy": "Recreate",
}


def inherited(store: BentoStore, own: Mapping[str, Any]) -> tuple[ServicePlan, ServicePlan]:
    """Return service S of main, with all of `MAINS`, and of a version that says `own`."""
    found = plan(store, {"services": {"S": MAINS}, "canary": canary(a={"services": {"S": own}})})
    return found.targets["main"].services["S"], found.targets["a"].services["S"]


def test_a_version_that_says_nothing_runs_as_main_does(store: BentoStore) -> None:
    found = plan(store, {"services": {"S": MAINS}, "canary": canary(a={})})
    main, a = found.targets["main"], found.targets["a"]
    assert a.services == main.services
    assert (a.timeout_s, a.capacity) == (main.timeout_s, main.capacity) == (9.0, 4)


CHANGED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "instance_type": (
        {"instance_type": "cpu.1"},
        {"instance_type": "cpu.1", "resources": {"num_cpus": 0.5, "memory": 2 * 2**30}},
    ),
    "min_replicas": (
        {"scaling": {"min_replicas": 3}},
        {"scaling": {"min_replicas": 3, "initial_replicas": None}},
    ),
    "max_replicas": ({"scaling": {"max_replicas": 9}}, {"scaling": {"max_replicas": 9}}),
    "scale up": (
        {"scaling": {"policy": {"scale_up_stabilization_window": 0}}},
        {"scaling": {"upscale_delay_s": 0.0}},
    ),
    "scale down": (
        {"scaling": {"policy": {"scale_down_stabilization_window": 99}}},
        {"scaling": {"downscale_delay_s": 99.0}},
    ),
    "concurrency": (
        {"config_overrides": {"traffic": {"concurrency": 6}}},
        {
            "config_overrides": {"traffic": {"timeout": 9, "concurrency": 6, "max_concurrency": 600}, "workers": 2},
            "scaling": {"target_ongoing_requests": 6.0},
        },
    ),
    "max_concurrency": (
        {"config_overrides": {"traffic": {"max_concurrency": 700}}},
        {
            "config_overrides": {"traffic": {"timeout": 9, "concurrency": 4, "max_concurrency": 700}, "workers": 2},
            "max_ongoing_requests": 1400,
        },
    ),
    "workers": (
        {"config_overrides": {"workers": 1}},
        {"config_overrides": {"traffic": MAINS["config_overrides"]["traffic"], "workers": 1}},
    ),
    "deployment_strategy": (
        {"deployment_strategy": "RampedSlowRollout"},
        {"rollout": {"strategy": "RampedSlowRollout", "max_surge_percent": 1, "rolling_update_percentage": 0.01}},
    ),
    "envs": ({"envs": env(X="1")}, {"envs": {"X": "1"}}),
    "an empty block": ({"scaling": {}, "config_overrides": {}, "envs": []}, {}),
}


@pytest.mark.parametrize(("own", "changed"), CHANGED.values(), ids=CHANGED.keys())
def test_a_version_that_says_one_key_keeps_all_others_of_main(
    store: BentoStore, own: dict[str, Any], changed: dict[str, Any]
) -> None:
    main, a = (service.model_dump() for service in inherited(store, own))
    wanted = {key: {**main[key], **value} if key == "scaling" else value for key, value in changed.items()}
    assert a == {**main, **wanted}


def test_a_block_that_is_null_says_nothing(store: BentoStore) -> None:
    main, a = inherited(store, {"scaling": None, "config_overrides": None})
    assert a == main


def test_a_version_inherits_for_the_services_that_its_own_bento_has(store: BentoStore) -> None:
    found = plan(store, {"services": {"S": MAINS}, "canary": canary(a={"bento": "n:1"})})
    (service,) = found.targets["a"].services.values()
    assert (service.name, service.instance_type, service.scaling.max_replicas) == ("N", None, 1)


def test_envs_are_merged_by_name_from_four_layers(store: BentoStore) -> None:
    def layer(number: int) -> list[dict[str, str]]:
        return env(**{name: str(number) for name in ("ONE", "TWO", "THREE", "FOUR")[number - 1 :]})

    found = plan(
        store,
        {
            "envs": layer(1),
            "services": {"S": {"envs": layer(2)}},
            "canary": canary(a={"envs": layer(3), "services": {"S": {"envs": layer(4)}}}),
        },
    )
    main, a = found.targets["main"].services, found.targets["a"].services
    assert main["S"].envs == {"ONE": "1", "TWO": "2", "THREE": "2", "FOUR": "2"}
    assert main["T"].envs == dict.fromkeys(("ONE", "TWO", "THREE", "FOUR"), "1")
    assert a["S"].envs == {"ONE": "1", "TWO": "2", "THREE": "3", "FOUR": "4"}
    assert a["T"].envs == {"ONE": "1", "TWO": "1", "THREE": "3", "FOUR": "3"}
    assert list(a["S"].envs) == sorted(a["S"].envs), "in the order of the names, so that no edit moves them"


def test_a_minimum_above_the_maximum_that_is_inherited_is_refused(store: BentoStore) -> None:
    data = {"services": {"S": MAINS}, "canary": canary(a={"services": {"S": {"scaling": {"min_replicas": 6}}}})}
    assert problems(store, data) == [
        "canary.versions.a.services.S.scaling.min_replicas: 6 is more than max_replicas, which is 5, "
        "once main's scaling is inherited"
    ]


# The split. -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b", "main"), [(0, 0, 100), (20, 30, 50), (100, 0, 0), (50, 50, 0)])
def test_main_gets_what_the_versions_leave(store: BentoStore, a: int, b: int, main: int) -> None:
    found = plan(store, {"canary": canary(a={"weight": a}, b={"weight": b})})
    assert found.weights() == found.arms() == {"main": main, "a": a, "b": b}


@pytest.mark.parametrize("data", [{}, {"canary": None}, {"canary": {}}, {"canary": {"versions": {}}}])
def test_without_versions_main_gets_everything(store: BentoStore, data: dict[str, Any]) -> None:
    found = plan(store, data)
    assert (found.weights(), found.route_type, found.route_by) == ({"main": 100}, "random", None)


def test_a_route_by_is_kept_unless_the_split_is_random(store: BentoStore) -> None:
    versions = canary(a={})["versions"]
    by_header = plan(store, {"canary": {"route_type": "header", "route_by": "X-User-ID", "versions": versions}})
    at_random = plan(store, {"canary": {"route_type": "random", "route_by": "X-User-ID", "versions": versions}})
    assert (by_header.route_type, by_header.route_by) == ("header", "X-User-ID")
    assert (at_random.route_type, at_random.route_by) == ("random", None)
    assert at_random.warnings == ("canary.route_by: is ignored: route_type is random",)


def test_targets_are_called_as_on_bentocloud_and_served_by_applications_named_by_their_role(store: BentoStore) -> None:
    targets = plan(store, {"canary": canary(a={})}).targets
    assert [(one.label, one.application, one.arm) for one in targets.values()] == [
        ("d", "d-main", "main"),
        ("d-canary-a", "d-canary-a", "a"),
    ]
    assert (application_name("d", "main"), application_name("d", "a")) == ("d-main", "d-canary-a")


def test_the_file_can_name_the_application_that_serves_a_target(store: BentoStore) -> None:
    targets = plan(store, {"canary": canary(a={}), "ray": {"applications": {"main": "d-canary-a2"}}}).targets
    assert [one.application for one in targets.values()] == ["d-canary-a2", "d-canary-a"]


# Bentos. --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked_for", "pinned"), [("m", "m:v1"), ("m:latest", "m:v1"), ("m:v", "m:v1"), ("M", "m:v1")])
def test_every_bento_is_pinned(store: BentoStore, asked_for: str, pinned: str) -> None:
    found = plan(store, {"bento": asked_for, "canary": canary(a={"bento": asked_for})})
    assert [(one.asked_for, one.bento) for one in found.targets.values()] == [(asked_for, pinned)] * 2


def test_every_service_of_a_bento_is_planned_with_what_it_calls(store: BentoStore) -> None:
    target = plan(store, {}).targets["main"]
    assert target.entry_service == "S"
    assert {name: service.depends for name, service in target.services.items()} == {"S": ("T",), "T": ()}


def test_all_problems_of_a_file_are_told_at_once_each_with_its_path(store: BentoStore) -> None:
    data = {
        "bento": "quite-another",
        "services": {"S": {"instance_type": "gpu.l4.11"}},
        "canary": canary(
            a={"bento": "m:w2"},
            b={"services": {"Ss": {}, "X": {}}},
            c={"bento": "asking:1", "services": {"S": {"instance_type": "cpu.88"}}},
            d={"bento": "n:1", "services": {"N": {"instance_type": "cpu.1"}}},
        ),
    }
    found = problems(store, data)
    known = "the built-in catalogue has "
    assert [text.partition(known)[0] for text in found] == [
        f"bento: there is no Bento quite-another in {store.path}; the Bentos there are asking, limited, m, n, tasks",
        "canary.versions.a.bento: m:w2 could be any of w21, w20: write more of the version",
        "canary.versions.b.services.Ss: Bento m:v1 has no such service; did you mean 'S'?",
        "canary.versions.b.services.X: Bento m:v1 has no such service; it has S, T",
        "services.S.instance_type: there is no instance type \"gpu.l4.11\"; did you mean 'gpu.l4.1'? ",
        "canary.versions.c.services.S.instance_type: there is no instance type \"cpu.88\"; did you mean 'cpu.8'? ",
        "canary.versions.c.envs: Bento asking:1 requires A, which nothing sets for c; "
        "set it here, or in the envs of main or of the service, or name a secret that has it",
    ]


@pytest.mark.parametrize(
    "data",
    [
        {"envs": env(A="1")},
        {"services": {"S": {"envs": env(A="1")}}},
        {"canary": canary(a={"bento": "asking:1", "envs": env(A="1")})},
        {"canary": canary(a={"bento": "asking:1", "services": {"S": {"envs": env(A="1")}}})},
    ],
    ids=["the file", "main's service", "the version", "the version's service"],
)
def test_a_required_env_may_be_set_in_any_layer(store: BentoStore, data: dict[str, Any]) -> None:
    found = plan(store, {"canary": canary(a={"bento": "asking:1"}), **data})
    assert found.targets["a"].services["S"].envs == {"A": "1"}


def test_a_required_env_of_any_version_must_be_set_for_its_entry_service(store: BentoStore) -> None:
    sentence = (
        "Bento asking:1 requires A, which nothing sets for {}; "
        "set it here, or in the envs of main or of the service, or name a secret that has it"
    )
    assert problems(store, {"bento": "asking:1"}) == ["envs: " + sentence.format("main")]
    elsewhere = {"services": {"T": {"envs": env(A="1")}}}
    data = {"canary": canary(a={"bento": "asking:1"}, b={"bento": "asking:1", **elsewhere}, c={"envs": env(A="1")})}
    assert problems(store, data) == [
        "canary.versions.a.envs: " + sentence.format("a"),
        "canary.versions.b.envs: " + sentence.format("b"),
    ]


# Secrets, by name. ----------------------------------------------------------------------------------------------------


def secrets_of(plan: Plan) -> dict[str, list[str]]:
    return {key: [secret.name for secret in target.secrets] for key, target in plan.targets.items()}


def test_a_version_has_mains_secrets_and_then_its_own(store: BentoStore) -> None:
    found = plan(store, {"secrets": ["x", "y"], "canary": canary(a={"secrets": ["z", "x"]}, b={})})
    assert secrets_of(found) == {"main": ["x", "y"], "a": ["x", "y", "z"], "b": ["x", "y"]}
    only = plan(store, {"canary": canary(a={"secrets": ["z"]})})
    assert secrets_of(only) == {"main": [], "a": ["z"]}


def test_a_plan_says_of_a_secret_how_it_reaches_the_bento_and_where_it_is_looked_up(store: BentoStore) -> None:
    said = {"keyed": {"keys": ["A", "B"]}, "cert": {"type": "file", "path": "app/certs"}, "bare": {"type": "file"}}
    found = plan(store, {"secrets": ["plain", *said], "ray": {"secrets": said}}).targets["main"].secrets
    folder = "${RAY_CANARY_SECRETS_DIR:-/etc/ray-canary/secrets}"
    assert [(one.name, one.reaches, one.looked_up) for one in found] == [
        ("plain", "environment variables, one a key", f"{folder}/plain on its node"),
        ("keyed", "environment variables A, B", f"{folder}/keyed on its node, else A, B in the node's environment"),
        ("cert", "files in $BENTOML_HOME/app/certs", f"{folder}/cert on its node"),
        ("bare", "files in $BENTOML_HOME/bare", f"{folder}/bare on its node"),
    ]


@pytest.mark.parametrize("version", [False, True])
def test_a_required_env_may_come_from_a_secrets_declared_key(store: BentoStore, version: bool) -> None:
    said = {"secrets": ["s"], "ray": {"secrets": {"s": {"keys": ["A"]}}}}
    own = canary(a={"bento": "asking:1"}) if version else None
    assert plan(store, {"bento": "m:v1" if version else "asking:1", **said, "canary": own}).warnings == ()
    data = {"bento": "asking:1", **said, "ray": {"secrets": {"s": {"keys": ["B"]}}}}
    assert "requires A, which nothing sets for main" in problems(store, data)[0]


def test_a_required_env_that_only_an_unread_secret_may_have_is_left_to_the_replica_and_said(store: BentoStore) -> None:
    found = plan(store, {"canary": canary(a={"bento": "asking:1", "secrets": ["s", "t"]})})
    assert found.warnings == (
        "canary.versions.a.secrets: Bento asking:1 requires A; whether s, t has it shows only when a replica starts, "
        "unless ray.secrets names the keys",
    )


def test_a_file_secret_sets_no_env(store: BentoStore) -> None:
    data = {"bento": "asking:1", "secrets": ["s"], "ray": {"secrets": {"s": {"type": "file"}}}}
    assert "requires A, which nothing sets for main" in problems(store, data)[0]


# What a replica reserves, and how replicas come and go. ---------------------------------------------------------------


def service(store: BentoStore, data: Mapping[str, Any], name: str = "S", bento: str = "m:v1") -> ServicePlan:
    return plan(store, {"bento": bento, "services": {name: data}}).targets["main"].services[name]


def test_resources_are_the_instance_types_else_the_files_else_the_bentos_else_one_cpu(store: BentoStore) -> None:
    of_file = {"config_overrides": {"resources": {"cpu": "500m", "memory": "3Gi"}}}
    assert service(store, {"instance_type": "cpu.1", **of_file}).resources == {"num_cpus": 0.5, "memory": 2 * 2**30}
    assert service(store, of_file).resources == {"num_cpus": 0.5, "memory": 3 * 2**30}
    assert service(store, {}).resources == {"num_cpus": 2.0, "memory": 2**30}
    assert service(store, {}, "N", "n:1").resources == {"num_cpus": 1.0}


def test_a_gpu_is_asked_for_in_rays_words(store: BentoStore) -> None:
    found = service(store, {"config_overrides": {"resources": {"gpu": 1, "gpu_type": "nvidia-l4"}}}).resources
    assert found == {"num_cpus": 1.0, "num_gpus": 1.0, "accelerator_type": "L4"}


def test_a_bentos_kind_of_gpu_that_is_not_known_is_a_warning(tmp_path: Path) -> None:
    write_bento(tmp_path, "s:1", {"S": {"resources": {"gpu": 1, "gpu_type": "nvidia-l99"}}})
    file = {"name": "d", "bento": "s:1"}
    plan = resolve(config.parse(file), BentoStore(tmp_path), Catalogue.default())
    (said,) = (warning for warning in plan.warnings if "nvidia-l99" in warning)
    assert said == (
        "services.S.resources: the gpu_type nvidia-l99 is not known here, so any GPU will do; did you mean "
        "'nvidia-l4'? An instance type can name another kind, by accelerator_type"
    )


def test_a_kind_of_gpu_without_a_number_of_them_is_a_warning(store: BentoStore) -> None:
    resources = {"config_overrides": {"resources": {"gpu_type": "nvidia-l4"}}}
    found = plan(store, {"bento": "m:v1", "services": {"S": resources}})
    assert [warning for warning in found.warnings if "gpu_type" in warning] == [
        "services.S.resources: the gpu_type nvidia-l4 has no effect, as no `gpu` says how many a replica gets"
    ]


def test_a_files_kind_of_gpu_that_is_not_known_is_one_too_unless_an_instance_type_is_named(store: BentoStore) -> None:
    resources = {"config_overrides": {"resources": {"gpu": 1, "gpu_type": "nvidia-l40s"}}}

    def warnings(**more: Any) -> list[str]:
        found = plan(store, {"bento": "m:v1", "services": {"S": {**resources, **more}}}).warnings
        return [warning for warning in found if "gpu_type" in warning]

    assert len(warnings()) == 1
    assert warnings(instance_type="gpu.l4.1") == []


@pytest.mark.parametrize(
    ("said", "least", "first", "most"),
    [
        (None, 1, None, 1),
        ({}, 1, None, 1),
        ({"min_replicas": 3}, 3, None, 3),
        ({"max_replicas": 3}, 1, None, 3),
        ({"min_replicas": 0}, 0, 1, 1),
        ({"min_replicas": 0, "max_replicas": 4}, 0, 1, 4),
        ({"min_replicas": 2, "max_replicas": 2}, 2, None, 2),
    ],
)
def test_scaling_has_bentoclouds_defaults_and_never_starts_at_zero(
    store: BentoStore, said: dict[str, Any] | None, least: int, first: int | None, most: int
) -> None:
    scaling = service(store, {"scaling": said}).scaling
    assert (scaling.min_replicas, scaling.initial_replicas, scaling.max_replicas) == (least, first, most)
    assert (scaling.upscale_delay_s, scaling.downscale_delay_s) == (30.0, 600.0)


@pytest.mark.parametrize(
    ("strategy", "named", "surge", "batch"),
    [
        (None, "RollingUpdate", 25, 0.25),
        ("RollingUpdate", "RollingUpdate", 25, 0.25),
        ("Recreate", "Recreate", 0, 1.0),
        ("RampedSlowRollout", "RampedSlowRollout", 1, 0.01),
        ("BestEffortControlledRollout", "BestEffortControlledRollout", 0, 0.2),
    ],
)
def test_a_strategy_becomes_a_surge_and_a_batch(
    store: BentoStore, strategy: str | None, named: str, surge: int, batch: float
) -> None:
    rollout = service(store, {"deployment_strategy": strategy} if strategy else {}).rollout
    assert (rollout.strategy, rollout.max_surge_percent, rollout.rolling_update_percentage) == (named, surge, batch)


def test_scaling_aims_at_the_concurrency_that_somebody_chose(store: BentoStore) -> None:
    chosen = {"config_overrides": {"traffic": {"concurrency": 5}}}
    assert service(store, chosen).scaling.target_ongoing_requests == 5
    assert service(store, {}).scaling.target_ongoing_requests == 3, "the Bento's"
    assert service(store, {}, "N", "n:1").scaling.target_ongoing_requests == 2, "nobody's"
    assert service(store, {}, bento="tasks:1").scaling.target_ongoing_requests == 2, "BentoML's own, for tasks"
    assert service(store, chosen, bento="tasks:1").scaling.target_ongoing_requests == 5


def test_the_capacity_of_a_target_is_its_concurrency_else_what_serve_gives_a_replica(store: BentoStore) -> None:
    assert plan(store, {}).targets["main"].capacity == 3
    assert plan(store, {"bento": "n:1"}).targets["main"].capacity == 1000
    hosts = {"ray": {"hosts": {"max_ongoing_requests": 40}}}
    assert plan(store, {"bento": "n:1", **hosts}).targets["main"].capacity == 40


def test_serve_never_holds_back_what_the_bento_would_answer_with_429(store: BentoStore) -> None:
    assert service(store, {}, bento="limited:1").max_ongoing_requests == 6000
    assert service(store, {"config_overrides": {"traffic": {"max_concurrency": 4}}}).max_ongoing_requests == 1000


def test_the_timeout_is_the_files_else_the_bentos_else_bentomls(store: BentoStore) -> None:
    override = {"services": {"S": {"config_overrides": {"traffic": {"timeout": 2.5}}}}}
    assert plan(store, override).targets["main"].timeout_s == 2.5
    assert plan(store, {}).targets["main"].timeout_s == 7
    assert plan(store, {"bento": "n:1"}).targets["main"].timeout_s == 60


def test_every_default_is_stated_with_its_key_its_value_and_a_reason(store: BentoStore) -> None:
    found = plan(store, {"bento": "n:1"}).defaults
    assert {one.path: one.value for one in found} == {
        "services.N.instance_type": "1 CPU",
        "services.N.scaling.min_replicas": "1",
        "services.N.scaling.max_replicas": "1",
        "services.N.scaling.policy.scale_up_stabilization_window": "30",
        "services.N.scaling.policy.scale_down_stabilization_window": "600",
        "services.N.deployment_strategy": "RollingUpdate",
        "services.N.config_overrides.traffic.concurrency": "2 for scaling",
        "ray.ingress.num_replicas": "2",
        "ray.ingress.num_cpus": "0.25",
        "ray.ingress.max_ongoing_requests": "1000",
        "ray.ingress.target_wait_s": "0.25",
        "ray.hosts.max_ongoing_requests": "1000",
        "ray.hosts.graceful_shutdown_timeout_s": "600",
    }
    assert all(one.reason for one in found)


def test_what_the_file_says_is_no_default(store: BentoStore) -> None:
    ray = {
        "ingress": {"num_replicas": 1, "num_cpus": 1, "max_ongoing_requests": 9, "target_wait_s": 1},
        "hosts": {"max_ongoing_requests": 9, "graceful_shutdown_timeout_s": 9},
    }
    assert plan(store, {"bento": "n:1", "services": {"N": MAINS}, "ray": ray}).defaults == ()


def test_a_key_without_effect_is_a_warning(store: BentoStore) -> None:
    (warning,) = plan(store, {"cluster": "aws"}).warnings
    assert warning.startswith("cluster: has no meaning here")


# The plan as data. ----------------------------------------------------------------------------------------------------


def test_a_plan_survives_json(tmp_path: Path) -> None:
    store = demo_store(tmp_path)
    for name in ("summarization", "header", "random"):
        found = resolve(config.load(CONFIGS / f"{name}.yaml"), store, Catalogue.default())
        assert Plan.model_validate_json(json.dumps(found.to_dict())) == found


def test_the_published_file_means_what_it_says(tmp_path: Path) -> None:
    found = resolve(config.load(CONFIGS / "summarization.yaml"), demo_store(tmp_path), Catalogue.default())
    services = {key: target.services["Summarization"] for key, target in found.targets.items()}
    assert found.weights() == {"main": 50, "a": 20, "b": 30}
    assert {key: one.resources["num_cpus"] for key, one in services.items()} == {"main": 1.0, "a": 0.5, "b": 2.0}
    assert {key: one.scaling.max_replicas for key, one in services.items()} == {"main": 1, "a": 2, "b": 3}
    assert {one.scaling.upscale_delay_s for one in services.values()} == {0.0}
    assert {key: one.envs for key, one in services.items()} == {
        "main": {},
        "a": {"VAR_NAME": "var_value"},
        "b": {"VAR_NAME": "var_value"},
    }


def test_differences_are_named_by_path_with_both_values(store: BentoStore) -> None:
    before = plan(store, {"canary": canary(a={"weight": 20, "envs": env(X="1")})})
    after = plan(store, {"canary": canary(a={"weight": 30, "envs": env(Y="2")})})
    found = {path: (here, there) for path, here, there in before.differences(after)}
    assert found["targets.main.weight"] == (80, 70)
    assert found["targets.a.weight"] == (20, 30)
    assert found["targets.a.services.S.envs.X"] == ("1", None)
    assert found["targets.a.services.S.envs.Y"] == (None, "2")
    assert {path.split(".")[0] for path in found} == {"targets", "file"}
    assert before.differences(before) == ()


# Queues ---------------------------------------------------------------------------------------------------------------


def with_queue(store: BentoStore, bento: str = "m:v1", ray: dict[str, Any] | None = None, **traffic: Any) -> Plan:
    """Return the plan of a Bento whose services S and T have these traffic settings."""
    both = {name: {"config_overrides": {"traffic": traffic}} for name in (("S", "T") if bento == "m:v1" else ("S",))}
    return plan(store, {"bento": bento, "services": both, "ray": ray or {}})


def test_a_replica_behind_a_queue_is_never_given_more_than_concurrency(store: BentoStore) -> None:
    found = with_queue(store, external_queue=True, concurrency=4).targets["main"]
    assert (found.services["S"].max_ongoing_requests, found.capacity, found.max_queue_depth) == (4, 4, 10_000)
    assert found.services["S"].scaling.target_ongoing_requests == 4


def test_how_many_may_wait_is_set_for_all_queues(store: BentoStore) -> None:
    found = with_queue(store, ray={"queue": {"max_depth": 7}}, external_queue=True, concurrency=4)
    assert found.targets["main"].max_queue_depth == 7


def test_only_the_entry_service_has_a_queue(store: BentoStore) -> None:
    found = with_queue(store, external_queue=True, concurrency=4)
    assert found.targets["main"].services["T"].max_ongoing_requests == 1000
    path = "services.T.config_overrides.traffic.external_queue"
    assert f"{path}: has no effect: only the entry service has a queue" in found.warnings


def test_a_bento_behind_a_queue_refuses_nothing_by_itself(store: BentoStore) -> None:
    found = with_queue(store, external_queue=True, concurrency=4, max_concurrency=2)
    traffic = found.targets["main"].services["S"].config_overrides["traffic"]
    assert traffic["max_concurrency"] is None
    path = "services.S.config_overrides.traffic.max_concurrency"
    assert f"{path}: has no effect: external_queue holds back what is above concurrency" in found.warnings


def test_a_limit_that_the_bento_itself_has_gives_way_to_a_queue_too(store: BentoStore) -> None:
    found = with_queue(store, "limited:1", external_queue=True, concurrency=4).targets["main"].services["S"]
    assert found.config_overrides["traffic"]["max_concurrency"] is None
    assert found.max_ongoing_requests == 4


@pytest.mark.parametrize(
    ("own", "said", "queued"),
    [
        ({"external_queue": True, "concurrency": 1}, {}, False),
        ({"external_queue": True, "concurrency": 1}, {"concurrency": 4}, False),
        ({"external_queue": True, "concurrency": 1}, {"external_queue": True, "concurrency": 1}, True),
        ({"external_queue": True, "concurrency": 8}, {}, True),
        ({"external_queue": True, "concurrency": 8}, {"external_queue": False}, False),
        ({"external_queue": True}, {}, False),
        ({"concurrency": 8}, {}, False),
        ({"concurrency": 8}, {"external_queue": True, "concurrency": 8}, True),
    ],
)
def test_a_queue_is_there_only_if_somebody_chose_it_and_a_task_is_nobodys_choice(
    tmp_path: Path, own: dict[str, Any], said: dict[str, Any], queued: bool
) -> None:
    write_bento(tmp_path, "q:1", {"S": {"traffic": own}})
    file = {"bento": "q:1", "services": {"S": {"config_overrides": {"traffic": said}}}}
    found = plan(BentoStore(tmp_path), file).targets["main"]
    assert (found.max_queue_depth is not None) is queued
    assert (found.services["S"].max_ongoing_requests < 1000) is queued


# Tasks. ---------------------------------------------------------------------------------------------------------------


def task_warnings(store: BentoStore, **scaling: int) -> tuple[str, ...]:
    write_bento(store.path, "jobs:1", {"S": {}}, tasks=("job",))
    return plan(store, {"bento": "jobs:1", "services": {"S": {"scaling": scaling}}}).warnings


@pytest.mark.parametrize("least", [0, 1])
def test_a_version_with_tasks_that_scales_is_warned_of_what_goes_with_a_replica(store: BentoStore, least: int) -> None:
    (warning,) = task_warnings(store, min_replicas=least, max_replicas=3)
    assert warning.startswith(f"services.S.scaling: main has tasks, and may scale from 3 to {least} replicas")


@pytest.mark.parametrize("count", [1, 3])
def test_a_version_with_tasks_that_never_scales_is_not(store: BentoStore, count: int) -> None:
    assert task_warnings(store, min_replicas=count, max_replicas=count) == ()


def test_a_version_without_tasks_that_scales_is_not(store: BentoStore) -> None:
    assert plan(store, {"services": {"S": {"scaling": {"min_replicas": 0, "max_replicas": 3}}}}).warnings == ()
