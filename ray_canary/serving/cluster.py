"""The cluster, through Ray's own submission client: what Serve runs, and the way to change it."""

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from ray_canary.errors import ClusterError
from ray_canary.nodelabels import Node
from ray_canary.serving.compile import Config
from ray_canary.serving.local import token_exists
from ray_canary.serving.state import OnCluster
from ray_canary.serving.store import GcsStore, gcs_address

#: Seconds that a node may take to open a log file.
_LOG_TIMEOUT_S: Final = 30

#: Seconds between two looks at a job.
_LOOK_EVERY_S: Final = 0.2

DEFAULT_ADDRESS = "http://127.0.0.1:8265"


@dataclass(frozen=True)
class Raylet:
    """How a node's raylet was started: where GCS is, and with which Python its workers are."""

    head: bool
    gcs_address: str
    python: str

    @classmethod
    def of(cls, node: Mapping[str, Any]) -> "Raylet":
        """Read it out of what the dashboard says of a node (ray 2.60.0)."""
        said = dict(argument.partition("=")[::2] for argument in node.get("cmdline") or ())
        command = str(said.get("--python_worker_command") or "").split()
        head = bool((node.get("raylet") or {}).get("isHeadNode"))
        return cls(head, str(said.get("--gcs-address") or ""), command[0] if command else "python")


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
        return OnCluster.of(self.details())

    def details(self) -> dict[str, Any]:
        """Ask what Serve runs, in Serve's own words. Raises ClusterError."""
        try:
            return dict(self._client.get_serve_details())
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

    def sizes(self) -> list[Node]:
        """Return what every living node has in all, and its labels.

        Raises:
            ClusterError: it doesn't say.
        """
        return [
            Node(dict(node.get("resources_total") or {}), dict(node.get("labels") or {}), str(node["node_id"]))
            for node in self.nodes()
        ]

    def nodes(self) -> list[Mapping[str, Any]]:
        """Return every living node as Ray describes it: `node_id`, `node_ip`, `resources_total`, ...

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
        return [node for node in nodes if node.get("state") == "ALIVE"]

    def raylets(self) -> tuple[Raylet, ...]:
        """Return how the raylet of every living node was started, the head's first. Raises ClusterError."""
        try:
            nodes = self._summary()["data"]["summary"]
            found = [Raylet.of(node) for node in nodes if (node.get("raylet") or {}).get("state") == "ALIVE"]
        except Exception as error:
            message = f"The cluster at {self.address} doesn't say what nodes it has: {_last_line(error)}"
            raise ClusterError(message) from error
        return tuple(sorted(found, key=lambda one: not one.head))

    def run(self, command: str, timeout_s: float) -> str:
        """Run a command as a job on the cluster, and return what it printed.

        Raises:
            ClusterError: it failed, or the time ran out.
        """
        from ray.dashboard.modules.job.sdk import JobSubmissionClient

        try:
            client = JobSubmissionClient(self.address)
            job = client.submit_job(entrypoint=command, metadata={"started_by": "ray-canary"})
            deadline = time.monotonic() + timeout_s
            while not (status := client.get_job_status(job)).is_terminal():
                if time.monotonic() > deadline:
                    client.stop_job(job)
                    raise TimeoutError(f"not done after {timeout_s:g} s")
                time.sleep(_LOOK_EVERY_S)
            said = str(client.get_job_logs(job))
            client.delete_job(job)
        except Exception as error:
            raise ClusterError(f"A job can't be run at {self.address}: {_last_line(error)}") from error
        if status.value != "SUCCEEDED":
            raise ClusterError(f"The job `{command}` failed at {self.address}: {_last_line(ValueError(said))}")
        return said

    def actors(self) -> list[Mapping[str, Any]]:
        """Return every actor that Ray remembers, as the dashboard lists them; dead ones too. Raises ClusterError."""
        try:
            reply = self._client._do_request("GET", "/logical/actors")
            reply.raise_for_status()
            return list(reply.json()["data"]["actors"].values())
        except Exception as error:
            message = f"The cluster at {self.address} doesn't say which actors it has: {_last_line(error)}"
            raise ClusterError(message) from error

    def log(self, asked: Mapping[str, str], *, follow: bool = False) -> Iterator[bytes]:
        """Yield pieces of one log file of a node; `asked` is the query of Ray's own `/api/v0/logs`.

        Ray's `get_log` asks the same, but takes the address of GCS, which is not reached from everywhere.

        Raises:
            ClusterError: there is no such file, or its node is gone.
        """
        import requests

        query = urlencode({**asked, "timeout": str(_LOG_TIMEOUT_S)})
        url = f"{self._client._address}/api/v0/logs/{'stream' if follow else 'file'}?{query}"
        own: dict[str, Any] = {
            "headers": self._client._headers,
            "cookies": self._client._cookies,
            "verify": self._client._verify,
        }
        what = asked.get("filename") or f"standard {asked.get('suffix')}"
        try:
            with requests.get(url, stream=True, timeout=(_LOG_TIMEOUT_S, None), **own) as reply:
                if reply.status_code != 200:
                    raise ClusterError(f"{what} can't be read: {_last_line(ValueError(reply.text))}")
                yield from reply.iter_content(chunk_size=None)
        except requests.RequestException as error:
            raise ClusterError(f"{what} can't be read: {_last_line(error)}") from error

    def metrics_addresses(self) -> list[str]:
        """Return where Ray's processes show their metrics, as `host:port`.

        Raises:
            ClusterError: it doesn't say.
        """
        try:
            reply = self._client._do_request("GET", "/api/prometheus/sd")
            reply.raise_for_status()
            return [target for group in reply.json() for target in group["targets"]]
        except Exception as error:
            message = f"The cluster at {self.address} doesn't say where its metrics are: {_last_line(error)}"
            raise ClusterError(message) from error

    def store(self) -> GcsStore:
        """Connect to what this cluster keeps beside Serve: revisions, leases, tokens.

        Raises:
            ClusterError: the dashboard doesn't say where GCS is, or GCS can't be reached from here.
        """
        try:
            address = gcs_address(self._summary())
            if address is None:
                raise ValueError("no raylet names it")
            return GcsStore.at(address)
        except Exception as error:
            message = f"Ray's GCS, which keeps revisions and tokens, can't be reached: {_last_line(error)}"
            raise ClusterError(message) from error

    def _summary(self) -> Any:
        reply = self._client._do_request("GET", "/nodes?view=summary")
        reply.raise_for_status()
        return reply.json()


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
