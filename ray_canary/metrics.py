"""What we count: names, labels and buckets, in one table. Emitting is `serving/recorder.py`'s.

Ray exports every name with the prefix `ray_`; counters get `_total`. The labels `deployment`, `application` and
`replica` are Serve's own (they name the ingress), so ours are `canary_deployment` and `bento_version`.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its kind, its name as Ray is given it, what it says, and its labels."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    description: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()


_TARGET = ("canary_deployment", "bento_version")
_SERVED = (*_TARGET, "bento", "route_type", "status_class")
#: From 1 ms to 10 min: an answer of a small model, and the last token of a large one.
_UP_TO_10_MIN = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)

REQUESTS = Metric(
    "counter",
    "canary_requests",
    "Requests answered, by the version and the Bento that answered, why it did, and the class of the status.",
    (*_SERVED, "split_reason"),
)
DURATION = Metric(
    "histogram",
    "canary_request_duration_seconds",
    "Seconds from a request's arrival until its response had been sent to its end, or as far as it was.",
    _SERVED,
    _UP_TO_10_MIN,
)
FIRST_BYTE = Metric(
    "histogram",
    "canary_first_byte_seconds",
    "Seconds from a request's arrival until its response began.",
    _SERVED,
    _UP_TO_10_MIN,
)
RESPONSE_BYTES = Metric("counter", "canary_response_bytes", "Bytes of response bodies sent.", _SERVED)
CUT_OFF = Metric(
    "counter",
    "canary_cut_off",
    "Responses that had begun when their replica broke; the client got a part of it and the status of a whole one.",
    _TARGET,
)
STREAM_CHUNKS = Metric(
    "counter",
    "canary_stream_chunks",
    "Pieces of streams that were passed on; a stream is a response whose size isn't said at its beginning.",
    (*_TARGET, "bento"),
)
CHUNK_GAP = Metric(
    "histogram",
    "canary_stream_chunk_gap_seconds",
    "Seconds between two pieces of a stream: for a language model, the time of a token.",
    (*_TARGET, "bento"),
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0),
)
MISSING_KEY = Metric(
    "counter",
    "canary_missing_key",
    "Requests without the header or query parameter that the split goes by; they are split at random.",
    ("canary_deployment",),
)
FAILOVERS = Metric(
    "counter",
    "canary_failovers",
    "Requests that main answered because the version they were meant for had no replica for them.",
    _TARGET,
)
UNAVAILABLE = Metric(
    "counter",
    "canary_unavailable",
    "Requests answered 503 because neither their version nor main had room for them.",
    _TARGET,
)
SENT = Metric(
    "counter",
    "canary_sent",
    "Requests sent to a version's replicas, by the way they went: `direct` (HTTP) or `handle` (a Serve handle).",
    (*_TARGET, "transport"),
)
TARGET_WAIT = Metric(
    "histogram",
    "canary_target_wait_seconds",
    "Seconds that a request waited for a replica, after its turn in a queue, until it was sent or given up; "
    "one that was sent at once over an open connection doesn't count.",
    _TARGET,
    (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0),
)
QUEUE_WAIT = Metric(
    "histogram",
    "canary_queue_wait_seconds",
    "Seconds from a request's arrival to its turn in its version's queue.",
    _TARGET,
    (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 300.0),
)
QUEUE_DEPTH = Metric(
    "gauge",
    "canary_queue_depth",
    "Requests of this ingress replica that wait in a version's queue; their sum is what waits for the version.",
    _TARGET,
)
QUEUE_OLDEST = Metric(
    "gauge",
    "canary_queue_oldest_seconds",
    "Seconds that the oldest of them has waited; the greatest over the ingress replicas counts.",
    _TARGET,
)
QUEUE_REFUSED = Metric(
    "counter", "canary_queue_refused", "Requests answered 429 because their version's queue was full.", _TARGET
)
TARGET_INFO = Metric(
    "gauge",
    "canary_target_info",
    "1: this is a target's Bento, and the Serve application that serves it, to join with Serve's and Ray's metrics.",
    (*_TARGET, "bento", "version_application"),
)
IN_FLIGHT = Metric(
    "gauge", "canary_in_flight", "Requests of a version that this ingress replica is waiting for.", _TARGET
)
CONFIGURED_WEIGHT = Metric(
    "gauge", "canary_configured_weight", "Percent of requests that the file gives a version.", _TARGET
)
EFFECTIVE_WEIGHT = Metric(
    "gauge",
    "canary_effective_weight",
    "Percent of requests that a version gets now: the share of one that is not ready is main's.",
    _TARGET,
)
REJECTED_SPLIT = Metric(
    "gauge",
    "canary_split_rejected",
    "1 while this ingress replica refuses the user_config that it was given last and goes on with the one before.",
    ("canary_deployment",),
)

ALL: tuple[Metric, ...] = (
    REQUESTS,
    DURATION,
    FIRST_BYTE,
    RESPONSE_BYTES,
    CUT_OFF,
    STREAM_CHUNKS,
    CHUNK_GAP,
    MISSING_KEY,
    FAILOVERS,
    UNAVAILABLE,
    SENT,
    TARGET_WAIT,
    QUEUE_WAIT,
    QUEUE_DEPTH,
    QUEUE_OLDEST,
    QUEUE_REFUSED,
    TARGET_INFO,
    IN_FLIGHT,
    CONFIGURED_WEIGHT,
    EFFECTIVE_WEIGHT,
    REJECTED_SPLIT,
)


def exported(metric: Metric) -> str:
    """Return a metric's name as Prometheus sees it; that of a histogram's parts begins so."""
    return f"ray_{metric.name}{'_total' if metric.kind == 'counter' else ''}"


def effective_shares(configured: dict[str, int], ready: dict[str, bool], main: str = "main") -> dict[str, int]:
    """Return each target's share now, in percent: the share of a canary that is not ready is main's.

    main keeps its share whether it is ready or not: it is never given to a canary.
    """
    shares = {key: weight if ready[key] or key == main else 0 for key, weight in configured.items()}
    shares[main] = 100 - sum(weight for key, weight in shares.items() if key != main)
    return shares
