"""OpenTelemetry around a Bento: whole where somebody reads the spans, and next to nothing where nobody does.

BentoML puts OpenTelemetry's ASGI middleware around every Bento, and records three spans or more for each request. With
no exporter configured, which is the default, they are thrown away: about a fifth of a small request's time.
Import this in a version's replica only: it imports OpenTelemetry, which comes with bentoml.
"""

from collections.abc import Callable
from typing import Any, Final

from opentelemetry import context as contexts
from opentelemetry import metrics, propagate, trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware, asgi_getter
from opentelemetry.instrumentation.propagators import get_global_response_propagator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from ray_canary.serving.http import Receive, Scope, Send

_get_response_propagator: Callable[[], Any] = get_global_response_propagator
_NOTHING: Final = contexts.Context()


class _UnreadSpan(NonRecordingSpan):
    """A span that has ids, and records nothing."""

    @property
    def context(self) -> SpanContext:
        """What the hooks of the middleware read, as an SDK's span has it."""
        return self.get_span_context()


class Tracing(OpenTelemetryMiddleware):
    """OpenTelemetry's middleware, less the spans that nobody reads.

    A request has its ids all the same, in BentoML's headers and logs, and what a Bento calls hears of its trace. Who
    reads is looked up for each request: a Bento may add an exporter when it starts.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request of the app below."""
        if self._read() or scope["type"] not in ("http", "websocket"):
            await super().__call__(scope, receive, send)
            return
        around = self._around(scope)
        span = self._span(around)
        token = contexts.attach(trace.set_span_in_context(span, around))
        try:
            if callable(self.server_request_hook):
                self.server_request_hook(span, scope)
            await self.app(scope, receive, send)
        finally:
            contexts.detach(token)

    def _read(self) -> bool:
        """Whether the whole middleware is wanted: somebody reads what it writes, or says what isn't to be traced."""
        if self.excluded_urls and self.excluded_urls._excluded_urls:
            return True
        if not isinstance(metrics.get_meter_provider(), metrics._internal._ProxyMeterProvider):
            return True
        tracer: Any = self.tracer
        processors = getattr(getattr(tracer, "span_processor", None), "_span_processors", None)
        return processors is None or bool(processors) or _get_response_propagator() is not None

    @staticmethod
    def _around(scope: Scope) -> contexts.Context:
        """Return the context of a request: that of a span around it, or what the client says of its own."""
        if trace.get_current_span() is not trace.INVALID_SPAN:
            return contexts.get_current()
        names = {name for name, _ in scope["headers"]}
        textmap: Any = propagate.get_global_textmap()
        said = any(field.encode() in names for field in textmap.fields)
        return textmap.extract(scope, getter=asgi_getter) if said else _NOTHING

    def _span(self, around: contexts.Context) -> _UnreadSpan:
        """Return a span with the ids and flags that the SDK's own would have (`Tracer.start_span`)."""
        tracer: Any = self.tracer
        parent = trace.get_current_span(around).get_span_context()
        ids = tracer.id_generator
        if parent.is_valid:
            trace_id, random = parent.trace_id, parent.trace_flags.random_trace_id
        else:
            trace_id, random = ids.generate_trace_id(), ids.is_trace_id_random()
        sampled = tracer.sampler.should_sample(around, trace_id, "")
        flags = TraceFlags.SAMPLED if sampled.decision.is_sampled() else TraceFlags.DEFAULT
        flags |= TraceFlags.RANDOM_TRACE_ID if random else TraceFlags.DEFAULT
        return _UnreadSpan(
            SpanContext(
                trace_id,
                ids.generate_span_id(),
                is_remote=False,
                trace_flags=TraceFlags(flags),
                trace_state=sampled.trace_state,
            )
        )
