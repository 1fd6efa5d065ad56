"""What every page of the console works with."""

from dataclasses import dataclass, field

from ray_canary.serving.cluster import Cluster


@dataclass(frozen=True)
class Settings:
    """How a console is run. `address` is Ray's dashboard, `prometheus` a Prometheus server's address, if there is one.

    `token` is what a browser has to show; None: whoever reaches `host` and `port` may use it.
    """

    address: str | None = None
    host: str = "127.0.0.1"
    port: int = 8300
    token: str | None = field(default=None, repr=False)
    prometheus: str | None = None


@dataclass(frozen=True)
class Desk:
    """One console's means, shared by its pages. Its methods block: call them through `nicegui.run.io_bound`."""

    settings: Settings

    def cluster(self) -> Cluster:
        """Connect to the cluster. Raises ClusterError."""
        return Cluster(self.settings.address)
