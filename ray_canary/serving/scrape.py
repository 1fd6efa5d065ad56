"""Looks at the metrics that Ray shows on every node, without Prometheus."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import httpx

from ray_canary.errors import ClusterError
from ray_canary.readings import Snapshot
from ray_canary.serving.cluster import Cluster

#: Seconds that one process may take to show its metrics, and how many are asked at once.
_TIMEOUT_S: Final = 10.0
_AT_ONCE: Final = 16


def look(cluster: Cluster) -> Snapshot:
    """Read the metrics of every process that shows some; one that doesn't answer makes the look not whole.

    Raises:
        ClusterError: the cluster doesn't say where they are, or no process answers.
    """
    addresses = cluster.metrics_addresses()
    with httpx.Client(timeout=_TIMEOUT_S) as client, ThreadPoolExecutor(_AT_ONCE) as several:
        pages = list(several.map(lambda address: _page(client, address), addresses))
    there = [page for page in pages if page is not None]
    if not there:
        raise ClusterError(f"None of Ray's processes shows its metrics at {', '.join(addresses) or 'any address'}")
    return Snapshot.of(time.time(), there, whole=len(there) == len(pages))


def _page(client: httpx.Client, address: str) -> str | None:
    try:
        return client.get(f"http://{address}/metrics").raise_for_status().text
    except httpx.HTTPError:
        return None  # Whoever asked is told: the look isn't whole.
