"""What every page of the console works with."""

from dataclasses import dataclass

from ray_canary.serving.cluster import Cluster

#: The names that a console may be reached by. It shows what is on the cluster to whoever reaches it.
LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Settings:
    """How a console is run: `address` is Ray's dashboard, `port` where it listens on 127.0.0.1."""

    address: str | None = None
    port: int = 8300


@dataclass(frozen=True)
class Desk:
    """One console's means, shared by its pages. Its methods block: call them through `nicegui.run.io_bound`."""

    settings: Settings

    def cluster(self) -> Cluster:
        """Connect to the cluster. Raises ClusterError."""
        return Cluster(self.settings.address)
