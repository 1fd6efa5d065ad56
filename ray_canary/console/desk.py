"""What every page of the console works with."""

from dataclasses import dataclass, field
from functools import cached_property

from ray_canary.console.collector import Collector
from ray_canary.prometheus import Prometheus
from ray_canary.readings import Readings
from ray_canary.serving.cluster import Cluster


@dataclass(frozen=True)
class Settings:
    """How a console is run.

    `address` is Ray's dashboard, `token` is what whoever opens it has to say; without one it is for this machine only.
    `prometheus` is the URL of one that scrapes the cluster.
    """

    address: str | None = None
    token: str | None = field(default=None, repr=False)
    prometheus: str | None = None


@dataclass(frozen=True)
class Desk:
    """One console's means, shared by its pages. Its methods block: call them through `nicegui.run.io_bound`."""

    settings: Settings

    def cluster(self) -> Cluster:
        """Connect to the cluster. Raises ClusterError."""
        return Cluster(self.settings.address)

    @cached_property
    def prometheus(self) -> Prometheus | None:
        """The Prometheus to ask, if there is one."""
        return Prometheus(self.settings.prometheus) if self.settings.prometheus else None

    @cached_property
    def _collector(self) -> Collector:
        return Collector(self.settings.address)

    @property
    def source(self) -> str:
        """Where readings come from, in words."""
        return (
            f"Prometheus at {self.prometheus.url}"
            if self.prometheus
            else "Ray's own metrics, kept since the first look at this page"
        )

    def readings(self, deployment: str, start: float, end: float) -> tuple[Readings, ...]:
        """Return what each version did between two times (seconds since 1970). Raises ClusterError."""
        if self.prometheus is not None:
            return self.prometheus.readings(deployment, start, end)
        return self._collector.readings(deployment, start)
