"""Emits the metrics of one ingress replica through Ray, so that Ray's own Prometheus endpoint has them."""

import logging
import time
from collections import Counter as Tally
from collections.abc import Iterable
from typing import Any, TypeVar

from ray.serve import metrics as serve_metrics

from ray_canary import metrics
from ray_canary.serving.journal import Served
from ray_canary.serving.targets import Target


def _make(metric: metrics.Metric) -> Any:
    labels: Any = metric.labels  # Ray annotates a tuple of one.
    if metric.kind == "histogram":
        return serve_metrics.Histogram(metric.name, metric.description, list(metric.buckets), labels)
    kind = serve_metrics.Counter if metric.kind == "counter" else serve_metrics.Gauge
    return kind(metric.name, metric.description, labels)


logger = logging.getLogger("ray.serve")

_STATE = (
    metrics.CONFIGURED_WEIGHT,
    metrics.EFFECTIVE_WEIGHT,
    metrics.IN_FLIGHT,
    metrics.QUEUE_DEPTH,
    metrics.QUEUE_OLDEST,
)


_TROUBLE = (metrics.FAILOVERS, metrics.UNAVAILABLE, metrics.QUEUE_REFUSED, metrics.CUT_OFF, metrics.MISSING_KEY)


class Recorder:
    """Counts in plain Python on the request path; `flush` hands the sums to Ray once in a while."""

    def __init__(self, deployment: str) -> None:
        self._deployment = {"canary_deployment": deployment}
        self._metrics = {metric.name: _make(metric) for metric in metrics.ALL}
        #: The labels of who served a request; making them takes longer than counting.
        self._of_served: dict[Served, dict[str, str]] = {}
        self._failing: set[str] = set()
        #: What was last said of each target.
        self._info: dict[str, dict[str, str]] = {}
        self._begun: set[str] = set()
        self._requests: Tally[tuple[Served, str]] = Tally()
        self._bytes: Tally[Served] = Tally()
        self._chunks: Tally[tuple[str, str]] = Tally()
        self._cut_off: Tally[str] = Tally()
        self._failovers: Tally[str] = Tally()
        self._unavailable: Tally[str] = Tally()
        self._sent: Tally[tuple[str, str]] = Tally()
        self._missing_keys = 0
        self._rejected = False
        self._refused: Tally[str] = Tally()

    # What the pass-through tells (`Journal`). Histograms are fed at once: a second's worth of them in one go would hold
    # everybody up.

    def request(self, served: Served, reason: str, seconds: float) -> None:
        """Count an answer that begins, for this reason, so many seconds after its request arrived."""
        self._requests[served, reason] += 1
        self._observe(metrics.FIRST_BYTE, seconds, self._labels_of(served))

    def ended(self, served: Served, seconds: float, size: int) -> None:
        """Note how long a response took from its request's arrival on, in seconds, and its body's size in bytes."""
        if size:
            self._bytes[served] += size
        self._observe(metrics.DURATION, seconds, self._labels_of(served))

    def cut_off(self, target: str) -> None:
        """Count a response that ended in the middle."""
        self._cut_off[target] += 1

    def chunk(self, served: Served, gap_s: float | None) -> None:
        """Count a piece of a stream, and note the seconds since the one before it."""
        self._chunks[served.target, served.bento] += 1
        if gap_s is not None:
            self._observe(metrics.CHUNK_GAP, gap_s, {**self._labels(served.target), "bento": served.bento})

    # What the dispatcher tells (`Observer`). --------------------------------------------------------------------------

    def unavailable(self, target: str) -> None:
        """Count a request for `target` that found no room anywhere."""
        self._unavailable[target] += 1

    def sent(self, target: str, way: str) -> None:
        """Count a request by the way it went."""
        self._sent[target, way] += 1

    def waited(self, target: str, seconds: float) -> None:
        """Note how long a request waited for a replica, in seconds."""
        self._observe(metrics.TARGET_WAIT, seconds, self._labels(target))

    def queued(self, target: str, seconds: float) -> None:
        """Note how long a request waited for its turn, in seconds."""
        self._observe(metrics.QUEUE_WAIT, seconds, self._labels(target))

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
        for (served, reason), count in _taken(self._requests):
            self._count(metrics.REQUESTS, count, {**self._labels_of(served), "split_reason": reason})
        for served, count in _taken(self._bytes):
            self._count(metrics.RESPONSE_BYTES, count, self._labels_of(served))
        for (target, bento), count in _taken(self._chunks):
            self._count(metrics.STREAM_CHUNKS, count, {**self._labels(target), "bento": bento})
        for target, count in _taken(self._cut_off):
            self._count(metrics.CUT_OFF, count, self._labels(target))
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

        self._flush_info(targets)
        self._begin_at_zero(targets)

    def _begin_at_zero(self, targets: Iterable[str]) -> None:
        """Show what counts trouble before there is any: a rate doesn't see a series' first count."""
        for target in set(targets) - self._begun:
            self._begun.add(target)
            for metric in _TROUBLE:
                labels = self._deployment if metric is metrics.MISSING_KEY else self._labels(target)
                # Ray's public `inc` refuses 0.
                self._metrics[metric.name]._record(0, labels)

    def _flush_info(self, targets: dict[str, Target]) -> None:
        now = {
            key: {"bento": target.settings.bento, "version_application": target.transport.place[0]}
            for key, target in targets.items()
        }
        for key, place in self._info.items():
            if now.get(key) != place:
                self._set(metrics.TARGET_INFO, 0, {**self._labels(key), **place})
        for key, place in now.items():
            self._set(metrics.TARGET_INFO, 1, {**self._labels(key), **place})
        self._info = now

    def forget(self, target: str) -> None:
        """Show a target that has left the Deployment at zero."""
        for metric in _STATE:
            self._set(metric, 0, self._labels(target))

    def _labels_of(self, served: Served) -> dict[str, str]:
        found = self._of_served.get(served)
        if found is None:
            more = {"bento": served.bento, "route_type": served.route_type, "status_class": f"{served.status // 100}xx"}
            found = self._of_served[served] = {**self._labels(served.target), **more}
        return found

    def _labels(self, target: str) -> dict[str, str]:
        return {**self._deployment, "bento_version": target}

    def _count(self, metric: metrics.Metric, by: int, labels: dict[str, str]) -> None:
        self._metrics[metric.name].inc(by, labels)

    def _observe(self, metric: metrics.Metric, value: float, labels: dict[str, str]) -> None:
        try:
            self._metrics[metric.name].observe(value, labels)
        except Exception:
            # A request must not fail for it.
            if metric.name not in self._failing:
                logger.exception("%s can't be counted; said once.", metric.name)
            self._failing.add(metric.name)

    def _set(self, metric: metrics.Metric, value: float, labels: dict[str, str]) -> None:
        self._metrics[metric.name].set(value, labels)


K = TypeVar("K")


def _taken(tally: Tally[K]) -> list[tuple[K, int]]:
    """Return what was counted, and start again from nothing."""
    taken = list(tally.items())
    tally.clear()
    return taken
