"""`ray-canary render`: the file in cluster/ is current, and written over, it changes nothing that replaces all pods."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from ray_canary.cli import cli
from ray_canary.serving.pods import taken
from tests.unit.bento_store import demo_store

ROOT = Path(__file__).parents[2]
SUMMARIZATION = ROOT / "configs" / "summarization.yaml"


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with the demo's Bentos and the file of the canary document."""
    demo_store(tmp_path / "bentos")
    (tmp_path / "f.yaml").write_text(SUMMARIZATION.read_text())
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    monkeypatch.delenv("RAY_CANARY_INSTANCE_TYPES", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def render(*arguments: str, file: str = "f.yaml", code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["render", "--kuberay", "-f", file, *arguments], prog_name="ray-canary")
    assert result.exit_code == code, result.output
    return result


def documents(text: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(text))


def edit(old: str, new: str) -> None:
    text = Path("f.yaml").read_text()
    assert old in text
    Path("f.yaml").write_text(text.replace(old, new, 1))


def test_the_manifest_in_cluster_is_what_the_example_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    kept = Path("cluster/rayservice.yaml").read_text()
    made = render(file="configs/summarization.yaml").stdout
    # The command on top names the file that it writes.
    assert kept.replace(" -o cluster/rayservice.yaml", "") == made


def test_it_makes_a_rayservice_and_who_may_reach_it() -> None:
    service, policy = documents(render("--namespace", "prod").stdout)
    assert (service["kind"], policy["kind"]) == ("RayService", "NetworkPolicy")
    assert service["metadata"]["namespace"] == policy["metadata"]["namespace"] == "prod"


def test_the_options_are_what_the_pods_are_like() -> None:
    service, _ = documents(
        render(
            *("--image", "r/i:2", "--workers", "w=8,32Gi", "--workers", "l4=8,32Gi,1,L4", "--head", "1,4Gi"),
            *("--autoscale", "--bentos", "store", "--secret", "db", "--redis", "r:1", "--redis-secret", "rs"),
            *("--token-secret", "ts"),
        ).stdout
    )
    cluster = service["spec"]["rayClusterConfig"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["gcsFaultToleranceOptions"]["redisAddress"] == "r:1"
    assert cluster["authOptions"]["secretName"] == "ts"
    assert [group["groupName"] for group in cluster["workerGroupSpecs"]] == ["w", "l4"]
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert (head["image"], head["resources"]["limits"]) == ("r/i:2", {"cpu": "1", "memory": "4Gi"})
    volumes = cluster["workerGroupSpecs"][0]["template"]["spec"]["volumes"]
    assert [next(iter(volume)) for volume in volumes] == ["name", "name"]
    assert volumes[0]["secret"]["secretName"] == "db"
    assert volumes[1]["persistentVolumeClaim"]["claimName"] == "store"


def test_a_version_that_starts_slowly_is_warned_of_unless_workers_wait_for_it() -> None:
    edit("  scaling:", "  cold_start_timeout: 1500\n    scaling:")
    assert "Warning: main: services.Summarization.cold_start_timeout is 1500 s" in render().stderr
    worker = documents(render("--drain", "1500").stdout)[0]["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    assert worker["template"]["spec"]["terminationGracePeriodSeconds"] > 1500 + 600
    assert "cold_start" not in render("--drain", "1500").stderr
    assert "60" in render("--drain", "59", code=2).output


def test_what_is_switched_off_is_not_there() -> None:
    cluster = documents(render("--no-redis", "--no-token", "--bentos-in-image").stdout)[0]["spec"]["rayClusterConfig"]
    assert not {"authOptions", "gcsFaultToleranceOptions"} & set(cluster)
    assert "volumes" not in cluster["workerGroupSpecs"][0]["template"]["spec"]


def test_the_command_stands_on_top_as_it_was_given_but_for_what_is_for_once() -> None:
    text = render("--secret", "db", "--secret", "hf", "--no-token", "--no-autoscale", "--new-cluster").stdout
    told = "#   ray-canary render --kuberay -f f.yaml --no-autoscale --secret db --secret hf --no-token\n"
    assert told in text


def test_written_over_with_other_weights_only_the_serve_config_differs() -> None:
    render("-o", "m.yaml")
    before = documents(Path("m.yaml").read_text())[0]["spec"]
    edit("weight: 20", "weight: 35")
    said = render("-o", "m.yaml").output
    assert "Wrote m.yaml. Apply it with `kubectl apply -f m.yaml`." in said
    after = documents(Path("m.yaml").read_text())[0]["spec"]
    assert before.pop("serveConfigV2").replace("a: 20", "a: 35") == after.pop("serveConfigV2")
    assert before == after


def test_written_over_with_another_image_it_refuses_and_writes_nothing() -> None:
    render("-o", "m.yaml", "--image", "i:1")
    before = Path("m.yaml").read_text()
    said = render("-o", "m.yaml", "--image", "i:2", code=2).output
    assert "this would replace all pods" in said
    assert "headGroupSpec.template.spec.containers.ray-head.image: 'i:1' -> 'i:2'" in said
    assert "--new-cluster" in said
    assert Path("m.yaml").read_text() == before


def test_an_option_that_is_forgotten_replaces_no_pods() -> None:
    render("-o", "m.yaml", "--workers", "w=8,32Gi")
    assert "they stand on its top" in " ".join(render("-o", "m.yaml", code=2).output.split())


def test_asked_for_a_new_cluster_it_writes_and_lets_kuberay() -> None:
    render("-o", "m.yaml", "--image", "i:1")
    render("-o", "m.yaml", "--image", "i:2", "--new-cluster")
    assert documents(Path("m.yaml").read_text())[0]["spec"]["upgradeStrategy"] == {"type": "NewCluster"}
    render("-o", "m.yaml", "--image", "i:2")
    assert documents(Path("m.yaml").read_text())[0]["spec"]["upgradeStrategy"] == {"type": "None"}


def test_a_canarys_new_secret_is_refused_until_it_is_mounted() -> None:
    render("-o", "m.yaml")
    edit("weight: 20", "weight: 20\n      secrets: [hf]")
    assert "/etc/ray-canary/secrets/hf" in render("-o", "m.yaml", code=2).output
    render("-o", "m.yaml", "--new-cluster")
    edit("      secrets: [hf]\n", "")
    assert "--secret NAME" in " ".join(render("-o", "m.yaml", code=2).output.split())
    render("-o", "m.yaml", "--secret", "hf")


@pytest.mark.parametrize("there", ["a: 1\n", "kind: Pod\n", "", "- kind: RayService\n"])
def test_what_is_no_rayservice_is_not_written_over(there: str) -> None:
    Path("m.yaml").write_text(there)
    assert "m.yaml: is there already, and is not a RayService" in render("-o", "m.yaml", code=2).output
    assert Path("m.yaml").read_text() == there


@pytest.mark.parametrize("spec", ["[a]", "{rayClusterConfig: {workerGroupSpecs: [a]}}"])
@pytest.mark.parametrize("more", [[], ["--new-cluster"]])
def test_a_rayservice_that_somebody_broke_is_not_written_over(spec: str, more: list[str]) -> None:
    there = f"kind: RayService\nmetadata: {{name: summarization-blel}}\nspec: {spec}\n"
    Path("m.yaml").write_text(there)
    assert "which no RayService has; mend it" in " ".join(render("-o", "m.yaml", *more, code=2).output.split())
    assert Path("m.yaml").read_text() == there


def test_other_numbers_of_workers_are_said_with_what_has_to_be_done() -> None:
    render("-o", "m.yaml")
    assert render("-o", "m.yaml").stderr == ""
    edit("max_replicas: 3", "max_replicas: 30")
    said = render("-o", "m.yaml", "--new-cluster").stderr
    assert "Warning: more workers (workers: 4 -> " in said
    assert "kubectl patch $(kubectl get raycluster -l ray.io/originated-from-cr-name=summarization-blel" in said
    edit("max_replicas: 30", "max_replicas: 3")
    less = render("-o", "m.yaml")
    assert less.stderr == ""
    assert " -> 4). KubeRay doesn't carry that into the RayCluster that runs, and nothing is short there" in " ".join(
        less.stdout.split()
    )
    # A new RayCluster begins with them.
    assert render("-o", "m.yaml", "--new-cluster", "--image", "i:2").stderr == ""


def test_workers_that_others_may_fill_are_warned_of() -> None:
    services = "{Summarization: {instance_type: gpu.l4.1}}"
    c = f"c: {{bento: 'summarization:zgk7uja3goq62usu', weight: 0, services: {services}}}"
    edit("  versions:", f"  versions:\n    {c}")
    said = render("--workers", "workers=4,16Gi", "--workers", "l4=8,32Gi,1,L4").stderr
    assert "Warning: workers of l4 are for c: services.Summarization, and may be filled by main: " in said


def test_another_deployments_rayservice_is_not_written_over() -> None:
    render("-o", "m.yaml")
    edit("name: summarization-blel", "name: other")
    assert "is the RayService of 'summarization-blel'" in render("-o", "m.yaml", code=2).output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workers", "w"], "--workers: 'w' is not NAME=CPUS,MEMORY"),
        (["--workers", "w=1,1Gi", "--workers", "w=2,1Gi"], "the group 'w' is given twice"),
        (["--head", "big"], "--head: 'big' is not CPUS,MEMORY"),
        (["--workers", "w=1,4Gi"], "no worker has that (w: 1 CPU"),
        (["--secret", "My_Secret"], "--secret: 'My_Secret' can't be the name of a Kubernetes Secret"),
        (["--redis-secret", "Bad Secret"], "--redis-secret: 'Bad Secret' has spaces"),
        (["--bentos", "Bad"], "--bentos: 'Bad' can't be the name of a volume claim"),
        (["--namespace", "a.b"], "--namespace: 'a.b' can't be the name of a namespace"),
        (["--image", "a b"], "--image: 'a b' has spaces"),
        (["--redis", "redis"], "--redis: is not one HOST:PORT, like redis:6379"),
        (["--redis", "r1:1,r2:2"], "--redis: is not one HOST:PORT"),
        (["--redis", "r:0"], "--redis: is not one HOST:PORT"),
        (["--store", "s3://b"], "--store: does nothing without --push"),
        (["-o", ""], "-o: is empty"),
        (["--instance-types", ""], "--instance-types: is empty"),
        (["--workers", "w=4,16Gi,1,Intel-GPU-Max-1550"], "Intel-GPU-Max-1550 is no GPU of NVIDIA or AMD"),
        (["--workers", "w=4,16Gi,1,TPU-V4"], "TPU-V4 is no GPU of NVIDIA or AMD"),
        (["--workers", "headgroup=4,16Gi"], "headgroup is the head's own name"),
        (["--workers", "w=4,16Gi,1,L4,ray.io/accelerator-type=H100"], "Ray gives each node ray.io/accelerator-type"),
        (["-o", "no/such/folder/m.yaml"], "no/such/folder/m.yaml: can't be written: there is no folder no/such/folder"),
        (["-o", "a\nb.yaml"], "has a line break in it"),
    ],
)
def test_what_is_asked_wrongly_is_said_with_exit_code_2(arguments: list[str], said: str) -> None:
    assert said in " ".join(render(*arguments, code=2).output.split())


@pytest.mark.parametrize(
    ("option", "off"),
    [
        ("--token-secret", "--no-token"),
        ("--redis", "--no-redis"),
        ("--bentos", "--bentos-in-image"),
        ("--image", ""),
        ("--namespace", ""),
        ("--redis-secret", ""),
        ("--secret", ""),
    ],
)
def test_an_empty_value_is_refused_and_leaves_nothing_out(option: str, off: str) -> None:
    said = render(f"{option}=", "-o", "m.yaml", code=2).output
    assert f"{option}: is empty, as where a shell variable isn't set" in said
    assert off in said
    assert not Path("m.yaml").exists()
    if off:
        render(f"{option}=", off)


@pytest.mark.parametrize(
    ("option", "off"),
    [
        ("--redis", "--no-redis"),
        ("--redis-secret", "--no-redis"),
        ("--token-secret", "--no-token"),
        ("--bentos", "--bentos-in-image"),
    ],
)
def test_what_is_given_beside_the_option_that_does_without_it_is_refused(option: str, off: str) -> None:
    said = " ".join(render(off, option, "mine", "-o", "m.yaml", code=2).output.split())
    assert f"{option}: is given beside {off}, which does without; leave one out" in said
    assert not Path("m.yaml").exists()


@pytest.mark.parametrize("port", [6379, 8080, 8265, 8404, 8500, 9101, 10001, 12345, 30000, 31000, 44217, 44227, 52365])
def test_a_port_that_every_pod_has_taken_is_refused_where_it_stands(port: int) -> None:
    edit("access_authorization", f"ray: {{http: {{port: {port}}}}}\naccess_authorization")
    said = " ".join(render(code=2).output.split())
    assert f"f.yaml:3: ray.http.port: {port} is " in said
    assert "choose another one, but none of 6379, 8080" in said


def test_every_port_of_a_pod_but_that_of_users_is_taken() -> None:
    cluster = documents(render("--autoscale").stdout)[0]["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        ports = {one["name"]: one["containerPort"] for one in group["template"]["spec"]["containers"][0]["ports"]}
        assert [name for name, port in ports.items() if not taken(port)] == ["serve"]


@pytest.mark.parametrize("port", [80, 443, 1023])
def test_a_port_that_only_root_may_open_is_refused(port: int) -> None:
    edit("access_authorization", f"ray: {{http: {{port: {port}}}}}\naccess_authorization")
    said = " ".join(render(code=2).output.split())
    assert f"f.yaml:3: ray.http.port: {port} is for root on many nodes, and no pod runs as root" in said
    assert "the Service or the Ingress in front may have any" in said


@pytest.mark.parametrize("address", ["redis:6379", "10.0.0.1:6379", "[::1]:6379", "rediss://r.prod.svc:6380"])
def test_an_address_of_a_redis_is_written_as_it_was_given(address: str) -> None:
    cluster = documents(render("--redis", address).stdout)[0]["spec"]["rayClusterConfig"]
    assert cluster["gcsFaultToleranceOptions"]["redisAddress"] == address


@pytest.mark.parametrize(
    "address",
    [
        "redis://:hunter2@h:1",
        "redis://:hunter2@h:1 ",
        "h:6380,password=hunter2,ssl=True",
        "redis://h:1?password=hunter2",
    ],
)
def test_a_password_of_a_redis_is_not_said_again(address: str) -> None:
    said = render("--redis", address, code=2).output
    assert "hunter2" not in said
    assert "a password belongs into the Secret of --redis-secret" in " ".join(said.split())


def test_another_namespace_is_another_rayservice_and_refused() -> None:
    render("-o", "m.yaml", "--namespace", "prod")
    there = Path("m.yaml").read_text()
    for other in ([], ["--namespace", "dev"]):
        said = " ".join(render("-o", "m.yaml", *other, code=2).output.split())
        assert "m.yaml is for namespace prod" in said
        assert "Nothing was written. Give --namespace prod" in said
    assert Path("m.yaml").read_text() == there
    Path("m.yaml").unlink()
    render("-o", "m.yaml")
    render("-o", "m.yaml", "--namespace", "dev")


def ship(path: str) -> None:
    """Write into a RayService what `--push` does."""
    service, policy = documents(Path(path).read_text())
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    for one in config["applications"][1:]:
        one["args"]["archive"] = {"url": "s3://bucket/a.tar", "sha256": "0" * 64}
    service["spec"]["serveConfigV2"] = yaml.safe_dump(config)
    Path(path).write_text(yaml.safe_dump_all([service, policy]))


def test_a_push_that_is_forgotten_is_refused_since_every_version_would_restart() -> None:
    render("-o", "m.yaml")
    ship("m.yaml")
    there = Path("m.yaml").read_text()
    said = " ".join(render("-o", "m.yaml", code=2).output.split())
    assert "m.yaml has pushed Bentos, of summarization-blel-main, " in said
    assert "Nothing was written. Give --push" in said
    assert Path("m.yaml").read_text() == there


@pytest.mark.parametrize("scheme", ["", "file://", "FILE://"])
def test_bentos_in_a_folder_are_warned_of_since_no_pod_has_it(
    work: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setattr("ray_canary.planning.pushed", lambda _file, plan, _how: plan)
    said = " ".join(render("--push", "--store", f"{scheme}{work / 'shared'}").stderr.split())
    assert "is a folder, and these pods have it only where a patch mounts it at the same path" in said
    assert "is a folder" not in render("--push", "--store", "s3://bucket/bentos").stderr


def test_nothing_is_pushed_where_something_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def pushed(*_: Any) -> None:
        raise AssertionError("it was pushed")

    render("-o", "m.yaml")
    monkeypatch.setattr("ray_canary.planning.pushed", pushed)
    push = ["--push", "--store", "s3://bucket/bentos"]
    render("-o", "m.yaml", "--image", "i:2", *push, code=2)
    render("-o", "m.yaml", "--namespace", "prod", *push, code=1)
    render("-o", "no/such/m.yaml", *push, code=2)
    render("-o", "m\n.yaml", *push, code=2)
    assert ".: can't be written: it is a folder" in render("-o", ".", *push, code=2).output
    edit("access_authorization", "ray: {http: {port: 80}}\naccess_authorization")
    render(*push, code=2)


def test_the_command_on_top_has_what_the_environment_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("types.yaml").write_text("".join(f"cpu.{n}: {{cpu: 1, memory: 1Gi}}\n" for n in (1, 2, 4)))
    monkeypatch.setenv("RAY_CANARY_INSTANCE_TYPES", "types.yaml")
    assert "--instance-types types.yaml" in render().stdout.partition("apiVersion")[0]
    monkeypatch.setenv("RAY_CANARY_BENTO_STORE", "s3://bucket/bentos")
    monkeypatch.setattr("ray_canary.planning.pushed", lambda _file, plan, _how: plan)
    assert "--push --store s3://bucket/bentos" in render("--push").stdout.partition("apiVersion")[0]
    assert "--store" not in render().stdout.partition("apiVersion")[0]


@pytest.mark.parametrize("count", ["'4'", "four", "true"])
def test_a_number_of_workers_that_is_none_is_said_before_anything_is_written(count: str) -> None:
    render("-o", "m.yaml")
    there = Path("m.yaml").read_text().replace("maxReplicas: 4", f"maxReplicas: {count}")
    Path("m.yaml").write_text(there)
    assert "workerGroupSpecs[0].maxReplicas is" in " ".join(render("-o", "m.yaml", code=2).output.split())
    assert Path("m.yaml").read_text() == there


@pytest.mark.parametrize("line", ["      maxReplicas: null\n", ""])
def test_a_greatest_number_of_workers_that_somebody_took_out_is_no_limit(line: str) -> None:
    render("-o", "m.yaml")
    Path("m.yaml").write_text(Path("m.yaml").read_text().replace("      maxReplicas: 4\n", line))
    found = render("-o", "m.yaml")
    assert found.stderr == ""
    assert "Fewer workers are enough (workers: 4 or more -> 4)" in " ".join(found.stdout.split())


@pytest.mark.parametrize("line", ["", "      replicas: 9\n"])
def test_a_number_of_workers_is_what_its_limits_leave_of_it(line: str) -> None:
    render("-o", "m.yaml")
    Path("m.yaml").write_text(Path("m.yaml").read_text().replace("      replicas: 4\n", line))
    found = render("-o", "m.yaml")
    assert (found.stderr, "orkers: " in found.stdout) == ("", False)


def test_a_group_that_grows_at_its_least_and_shrinks_at_its_greatest_is_said_both_ways() -> None:
    render("-o", "m.yaml", "--autoscale")
    text = Path("m.yaml").read_text()
    least = next(line for line in text.splitlines() if line.startswith("      minReplicas:"))
    Path("m.yaml").write_text(text.replace(least, "      minReplicas: 0").replace("maxReplicas: 4", "maxReplicas: 9"))
    found = render("-o", "m.yaml", "--autoscale")
    assert "more workers (workers: 0 to 9 -> " in " ".join(found.stderr.split())
    assert "Fewer workers are enough (workers: 0 to 9 -> " in " ".join(found.stdout.split())


@pytest.mark.parametrize("text", ["<<<<<<< HEAD\n", "kind: RayService\nd: 2026-99-99\n", "{"])
def test_a_file_that_is_no_yaml_is_not_taken_for_another_one(text: str) -> None:
    render("-o", "m.yaml")
    there = text + Path("m.yaml").read_text()
    Path("m.yaml").write_text(there)
    assert "m.yaml: is there already, and can't be read: " in " ".join(render("-o", "m.yaml", code=2).output.split())
    assert Path("m.yaml").read_text() == there


def test_a_higher_minimum_is_more_workers() -> None:
    render("-o", "m.yaml", "--autoscale")
    edit("min_replicas: 1\n            max_replicas: 3", "min_replicas: 3\n            max_replicas: 3")
    assert "Warning: more workers (workers: " in render("-o", "m.yaml", "--autoscale").stderr


def test_a_secrets_wrong_name_is_said_with_its_place() -> None:
    edit("weight: 20", "weight: 20\n      secrets: [ok, B_ad]")
    said = render(code=2).output
    assert "f.yaml:25: canary.versions.a.secrets: 'B_ad' can't be the name of a Kubernetes Secret" in said
    edit("access_authorization", "secrets: [My_Secret]\naccess_authorization")
    said = render(code=2).output
    assert "f.yaml:3: secrets[0]: 'My_Secret' can't be" in said
    assert "canary.versions.a.secrets" in said


def test_without_a_kind_of_manifest_it_says_which_there_are() -> None:
    result = CliRunner().invoke(cli, ["render", "-f", "f.yaml"])
    assert result.exit_code == 2
    assert "--kuberay" in result.output
