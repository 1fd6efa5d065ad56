"""The Deployment file, as its user writes and reads it."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from ray_canary import config
from ray_canary.errors import ConfigError, Problem, path_text
from ray_canary.places import Kind, kind

CONFIGS = Path(__file__).parents[2] / "configs"
EXAMPLES = ("summarization", "header", "random")


def canary(**versions: Any) -> dict[str, Any]:
    """Return a minimal file with these canary versions."""
    return {"name": "s", "bento": "s", "canary": {"route_type": "random", "versions": versions}}


def test_the_published_file_is_accepted_as_it_stands() -> None:
    file = config.load(CONFIGS / "summarization.yaml")
    assert (file.name, file.bento) == ("summarization-blel", "summarization:xq4dggshm25lecvj")
    assert file.canary is not None
    assert (file.canary.route_type, file.canary.route_by) == ("query", "feature")
    assert {key: version.weight for key, version in file.canary.versions.items()} == {"a": 20, "b": 30}
    service = file.canary.versions["a"].services["Summarization"]
    assert service.instance_type == "cpu.1"
    assert service.envs == (config.Env(name="VAR_NAME", value="var_value"),)
    assert file.warnings() == ()


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_says_nothing_superfluous_and_comes_back_as_it_was(name: str) -> None:
    file = config.load(CONFIGS / f"{name}.yaml")
    assert file.warnings() == ()
    assert file.to_dict() == yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


def test_the_examples_split_the_same_bentos_by_query_by_header_and_at_random() -> None:
    files = [config.load(CONFIGS / f"{name}.yaml") for name in EXAMPLES]
    assert [file.canary and file.canary.route_type for file in files] == ["query", "header", "random"]
    assert len({(file.bento, *(v.bento for v in file.canary.versions.values())) for file in files if file.canary}) == 1


def test_what_is_not_set_has_the_documented_default() -> None:
    ray = config.parse({"name": "s", "bento": "s"}).ray
    assert (ray.route_prefix, ray.http.host, ray.http.port, ray.applications) == ("/", "127.0.0.1", 8000, {})
    assert (ray.ingress.num_replicas, ray.ingress.num_cpus, ray.ingress.max_ongoing_requests) == (2, 0.25, 1000)
    assert (ray.ingress.max_body_bytes, ray.ingress.target_wait_s) == (100_000_000, 0.25)
    assert (ray.hosts.max_ongoing_requests, ray.hosts.graceful_shutdown_timeout_s) == (1000, 600)


@pytest.mark.parametrize("nothing", [None, {}, {"versions": {}}, {"versions": None}, {"route_type": "random"}])
def test_without_versions_main_gets_everything(nothing: dict[str, Any] | None) -> None:
    file = config.parse({"name": "s", "bento": "s", "canary": nothing})
    assert file.canary is None or file.canary.versions == {}


def test_a_block_with_nothing_in_it_is_as_good_as_none() -> None:
    file = config.loads("name: s\nbento: s\nenvs:\nservices:\nray:\n  ingress:\n")
    assert (file.envs, file.services, file.ray) == ((), {}, config.RayBlock())


@pytest.mark.parametrize("weights", [(0, 0), (100, 0), (40, 60), (1, 2)])
def test_weights_up_to_100_in_sum_are_legal(weights: tuple[int, int]) -> None:
    config.parse(canary(a={"bento": "s", "weight": weights[0]}, b={"bento": "s", "weight": weights[1]}))


@pytest.mark.parametrize("tag", ["s", "s:1", "s:latest", "S.x_y-z:V1.0", f"{'s' * 63}:{'1' * 63}"])
def test_a_bento_is_named_by_its_tag(tag: str) -> None:
    assert config.parse({"name": "s", "bento": tag}).bento == tag


@pytest.mark.parametrize(
    ("bento", "what"),
    [
        ("s", Kind.TAG),
        ("s.bento", Kind.TAG),
        (".", Kind.PROJECT),
        ("./s", Kind.PROJECT),
        ("/home/s", Kind.PROJECT),
        ("../s.bento", Kind.ARCHIVE),
        ("/home/s.tar.gz", Kind.ARCHIVE),
        ("s3://bucket/s.bento", Kind.URL),
        ("HTTPS://host/s?version=3", Kind.URL),
        ("file:///shared/s.bento", Kind.URL),
        ("abfs://container@account.dfs.example/s.bento", Kind.URL),
    ],
)
def test_a_bento_may_be_a_project_an_archive_or_a_url_and_the_file_keeps_what_was_written(
    bento: str, what: Kind
) -> None:
    file = config.parse({"name": "s", "bento": bento})
    assert (file.bento, kind(file.bento)) == (bento, what)


@pytest.mark.parametrize("field", ["bento", "store"])
@pytest.mark.parametrize("url", ["s3://me:hunter22@bucket/s", "s3://hunter22@bucket/s", "https:/me:hunter22@host/s"])
def test_a_credential_in_a_url_is_refused_and_not_repeated(field: str, url: str) -> None:
    said = {"bento": url} if field == "bento" else {"bento": "s", "ray": {"bento_store": url}}
    with pytest.raises(ConfigError) as raised:
        config.parse({"name": "s", **said})
    assert "hunter22" not in str(raised.value)
    assert all("hunter22" not in repr(problem.value) for problem in raised.value.problems)


@given(st.text(max_size=40))
def test_whatever_a_bento_is_called_it_is_taken_or_refused_in_words(bento: str) -> None:
    found: list[Problem] = []
    try:
        assert config.parse({"name": "s", "bento": bento}).bento == bento
    except ConfigError as error:
        found += error.problems
    assert {problem.path for problem in found} <= {"bento"}


@pytest.mark.parametrize("name", ["s", "main", "canary", "canary-1", "my-canaries", "a-mainline", "s" * 63])
def test_a_name_is_legal_if_no_other_deployments_application_can_have_it(name: str) -> None:
    assert config.parse({"name": name, "bento": "s"}).name == name


@pytest.mark.parametrize("name", ["", "-s", "s-", "s.t", "s_t", "x-main", "x-canary", "x-canary-a", "s" * 64])
def test_a_name_that_could_be_mistaken_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="name: "):
        config.parse({"name": name, "bento": "s"})


legal_names = st.from_regex(r"([a-z]|-canary|-main|canary-|main-){1,5}", fullmatch=True)


@given(legal_names, legal_names, st.sampled_from(["a", "canary", "canary-a", "a-main", "b-canary-a"]))
def test_no_two_deployments_can_have_an_application_of_one_name(one: str, other: str, key: str) -> None:
    try:
        for name in (one, other):
            config.parse({"name": name, "bento": "s"})
    except ConfigError:
        return
    if one != other:
        mine = {one, f"{one}-main", f"{one}-canary-a", f"{one}-canary-{key}"}
        assert not mine & {other, f"{other}-main", f"{other}-canary-a", f"{other}-canary-{key}"}


def test_a_whole_number_as_the_value_of_an_env_becomes_text_as_on_bentocloud() -> None:
    file = config.loads("name: s\nbento: s\nenvs: [{name: A, value: 8}, {name: B, value: 2024-01-01}]\n")
    assert [env.value for env in file.envs] == ["8", "2024-01-01"]


def test_an_anchor_saves_writing_a_block_twice() -> None:
    file = config.loads(
        "name: s\nbento: s\nservices: {S: &s {instance_type: cpu.1, envs: [{name: A, value: x}]}}\n"
        "canary: {route_type: random, versions: {a: {bento: s, weight: 1, services: "
        "{S: {<<: *s, instance_type: cpu.2}}}}}\n"
    )
    assert file.canary is not None
    service = file.canary.versions["a"].services["S"]
    assert (service.instance_type, service.envs) == ("cpu.2", (config.Env(name="A", value="x"),))


def test_a_queue_may_use_the_concurrency_that_a_version_inherits_from_main() -> None:
    data = canary(a={"bento": "s", "weight": 1, "services": {"S": queue(external_queue=True)}})
    config.parse(data | {"services": {"S": queue(concurrency=4)}})


def test_a_header_may_have_any_name_that_http_allows() -> None:
    file = config.parse({"name": "s", "bento": "s", "canary": {"route_type": "header", "route_by": "x_User-ID.1~"}})
    assert file.canary is not None
    assert file.canary.route_by == "x_User-ID.1~"


def test_models_can_not_be_changed_after_the_check() -> None:
    file = config.parse({"name": "s", "bento": "s"})
    with pytest.raises(ValidationError, match="frozen"):
        file.name = "t"  # type: ignore[misc]


def queue(**traffic: Any) -> dict[str, Any]:
    """Return a service with these traffic settings."""
    return {"config_overrides": {"traffic": traffic}}


WARNED = {
    "cluster": ({"cluster": "aws"}, "cluster: has no meaning here and is ignored: "),
    "labels": ({"labels": [{"key": "k", "value": 1}]}, "labels: has no meaning here and is ignored: "),
    "dev": ({"dev": True}, "dev: has no meaning here and is ignored: "),
    "description": ({"description": "x"}, "description: has no meaning here and is ignored"),
    "credential": (
        {"envs": [{"name": "A", "value": "long enough"}, {"name": "HF_TOKEN", "value": "hf_123456"}]},
        "envs[1]: HF_TOKEN looks like a credential, and stands in clear text",
    ),
    "extras": ({"services": {"S": {"extras": {"a": 1}}}}, "services.S.extras: has no meaning here"),
    "behavior": (
        {"services": {"S": {"scaling": {"policy": {"scale_up_behavior": "fast"}}}}},
        "services.S.scaling.policy.scale_up_behavior: has no meaning here",
    ),
    "metrics": (
        {"services": {"S": {"scaling": {"policy": {"metrics": [{"type": "cpu", "value": 80}]}}}}},
        "services.S.scaling.policy.metrics: has no meaning here",
    ),
    "workers": (
        {"services": {"S": {"config_overrides": {"workers": 4}}}},
        "services.S.config_overrides.workers: has no effect: a replica is one process",
    ),
    "resources beside an instance type": (
        {"services": {"S": {"instance_type": "cpu.1", "config_overrides": {"resources": {"cpu": 1}}}}},
        "services.S.config_overrides.resources: are ignored: instance_type governs",
    ),
    "route_by at random": (
        {"canary": {"route_type": "random", "route_by": "X"}},
        "canary.route_by: is ignored: route_type is random",
    ),
    "a version's credential": (
        {
            "canary": canary(a={"bento": "s", "weight": 1, "envs": [{"name": "db_password", "value": "123456"}]})[
                "canary"
            ]
        },
        "canary.versions.a.envs[0]: db_password looks like a credential",
    ),
    "a service's credential": (
        {"services": {"S": {"envs": [{"name": "OPENAI_API_KEY", "value": "sk-12345"}]}}},
        "services.S.envs[0]: OPENAI_API_KEY looks like a credential",
    ),
    "resources under an inherited instance type": (
        {"services": {"S": {"instance_type": "cpu.1"}}}
        | {
            "canary": canary(
                a={"bento": "s", "weight": 1, "services": {"S": {"config_overrides": {"resources": {"cpu": "1"}}}}}
            )["canary"]
        },
        "canary.versions.a.services.S.config_overrides.resources: are ignored",
    ),
}


@pytest.mark.parametrize(("data", "start"), WARNED.values(), ids=WARNED.keys())
def test_a_key_that_does_nothing_is_accepted_and_named(data: dict[str, Any], start: str) -> None:
    (warning,) = config.parse({"name": "s", "bento": "s"} | data).warnings()
    assert warning.startswith(start)


def test_resources_without_an_instance_type_are_used_so_nothing_is_said() -> None:
    data = {"S": {"config_overrides": {"resources": {"cpu": "500m", "memory": 2, "gpu": 1, "gpu_type": "nvidia-l4"}}}}
    assert config.parse({"name": "s", "bento": "s", "services": data}).warnings() == ()


# Round trips. ---------------------------------------------------------------------------------------------------------


def optional(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return mappings with any of these keys."""
    return st.fixed_dictionaries({}, optional=keys)


