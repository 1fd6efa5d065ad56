"""Drain this node before its pod ends: `python -m ray_canary.serving.drain`, the preStop hook of a worker.

Ray takes no new work to a draining node, and Serve starts a replica elsewhere for each that is here before it stops it;
a replica that is stopped finishes what it has begun. The hook waits until none is left, and until the node's proxy has
ended its requests. Then Kubernetes ends the pod.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import click

from ray_canary.errors import ClusterError, RayCanaryError
from ray_canary.serving.cluster import Cluster
from ray_canary.serving.pods import DASHBOARD_PORT

_PERIOD_S: Final = 2.0
#: Seconds without an answer of the head after which there is nobody left to move replicas: the whole cluster goes. One
#: that starts again took 56 s.
_SILENT_S: Final = 120.0

Say = Callable[[str], None]


def left(details: Mapping[str, Any], node: str) -> tuple[str, ...]:
    """Return what Serve still has on a node: replicas by application and deployment, and its proxy."""
    found = []
    for name, application in sorted((details.get("applications") or {}).items()):
        for deployment, state in sorted((application.get("deployments") or {}).items()):
            here = [one for one in state.get("replicas") or () if one.get("node_id") == node]
            found += [f"{name}/{deployment} ({one.get('state')})" for one in here]
    proxy = (details.get("proxies") or {}).get(node)
    return (*found, *([f"its proxy ({proxy.get('status')})"] if proxy else ()))


def wait(
    look: Callable[[], Mapping[str, Any]],
    node: str,
    seconds: float,
    say: Say,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until Serve has nothing left on a node; return whether that is so.

    Gives up after `seconds`, and sooner where nobody answers any more. `look` returns Serve's details, and raises
    ClusterError where nobody answers.
    """
    began = heard = clock()
    before: tuple[str, ...] | None = None
    while clock() - began < seconds:
        try:
            there = left(look(), node)
            heard = clock()
        except ClusterError as error:
            if clock() - heard > _SILENT_S:
                say(f"Nobody moves the replicas of this node any more: {error}")
                return False
        else:
            if not there:
                return True
            if there != before:
                say(f"Still here: {', '.join(there)}")
            before = there
        pause(_PERIOD_S)
    say(f"After {seconds:g} s, this is cut off: {', '.join(before or ('?',))}")
    return False


def command(address: str, node: str, seconds: float) -> list[str]:
    """Return Ray's own command that drains a node. `address` is that of GCS."""
    return [
        str(Path(sys.executable).with_name("ray")),
        "drain-node",
        f"--address={address}",
        f"--node-id={node}",
        "--reason=DRAIN_NODE_REASON_PREEMPTION",
        "--reason-message=its pod ends",
        f"--deadline-remaining-seconds={int(seconds)}",
    ]


def drain(address: str, ip: str, seconds: float, say: Say, node: str | None = None) -> None:
    """Drain the node with this IP address (or `node`, an id of Ray's), within `seconds`.

    Raises:
        ClusterError: the head doesn't answer, knows no such node, or refuses.
    """
    host = address.rpartition(":")[0]
    cluster = Cluster(f"http://{host}:{DASHBOARD_PORT}")
    found = node or next((one["node_id"] for one in cluster.nodes() if one.get("node_ip") == ip), None)
    if found is None:
        raise ClusterError(f"Ray knows no living node at {ip}")
    done = subprocess.run(command(address, found, seconds), capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ClusterError(f"Ray doesn't drain node {found}: {said[-1] if said else done.returncode}")
    say(f"Draining node {found}.")
    if wait(cluster.details, found, seconds, say):
        say("Nothing is left on this node.")


@click.command()
@click.option("--address", envvar="RAY_ADDRESS", required=True, help="GCS's address; KubeRay sets $RAY_ADDRESS.")
@click.option("--ip", envvar="POD_IP", required=True, help="This node's address.")
@click.option("--seconds", type=click.FloatRange(min=1), default=600, show_default=True, help="At most.")
def main(address: str, ip: str, seconds: float) -> None:
    """Drain this node, and wait until nothing is left on it."""

    def say(sentence: str) -> None:
        # Nobody reads what a hook prints; the pod's log is what its first process prints.
        line = f"ray-canary drain: {sentence}\n"
        try:
            Path("/proc/1/fd/1").write_text(line)
        except OSError:
            sys.stderr.write(line)

    try:
        drain(address, ip, seconds, say)
    except RayCanaryError as error:
        say(str(error))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
