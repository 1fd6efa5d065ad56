"""The generated pages: every key has a row, and what a row says an edit restarts is what Serve would restart."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_canary import config, file_keys, metrics, reference
from ray_canary.bentos import BentoStore
from ray_canary.file_keys import SERVICE, VERSION, Key, Restarts
from ray_canary.instances import Catalogue
from ray_canary.plan import Plan
from ray_canary.resolving import resolve
from ray_canary.serving import compile
from ray_canary.serving.changes import Effect, changes
from ray_canary.serving.state import OnCluster

Data = dict[str, Any]
Deployment = tuple[str, str]

INGRESS = ("words", "Ingress")
INGRESS_ONLY = frozenset({INGRESS})
SERVICES = ("Entry", "Inner")

#: Two legal values of every key that holds one: before and after an edit.
VALUES: Mapping[str, tuple[Any, Any]] = {
    "name": ("words", "others"),
    "bento": ("words:v1", "words:v4"),
    "cluster": ("here", "there"),
    "access_authorization": (False, True),
    "envs": ([{"name": "TOP", "value": "1"}], [{"name": "TOP", "value": "2"}]),
    "secrets": (["one"], ["two"]),
    "labels": ([{"key": "team", "value": "a"}], [{"key": "team", "value": "b"}]),
    "dev": (False, True),
    "description": ("one", "two"),
    f"{SERVICE}.instance_type": ("cpu.1", "cpu.2"),
    f"{SERVICE}.scaling.min_replicas": (1, 0),
    f"{SERVICE}.scaling.max_replicas": (2, 3),
    f"{SERVICE}.scaling.policy.scale_up_stabilization_window": (10, 20),
    f"{SERVICE}.scaling.policy.scale_down_stabilization_window": (10, 20),
    f"{SERVICE}.scaling.policy.scale_up_behavior": ("fast", "stable"),
    f"{SERVICE}.scaling.policy.scale_down_behavior": ("fast", "stable"),
    f"{SERVICE}.scaling.policy.metrics": ([{"type": "cpu"}], [{"type": "gpu"}]),
    f"{SERVICE}.envs": ([{"name": "OWN", "value": "1"}], [{"name": "OWN", "value": "2"}]),
    f"{SERVICE}.config_overrides.traffic.timeout": (10, 20),
    f"{SERVICE}.config_overrides.traffic.max_concurrency": (1000, 2000),
    f"{SERVICE}.config_overrides.traffic.concurrency": (10, 20),
    f"{SERVICE}.config_overrides.traffic.external_queue": (False, True),
    f"{SERVICE}.config_overrides.resources.cpu": (1, 2),
    f"{SERVICE}.config_overrides.resources.memory": ("1Gi", "2Gi"),
    f"{SERVICE}.config_overrides.resources.gpu": (1, 2),
    f"{SERVICE}.config_overrides.resources.gpu_type": ("nvidia-l4", "nvidia-a10g"),
    f"{SERVICE}.config_overrides.resources.tpu_type": ("v4", "v5"),
    f"{SERVICE}.config_overrides.workers": (1, "cpu_count"),
    f"{SERVICE}.config_overrides.threads": (1, 2),
    f"{SERVICE}.config_overrides.replicate_process": (False, True),
    f"{SERVICE}.config_overrides.backlog": (64, 128),
    f"{SERVICE}.config_overrides.extra_ports": ([4000], [4001]),
    f"{SERVICE}.config_overrides.max_runner_connections": (1, 2),
    **{
        f"{SERVICE}.config_overrides.{key}": ({"enabled": False}, {"enabled": True})
        for key in (
            *("runner_connection", "metrics", "logging", "ssl", "http", "grpc", "runner_probe"),
            *("tracing", "monitoring", "endpoints"),
        )
    },
    f"{SERVICE}.deployment_strategy": ("RollingUpdate", "Recreate"),
    f"{SERVICE}.cold_start_timeout": (10, 20),
    f"{SERVICE}.extras": ({"pod": 1}, {"pod": 2}),
    "canary.route_type": ("header", "query"),
    "canary.route_by": ("X-User-ID", "X-Session"),
    VERSION: (None, {"bento": "words:v3", "weight": 5}),
    f"{VERSION}.bento": ("words:v2", "words:v4"),
    f"{VERSION}.weight": (20, 30),
    f"{VERSION}.envs": ([{"name": "OWN", "value": "1"}], [{"name": "OWN", "value": "2"}]),
    f"{VERSION}.secrets": (["one"], ["two"]),
    "ray.route_prefix": ("/", "/words"),
    "ray.http.host": ("127.0.0.1", "0.0.0.0"),
    "ray.http.port": (8000, 8001),
    "ray.ingress.num_replicas": (2, 3),
    "ray.ingress.max_replicas": (2, 3),
    "ray.ingress.target_ongoing_requests": (200, 300),
    "ray.ingress.max_replicas_per_node": (1, 2),
    "ray.ingress.node_labels.<label>": ("front", "!spot"),
    "ray.ingress.access_log": (False, True),
    "ray.ingress.num_cpus": (0.25, 0.5),
    "ray.ingress.max_ongoing_requests": (1000, 2000),
    "ray.ingress.max_body_bytes": (1000, 2000),
    "ray.ingress.target_wait_s": (0.25, 0.5),
    "ray.ingress.transport": ("auto", "handle"),
    "ray.queue.max_depth": (1000, 2000),
    "ray.hosts.max_ongoing_requests": (1000, 3000),
    "ray.hosts.graceful_shutdown_timeout_s": (600, 700),
    "ray.hosts.enforce_memory": (False, True),
    "ray.secrets.<secret>.type": ("env", "file"),
    "ray.secrets.<secret>.keys": (["A"], ["A", "B"]),
    "ray.secrets.<secret>.path": ("here", "there/in"),
    "ray.applications.<target>": ("words-canary-a", "words-of-old"),
    "ray.dependencies": ({"a": "shared"}, {"a": "isolated"}),
    "ray.placement.<target>.node_labels.<label>": ("gpu", "in(a, b)"),
    "ray.placement.<target>.max_replicas_per_node": (1, 2),
    "ray.arms.<target>": ("a", "of-old"),
    "ray.bento_store": ("/shared/bentos", "s3://bucket/bentos"),
    "ray.standalone": ([], ["a"]),
}
#: What else has to stand in the file for a key to be legal.
BESIDE: Mapping[str, Mapping[str, Any]] = {
    f"{SERVICE}.config_overrides.traffic.external_queue": {"config_overrides.traffic.concurrency": 4},
    "ray.queue.max_depth": {"services.Entry.config_overrides.traffic": {"external_queue": True, "concurrency": 4}},
    f"{SERVICE}.scaling.min_replicas": {"scaling.max_replicas": 2},
    **{f"ray.secrets.<secret>.{key}": {"canary.versions.a.secrets": ["a"]} for key in ("type", "keys")},
    "ray.secrets.<secret>.path": {"canary.versions.a.secrets": ["a"], "ray.secrets.a.type": "file"},
    f"{SERVICE}.config_overrides.resources.gpu_type": {"config_overrides.resources.gpu": 1},
    "ray.hosts.enforce_memory": {
        f"{place}services.{service}.config_overrides.resources": {"memory": "1Gi"}
        for place in ("", *(f"canary.versions.{key}." for key in "ab"))
        for service in ("Entry", "Inner")
    },
    "ray.standalone": {"envs": [{"name": "INHERITED", "value": "1"}]},
}

KEYS = file_keys.keys()
#: The service that an edit is made of, where it isn't the inner one: only the entry service meets a waiting request.
EDITED: Mapping[str, str] = {f"{SERVICE}.cold_start_timeout": "Entry"}
SERVICE_KEYS = [key for key in KEYS if key.path.startswith(f"{SERVICE}.")]
OTHER_KEYS = [key for key in KEYS if not key.path.startswith(f"{SERVICE}.")]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> BentoStore:
    """Bentos with an entry service that calls an inner one."""
    root = tmp_path_factory.mktemp("bentos")
    for version in ("v1", "v2", "v3", "v4"):
        folder = root / "words" / version
        folder.mkdir(parents=True)
        services = [
            {"name": "Entry", "dependencies": [{"service": "Inner"}], "config": {}},
            {"name": "Inner", "dependencies": [], "config": {}},
        ]
        manifest = {"name": "words", "version": version, "entry_service": "Entry", "services": services}
        image = {"python_requirements": "humanize==4.9.0"}
        (folder / "bento.yaml").write_text(yaml.safe_dump({**manifest, "image": image}))
    return BentoStore(root)


def file() -> Data:
    """Return a Deployment of main, `a`, which inherits everything, and `b`."""
    versions = {"a": {"bento": "words:v2", "weight": 20}, "b": {"bento": "words:v3", "weight": 30}}
    canary = {"route_type": "header", "route_by": "X-User-ID", "versions": versions}
    return {"name": "words", "bento": "words:v1", "canary": canary}


def put(data: Data, path: str, value: Any) -> None:
    """Set what stands at a path; None takes it out."""
    *way, last = path.split(".")
    for step in way:
        data = data.setdefault(step, {})
    if value is None:
        data.pop(last, None)
    else:
        data[last] = value


def at(key: Key, place: str) -> str:
    """Return a key's path in a place, like `services.Inner` or `canary.versions.b.services.Inner`."""
    return (
        key.path.replace(SERVICE, place)
        .replace("<version>", place)
        .replace("<target>", place)
        .replace("<label>", "pool")
        .replace("<secret>", place)
    )


