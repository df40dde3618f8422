"""Spans of OpenTelemetry for what messages lead to. Imported only where traces are wanted."""

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

from broker.protocol.traceparent import TRACEPARENT

_propagator = TraceContextTextMapPropagator()


class Tracing:
    """The spans of one program, sent to where OpenTelemetry's own variables say.

    A program that has set up OpenTelemetry by itself gets them in its own way.
    """

    def __init__(self, service: str) -> None:
        """`service` is its name, unless OTEL_SERVICE_NAME gives another."""
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
        """A span that begins now, or at `start` (microseconds), below the one of the traceparent `parent`.

        Without a parent it is below the present span, else the first of its trace.
        """
        above = None if parent is None else _propagator.extract({TRACEPARENT: parent})
        began = None if start is None else start * 1000
        return self._tracer.start_span(name, above, kind, attributes, start_time=began)

    def close(self) -> None:
        """Send what is not sent yet."""
        if self._own is not None:
            self._own.shutdown()


def about(kind: SpanKind, destination: str, operation: str, key: str) -> dict[str, AttributeValue]:
    """Attributes of a span about a message, by the semantic conventions for messaging."""
    return {
        "messaging.system": "rabbitmq",
        "messaging.destination.name": destination,
        "messaging.operation.name": operation,
        "messaging.operation.type": "send" if kind is SpanKind.PRODUCER else "process",
        "messaging.rabbitmq.destination.routing_key": key,
    }


def header_of(span: Span) -> str:
    """The traceparent of a span."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, trace.set_span_in_context(span))
    return carrier.get(TRACEPARENT, "")


def within(span: Span) -> Context:
    """A copy of the present context in which that span is the present one."""
    copied = copy_context()
    copied.run(context.attach, trace.set_span_in_context(span))
    return copied


def present() -> str | None:
    """The traceparent of the present span; None when there is none."""
    span = trace.get_current_span()
    return header_of(span) if span.get_span_context().is_valid else None
