"""What was deployed can be deployed again, and a canary becomes main without anybody's noticing."""

import itertools
import json
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_canary.serving.cluster import Cluster
from ray_canary.splitter import Splitter
from tests.e2e import commands
from tests.e2e.harness import LONGEST_COMMAND_S, RealCluster, wait_for
from tests.e2e.load import Sent
from tests.e2e.test_lifecycle import (
    all_pids,
    build_light,
    deploy,
    get,
    key_of,
    keys_of,
    light,
    requests_to,
    splitter,
    version_of,
)

NAME = "light"


@pytest.fixture(scope="module", autouse=True)
def home(shared: RealCluster) -> None:
    """Build what the module's Deployments run."""
    build_light(shared.home)


def weights(cluster: RealCluster) -> dict[str, int]:
    return {key: target["weight"] for key, target in get(cluster, NAME)["targets"].items()}


def revisions(cluster: RealCluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(cluster.canary("revisions", NAME, "-o", "json").stdout)
    return found


def active(cluster: RealCluster) -> int | None:
    return next((one["revision"] for one in revisions(cluster) if one["active"]), None)


def file(weights: dict[str, int]) -> dict[str, Any]:
    """Return a Deployment whose versions run three Bentos; a has an environment variable that nobody else has."""
    bentos = {"main": "fragile:v1", "a": "fragile:v2", "b": "fragile:v1"}
    return light(weights, bentos=bentos, envs={"a": {"ONLY_A": "1"}}, ingress_replicas=2)


def test_deploy_weights_promote_and_rollback_in_a_row_fail_no_request_and_restart_nothing_that_stays(
    shared: RealCluster,
) -> None:
    path = Path(shared.write("light.yaml", file({"a": 20, "b": 10})))
    shared.canary("deploy", "-f", str(path))
    first = active(shared)
    before = all_pids(shared)
    ours = splitter({"a": 20, "b": 10})
    promoted = Splitter({"main": 90, "b": 10}, NAME, arms={"main": "a"})
    on_a = key_of(ours, "a")
    # a's weight grows, so some of b's keys go to it; none of a's own goes anywhere.
    on_b = next(key for key in keys_of(ours, "b") if promoted.choose(key.encode()) == "b")
    assert all(promoted.choose(key.encode()) == "main" for key in itertools.islice(keys_of(ours, "a"), 500))
    with requests_to(shared) as load:
        shared.canary("weights", NAME, "a=40", "-f", str(path))
        assert all_pids(shared) == before
        assert yaml.safe_load(path.read_text())["canary"]["versions"]["a"]["weight"] == 40
        assert weights(shared) == {"main": 50, "a": 40, "b": 10}

        said = shared.canary("promote", NAME, "a", "-f", str(path)).stdout
        assert "a is main now" in said
        wait_for(lambda: "light-main" not in shared.state().applications, "main's old version is gone", 60)
        after = all_pids(shared)
        assert after == {name: pids for name, pids in before.items() if name != "light-main"}
        assert weights(shared) == {"main": 90, "b": 10}
        assert get(shared, NAME)["targets"]["main"]["application"] == "light-canary-a"
        assert version_of(shared.url, on_a) == "main"
        assert version_of(shared.url, on_b) == "b"
        sticky = [one for one in load.sent if one.version == "a"]
        assert sticky, "some users were on a"

        written = yaml.safe_load(path.read_text())
        assert written["bento"] == "fragile:v2"
        assert written["ray"]["applications"] == {"main": "light-canary-a"}
        assert written["ray"]["arms"] == {"main": "a"}
        shared.canary("build", "-f", str(path), "-o", "canary.yaml")
        shared.serve_deploy(str(shared.work / "canary.yaml"))
        shared.until_ready(NAME)
        assert all_pids(shared) == after
        assert active(shared) == 3
        assert weights(shared) == {"main": 90, "b": 10}
        assert version_of(shared.url, on_a) == "main"

        shared.canary("rollback", NAME, "--to", str(first))
        assert weights(shared) == {"main": 70, "a": 20, "b": 10}
        back = all_pids(shared)
        assert {name: pids for name, pids in back.items() if name in after} == after
        assert version_of(shared.url, on_a) == "a"
        assert version_of(shared.url, on_b) == "b"
    assert not load.failures, f"{len(load.failures)} of {len(load.sent)}: {load.failures[:3]}"
    causes = [one["cause"] for one in revisions(shared)]
    # What plain `serve deploy` brought was what `promote` had made, so it is no revision of its own.
    assert causes == ["deploy", "weights a=40", "promote a", f"rollback to {first}"]
    assert active(shared) == 4
    said = shared.canary("diff", NAME, "1", "3").stdout
    assert "fragile:v1" in said
    assert "canary.versions.a.weight" in said
    shared.clear()


def test_who_promotes_the_last_version_and_deploys_the_file_by_plain_serve_can_roll_back(shared: RealCluster) -> None:
    path = Path(shared.write("light.yaml", file({"a": 0})))
    shared.canary("deploy", "-f", str(path))
    first = active(shared)
    said = shared.canary("promote", NAME, "a", "-f", str(path)).stdout
    assert "Of all keys, 100.0% change their version" in said
    promoted = active(shared)
    shared.canary("build", "-f", str(path), "-o", "canary.yaml")
    shared.serve_deploy(str(shared.work / "canary.yaml"))
    shared.until_ready(NAME)
    assert active(shared) == promoted, "it is what promote had made"
    shared.canary("rollback", NAME)
    assert weights(shared) == {"main": 100, "a": 0}
    assert get(shared, NAME)["bento"] == "fragile:v1"
    assert active(shared) not in (first, promoted)
    shared.clear()


def test_a_bad_weight_change_is_rolled_back_by_one_command_and_reaches_the_last_ingress_replica_within_a_second(
    shared: RealCluster,
) -> None:
    deploy(shared, file({"a": 10, "b": 10}))
    shared.canary("weights", NAME, "a=80")
    expected = splitter({"a": 10, "b": 10})
    with requests_to(shared, clients=4) as load:
        wait_for(lambda: len(load.sent) > 50, "some requests")
        number = active(shared)
        shared.canary("rollback", NAME)
        done = time.monotonic()
        wait_for(lambda: load.sent[-1].at > done + 2, "some requests after it")
    assert not load.failures
    late = [one for one in load.sent if one.at > done and one.version != expected.choose(one.key.encode())]
    assert not late, f"{len(late)} met the old weights after the command had ended: {late[0]}"
    since = max(one.at for one in load.sent if one.version != expected.choose(one.key.encode()))
    first = min(one.at for one in load.sent if one.at < done and is_back(one, expected))
    assert since - first < 1.0, f"{since - first:.2f} s from the first answer with the old weights to the last without"
    assert active(shared) == (number or 0) + 1
    assert weights(shared) == {"main": 80, "a": 10, "b": 10}
    shared.clear()


def is_back(one: Sent, expected: Splitter) -> bool:
    """Whether a request's key is one that the bad weights gave to a, and was answered by another version again."""
    bad = splitter({"a": 80, "b": 10})
    right = expected.choose(one.key.encode())
    return bad.choose(one.key.encode()) != right and one.version == right and one.reason == "keyed"


def test_revisions_survive_a_restart_of_serve_and_bring_a_deleted_deployment_back(shared: RealCluster) -> None:
    deploy(shared, file({"a": 10}))
    shared.canary("weights", NAME, "a=30")
    kept = revisions(shared)
    shared.canary("delete", NAME, "--wait")
    shared.run("serve", "shutdown", "-y")
    wait_for(lambda: not shared.state().serving, "Serve is down", 60)
    assert [one["revision"] for one in revisions(shared)] == [one["revision"] for one in kept]
    assert "is not on the cluster" in shared.canary("revisions", NAME).stdout
    shared.canary("rollback", NAME)
    shared.until_ready(NAME)
    assert weights(shared) == {"main": 70, "a": 30}
    shared.clear()


VERBS = {
    "deploy": ["deploy", "-f", "light.yaml"],
    "weights": ["weights", NAME, "a=50"],
    "promote": ["promote", NAME, "a", "-f", "light.yaml"],
    "rollback": ["rollback", NAME, "--to", "1"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_command_that_is_killed_after_any_of_its_steps_and_run_again_loses_and_repeats_nothing(
    shared: RealCluster, verb: str
) -> None:
    before_it = file({"a": 20})
    started = len(json.loads(shared.canary("revisions", NAME, "-o", "json", code=None).stdout or "[]"))
    deploy(shared, before_it)
    if verb == "deploy":
        changed = file({"a": 40, "b": 20})
        changed["canary"]["versions"]["a"]["envs"].append({"name": "CHANGED", "value": "1"})
        shared.write("light.yaml", changed)
    if verb == "rollback":
        shared.canary("promote", NAME, "a")
    numbers = [one["revision"] for one in revisions(shared)]
    command = [str(first_since(shared, started)) if part == "1" else part for part in VERBS[verb]]
    with requests_to(shared) as load:
        for step in range(1, 5):
            killed = kill_after(shared, command, step)
            if not killed:
                break
        else:
            shared.canary(*command)
        shared.until_ready(NAME)
        wait_for(lambda: get(shared, NAME)["beside"] == [], "nothing is left over", 90)
    assert not load.failures, load.failures[:3]
    expected = {
        "deploy": {"main": 40, "a": 40, "b": 20},
        "weights": {"main": 50, "a": 50},
        "promote": {"main": 100},
        "rollback": {"main": 80, "a": 20},
    }[verb]
    assert weights(shared) == expected
    new = [one for one in revisions(shared) if one["revision"] not in numbers]
    assert len(new) == 1, f"one change is one revision, however often it is begun: {new}"
    assert new[0]["active"]
    shared.clear()


def first_since(cluster: RealCluster, count: int) -> int:
    return int(revisions(cluster)[count]["revision"])


def kill_after(cluster: RealCluster, command: list[str], step: int) -> bool:
    """Run `ray-canary`, kill it once it has submitted `step` times, and return whether that was before its end."""
    line = ("ray-canary", *command)
    done = commands.run(
        line, cluster.environment, cluster.work, timeout_s=LONGEST_COMMAND_S, first=partial(_count_submits, step)
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stdout + done.stderr
    return done.returncode != 0


def _count_submits(left: int) -> None:
    """Let this process die once it has submitted so often."""
    submit, done = Cluster.submit, itertools.count(1)

    def counted(self: Cluster, config: dict[str, Any]) -> None:
        submit(self, config)
        if next(done) == left:
            os.kill(os.getpid(), signal.SIGKILL)

    Cluster.submit = counted  # type: ignore[method-assign]
