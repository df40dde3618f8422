"""OpenTelemetry spans for messages and tasks. Imported only where traces are wanted."""

import os
from contextvars import Context, copy_context

from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from broker.telemetry.traceparent import TRACEPARENT

_propagator = TraceContextTextMapPropagator()


class Tracing:
    """Starts the spans of a program, and exports them as OpenTelemetry's environment variables say.

    A program that has configured OpenTelemetry already exports the spans in its own way.
    """

    def __init__(self, service: str) -> None:
        """`service` is the name of the program, unless OTEL_SERVICE_NAME is set."""
        known, self._own = trace.get_tracer_provider(), None
        if not isinstance(known, TracerProvider):
            named = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": service}
            known = self._own = TracerProvider(resource=Resource.create(named))
            known.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = known.get_tracer("fluffle")

    def span(
        self,
        name: str,
        kind: SpanKind,
        attributes: dict[str, AttributeValue],
        *,
        parent: str | None = None,
        start: int | None = None,
    ) -> Span:
        """Start a span now, or at `start` (microseconds), below the span of the traceparent `parent`.

        Without a parent the span is below the current span, else the first one of a new trace.
        """
        above = None if parent is None else _propagator.extract({TRACEPARENT: parent})
        began = None if start is None else start * 1000
        return self._tracer.start_span(name, above, kind, attributes, start_time=began)

    def close(self) -> None:
        """Export the remaining spans."""
        if self._own is not None:
            self._own.shutdown()


def about(kind: SpanKind, destination: str, operation: str, key: str) -> dict[str, AttributeValue]:
    """Return the attributes of a message's span, by the semantic conventions for messaging."""
    return {
        "messaging.system": "rabbitmq",
        "messaging.destination.name": destination,
        "messaging.operation.name": operation,
        "messaging.operation.type": "send" if kind is SpanKind.PRODUCER else "process",
        "messaging.rabbitmq.destination.routing_key": key,
    }


def header_of(span: Span) -> str:
    """Return the traceparent of a span."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, trace.set_span_in_context(span))
    return carrier.get(TRACEPARENT, "")


def within(span: Span) -> Context:
    """Return a copy of the current context in which a span is current."""
    copied = copy_context()
    copied.run(context.attach, trace.set_span_in_context(span))
    return copied


def present() -> str | None:
    """Return the traceparent of the current span; None without one."""
    span = trace.get_current_span()
    return header_of(span) if span.get_span_context().is_valid else None
