"""What to look at: charts of a Deployment, each with its PromQL. Grafana's dashboard is made of them (`grafana.py`).

In an expression, `{deployment}` is the Deployment's name, `{window}` for the time over which a rate is taken.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ray_canary import metrics
from ray_canary.metrics import Metric


class Unit(StrEnum):
    """What a chart's numbers are, in Grafana's names."""

    RATE = "reqps"
    SECONDS = "s"
    PERCENT = "percent"
    RATIO = "percentunit"
    BYTES = "bytes"
    BYTES_RATE = "Bps"
    COUNT = "short"
    COUNT_RATE = "cps"


@dataclass(frozen=True, slots=True)
class Query:
    """One expression, and how its series are called: `{{label}}` stands for a label's value."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart: what it shows, in which unit, and why one would look at it."""

    title: str
    unit: Unit
    says: str
    queries: tuple[Query, ...]
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Charts that belong together."""

    title: str
    charts: tuple[Chart, ...]


_OURS: Final = 'canary_deployment="{deployment}"'
_VERSION: Final = "{{bento_version}}"
#: What a replica of a version is called among Ray's processes.
_REPLICA: Final = "ray::ServeReplica:([^:]+):.*"


def _series(metric: Metric, more: str = "") -> str:
    parts = "_bucket" if metric.kind == "histogram" else ""
    return metrics.exported(metric) + parts + "{" + _OURS + more + "}"


def _rate(metric: Metric, by: str, more: str = "") -> str:
    return f"sum by ({by}) (rate({_series(metric, more)}[{{window}}]))"


def _quantiles(metric: Metric, *quantiles: float) -> tuple[Query, ...]:
    return tuple(
        Query(
            f"histogram_quantile({quantile:g}, {_rate(metric, 'bento_version, le')})",
            f"{_VERSION} p{quantile * 100:g}",
        )
        for quantile in quantiles
    )


def _of_versions(series: str, label: str, pattern: str) -> str:
    """Return Ray's or Serve's own series, added up by the version that their application serves."""
    info = f"max by (version_application, bento_version) ({_series(metrics.TARGET_INFO)} == 1)"
    own = f'label_replace({series}, "version_application", "$1", "{label}", "{pattern}")'
    return f"sum by (bento_version) ({own} * on (version_application) group_left (bento_version) {info})"


def _process(series: str) -> str:
    return _of_versions(f'{series}{{Component=~"ray::ServeReplica:.*"}}', "Component", _REPLICA)


_ALL: Final = _rate(metrics.REQUESTS, "bento_version")
_ERRORS: Final = _rate(metrics.REQUESTS, "bento_version", ',status_class="5xx"')

_TRAFFIC: Final = Row(
    "Traffic",
    (
        Chart(
            "Requests",
            Unit.RATE,
            "Answers of each version, by the class of their status.",
            (Query(_rate(metrics.REQUESTS, "bento_version, status_class"), f"{_VERSION} {{{{status_class}}}}"),),
            stacked=True,
        ),
        Chart(
            "Success rate",
            Unit.RATIO,
            "Answers that are no 5xx, of all answers of a version.",
            (
                Query(
                    f"1 - ({_ERRORS} or 0 * {_ALL}) / {_ALL}",
                    _VERSION,
                ),
            ),
        ),
        Chart(
            "Share against weight",
            Unit.PERCENT,
            "What each version answers, beside the weight that the file gives it and the one in force: the share of a "
            "version that isn't ready is main's.",
            (
                Query(
                    f"100 * {_ALL} / scalar(sum({_ALL}))",
                    f"{_VERSION} observed",
                ),
                Query(f"max by (bento_version) ({_series(metrics.CONFIGURED_WEIGHT)})", f"{_VERSION} weight"),
                Query(f"min by (bento_version) ({_series(metrics.EFFECTIVE_WEIGHT)})", f"{_VERSION} in force"),
            ),
        ),
        Chart(
            "Why requests went where they went",
            Unit.RATE,
            "Split decisions: by key, at random, for want of a key, pinned, failed over.",
            (Query(_rate(metrics.REQUESTS, "split_reason"), "{{split_reason}}"),),
            stacked=True,
        ),
        Chart(
            "How requests travel",
            Unit.RATE,
            "`direct` is over HTTP to a replica's own port, `handle` by a Serve handle, which costs more.",
            (Query(_rate(metrics.SENT, "bento_version, transport"), f"{_VERSION} {{{{transport}}}}"),),
        ),
    ),
)

_TIME: Final = Row(
    "Time",
    (
        Chart(
            "Time to the first byte",
            Unit.SECONDS,
            "From a request's arrival until its response began.",
            _quantiles(metrics.FIRST_BYTE, 0.5, 0.95, 0.99),
        ),
        Chart(
            "Duration",
            Unit.SECONDS,
            "From a request's arrival to the end of its response.",
            _quantiles(metrics.DURATION, 0.5, 0.95, 0.99),
        ),
        Chart(
            "In flight",
            Unit.COUNT,
            "Requests that a version is working on.",
            (Query(f"sum by (bento_version) ({_series(metrics.IN_FLIGHT)})", _VERSION),),
        ),
        Chart(
            "Response bytes",
            Unit.BYTES_RATE,
            "Bytes of response bodies that were sent.",
            (Query(_rate(metrics.RESPONSE_BYTES, "bento_version"), _VERSION),),
        ),
    ),
)

_STREAMS: Final = Row(
    "Streams",
    (
        Chart(
            "Chunks",
            Unit.COUNT_RATE,
            "Pieces of streams that were passed on; for a language model, tokens or a few of them.",
            (Query(_rate(metrics.STREAM_CHUNKS, "bento_version"), _VERSION),),
        ),
        Chart(
            "Time between chunks",
            Unit.SECONDS,
            "Between two pieces of one stream.",
            _quantiles(metrics.CHUNK_GAP, 0.5, 0.99),
        ),
    ),
)

_REPLICAS: Final = Row(
    "Replicas",
    (
        Chart(
            "Replicas",
            Unit.COUNT,
            "Healthy replicas of a version, and how many autoscaling aims at, over all of its Bento services.",
            (
                Query(
                    _of_versions(
                        "sum by (application, deployment) (ray_serve_deployment_replica_healthy)", "application", "(.+)"
                    ),
                    f"{_VERSION} healthy",
                ),
                Query(
                    _of_versions(
                        "max by (application, deployment) (ray_serve_autoscaling_target_replicas)",
                        "application",
                        "(.+)",
                    ),
                    f"{_VERSION} wanted",
                ),
            ),
        ),
        Chart(
            "CPU",
            Unit.PERCENT,
            "Of all replicas of a version; 100 % is one core.",
            (Query(_process("ray_component_cpu_percentage"), _VERSION),),
        ),
        Chart(
            "Memory",
            Unit.BYTES,
            "Of all replicas of a version, shared pages included.",
            (Query(_process("ray_component_rss_bytes"), _VERSION),),
        ),
        Chart(
            "GPU",
            Unit.PERCENT,
            "Of all replicas of a version; 100 % is one GPU. Empty where there is none.",
            (Query(_process("ray_component_gpu_percentage"), _VERSION),),
        ),
    ),
)

_TROUBLE: Final = Row(
    "Queues and trouble",
    (
        Chart(
            "Queue",
            Unit.COUNT,
            "Requests that wait for their turn, in versions with `external_queue`.",
            (Query(f"sum by (bento_version) ({_series(metrics.QUEUE_DEPTH)})", _VERSION),),
        ),
        Chart(
            "Waiting",
            Unit.SECONDS,
            "For a turn in the queue, and for a replica with a place.",
            (
                *(Query(query.expression, f"{query.legend} turn") for query in _quantiles(metrics.QUEUE_WAIT, 0.99)),
                *(Query(query.expression, f"{query.legend} place") for query in _quantiles(metrics.TARGET_WAIT, 0.99)),
                Query(f"max by (bento_version) ({_series(metrics.QUEUE_OLDEST)})", f"{_VERSION} oldest in the queue"),
            ),
        ),
        Chart(
            "Not answered by whom it was meant for",
            Unit.RATE,
            "Answered by main in a version's place, found no room anywhere (503), refused by a full queue (429), or "
            "cut off in the middle.",
            tuple(
                Query(_rate(metric, "bento_version"), f"{_VERSION} {what}")
                for metric, what in (
                    (metrics.FAILOVERS, "failed over"),
                    (metrics.UNAVAILABLE, "503"),
                    (metrics.QUEUE_REFUSED, "429"),
                    (metrics.CUT_OFF, "cut off"),
                )
            ),
        ),
        Chart(
            "Without a key",
            Unit.RATE,
            "Requests without the header or parameter that the split goes by.",
            (Query(_rate(metrics.MISSING_KEY, "canary_deployment"), "without a key"),),
        ),
        Chart(
            "Refused splits",
            Unit.COUNT,
            "1 while an ingress replica refuses the split that it was given last, and goes on with the one before.",
            (Query(_series(metrics.REJECTED_SPLIT), "{{replica}}"),),
        ),
    ),
)

ROWS: Final = (_TRAFFIC, _TIME, _STREAMS, _REPLICAS, _TROUBLE)


def charts() -> Iterator[Chart]:
    """Yield every chart."""
    for row in ROWS:
        yield from row.charts


def filled(expression: str, deployment: str, window: str) -> str:
    """Return an expression for one Deployment, with rates over a window like `5m`."""
    return expression.replace("{deployment}", deployment).replace("{window}", window)