def around(key: Key, place: str, *, inside: Mapping[str, Any] | None = None) -> tuple[Data, Data]:
    """Return a file before and after an edit of `key`; `inside` is set in both."""
    files = []
    for value in VALUES[key.path]:
        data = file()
        for path, beside in (inside or {}).items():
            put(data, path, copy.deepcopy(beside))
        put(data, at(key, place), copy.deepcopy(value))
        files.append(data)
    return files[0], files[1]


def compiled(data: Data, store: BentoStore) -> Plan:
    return resolve(config.parse(data), store, Catalogue.default())


def applications(plan: Plan) -> dict[str, compile.Config]:
    return {application["name"]: application for application in compile.serve_config(plan)["applications"]}


def by_effect(before: Plan, after: Plan) -> dict[Effect, set[Deployment]]:
    """Return which deployments meet which effect when one plan follows another."""
    found: dict[Effect, set[Deployment]] = {effect: set() for effect in Effect}
    for change in changes(applications(before), applications(after)):
        found[change.effect].add((change.application, change.deployment))
    return found


def without_file(plan: Plan) -> compile.Config:
    """Return a plan's Serve config without the copy of the Deployment file in it, which nothing acts on."""
    compiled = copy.deepcopy(compile.serve_config(plan))
    compiled["applications"][0]["deployments"][0]["user_config"]["file"] = None
    return compiled


