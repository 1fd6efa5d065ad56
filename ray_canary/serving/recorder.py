"""Emits the metrics of one ingress replica through Ray, so that Ray's own Prometheus endpoint has them."""

import time
from collections import Counter as Tally
from typing import Any, TypeVar

from ray.serve import metrics as serve_metrics

from ray_canary import metrics
from ray_canary.serving.targets import Target


def _make(metric: metrics.Metric) -> Any:
    labels: Any = metric.labels  # Ray annotates a tuple of one.
    if metric.kind == "histogram":
        return serve_metrics.Histogram(metric.name, metric.description, list(metric.buckets), labels)
    kind = serve_metrics.Counter if metric.kind == "counter" else serve_metrics.Gauge
    return kind(metric.name, metric.description, labels)


_STATE = (
    metrics.CONFIGURED_WEIGHT,
    metrics.EFFECTIVE_WEIGHT,
    metrics.IN_FLIGHT,
    metrics.QUEUE_DEPTH,
    metrics.QUEUE_OLDEST,
)


class Recorder:
    """Counts in plain Python on the request path; `flush` hands the sums to Ray once in a while."""

    def __init__(self, deployment: str) -> None:
        self._deployment = {"canary_deployment": deployment}
        self._metrics = {metric.name: _make(metric) for metric in metrics.ALL}
        self._requests: Tally[tuple[str, str, str]] = Tally()
        self._failovers: Tally[str] = Tally()
        self._unavailable: Tally[str] = Tally()
        self._sent: Tally[tuple[str, str]] = Tally()
        self._missing_keys = 0
        self._rejected = False
        self._waits: list[tuple[str, float]] = []
        self._queued: list[tuple[str, float]] = []
        self._refused: Tally[str] = Tally()

    def request(self, target: str, reason: str, status: int) -> None:
        """Count an answered request."""
        self._requests[target, reason, f"{status // 100}xx"] += 1

    def unavailable(self, target: str) -> None:
        """Count a request for `target` that found no room anywhere."""
        self._unavailable[target] += 1

    def sent(self, target: str, way: str) -> None:
        """Count a request by the way it went."""
        self._sent[target, way] += 1

    def waited(self, target: str, seconds: float) -> None:
        """Note how long a request waited for a replica, in seconds."""
        self._waits.append((target, seconds))

    def queued(self, target: str, seconds: float) -> None:
        """Note how long a request waited for its turn, in seconds."""
        self._queued.append((target, seconds))

    def refused(self, target: str) -> None:
        """Count a request that found a queue full."""
        self._refused[target] += 1

    def failed_over(self, target: str) -> None:
        """Count a request that main answers for `target`."""
        self._failovers[target] += 1

    def missed_key(self) -> None:
        """Count a request without a key."""
        self._missing_keys += 1

    def rejected(self, rejected: bool) -> None:
        """Note whether the last user_config was refused."""
        self._rejected = rejected

    def flush(self, shares: dict[str, int], targets: dict[str, Target]) -> None:
        """Hand over what was counted since the last time, and the state now."""
        for (target, reason, status_class), count in _taken(self._requests):
            labels = {**self._labels(target), "split_reason": reason, "status_class": status_class}
            self._count(metrics.REQUESTS, count, labels)
        for (target, way), count in _taken(self._sent):
            self._count(metrics.SENT, count, {**self._labels(target), "transport": way})
        for target, count in _taken(self._failovers):
            self._count(metrics.FAILOVERS, count, self._labels(target))
        for target, count in _taken(self._unavailable):
            self._count(metrics.UNAVAILABLE, count, self._labels(target))
        for target, count in _taken(self._refused):
            self._count(metrics.QUEUE_REFUSED, count, self._labels(target))
        if self._missing_keys:
            self._count(metrics.MISSING_KEY, self._missing_keys, self._deployment)
            self._missing_keys = 0
        waits, self._waits = self._waits, []
        for target, seconds in waits:
            self._metrics[metrics.TARGET_WAIT.name].observe(seconds, self._labels(target))
        queued, self._queued = self._queued, []
        for target, seconds in queued:
            self._metrics[metrics.QUEUE_WAIT.name].observe(seconds, self._labels(target))
        self._flush_state(shares, targets)

    def _flush_state(self, shares: dict[str, int], targets: dict[str, Target]) -> None:
        # Ray forgets a gauge that is not set again and again.
        self._set(metrics.REJECTED_SPLIT, int(self._rejected), self._deployment)
        effective = metrics.effective_shares(shares, {key: target.ready for key, target in targets.items()})
        for key, target in targets.items():
            labels = self._labels(key)
            self._set(metrics.CONFIGURED_WEIGHT, shares[key], labels)
            self._set(metrics.EFFECTIVE_WEIGHT, effective[key], labels)
            self._set(metrics.IN_FLIGHT, target.in_flight, labels)
            self._set(metrics.QUEUE_DEPTH, target.gate.depth, labels)
            self._set(metrics.QUEUE_OLDEST, target.gate.oldest_s(time.monotonic()), labels)

    def forget(self, target: str) -> None:
        """Show a target that has left the Deployment at zero."""
        for metric in _STATE:
            self._set(metric, 0, self._labels(target))

    def _labels(self, target: str) -> dict[str, str]:
        return {**self._deployment, "bento_version": target}

    def _count(self, metric: metrics.Metric, by: int, labels: dict[str, str]) -> None:
        self._metrics[metric.name].inc(by, labels)

    def _set(self, metric: metrics.Metric, value: float, labels: dict[str, str]) -> None:
        self._metrics[metric.name].set(value, labels)


K = TypeVar("K")


def _taken(tally: Tally[K]) -> list[tuple[K, int]]:
    """Return what was counted, and start again from nothing."""
    taken = list(tally.items())
    tally.clear()
    return taken
