"""What the metrics say of each version over the last seconds: rates, quantiles, shares. Pure.

Read from two looks at Ray's own metrics pages (`Snapshot`), or from Prometheus (`prometheus.py`), which ends in the
same numbers.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from ray_canary import metrics

_REQUESTS: Final = metrics.exported(metrics.REQUESTS)
_DURATION: Final = f"{metrics.exported(metrics.DURATION)}_bucket"
_IN_FLIGHT: Final = metrics.exported(metrics.IN_FLIGHT)
_QUEUE: Final = metrics.exported(metrics.QUEUE_DEPTH)
_WEIGHT: Final = metrics.exported(metrics.CONFIGURED_WEIGHT)
_EFFECTIVE: Final = metrics.exported(metrics.EFFECTIVE_WEIGHT)
_INFO: Final = metrics.exported(metrics.TARGET_INFO)
_HEALTHY: Final = "ray_serve_deployment_replica_healthy"
_CPU: Final = "ray_component_cpu_percentage"
_MEMORY: Final = "ray_component_rss_bytes"
_WANTED: Final = (_REQUESTS, _DURATION, _IN_FLIGHT, _QUEUE, _WEIGHT, _EFFECTIVE, _INFO, _HEALTHY, _CPU, _MEMORY)
#: What a replica of a Serve application is called among Ray's processes.
_REPLICA: Final = "ray::ServeReplica:"

Labels = Mapping[str, str]
Pairs = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look at the metrics of all nodes, at a time in seconds; whole if every node answered."""

    at: float
    values: Mapping[str, Mapping[Pairs, float]] = field(repr=False)
    whole: bool = True

    @classmethod
    def of(cls, at: float, pages: Iterable[str], whole: bool = True) -> "Snapshot":
        """Read pages in Prometheus's text format; what nobody asks for here is passed over unread."""
        values: dict[str, dict[Pairs, float]] = {}
        for page in pages:
            wanted = "\n".join(line for line in page.splitlines() if line.startswith(_WANTED)) + "\n"
            for family in text_string_to_metric_families(wanted):
                for sample in family.samples:
                    values.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
        return cls(at, values, whole)

    def series(self, name: str, **labels: str) -> Iterator[tuple[dict[str, str], float]]:
        """Yield the series of a name that have these labels, and what they are at."""
        for pairs, value in self.values.get(name, {}).items():
            if labels.items() <= pairs:
                yield dict(pairs), value


@dataclass(frozen=True, slots=True)
class Reading:
    """One version over some seconds. None stands for what isn't known, like a quantile without a request."""

    #: Requests per second by status class, like `2xx`.
    rates: Mapping[str, float] = field(default_factory=dict)
    #: Requests since the ingress replicas that count now were started.
    total: float = 0.0
    #: Seconds.
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    in_flight: float = 0.0
    queued: float = 0.0
    #: Percent of the Deployment's requests that it answered, should by the file, and should as things are.
    share: float | None = None
    weight: float | None = None
    effective: float | None = None
    replicas: float | None = None
    #: Percent of one core, and bytes, over all its replicas.
    cpu: float | None = None
    memory: float | None = None

    @property
    def rate(self) -> float:
        """Requests per second."""
        return sum(self.rates.values())

    @property
    def success(self) -> float | None:
        """The part of its answers that are no 5xx, 0 to 1."""
        return 1 - self.rates.get("5xx", 0.0) / self.rate if self.rate else None


@dataclass(frozen=True, slots=True)
class Readings:
    """Every version of a Deployment over the seconds that ended at a time."""

    at: float
    seconds: float
    versions: Mapping[str, Reading]


def between(before: Snapshot, now: Snapshot, deployment: str) -> Readings:
    """Return what happened to each version of a Deployment between two looks.

    A counter that is lower than it was has begun anew, and one that wasn't there has begun at zero: as Prometheus's
    `increase()` takes it, without extrapolation.
    """
    seconds = now.at - before.at
    counted: dict[str, dict[str, float]] = {}
    totals: dict[str, float] = {}
    buckets: dict[str, dict[float, float]] = {}
    for labels, value in now.series(_REQUESTS, canary_deployment=deployment):
        version, status = labels["bento_version"], labels["status_class"]
        totals[version] = totals.get(version, 0.0) + value
        by = counted.setdefault(version, {})
        by[status] = by.get(status, 0.0) + _increase(before, _REQUESTS, labels, value)
    for labels, value in now.series(_DURATION, canary_deployment=deployment):
        by_bound = buckets.setdefault(labels["bento_version"], {})
        bound = float(labels["le"])
        by_bound[bound] = by_bound.get(bound, 0.0) + _increase(before, _DURATION, labels, value)
    everything = sum(sum(by.values()) for by in counted.values())
    weights = {version: max(values) for version, values in _gauges(now, _WEIGHT, deployment)}
    effective = {version: min(values) for version, values in _gauges(now, _EFFECTIVE, deployment)}
    in_flight = {version: sum(values) for version, values in _gauges(now, _IN_FLIGHT, deployment)}
    queued = {version: sum(values) for version, values in _gauges(now, _QUEUE, deployment)}
    own = dict(_applications(now, deployment))
    found = {}
    for version in sorted({*weights, *totals, *own}, key=lambda key: (key != "main", key)):
        by = counted.get(version, {})
        if own and version not in own and not any(by.values()):
            continue  # It has left the Deployment; its counts are there as long as the ingress replicas.
        p50, p95, p99 = (quantile(q, buckets.get(version, {})) for q in (0.5, 0.95, 0.99))
        found[version] = Reading(
            {status: count / seconds for status, count in sorted(by.items())} if seconds > 0 else {},
            totals.get(version, 0.0),
            p50,
            p95,
            p99,
            in_flight.get(version, 0.0),
            queued.get(version, 0.0),
            100 * sum(by.values()) / everything if everything else None,
            weights.get(version),
            effective.get(version),
            *_used(now, own.get(version)),
        )
    return Readings(now.at, seconds, found)


