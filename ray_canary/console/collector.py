"""Looks at Ray's own metrics for all open Monitoring pages, where there is no Prometheus."""

import threading
import time
from typing import Final

from ray_canary.errors import ClusterError, RayCanaryError
from ray_canary.readings import Readings, Watch
from ray_canary.serving import scrape
from ray_canary.serving.cluster import Cluster

#: Seconds between two looks, and seconds without anybody who asks after which there are none any more.
EVERY_S: Final = 5.0
IDLE_S: Final = 600.0


class Collector:
    """Looks again and again while somebody asks, and keeps the readings of an hour for every Deployment."""

    def __init__(self, address: str | None) -> None:
        """Look at the cluster at `address`; nothing is looked at before somebody asks."""
        self._address = address
        self._lock = threading.Lock()
        self._watch = Watch()
        self._thread: threading.Thread | None = None
        self._asked = 0.0
        self._failure: str | None = None

    def readings(self, deployment: str, start: float) -> tuple[Readings, ...]:
        """Return what is known of a Deployment since a time (seconds since 1970). Raises ClusterError."""
        with self._lock:
            self._asked = time.monotonic()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="collector", daemon=True)
                self._thread.start()
            if self._failure is not None:
                raise ClusterError(self._failure)
            return tuple(one for one in self._watch.of(deployment) if one.at >= start)

    def _run(self) -> None:
        while True:
            began = time.monotonic()
            failure = None
            try:
                cluster = Cluster(self._address)
                snapshot = scrape.look(cluster)
                names = tuple(cluster.state().live())
                with self._lock:
                    self._watch.add(snapshot, names)
            except RayCanaryError as error:
                failure = str(error)
            with self._lock:
                self._failure = failure
                if time.monotonic() - self._asked > IDLE_S:
                    self._thread = None
                    return
            time.sleep(max(0.0, began + EVERY_S - time.monotonic()))
