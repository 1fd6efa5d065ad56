"""What is in cluster/ beside the manifest: the image and the monitors fit the pods."""

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml
from cloudcoil.models.prometheus_operator.v1 import PodMonitor

from ray_canary import __version__
from ray_canary.serving import pods

CLUSTER = Path(__file__).parents[2] / "cluster"
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()


def spec(group: str) -> dict[str, Any]:
    cluster = next(yaml.safe_load_all((CLUSTER / "rayservice.yaml").read_text()))["spec"]["rayClusterConfig"]
    found = cluster["headGroupSpec"] if group == "head" else cluster["workerGroupSpecs"][0]
    return dict(found["template"]["spec"]["containers"][0])


def test_the_image_runs_as_the_user_that_the_pods_ask_for() -> None:
    assert f"\nUSER {pods.USER_ID}\n" in DOCKERFILE
    assert f"useradd --uid {pods.USER_ID} " in DOCKERFILE
    # Nothing is done as root after it.
    assert "USER root" not in DOCKERFILE


def test_the_image_has_a_bentoml_home_where_the_pods_mount_one() -> None:
    assert f"BENTOML_HOME={pods.BENTOML_HOME} " in DOCKERFILE
    assert f"{pods.BENTOML_HOME}/bentos" in DOCKERFILE


def test_the_image_installs_what_is_locked() -> None:
    assert "--constraint /src/constraints.txt" in DOCKERFILE


def test_the_image_can_fetch_from_buckets_and_the_drivers_are_locked() -> None:
    (extras,) = re.findall(r"^ARG EXTRAS=(.*)$", DOCKERFILE, re.MULTILINE)
    there = tomllib.loads((CLUSTER.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    locked = {line.partition("==")[0] for line in (CLUSTER.parent / "constraints.txt").read_text().splitlines()}
    drivers = {name for extra in extras.split(",") for name in there[extra]}
    assert drivers == {"s3fs", "gcsfs"}
    assert drivers <= locked


def test_the_image_copies_only_what_is_there() -> None:
    copied = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY ")]
    assert [name for names in copied for name in names if not (CLUSTER.parent / name).exists()] == []


def test_the_image_has_the_name_that_the_manifest_asks_for() -> None:
    assert spec("head")["image"] == spec("worker")["image"] == f"ray-canary:{__version__}"
    assert f"ray-canary:{__version__} " in DOCKERFILE


def test_the_prometheus_operator_reads_the_monitor_and_knows_every_key() -> None:
    monitor = yaml.safe_load((CLUSTER / "podmonitor.yaml").read_text())
    assert PodMonitor.model_validate(monitor).model_dump(mode="json", by_alias=True, exclude_unset=True) == monitor


def test_every_port_of_the_monitor_is_a_port_of_a_pod_and_metrics_are_on_all() -> None:
    monitor = yaml.safe_load((CLUSTER / "podmonitor.yaml").read_text())["spec"]
    asked = {one["port"] for one in monitor["podMetricsEndpoints"]}
    head, worker = ({one["name"]: one["containerPort"] for one in spec(group)["ports"]} for group in ("head", "worker"))
    # The autoscaler's is there where there is one.
    assert asked - set(head) - set(worker) == {"as-metrics"}
    assert {head[name] for name in asked & set(head)} <= set(pods.METRICS_PORTS)
    assert {"metrics", "haproxy"} <= set(head) & set(worker)


def test_grafanas_dashboard_asks_for_no_label_that_only_another_prometheus_gives() -> None:
    queries = re.findall(r'"expr": "(.*)"', (CLUSTER / "grafana.json").read_text())
    assert len(queries) > 5
    assert [query for query in queries if re.search(r"\b(job|instance|SessionName)\s*=", query)] == []
