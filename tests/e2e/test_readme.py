"""What the README says can be typed in as it stands."""

import re
import shutil
from collections.abc import Iterator
from functools import partial

import pytest

from ray_canary.demo.build import build_bentos
from tests.e2e.deployments import HTTP_PORT
from tests.e2e.harness import ROOT, RealCluster, wait_for

#: These start and end a Ray on the usual ports, or install things; tests of their own cover them.
ELSEWHERE = ("make ", "export RAY_", "ray start", "ray-canary up", "ray-canary down", "python -m ray_canary.demo.build")

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
DEPLOYMENT = re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[0]


def commands() -> list[str]:
    """Return the commands of the README, on the ports of the tests."""
    lines = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines()]
    return [line.replace(":8000", f":{HTTP_PORT}") for line in lines if line and not line.startswith((*ELSEWHERE, "#"))]


@pytest.fixture(scope="module")
def at_home(shared: RealCluster) -> Iterator[RealCluster]:
    """A folder like the repository's, with the files that the README names."""
    build_bentos(shared.home, say=lambda _: None)
    shutil.copytree(ROOT / "configs", shared.work / "configs")
    summarization = shared.work / "configs" / "summarization.yaml"
    summarization.write_text(f"{summarization.read_text()}\nray:\n  http: {{port: {HTTP_PORT}}}\n")
    shared.write("canary.yaml", DEPLOYMENT.replace("ray: {", f"ray: {{http: {{port: {HTTP_PORT}}}, "))
    yield shared
    shared.clear()


def test_every_command_of_the_readme_does_what_it_says(at_home: RealCluster) -> None:
    found = commands()
    assert len(found) >= 8
    for command in found:
        if command.startswith("curl"):
            wait_for(partial(answers, at_home, command), f"{command} answers a summary", 60)
        else:
            at_home.run("bash", "-c", command)


def answers(cluster: RealCluster, command: str) -> bool:
    """Run a curl of the README and return whether a version of a Bento answered it."""
    printed = cluster.run("bash", "-c", command.replace("curl ", "curl -sS -i ", 1), code=None).stdout
    return " 200 OK" in printed and "x-bento-split: keyed" in printed and "canar" in printed.lower()