def of(targets: tuple[str, ...], services: tuple[str, ...]) -> set[Deployment]:
    names = {"main": "words-main", "a": "words-canary-a", "b": "words-canary-b"}
    return {(names[target], service) for target in targets for service in services}


def assert_restarts(key: Key, before: Plan, after: Plan, restarts: set[Deployment]) -> None:
    found = by_effect(before, after)
    assert found[Effect.RESTART] == restarts
    assert (found[Effect.ADD], found[Effect.REMOVE]) == (set(), set())
    without_effect = key.restarts in (Restarts.IGNORED, Restarts.PUSH)
    assert (without_file(before) == without_file(after)) is without_effect


@pytest.mark.parametrize("key", SERVICE_KEYS, ids=lambda key: key.path)
def test_an_edit_of_mains_service_restarts_main_and_who_inherits_it(key: Key, store: BentoStore) -> None:
    edited = EDITED.get(key.path, "Inner")
    before_value = VALUES[key.path][0]
    beside = {f"services.{edited}.{path}": value for path, value in BESIDE.get(key.path, {}).items()}
    own = {at(key, f"canary.versions.b.services.{edited}"): before_value}
    before, after = around(key, f"services.{edited}", inside={**beside, **own})
    services = {Restarts.SERVICE: (edited,), Restarts.TARGET: SERVICES}.get(key.restarts, ())
    assert_restarts(key, compiled(before, store), compiled(after, store), of(("main", "a"), services))


@pytest.mark.parametrize("key", SERVICE_KEYS, ids=lambda key: key.path)
def test_an_edit_of_a_versions_service_restarts_nothing_of_another_version(key: Key, store: BentoStore) -> None:
    edited = EDITED.get(key.path, "Inner")
    place = f"canary.versions.b.services.{edited}"
    before, after = around(
        key, place, inside={f"{place}.{path}": value for path, value in BESIDE.get(key.path, {}).items()}
    )
    services = {Restarts.SERVICE: (edited,), Restarts.TARGET: SERVICES}.get(key.restarts, ())
    assert_restarts(key, compiled(before, store), compiled(after, store), of(("b",), services))


@pytest.mark.parametrize("key", OTHER_KEYS, ids=lambda key: key.path)
def test_any_other_edit_restarts_what_its_row_says(key: Key, store: BentoStore) -> None:
    edited = "c" if key.restarts is Restarts.COMES else "a"
    before, after = around(key, edited, inside=BESIDE.get(key.path))
    plans = compiled(before, store), compiled(after, store)
    match key.restarts:
        case Restarts.ANOTHER:
            assert_another(*plans)
        case Restarts.COMES:
            assert_comes(*plans)
        case Restarts.REPLACED:
            assert_replaced(*plans)
        case Restarts.UNTIL_START:
            assert_kept_until_start(*plans)
        case _:
            expected = {
                Restarts.MAIN: of(("main",), SERVICES),
                Restarts.TARGET: of(("a",), SERVICES),
                Restarts.USERS: of(("a",), SERVICES),
                Restarts.EVERY: of(("main", "a", "b"), SERVICES),
                Restarts.INGRESS: set(INGRESS_ONLY),
            }
            assert_restarts(key, *plans, expected.get(key.restarts, set()))


