"""A real Prometheus, set up as `cluster/prometheus.yaml` says, on a real Ray: its numbers, the dashboard's queries."""

import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ray_canary import charts, metrics
from tests.e2e.deployments import probe
from tests.e2e.harness import PATIENCE, RealCluster, wait_for

CONFIG = Path(__file__).parents[2] / "cluster" / "prometheus.yaml"
#: Requests with a key, which is all that a version's user sends.
REQUESTS = 300
#: How long each of them is worked on, seconds: well inside of a bucket.
WORK_S = 0.35
#: There is no GPU here.
NOTHING_HERE = {"GPU"}


class Prometheus:
    """A Prometheus that runs."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that an expression gives now. Raises HTTPStatusError if it is none."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=10)
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found

    def by(self, label: str, expression: str) -> dict[str, float]:
        """Return the values of an expression by one label; those that are no number are left out."""
        found = {one["metric"].get(label, ""): float(one["value"][1]) for one in self.ask(expression)}
        return {name: value for name, value in found.items() if value == value}


@pytest.fixture(scope="module")
def prometheus(shared: RealCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Start one on loopback, with the repo's configuration, and this cluster's file of addresses."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load(CONFIG.read_text())
    # A page that a busy node doesn't give in time takes all its series away until the next one.
    config["global"] = {"scrape_interval": "5s", "scrape_timeout": "5s", "evaluation_interval": "5s"}
    (discovery,) = (block for job in config["scrape_configs"] for block in job["file_sd_configs"])
    (name,) = discovery["files"]
    discovery["files"] = [str(shared.session / Path(name).name)]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = ["prometheus", f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        wait_for(lambda: _ready(address), "Prometheus is ready", 30)
        yield Prometheus(f"http://{address}")
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(30)


def _ready(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/-/ready").status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def answered(shared: RealCluster) -> Counter[str]:
    """Deploy, with a queue in front of one version, and send a known load; return who answered how often."""
    file = probe({"a": 30})
    traffic = {"traffic": {"external_queue": True, "concurrency": 50}}
    small = file["services"]["Probe"]
    two = {"min_replicas": 2, "max_replicas": 2}
    queued = {**small, "scaling": two, "config_overrides": {**small["config_overrides"], **traffic}}
    file["canary"]["versions"]["a"]["services"] = {"Probe": queued}
    shared.serve_deploy(shared.build(file))
    shared.until_ready("probe")
    with httpx.Client(base_url=shared.url, timeout=30) as client, ThreadPoolExecutor(8) as several:

        def work(number: int) -> str:
            answer = client.post("/sleep", params={"feature": str(number)}, json={"seconds": WORK_S})
            assert answer.status_code == 200
            return answer.headers["x-bento-version"]

        return Counter(several.map(work, range(REQUESTS)))


def test_prometheus_counts_what_was_answered(prometheus: Prometheus, answered: Counter[str]) -> None:
    assert set(answered) == {"main", "a"}
    keyed = f'sum by (bento_version) ({metrics.exported(metrics.REQUESTS)}{{split_reason="keyed"}})'
    wait_for(lambda: prometheus.by("bento_version", keyed) == answered, f"Prometheus has {answered}", 40, 0.5)
    bentos = f"sum by (bento) ({metrics.exported(metrics.REQUESTS)})"
    wait_for(lambda: set(prometheus.by("bento", bentos)) == {"probe:v1", "probe:v2"}, "it says which Bentos", 20, 0.5)


def test_a_quantile_is_in_the_bucket_in_which_it_was(prometheus: Prometheus, answered: Counter[str]) -> None:
    buckets = [0.0, *metrics.DURATION.buckets]
    least, most = next((low, high) for low, high in zip(buckets, buckets[1:], strict=False) if low < WORK_S <= high)
    series = f'{metrics.exported(metrics.DURATION)}_bucket{{status_class="2xx"}}'
    median = f"histogram_quantile(0.5, sum by (le, bento_version) ({series}))"
    wait_for(lambda: set(prometheus.by("bento_version", median)) == set(answered), "there are durations", 40, 0.5)
    for version, seconds in prometheus.by("bento_version", median).items():
        assert least <= seconds <= most, version


def test_every_query_of_the_dashboard_returns_data(
    shared: RealCluster, prometheus: Prometheus, answered: Counter[str]
) -> None:
    """While there is traffic of every kind, since a rate of nothing is nothing."""
    queries = {
        f"{chart.title}, {query.legend}": charts.filled(query.expression, "probe", "30s")
        for chart in charts.charts()
        for query in chart.queries
    }
    silent = {name for name in queries if name.split(",")[0] in NOTHING_HERE}
    deadline = time.monotonic() + 90 * PATIENCE
    missing = set(queries)
    with httpx.Client(base_url=shared.url, timeout=30) as client:
        while missing > silent and time.monotonic() < deadline:
            for number in range(20):
                client.post("/who", params={"feature": str(number)}, json={})
                client.post("/who", json={})
                client.get("/web/stamps", params={"feature": str(number), "count": 5, "every_s": 0.01})
            missing -= {name for name in missing if prometheus.by("bento_version", queries[name])}
    assert missing == silent
    for name in silent:
        assert prometheus.ask(queries[name]) == []  # It is one that Prometheus takes.
    versions = {name: prometheus.by("bento_version", queries[name]) for name in queries}
    for chart in ("Replicas, {{bento_version}} healthy", "CPU, {{bento_version}}", "Memory, {{bento_version}}"):
        assert set(versions[chart]) == {"main", "a"}, chart
    # Each has two Bento services, and a two replicas of one of them.
    assert versions["Replicas, {{bento_version}} healthy"] == {"main": 2, "a": 3}
    assert min(versions["Memory, {{bento_version}}"].values()) > 50e6
    assert sum(versions["Share against weight, {{bento_version}} observed"].values()) == pytest.approx(100)
    assert versions["Share against weight, {{bento_version}} weight"] == {"main": 70, "a": 30}
