"""A Bento's tracing: the ids of a request are there whether anybody reads its spans or not."""

import asyncio
import importlib
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import metrics, propagate, trace
from opentelemetry.instrumentation import propagators
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator

from ray_canary.serving.http import Message, Scope
from ray_canary.serving.tracing import Tracing
from ray_canary.serving.wire import HeaderList

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLERS: dict[str, HeaderList] = {
    "nothing": [],
    "a trace that is sampled": [(b"traceparent", f"00-{TRACE}-{PARENT}-01".encode())],
    "a trace that isn't": [(b"traceparent", f"00-{TRACE}-{PARENT}-00".encode()), (b"tracestate", b"a=1")],
    "a random trace": [(b"traceparent", f"00-{TRACE}-{PARENT}-03".encode())],
    "no trace": [(b"traceparent", b"nonsense")],
    "baggage": [(b"baggage", b"who=me")],
}


class Counted(IdGenerator):
    """Ids in order, so that two middlewares give the same."""

    def __init__(self) -> None:
        self._last = 0

    def generate_span_id(self) -> int:
        self._last += 1
        return self._last

    def generate_trace_id(self) -> int:
        return self.generate_span_id() << 64


def provider(rate: float = 0.0) -> TracerProvider:
    telemetry: Any = importlib.import_module("bentoml._internal.utils.telemetry")
    sampler = telemetry.ParentBasedTraceIdRatio(rate)
    return TracerProvider(sampler=sampler, id_generator=Counted(), shutdown_on_exit=False)


def request(headers: HeaderList, path: str = "/count") -> Scope:
    return {
        **{"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""},
        **{"headers": [(b"host", b"there"), *headers], "scheme": "http", "http_version": "1.1", "root_path": ""},
        **{"server": ("127.0.0.1", 80), "client": ("127.0.0.1", 5)},
    }


def seen_by_an_app(
    middleware: type[OpenTelemetryMiddleware], tracers: TracerProvider, scope: Scope, **options: Any
) -> dict[str, Any]:
    """Return what the app below the middleware, and the middleware's hook, see of a request's trace."""
    seen: dict[str, Any] = {}

    def hook(span: Any, scope: Scope) -> None:
        seen["hook"] = span.context.span_id

    async def app(scope: Scope, receive: Any, send: Callable[[Message], Any]) -> None:
        context = trace.get_current_span().get_span_context()
        seen["ids"] = (context.trace_id, context.span_id, int(context.trace_flags), dict(context.trace_state))
        passed_on: dict[str, str] = {}
        propagate.inject(passed_on)
        seen["passed on"] = passed_on
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    wrapped = middleware(app, server_request_hook=hook, tracer_provider=tracers, **options)
    asyncio.run(wrapped(scope, receive, send))
    assert [each["type"] for each in sent] == ["http.response.start", "http.response.body"]
    assert trace.get_current_span() is trace.INVALID_SPAN
    return seen


@pytest.mark.parametrize("rate", [0.0, 1.0])
@pytest.mark.parametrize("caller", CALLERS)
def test_a_request_has_the_ids_that_opentelemetrys_own_middleware_gives_it(caller: str, rate: float) -> None:
    scope = request(CALLERS[caller])
    ours, theirs = (seen_by_an_app(kind, provider(rate), scope) for kind in (Tracing, OpenTelemetryMiddleware))
    assert ours == theirs
    assert ours["hook"] == ours["ids"][1] != 0


def test_a_request_inside_of_a_span_belongs_to_its_trace() -> None:
    with trace.use_span(provider().get_tracer("around").start_span("around")):
        around = trace.get_current_span().get_span_context()
        seen = {}

        async def app(*_: Any) -> None:
            seen["trace"] = trace.get_current_span().get_span_context().trace_id

        asyncio.run(Tracing(app, tracer_provider=provider())(request([]), None, None))  # type: ignore[arg-type]
    assert seen["trace"] == around.trace_id


def test_nothing_is_recorded_while_nobody_reads_it_and_everything_from_then_on() -> None:
    tracers, read = provider(1.0), InMemorySpanExporter()
    seen_by_an_app(Tracing, tracers, request([]))
    tracers.add_span_processor(SimpleSpanProcessor(read))
    assert not read.get_finished_spans()
    seen_by_an_app(Tracing, tracers, request([]))
    assert "POST /count" in [span.name for span in read.get_finished_spans()]


def test_a_path_that_is_excluded_from_tracing_has_no_trace() -> None:
    scope = request([], path="/quiet")
    seen = seen_by_an_app(Tracing, provider(), scope, excluded_urls="quiet")
    assert seen["ids"][:2] == (0, 0)
    assert "hook" not in seen


def test_opentelemetrys_own_middleware_runs_where_something_else_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    middleware = Tracing(lambda *_: None, tracer_provider=provider())
    assert not middleware._read()
    with monkeypatch.context() as patched:
        patched.setattr(metrics._internal, "_METER_PROVIDER", MeterProvider(shutdown_on_exit=False))
        assert middleware._read()
    with monkeypatch.context() as patched:
        patched.setattr(propagators, "_RESPONSE_PROPAGATOR", object())
        assert middleware._read()
    assert Tracing(lambda *_: None, tracer_provider=trace.NoOpTracerProvider())._read()


def test_an_exception_of_the_app_gets_through_and_ends_the_requests_trace() -> None:
    async def app(*_: Any) -> None:
        raise LookupError("of the app")

    with pytest.raises(LookupError, match="of the app"):
        asyncio.run(Tracing(app, tracer_provider=provider())(request([]), None, None))  # type: ignore[arg-type]
    assert trace.get_current_span() is trace.INVALID_SPAN