def assert_another(before: Plan, after: Plan) -> None:
    found = by_effect(before, after)
    assert len(found[Effect.ADD]) == len(found[Effect.REMOVE]) == 7
    assert {deployment for deployments in found.values() for deployment in deployments} == (
        found[Effect.ADD] | found[Effect.REMOVE]
    )


def assert_comes(without: Plan, with_it: Plan) -> None:
    comes = {("words-canary-c", service) for service in SERVICES}
    for before, after, effect in ((without, with_it, Effect.ADD), (with_it, without, Effect.REMOVE)):
        found = by_effect(before, after)
        assert found[effect] == comes
        assert found[Effect.LIVE] == INGRESS_ONLY
        assert found[Effect.NONE] == of(("main", "a", "b"), SERVICES)


def assert_replaced(before: Plan, after: Plan) -> None:
    found = by_effect(before, after)
    assert found[Effect.REMOVE] == of(("a",), SERVICES)
    assert found[Effect.ADD] == {("words-of-old", service) for service in SERVICES}
    assert found[Effect.LIVE] == INGRESS_ONLY
    assert found[Effect.NONE] == of(("main", "b"), SERVICES)


def assert_kept_until_start(before: Plan, after: Plan) -> None:
    found = by_effect(before, after)
    assert found[Effect.RESTART] == set()
    running = {"controller_info": {"actor_id": "1"}, "http_options": compile.serve_config(before)["http_options"]}
    wanted = compile.serve_config(after)
    merged = OnCluster({}, running).merged(wanted.pop("applications"), **wanted)
    assert merged["http_options"] == running["http_options"] != wanted["http_options"]


def test_no_edit_under_canary_restarts_the_ingress_main_or_another_version() -> None:
    under = {key.restarts for key in KEYS if key.path.startswith("canary.")}
    assert under <= {Restarts.NOTHING, Restarts.IGNORED, Restarts.TARGET, Restarts.COMES}


def test_every_key_has_two_values_to_try_and_no_value_is_without_a_key() -> None:
    assert {key.path for key in KEYS} == set(VALUES)


def test_every_row_of_the_table_speaks_of_a_key() -> None:
    unused = [
        pattern for pattern, _ in file_keys._EFFECTS if not any(file_keys._matches(pattern, key.path) for key in KEYS)
    ]
    assert unused == []
    assert set(file_keys._LEFT_OUT) <= {key.path for key in KEYS}


def test_a_key_that_the_table_forgets_is_an_error() -> None:
    with pytest.raises(LookupError, match="new.key"):
        _ = Key("new.key", "text", "none", "New.").restarts


def test_the_defaults_on_the_page_are_the_plans(store: BentoStore) -> None:
    plan = compiled({"name": "words", "bento": "words:v1"}, store)
    service = plan.targets["main"].services["Entry"]
    said = {key.path.removeprefix(f"{SERVICE}."): key.default for key in SERVICE_KEYS}
    assert said["scaling.min_replicas"] == f"`{service.scaling.min_replicas}`"
    assert said["scaling.max_replicas"].endswith(f"`{service.scaling.max_replicas}`")
    windows = "scaling.policy.scale_{}_stabilization_window"
    assert said[windows.format("up")] == f"`{service.scaling.upscale_delay_s:g}`"
    assert said[windows.format("down")] == f"`{service.scaling.downscale_delay_s:g}`"
    assert said["deployment_strategy"] == f"`{service.rollout.strategy}`"
    assert f"`{plan.targets['main'].timeout_s:g}`" in said["config_overrides.traffic.timeout"]
    assert f"`{service.scaling.target_ongoing_requests:g}`" in said["config_overrides.traffic.concurrency"]
    assert service.resources == {"num_cpus": 1.0}


def test_every_key_has_a_sentence() -> None:
    assert [key.path for key in KEYS if not key.description.endswith(".")] == []


def test_every_metric_is_on_its_page_under_the_name_that_prometheus_sees() -> None:
    page = reference.metrics_table()
    assert "`ray_canary_requests_total`" in page
    assert "`ray_canary_in_flight`" in page
    for metric in metrics.ALL:
        assert f"`{metrics.exported(metric)}`" in page
        assert metric.description in page.replace("\\_", "_")


def test_both_pages_are_written(tmp_path: Path) -> None:
    reference.write(tmp_path)
    assert (tmp_path / "configuration.md").read_text() == reference.configuration()
    assert (tmp_path / "metrics.md").read_text() == reference.metrics_table()
