"""The same readings, from a Prometheus that scrapes the cluster."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx

from ray_canary import metrics
from ray_canary.charts import charts, filled
from ray_canary.errors import ClusterError
from ray_canary.readings import Reading, Readings

_TIMEOUT_S: Final = 20.0
#: How many times are asked for at most: as many as a chart has pixels for.
_POINTS: Final = 240
#: Prometheus scrapes every ten seconds as `cluster/prometheus.yaml` has it; a rate needs several of these.
_LEAST_WINDOW_S: Final = 60.0

#: Which chart, and which legend of it, each field of a reading is.
_FIELDS: Final = {
    "p50": ("Duration", "p50"),
    "p95": ("Duration", "p95"),
    "p99": ("Duration", "p99"),
    "in_flight": ("In flight", ""),
    "queued": ("Queue", ""),
    "share": ("Share against weight", "observed"),
    "weight": ("Share against weight", "weight"),
    "effective": ("Share against weight", "in force"),
    "replicas": ("Replicas", "healthy"),
    "cpu": ("CPU", ""),
    "memory": ("Memory", ""),
}


class Prometheus:
    """One Prometheus, by its URL."""

    def __init__(self, url: str) -> None:
        """Ask it later; nothing is asked now."""
        self.url = url.rstrip("/")

    def readings(self, deployment: str, start: float, end: float) -> tuple[Readings, ...]:
        """Return the readings of a Deployment between two times (seconds since 1970), the oldest first.

        Raises:
            ClusterError: it can't be reached, or refuses.
        """
        step = max(10.0, (end - start) / _POINTS)
        window = max(_LEAST_WINDOW_S, 2 * step)
        ask = _Asker(self.url, deployment, start, end, step, window)
        found: dict[float, dict[str, dict[str, Any]]] = {}
        for at, labels, value in ask.series("Requests", ""):
            rates = found.setdefault(at, {}).setdefault(labels["bento_version"], {}).setdefault("rates", {})
            rates[labels["status_class"]] = value
        for field, (chart, legend) in _FIELDS.items():
            for at, labels, value in ask.series(chart, legend):
                found.setdefault(at, {}).setdefault(labels["bento_version"], {})[field] = value
        total = f"sum by (bento_version) ({metrics.exported(metrics.REQUESTS)}" + '{canary_deployment="{deployment}"})'
        for at, labels, value in ask.values(total):
            found.setdefault(at, {}).setdefault(labels["bento_version"], {})["total"] = value
        return tuple(Readings(at, window, _versions(found[at])) for at in sorted(found))


class _Asker:
    """Asks for one Deployment over one time."""

    def __init__(self, url: str, deployment: str, start: float, end: float, step: float, window: float) -> None:
        self._url = url
        self._fill: Callable[[str], str] = lambda text: filled(text, deployment, f"{int(window)}s")
        self._range = {"start": start, "end": end, "step": step}

    def series(self, title: str, legend: str) -> list[tuple[float, Mapping[str, str], float]]:
        """Return what one query of a chart gives."""
        (query,) = (
            query
            for chart in charts()
            if chart.title == title
            for query in chart.queries
            if not legend or query.legend.endswith(f" {legend}")
        )
        return self.values(query.expression)

    def values(self, expression: str) -> list[tuple[float, Mapping[str, str], float]]:
        """Return time, labels and value of each number that an expression gives. Raises ClusterError."""
        try:
            answer = httpx.post(
                f"{self._url}/api/v1/query_range",
                data={"query": self._fill(expression), **self._range},
                timeout=_TIMEOUT_S,
            )
            answer.raise_for_status()
            series = answer.json()["data"]["result"]
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError) as error:
            raise ClusterError(f"Prometheus at {self._url} doesn't answer: {error}") from error
        found = []
        for one in series:
            for at, text in one["values"]:
                if (value := float(text)) == value:  # What is no number isn't known.
                    found.append((float(at), one["metric"], value))
        return found


def _versions(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Reading]:
    """Return the readings of one time, main's first, without versions that have left the Deployment."""
    order = sorted(found, key=lambda key: (key != "main", key))
    all_of = {version: Reading(**found[version]) for version in order}
    return {version: one for version, one in all_of.items() if one.weight or one.rate or one.replicas is not None}
