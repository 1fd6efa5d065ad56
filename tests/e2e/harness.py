"""A local Ray for tests, and what a user would do with it: `serve deploy`, `ray-canary`, HTTP."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from ray_canary.serving import local
from ray_canary.serving.cluster import Cluster
from ray_canary.serving.state import OnCluster
from tests.e2e import commands

ROOT = Path(__file__).parents[2]
BENTOS = Path(__file__).parent / "bentos"

#: Whether Ray asks for a token depends on whether it ever made one on this machine; the tests' cluster asks for none.
AUTH = {"RAY_AUTH_MODE": "disabled"}

#: Ray starts its workers, replicas among them, with niceness 15. Beside clients and commands with 0, which a cluster's
#: nodes don't have, a replica would get a thirtieth of a core, and a request wait for that.
EVEN = {"RAY_worker_niceness": "0"}

#: The seconds that a test gives something to happen are those of a quiet machine; a busy one was four times slower.
PATIENCE = 4
#: The longest that a command may take, seconds: less than a whole test may.
LONGEST_COMMAND_S = 800
#: How often to look while processes start and end, each of which takes seconds.
LOOK_EVERY_S = 0.5


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 60, every_s: float = 0.1) -> Any:
    """Wait until `condition()` is true and return what it returned; fail with `what` when the time is over.

    It is asked every `every_s` seconds, and no more than half of the time: what is waited for needs the cores too.
    `timeout_s` is for a quiet machine: `PATIENCE` times as many seconds pass before it fails. What must be quick is to
    be asserted of what it took.
    """
    timeout_s *= PATIENCE
    deadline = time.monotonic() + timeout_s
    asked = time.monotonic()
    while not (value := condition()):
        now = time.monotonic()
        assert now < deadline, f"after {timeout_s:g} s, still not: {what}"
        time.sleep(max(every_s, now - asked))
        asked = time.monotonic()
    return value


def build_bento(home: Path, project: str, version: str, folder: Path | None = None) -> str:
    """Build a test Bento, by default the one of `bentos/<project>`, with the real bentoml and return its tag."""
    environment = {
        **os.environ,
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-P", "-m", "bentoml", "build", str(folder or BENTOS / project)]
    command += ["--name", project, "--version", version]
    # BentoML builds only what lies beneath its working directory.
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return f"{project}:{version}"


@dataclass
class RealCluster:
    """A local Ray of the tests' own, on ports of its own."""

    home: Path
    work: Path
    local: local.Local

    @property
    def url(self) -> str:
        """Where Serve answers."""
        return f"http://127.0.0.1:{self.local.http_port}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a user's shell on this cluster."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {
            **os.environ,
            "PATH": path,
            "RAY_DASHBOARD_ADDRESS": self.local.address,
            **AUTH,
            "BENTOML_HOME": str(self.home),
            "COLUMNS": "200",
        }

    def run(self, *command: str, code: int | None = 0, timeout_s: float = 180) -> subprocess.CompletedProcess[str]:
        """Run a command as a user would; `code` is the exit code that it must have (None: any).

        `timeout_s` is for a quiet machine, as in `wait_for`.
        """
        done = commands.run(command, self.environment, self.work, min(timeout_s * PATIENCE, LONGEST_COMMAND_S))
        assert code is None or done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def canary(self, *arguments: str, code: int | None = 0, timeout_s: float = 180) -> subprocess.CompletedProcess[str]:
        """Run `ray-canary`."""
        return self.run("ray-canary", *arguments, code=code, timeout_s=timeout_s)

    def write(self, name: str, content: Mapping[str, Any] | str) -> str:
        """Write a file into the user's folder and return its path."""
        text = content if isinstance(content, str) else yaml.safe_dump(dict(content), sort_keys=False)
        (self.work / name).write_text(text)
        return str(self.work / name)

    def build(self, deployment: Mapping[str, Any]) -> str:
        """Compile a Deployment file to a Serve config and return its path."""
        file = self.write("deployment.yaml", deployment)
        self.canary("build", "-f", file, "-o", "canary.yaml")
        return str(self.work / "canary.yaml")

    def serve_deploy(self, config: str) -> float:
        """Run plain `serve deploy`; return the moment when it had been accepted (monotonic s)."""
        self.run("serve", "deploy", config)
        return time.monotonic()

    def state(self) -> OnCluster:
        """Return what Serve runs."""
        return Cluster(self.local.address).state()

    def pids(self, application: str, deployment: str | None = None) -> set[int]:
        """Return the pids of an application's running replicas, also of those that just now get new settings."""
        found = self.state().applications.get(application)
        return {
            replica.pid
            for one in (found.deployments.values() if found else ())
            for replica in one.replicas
            if replica.state in ("RUNNING", "UPDATING") and replica.pid and deployment in (None, one.name)
        }

    @property
    def session(self) -> Path:
        """Return the folder in which this Ray keeps its logs."""
        (session,) = {
            argument.removeprefix("--session-dir=")
            for process in local.processes_of(self.local.name)
            for argument in process.cmdline()
            if argument.startswith("--session-dir=")
        }
        return Path(session)

    def metrics(self) -> list[Sample]:
        """Read every sample of ours from the Prometheus endpoints of this cluster's nodes."""
        found = json.loads((self.session / "prom_metrics_service_discovery.json").read_text())
        pages = [
            httpx.get(f"http://{target}/metrics", timeout=60).text for group in found for target in group["targets"]
        ]
        families = (family for page in pages for family in text_string_to_metric_families(page))
        return [sample for family in families for sample in family.samples if sample.name.startswith("ray_canary_")]

    def until_ready(self, name: str, *, timeout_s: float = 90) -> None:
        """Wait until every target of a Deployment is ready and its ingress answers with the effective weights."""

        def ready() -> bool:
            live = self.state().live().get(name)
            if live is None or not live.ingress.deployments:
                return False
            ingress = live.ingress.deployments["Ingress"]
            return ingress.settled and ingress.running > 0 and all(target.ready for target in live.targets.values())

        wait_for(ready, f"Deployment {name} is ready", timeout_s, LOOK_EVERY_S)
        wait_for(lambda: self._answers("/livez"), "it answers over HTTP", 30)

    def in_force(self, name: str, shares: dict[str, int]) -> bool:
        """Whether every ingress replica of a Deployment splits so.

        The controller shows a new user_config at once, and the deployment as updating until every replica has it.
        """
        live = self.state().live()[name]
        ingress = live.ingress.deployments["Ingress"]
        taken = ingress.user_config == live.user_config and ingress.status == "HEALTHY" and ingress.settled
        return taken and live.settings.split.shares() == shares

    def _answers(self, path: str) -> bool:
        try:
            return httpx.get(f"{self.url}{path}", timeout=5).status_code in (200, 401)  # 401: who asks needs a token
        except httpx.HTTPError:
            return False

    def clear(self) -> None:
        """Take everything off the cluster and wait until it is gone."""
        self._submit_nothing()
        wait_for(lambda: not self.state().applications, "the cluster is empty", 120, LOOK_EVERY_S)

    def _submit_nothing(self) -> None:
        if self.state().applications:
            Cluster(self.local.address).submit({"applications": []})