names = st.from_regex(r"[A-Z][A-Za-z0-9]{0,5}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=8)
envs = st.lists(st.fixed_dictionaries({"name": names.map(lambda n: f"V_{n}"), "value": texts}), max_size=3).map(
    lambda found: list({env["name"]: env for env in found}.values())
)
scaling = optional(
    min_replicas=st.integers(0, 2),
    max_replicas=st.integers(2, 9),
    policy=optional(scale_up_stabilization_window=st.integers(0, 3600), scale_down_behavior=texts),
)
overrides = optional(
    traffic=optional(timeout=st.integers(1, 99) | st.floats(0.5, 99), max_concurrency=st.integers(1, 9)),
    resources=optional(cpu=st.sampled_from(["500m", 1, 0.5]), memory=st.sampled_from(["2Gi", 1, 0.5])),
    workers=st.integers(1, 4) | st.just("cpu_count"),
    logging=st.dictionaries(texts, st.booleans() | texts, max_size=2),
)
services = st.dictionaries(
    names,
    optional(
        instance_type=texts,
        scaling=scaling,
        envs=envs,
        config_overrides=overrides,
        deployment_strategy=st.sampled_from(["RollingUpdate", "Recreate"]),
    ),
    max_size=2,
)
version = st.builds(
    lambda weight, more: {"bento": "s:1", "weight": weight} | more,
    st.integers(0, 33),
    optional(services=services, envs=envs),
)
files = st.builds(
    lambda more: {"name": "s", "bento": "s:latest"} | more,
    optional(
        cluster=texts,
        access_authorization=st.booleans(),
        envs=envs,
        secrets=st.lists(st.sampled_from(["db", "hf.token", "X-1"]), max_size=2, unique=True),
        labels=st.lists(st.fixed_dictionaries({"key": texts, "value": texts | st.integers()}), max_size=2),
        services=services,
        canary=st.none()
        | st.builds(
            lambda versions: {"route_type": "header", "route_by": "X-User-ID", "versions": versions},
            st.dictionaries(st.sampled_from("abc"), version, max_size=3),
        ),
        ray=optional(route_prefix=st.sampled_from(["/", "/a/b"]), ingress=optional(num_cpus=st.floats(0, 4))),
    ),
)


@given(files)
def test_what_is_written_comes_back_whole_and_nothing_else(data: dict[str, Any]) -> None:
    file = config.loads(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
    assert file.to_dict() == data
    assert config.parse(file.to_dict()) == file


@given(files)
def test_keys_come_back_in_bentoclouds_order_whatever_order_they_were_written_in(data: dict[str, Any]) -> None:
    backwards = config.parse(dict(reversed(data.items())))
    assert list(backwards.to_dict()) == [key for key in config.DeploymentFile.model_fields if key in data]


# Merging. -------------------------------------------------------------------------------------------------------------


def test_an_update_of_one_weight_leaves_everything_else() -> None:
    live = config.load(CONFIGS / "summarization.yaml").to_dict()
    merged = config.deep_merge(live, {"canary": {"versions": {"a": {"weight": 5}}}})
    assert merged["canary"]["versions"]["a"] == live["canary"]["versions"]["a"] | {"weight": 5}
    assert live["canary"]["versions"]["a"]["weight"] == 20
    merged["canary"]["versions"]["a"]["weight"] = 20
    assert merged == live


def test_an_update_replaces_lists_whole() -> None:
    one, two = {"name": "A", "value": "1"}, {"name": "B", "value": "2"}
    assert config.deep_merge({"envs": [one]}, {"envs": [two]}) == {"envs": [two]}


def test_an_update_with_canary_null_takes_the_versions_out() -> None:
    live = config.load(CONFIGS / "summarization.yaml").to_dict()
    merged = config.deep_merge(live, {"canary": None})
    assert "canary" not in merged
    assert config.parse(merged).canary is None


def test_an_update_can_not_take_a_single_version_out() -> None:
    live = config.load(CONFIGS / "summarization.yaml").to_dict()
    with pytest.raises(ConfigError, match=r"canary\.versions\.a: null is not a mapping"):
        config.parse(config.deep_merge(live, {"canary": {"versions": {"a": None}}}))


@given(files, files)
def test_an_update_with_what_is_live_changes_nothing(live: dict[str, Any], other: dict[str, Any]) -> None:
    assert config.deep_merge(live, {}) == config.deep_merge(live, live)
    merged = config.deep_merge(live, other)
    assert config.deep_merge(merged, other) == merged


# The words around the values. -----------------------------------------------------------------------------------------


MODELS = [m for m in vars(config).values() if isinstance(m, type) and issubclass(m, BaseModel) and m.model_fields]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_key_is_described_in_one_sentence_and_every_model_too(model: type[BaseModel]) -> None:
    assert (model.__doc__ or "").endswith(".")
    for name, field in model.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
        assert field.description[0].isupper(), name


def test_a_place_in_a_file_is_written_as_people_write_it() -> None:
    assert path_text(("services", "S", "envs", 0, "name")) == "services.S.envs[0].name"
    assert path_text(("services", "my.service", "x y")) == 'services["my.service"]["x y"]'
    assert path_text(()) == ""


@pytest.mark.parametrize("path", ["a.b[3].c", 'a.b["x.y]"].c', "a.b.c.d"])
def test_a_problem_has_the_line_of_the_nearest_place_that_has_one(path: str) -> None:
    assert Problem(path, "m").located({"": 1, "a": 2, "a.b": 3}).line == 3
    assert Problem(path, "m").located({}).line is None


def test_a_config_error_survives_pickling_as_ray_does_it() -> None:
    error = ConfigError((Problem("a", "is wrong", line=3),), "f.yaml")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.problems, again.source) == (str(error), error.problems, error.source)


def test_reading_a_file_imports_neither_ray_nor_bentoml() -> None:
    code = (
        "import sys; from ray_canary import bentos, config, instances; "
        "sys.exit([m for m in ('ray', 'bentoml', '_bentoml_sdk') if m in sys.modules] or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_misspelt_key_is_one_mistake_though_the_key_it_was_meant_to_be_is_missing() -> None:
    version = {"bento": "y:w", "wieght": 20}
    data = {"name": "x", "bento": "y:z", "canary": {"route_type": "random", "versions": {"a": version}}}
    with pytest.raises(ConfigError) as raised:
        config.parse(data)
    assert [problem.path for problem in raised.value.problems] == ["canary.versions.a.wieght"]


# Secrets. -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [("HF_TOKEN", ""), ("EOS_TOKEN", "</s>"), ("MAX_TOKENS", "100000"), ("TOKENIZER", "bert-base"), ("KEY", "abcdefg")],
)
def test_a_variable_that_is_no_credential_gives_no_warning(name: str, value: str) -> None:
    file = config.parse({"name": "s", "bento": "s", "envs": [{"name": name, "value": value}]})
    assert file.warnings() == ()


REFUSED_SECRETS = {
    "a way out of the folder": ({"secrets": ["../x"]}, 'secrets[0]: "../x" is not a secret\'s name of letters'),
    "a hidden folder": ({"secrets": [".x"]}, 'secrets[0]: ".x" is not a secret\'s name'),
    "no text": ({"secrets": [{"name": "x"}]}, "secrets[0]: a mapping is not a secret's name"),
    "twice": ({"secrets": ["x", "y", "x"]}, 'secrets[2]: "x" is in this list already; it is in secrets[0] too'),
    "unknown": (
        {"secrets": ["database"], "ray": {"secrets": {"databse": {}}}},
        "ray.secrets.databse: is a secret that no `secrets` of this file names; did you mean 'database'?",
    ),
    "none": ({"ray": {"secrets": {"x": {}}}}, "ray.secrets.x: is a secret that no `secrets` of this file names; "),
    "type": (
        {"secrets": ["x"], "ray": {"secrets": {"x": {"type": "files"}}}},
        "ray.secrets.x.type: \"files\" is not env or file; did you mean 'file'?",
    ),
    "an unknown key": (
        {"secrets": ["x"], "ray": {"secrets": {"x": {"kyes": []}}}},
        "ray.secrets.x.kyes: is not a known",
    ),
    "no variable": (
        {"secrets": ["x"], "ray": {"secrets": {"x": {"keys": ["A", "tls.crt"]}}}},
        'ray.secrets.x.keys[1]: "tls.crt" is not a name of letters, digits and _',
    ),
    "a reserved variable": (
        {"secrets": ["x"], "ray": {"secrets": {"x": {"keys": ["BENTOML_HOME"]}}}},
        'ray.secrets.x.keys[0]: "BENTOML_HOME" is reserved',
    ),
    "a key twice": (
        {"secrets": ["x"], "ray": {"secrets": {"x": {"keys": ["A", "A"]}}}},
        'ray.secrets.x.keys[1]: "A" is in this list already',
    ),
    "keys of files": (
        {"secrets": ["x"], "ray": {"secrets": {"x": {"type": "file", "keys": ["A"]}}}},
        "ray.secrets.x.keys: is for environment variables; leave it out, or use type env",
    ),
    "a path of variables": (
        {"secrets": ["x"], "ray": {"secrets": {"x": {"path": "here"}}}},
        "ray.secrets.x.path: is for files; set type: file beside it",
    ),
    **{
        f"the path {path}": (
            {"secrets": ["x"], "ray": {"secrets": {"x": {"type": "file", "path": path}}}},
            "ray.secrets.x.path: ",
        )
        for path in ("/etc", "../x", "a/../b", "a//b", "", "a/", "bentos/x", "models")
    },
    "the same place": (
        {"secrets": ["x", "y"], "ray": {"secrets": {"x": {"type": "file", "path": "y"}, "y": {"type": "file"}}}},
        'secrets: y and x both have "y" as their path, or inside of it',
    ),
    "inside of another": (
        {
            "secrets": ["x"],
            "canary": canary(a={"bento": "s", "weight": 1, "secrets": ["y"]})["canary"],
            "ray": {"secrets": {"x": {"type": "file"}, "y": {"type": "file", "path": "x/y"}}},
        },
        'canary.versions.a.secrets: y and x both have "x/y" as their path, or inside of it',
    ),
}


@pytest.mark.parametrize(("data", "start"), REFUSED_SECRETS.values(), ids=REFUSED_SECRETS.keys())
def test_a_secret_that_can_not_be_meant_so_is_refused(data: dict[str, Any], start: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config.parse({"name": "s", "bento": "s"} | data)
    (problem,) = raised.value.problems
    assert problem.text().startswith(start)


def test_two_versions_may_have_different_secrets_in_the_same_place() -> None:
    both = {key: {"bento": "s", "weight": 1, "secrets": [f"cert-{key}"]} for key in "ab"}
    said = {f"cert-{key}": {"type": "file", "path": "cert"} for key in "ab"}
    config.parse({"name": "s", "bento": "s", "canary": canary(**both)["canary"], "ray": {"secrets": said}})
