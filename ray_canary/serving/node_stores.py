"""Which Bentos the nodes' own stores lack: a small task on each living node says so, run as a job of Ray's.

A job works from wherever the dashboard is reached; a driver would have to be on a node. `python -m` this module is the
job: it prints one line for each node.
"""

import json
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from ray_canary.bentos import BentoStore, store_path
from ray_canary.serving.node_bentos import lacking

#: Seconds that a node may take to answer: it starts a process for it.
NODE_TIMEOUT_S: Final = 60.0
_LINE: Final = "ray-canary-node "


@dataclass(frozen=True)
class NodeStore:
    """What one node said: of each Bento that it lacks a sentence. `trouble` is why it said nothing."""

    id: str
    address: str
    resources: Mapping[str, float]
    lacks: Mapping[str, str] = field(default_factory=dict)
    trouble: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return what people find it by."""
        return f"{self.address} ({self.id[:8]})"


def command(python: str, tags: Iterable[str]) -> str:
    """Return the job's command line."""
    return shlex.join([python, "-m", __name__, *tags])


def read(log: str) -> list[NodeStore]:
    """Return what a job has printed of the nodes."""
    lines = (line.partition(_LINE)[2] for line in log.splitlines() if _LINE in line)
    return [NodeStore(**json.loads(line)) for line in lines]


def here(tags: Iterable[str]) -> dict[str, str]:
    """Return a sentence for each Bento that this node's store lacks."""
    store = BentoStore(store_path())
    return {tag: sentence for tag in tags if (sentence := lacking(tag, store))}


def ask(tags: list[str], timeout_s: float = NODE_TIMEOUT_S) -> Iterator[NodeStore]:
    """Ask every living node, all at once."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(log_to_driver=False)
    question = ray.remote(num_cpus=0, max_retries=0)(here)
    asked: dict[Any, dict[str, Any]] = {}
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"]:
            on = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[question.options(scheduling_strategy=on).remote(tags)] = node
    deadline = time.monotonic() + timeout_s
    for answer, node in asked.items():
        common = {
            "id": node["NodeID"],
            "address": node["NodeManagerAddress"],
            "resources": node["Resources"],
            "labels": node.get("Labels") or {},
        }
        try:
            yield NodeStore(**common, lacks=ray.get(answer, timeout=max(1.0, deadline - time.monotonic())))
        except Exception as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            yield NodeStore(**common, trouble=lines[-1] if lines else type(error).__name__)


def main() -> None:
    """Print what every node says of the Bentos that the command line names."""
    for node in ask(sys.argv[1:]):
        print(f"{_LINE}{json.dumps(asdict(node))}", flush=True)


if __name__ == "__main__":
    main()
