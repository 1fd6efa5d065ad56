"""The instance-type catalogue, and quantities in Kubernetes' notation."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_canary import quantities
from ray_canary.errors import ConfigError
from ray_canary.instances import ENVIRONMENT_VARIABLE, Catalogue, InstanceType, bento_resources, gpu_warning

EXAMPLE = Path(__file__).parents[2] / "cluster" / "instance_types.yaml"


def test_the_built_in_catalogue_is_the_one_of_bentoclouds_documentation() -> None:
    catalogue = Catalogue.default()
    assert [instance.name for instance in catalogue] == [
        "cpu.1",
        "cpu.2",
        "cpu.4",
        "cpu.8",
        "gpu.t4.1",
        "gpu.l4.1",
        "gpu.a100.1",
    ]
    assert catalogue.get("cpu.1") == InstanceType("cpu.1", 0.5, 2 * 2**30)
    assert catalogue.get("gpu.t4.1") == InstanceType("gpu.t4.1", 2.0, 8 * 2**30, 1, "nvidia-tesla-t4", "T4")


@pytest.mark.parametrize(
    ("name", "resources"),
    [
        ("cpu.1", {"num_cpus": 0.5, "memory": 2147483648}),
        ("gpu.t4.1", {"num_cpus": 2.0, "memory": 8589934592, "num_gpus": 1, "accelerator_type": "T4"}),
        ("gpu.l4.1", {"num_cpus": 4.0, "memory": 17179869184, "num_gpus": 1, "accelerator_type": "L4"}),
        ("gpu.a100.1", {"num_cpus": 6.0, "memory": 46170898432, "num_gpus": 1, "accelerator_type": "A100"}),
    ],
)
def test_an_instance_type_is_told_in_rays_terms(name: str, resources: dict[str, object]) -> None:
    catalogue = Catalogue.default()
    assert catalogue.resources(catalogue.get(name)) == resources


def test_an_instance_type_may_name_the_nodes_that_it_is_for() -> None:
    text = 'a: {cpu: 1, memory: 1Gi, node_labels: {pool: a, ray.io/market-type: "!spot"}}\n'
    assert Catalogue.loads(text).get("a").node_labels == {"pool": "a", "ray.io/market-type": "!spot"}
    with pytest.raises(ConfigError) as raised:
        Catalogue.loads("a: {cpu: 1, memory: 1Gi, node_labels: {pool: in(), -x: a, zone: 1}}")
    assert [problem.path for problem in raised.value.problems] == [
        "a.node_labels.pool",
        "a.node_labels.-x",
        "a.node_labels.zone",
    ]
    assert '"in()" is not what a node label may be, in quotes: "gpu", "!spot"' in str(raised.value)


def test_the_example_of_a_catalogue_can_be_used_as_it_stands() -> None:
    catalogue = Catalogue.load(EXAMPLE)
    assert len(catalogue) == 7
    l40s = catalogue.resources(catalogue.get("gpu.l40s.1"))
    assert l40s == {"num_cpus": 8.0, "memory": 64 * 2**30, "num_gpus": 1, "accelerator_type": "L40S"}


def test_a_path_goes_before_the_environment_and_that_before_the_built_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    (tmp_path / "mine.yaml").write_text("mine: {cpu: 1, memory: 1Gi}\n")
    assert Catalogue.find() is Catalogue.default()
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "mine.yaml"))
    assert [instance.name for instance in Catalogue.find()] == ["mine"]
    assert Catalogue.find(EXAMPLE).source == str(EXAMPLE)


def test_an_unknown_type_is_refused_with_the_nearest_and_the_list() -> None:
    with pytest.raises(ConfigError) as caught:
        Catalogue.loads("cpu.small: {cpu: 1, memory: 1Gi}\ngpu.1: {cpu: 1, memory: 1Gi, gpu: 1}", "c.yaml").get(
            "cpu.smal"
        )
    assert str(caught.value) == (
        "instance_type: there is no instance type \"cpu.smal\"; did you mean 'cpu.small'? c.yaml has cpu.small, gpu.1"
    )


def test_a_gpu_of_no_particular_kind_is_legal() -> None:
    catalogue = Catalogue.loads("g: {cpu: 1, memory: 1Gi, gpu: 2}")
    assert catalogue.resources(catalogue.get("g")) == {"num_cpus": 1.0, "memory": 2**30, "num_gpus": 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "c.yaml: is empty: it should hold instance types by name, like `cpu.1: {cpu: 500m, memory: 2Gi}`"),
        ("a: 1", "c.yaml:1: a: 1 is not a mapping"),
        ("a: {cpu: 1}", "c.yaml:1: a.memory: is required"),
        ("a: {cpu: 5x, memory: 1Gi}", 'c.yaml:1: a.cpu: "5x" is not CPU cores, like 500m or 2'),
        ("a: {cpu: 0, memory: 1Gi}", "c.yaml:1: a.cpu: 0 is not CPU cores, like 500m or 2"),
        (
            "a: {cpu: 1, memory: 2}",
            "c.yaml:1: a.memory: 2 is not an amount of memory of at least 1Mi, like 512Mi or 2Gi",
        ),
        (
            "a: {cpu: 1, memory: 512m}",
            'c.yaml:1: a.memory: "512m" is not an amount of memory of at least 1Mi, like 512Mi or 2Gi',
        ),
        ("a: {cpu: 1, memory: 1Gi, gpu: 0.5}", "c.yaml:1: a.gpu: 0.5 is not a whole number, 0 or more"),
        ("a: {cpu: 1, mem: 1, memory: 1Gi}", "c.yaml:1: a.mem: is not a known key; did you mean 'memory'?"),
        (
            "a: {cpu: 1, memory: 1Gi, gpu_type: nvidia-l4}",
            "c.yaml:1: a: is given a kind of GPU, nvidia-l4, but no GPU; set gpu: 1",
        ),
        (
            "a: {cpu: 1, memory: 1Gi, gpu: 1, gpu_type: nvidia-teslat4}",
            'c.yaml:1: a: the gpu_type "nvidia-teslat4" is not known here; '
            "did you mean 'nvidia-tesla-t4'? else add accelerator_type, Ray's name of it",
        ),
        ("a: {cpu: 1, memory: 1Gi}\na: {cpu: 1, memory: 1Gi}", "c.yaml:2: a: is given twice, first in line 1"),
        ("a: {cpu: x, memory: x}", 'c.yaml:1: a.cpu: "x" is not CPU cores, like 500m or 2\n'
         'c.yaml:1: a.memory: "x" is not an amount of memory of at least 1Mi, like 512Mi or 2Gi'),
    ],
)  # fmt: skip
def test_a_bad_catalogue_is_refused_with_the_place(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Catalogue.loads(text, "c.yaml")
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("wanted", "resources"),
    [
        ({}, {}),
        ({"cpu": "200m", "memory": "128Mi"}, {"num_cpus": 0.2, "memory": 128 * 2**20}),
        ({"cpu": 2, "memory": 1.5}, {"num_cpus": 2.0, "memory": 3 * 2**29}),
        ({"gpu": 0.5, "gpu_type": "nvidia-l4"}, {"num_gpus": 0.5, "accelerator_type": "L4"}),
        ({"gpu": 1, "gpu_type": "other"}, {"num_gpus": 1.0}),
    ],
)
def test_a_bentos_own_resources_are_told_in_rays_terms(wanted: dict[str, object], resources: dict[str, object]) -> None:
    assert bento_resources(wanted) == resources


def test_a_bentos_own_resources_can_be_wrong() -> None:
    with pytest.raises(ConfigError, match="resources: 5x: a number of cores ends in m"):
        bento_resources({"cpu": "5x"})
    for gpus in (1.5, -1, 0.00001, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=f"resources: {gpus}: Ray gives a replica whole GPUs, or a part of one"):
            bento_resources({"gpu": gpus})


def test_a_kind_of_gpu_that_is_not_known_is_named() -> None:
    assert "other is not known here, so any GPU will do" in (gpu_warning({"gpu": 1, "gpu_type": "other"}) or "")
    assert gpu_warning({"gpu": 1, "gpu_type": "nvidia-l4"}) is None
    assert gpu_warning({"gpu": 1}) is None
    assert "no effect" in (gpu_warning({"gpu_type": "other"}) or ""), "no GPU, no kind of it"


@given(st.integers(1, 10**9))
def test_thousandths_of_a_core_are_what_they_say(milli: int) -> None:
    assert quantities.cpu(f"{milli}m") == milli / 1000


@given(st.integers(1, 10**6), st.sampled_from(["", "Ki", "Mi", "Gi", "Ti", "k", "M", "G", "T"]))
def test_each_suffix_is_a_power_of_1024_or_of_1000(number: int, suffix: str) -> None:
    power = "_kmgt".index(suffix[:1].lower() or "_")
    assert quantities.memory(f"{number}{suffix}") == number * (1024 if suffix.endswith("i") else 1000) ** power


@given(st.integers(1, 10**12))
def test_a_bare_number_of_memory_is_in_bytes(size: int) -> None:
    assert quantities.memory(size) == quantities.memory(str(size)) == size


@given(st.decimals(min_value="0.001", max_value=1000, places=3))
def test_no_fraction_is_lost_to_binary(cores: object) -> None:
    assert quantities.cpu(str(cores)) == float(str(cores))


@pytest.mark.parametrize("bad", ["", "m", "-1", "1 Gi", "1e3", "nan", "0", "0m", "1gi", True, -1, "١"])
def test_what_is_no_quantity_is_refused(bad: str | int) -> None:
    with pytest.raises(ValueError, match=": "):
        quantities.cpu(bad)
    with pytest.raises(ValueError, match=": "):
        quantities.memory(bad)


@pytest.mark.parametrize("bad", ["0.00009", "0.09m", 0.00009])
def test_less_of_a_core_than_ray_counts_is_refused(bad: str | float) -> None:
    assert quantities.cpu("0.1m") == quantities.cpu(0.0001) == 0.0001
    with pytest.raises(ValueError, match=r"the least that Ray counts is 0\.0001 cores"):
        quantities.cpu(bad)


def test_less_than_a_byte_is_refused() -> None:
    with pytest.raises(ValueError, match="less than a byte"):
        quantities.memory("0.5")