def quantile(q: float, buckets: Mapping[float, float]) -> float | None:
    """Return a quantile of what was counted in cumulative buckets (upper bound -> count), None if nothing was.

    As Prometheus's `histogram_quantile`: linear within a bucket; beyond the last bound, that bound.
    """
    bounds = sorted(buckets)
    if not bounds or buckets[bounds[-1]] <= 0:
        return None
    rank = q * buckets[bounds[-1]]
    lower, below = 0.0, 0.0
    for bound in bounds:
        count = buckets[bound]
        if count >= rank and count > below:
            if bound == float("inf"):
                return lower
            return lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = bound, count
    return lower


class Watch:
    """The readings of the last hour, taken from looks at the metrics; each is over the last `window_s` seconds.

    Ray passes counts on every ten seconds: over less than two of these, a rate would jump up and down.
    """

    def __init__(self, window_s: float = 20.0, keep_s: float = 3600.0) -> None:
        """Keep what is needed for `window_s`, and readings for `keep_s` seconds."""
        self._window_s = window_s
        self._keep_s = keep_s
        self._snapshots: deque[Snapshot] = deque()
        self._readings: dict[str, deque[Readings]] = {}

    def add(self, snapshot: Snapshot, deployments: Iterable[str]) -> None:
        """Take a look into account. One that isn't whole is passed over: its counters would seem to jump."""
        if not snapshot.whole:
            return
        while len(self._snapshots) > 1 and self._snapshots[1].at <= snapshot.at - self._window_s:
            self._snapshots.popleft()
        wanted = set(deployments)
        for gone in self._readings.keys() - wanted:
            del self._readings[gone]
        for name in wanted if self._snapshots else ():
            kept = self._readings.setdefault(name, deque())
            kept.append(between(self._snapshots[0], snapshot, name))
            while kept[0].at < snapshot.at - self._keep_s:
                kept.popleft()
        self._snapshots.append(snapshot)

    def of(self, deployment: str) -> tuple[Readings, ...]:
        """Return the readings of a Deployment, the oldest first."""
        return tuple(self._readings.get(deployment, ()))


def _increase(before: Snapshot, name: str, labels: Labels, value: float) -> float:
    was = before.values.get(name, {}).get(frozenset(labels.items()), 0.0)
    return value - was if value >= was else value


def _gauges(now: Snapshot, name: str, deployment: str) -> Iterator[tuple[str, list[float]]]:
    """Yield each version, and what the ingress replicas say of it."""
    found: dict[str, list[float]] = {}
    for labels, value in now.series(name, canary_deployment=deployment):
        found.setdefault(labels["bento_version"], []).append(value)
    yield from found.items()


def _applications(now: Snapshot, deployment: str) -> Iterator[tuple[str, str]]:
    """Yield each version that is served, and the Serve application that does."""
    for labels, value in now.series(_INFO, canary_deployment=deployment):
        if value:
            yield labels["bento_version"], labels["version_application"]


def _used(now: Snapshot, application: str | None) -> tuple[float | None, float | None, float | None]:
    """Return healthy replicas, percent of a core and bytes of an application; None for what isn't known."""
    if application is None:
        return None, None, None
    healthy = [value for _, value in now.series(_HEALTHY, application=application)]
    process = f"{_REPLICA}{application}:"
    cpu, memory = (
        [value for labels, value in now.series(name) if labels.get("Component", "").startswith(process)]
        for name in (_CPU, _MEMORY)
    )
    return (sum(healthy) if healthy else None), (sum(cpu) if cpu else None), (sum(memory) if memory else None)


#: What `cells` has, in its order.
COLUMNS: Final = (
    *("Requests/s", "Requests in all", "5xx/s", "Success", "p50", "p95", "p99", "In flight", "Queued"),
    *("Share", "Weight", "In force", "Replicas", "CPU", "Memory"),
)


def cells(one: Reading) -> tuple[str, ...]:
    """Return a reading as texts, for a table; CPU is in percent of one core."""
    return (
        f"{one.rate:.1f}",
        f"{one.total:.0f}",
        f"{one.rates.get('5xx', 0.0):.1f}",
        percent(None if one.success is None else 100 * one.success, 2),
        *(latency(value) for value in (one.p50, one.p95, one.p99)),
        f"{one.in_flight:.0f}",
        f"{one.queued:.0f}",
        percent(one.share, 1),
        percent(one.weight),
        percent(one.effective),
        "-" if one.replicas is None else f"{one.replicas:.0f}",
        percent(one.cpu),
        size(one.memory),
    )


def percent(value: float | None, digits: int = 0) -> str:
    """Write percent, or `-` for what isn't known."""
    return "-" if value is None else f"{value:.{digits}f} %"


def latency(seconds: float | None) -> str:
    """Write seconds as one reads them."""
    if seconds is None:
        return "-"
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def size(bytes_: float | None) -> str:
    """Write bytes in Mi, as kubectl does."""
    return "-" if bytes_ is None else f"{bytes_ / 2**20:.0f}Mi"
