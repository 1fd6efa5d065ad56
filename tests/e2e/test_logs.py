"""`ray-canary logs` and `events`: what an engineer on call looks at first."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.harness import RealCluster, wait_for
from tests.e2e.test_lifecycle import build_light, deploy, light

WEIGHTS = {"a": 40, "b": 20}


@pytest.fixture(scope="module")
def cluster(shared: RealCluster) -> Iterator[RealCluster]:
    """A cluster with the Deployment `light`: main, a and b."""
    build_light(shared.home)
    deploy(shared, light(WEIGHTS))
    yield shared
    shared.clear()


def asked(cluster: RealCluster, key: str) -> tuple[str, str]:
    """Send a request, and return who answered it and its id."""
    answer = httpx.post(f"{cluster.url}/who?feature={key}", json={}, timeout=30)
    return answer.headers["x-bento-version"], answer.headers["x-request-id"]


def logs(cluster: RealCluster, *arguments: str) -> list[dict[str, Any]]:
    done = cluster.canary("logs", "light", "-o", "json", *arguments)
    return [json.loads(line) for line in done.stdout.splitlines()]


def events(cluster: RealCluster, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(cluster.canary("events", "light", "-o", "json", *arguments).stdout)
    return found


def test_a_requests_id_leads_to_the_line_of_the_version_that_answered_it(cluster: RealCluster) -> None:
    version, request_id = asked(cluster, "user1")
    found = wait_for(lambda: logs(cluster, "--request-id", request_id), "the line is written", 10)
    assert {line["version"] for line in found} == {version}
    assert all(request_id in line["line"] for line in found)
    assert f"light-{'main' if version == 'main' else f'canary-{version}'}_Fragile" in found[0]["line"]


def test_lines_can_be_had_of_one_version_or_one_replica_as_text_with_their_name_before_them(
    cluster: RealCluster,
) -> None:
    wait_for(lambda: logs(cluster, "--version", "ingress"), "the ingress has written", 10)
    assert {line["version"] for line in logs(cluster, "--version", "ingress")} == {"ingress"}
    replica = logs(cluster, "--version", "ingress")[0]["replica"]
    text = cluster.canary("logs", "light", "--replica", replica[:5]).stdout
    assert all(line.startswith(f"ingress/{replica} | ") for line in text.splitlines())
    assert "Split in force" in text
    assert logs(cluster, "--since", "1s", "--version", "ingress") == []


def test_what_is_written_is_followed(cluster: RealCluster, tmp_path: Path) -> None:
    sent: list[tuple[str, str]] = []

    def followed() -> bool:
        sent.append(asked(cluster, "user2"))
        said = (tmp_path / "said").read_text().splitlines()
        return any(line.startswith(f"{who}/") and request_id in line for who, request_id in sent for line in said)

    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            ["ray-canary", "logs", "light", "--follow", "--tail", "0"],
            env={**cluster.environment, "PYTHONUNBUFFERED": "1"},
            stdout=said,
        )
    try:
        wait_for(followed, "a request's line is followed", 30, 0.5)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert process.returncode == 130


def test_a_version_that_does_not_start_shows_why(cluster: RealCluster, tmp_path: Path) -> None:
    file = light({**WEIGHTS, "c": 10}, envs={"c": {"FRAGILE_BREAK": "import"}})
    cluster.canary("deploy", "-f", cluster.write("broken.yaml", file), code=1)

    def told() -> bool:
        said = [line["line"] for line in logs(cluster, "--version", "c")]
        return "Traceback (most recent call last):" in said and any("of another version" in line for line in said)

    wait_for(told, "its log has the traceback", 30)
    warnings = [one for one in events(cluster, "--version", "c") if one["type"] == "Warning"]
    assert warnings
    deploy(cluster, light(WEIGHTS))


def test_events_tell_changes_and_what_became_of_replicas_the_newest_last(cluster: RealCluster) -> None:
    cluster.canary("weights", "light", "a=35")
    (pid,) = cluster.pids("light-canary-b")
    os.kill(pid, signal.SIGKILL)
    wait_for(
        lambda: any("died" in one["message"] and one["version"] == "b" for one in events(cluster)),
        "its death is told",
        30,
    )
    found = events(cluster)
    assert [one["time"] for one in found] == sorted(one["time"] for one in found)
    told = [one["message"] for one in found]
    assert any("weights a=35 (main 45 %, a 35 %, b 20 %)" in message for message in told)
    assert any(f"process {pid}" in message for message in told)
    died = next(one for one in found if "died" in one["message"] and one["version"] == "b")
    assert died["type"] == "Warning"
    cluster.canary("weights", "light", "a=40")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["logs", "light", "--version", "x"], "--version: 'x' is no version of light; there are a, b, ingress, main"),
        (["logs", "light", "--since", "soon"], "--since: 'soon' is not a time like 30s, 5m, 2h or 1d"),
        (["logs", "light", "--replica", "nobody"], "--replica: there is no replica 'nobody'; those alive are"),
        (["events", "light", "--version", "x"], "--version: 'x' is no version of light"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(cluster: RealCluster, arguments: list[str], told: str) -> None:
    done = cluster.canary(*arguments, code=2)
    assert told in " ".join(done.stderr.split())


def test_a_deployment_that_is_not_there_is_said(cluster: RealCluster) -> None:
    for verb in ("logs", "events", "top"):
        assert (
            "The cluster has no Deployment 'lght'; did you mean 'light'?" in cluster.canary(verb, "lght", code=1).stderr
        )
