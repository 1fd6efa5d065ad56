"""The cluster, through Ray's own submission client: what Serve runs, and the way to change it."""

import os
from collections.abc import Mapping
from typing import Any

from ray_canary.errors import ClusterError
from ray_canary.serving.compile import Config
from ray_canary.serving.local import token_exists
from ray_canary.serving.state import OnCluster
from ray_canary.serving.store import GcsStore, gcs_address

DEFAULT_ADDRESS = "http://127.0.0.1:8265"


class Cluster:
    """One Ray cluster, by the address of its dashboard."""

    def __init__(self, address: str | None = None) -> None:
        """Connect; by default to `$RAY_DASHBOARD_ADDRESS`, else to this machine.

        Raises:
            ClusterError: nobody answers there, or not to us.
        """
        _use_token()
        from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

        self.address = address or os.environ.get("RAY_DASHBOARD_ADDRESS") or DEFAULT_ADDRESS
        try:
            self._client = ServeSubmissionClient(self.address)
        except Exception as error:
            raise ClusterError(_unreachable(self.address, error)) from error

    def state(self) -> OnCluster:
        """Ask what Serve runs. Raises ClusterError."""
        try:
            return OnCluster.of(self._client.get_serve_details())
        except Exception as error:
            raise ClusterError(
                f"The cluster at {self.address} doesn't say what it runs: {_last_line(error)}"
            ) from error

    def submit(self, config: Config) -> None:
        """Make `config` what Serve should run; what it leaves out is deleted. Returns at once. Raises ClusterError."""
        try:
            self._client.deploy_applications(config)
        except Exception as error:
            raise ClusterError(f"The cluster at {self.address} refused the config: {_last_line(error)}") from error

    def resources(self) -> list[dict[str, float]]:
        """Return what every living node has in all, in Ray's terms (`CPU`, `memory` in bytes, `GPU`).

        Raises:
            ClusterError: it doesn't say.
        """
        try:
            reply = self._client._do_request("GET", "/api/v0/nodes?limit=10000&detail=true")
            reply.raise_for_status()
            nodes: list[Mapping[str, Any]] = reply.json()["data"]["result"]["result"]
        except Exception as error:
            message = f"The cluster at {self.address} doesn't say what nodes it has: {_last_line(error)}"
            raise ClusterError(message) from error
        return [dict(node.get("resources_total") or {}) for node in nodes if node.get("state") == "ALIVE"]

    def store(self) -> GcsStore:
        """Connect to what this cluster keeps beside Serve: revisions, leases, tokens.

        Raises:
            ClusterError: the dashboard doesn't say where GCS is, or GCS can't be reached from here.
        """
        try:
            reply = self._client._do_request("GET", "/nodes?view=summary")
            reply.raise_for_status()
            address = gcs_address(reply.json())
            if address is None:
                raise ValueError("no raylet names it")
            return GcsStore.at(address)
        except Exception as error:
            message = f"Ray's GCS, which keeps revisions and tokens, can't be reached: {_last_line(error)}"
            raise ClusterError(message) from error


def _use_token() -> None:
    """Turn Ray's token mode on where there is a token: without it, a cluster in token mode refuses us."""
    if "RAY_AUTH_MODE" not in os.environ and token_exists():
        os.environ["RAY_AUTH_MODE"] = "token"


def _unreachable(address: str, error: Exception) -> str:
    if isinstance(error, ValueError):
        return f"{address} is not the address of a Ray dashboard, like {DEFAULT_ADDRESS}"
    # A ConnectionError of Ray's says nothing but that, in its own words.
    why = "" if isinstance(error, ConnectionError) else f": {_last_line(error)}"
    return (
        f"No Ray cluster answers at {address}{why}. "
        "Start a local one with `ray-canary up`, or give the dashboard's address with --address."
    )


def _last_line(error: Exception) -> str:
    lines = [line.strip().rstrip(".") for line in str(error).splitlines()]
    return next((line for line in reversed(lines) if line), type(error).__name__)
