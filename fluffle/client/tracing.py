"""The spans of a client: one for each submission, and one for each result that arrives."""

from opentelemetry.trace import SpanKind

from broker.amqp.envelope import Delivery, Outgoing
from broker.protocol.topology import REPLIES
from broker.telemetry.traceparent import in_trace, trace_of
from broker.telemetry.tracing import Tracing, about, header_of


class ClientTracing:
    """Creates spans below the current span of the program that uses the client, if it has one."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def submitting(self, message: Outgoing) -> None:
        """Create the span of a submission, and put its trace into the headers of the message."""
        key = message.routing_key
        attributes = about(SpanKind.PRODUCER, f"{message.exchange}:{key}", "publish", key)
        attributes["fluffle.task.id"] = message.message_id or ""
        span = self._tracing.span(f"publish {message.exchange}", SpanKind.PRODUCER, attributes)
        message.headers = in_trace(header_of(span))
        span.end()

    def ended(self, delivery: Delivery) -> None:
        """Create the span of a result."""
        attributes = about(SpanKind.CONSUMER, REPLIES, "process", REPLIES)  # without the id of the client
        attributes["fluffle.task.id"] = delivery.properties.correlation_id or ""
        attributes["fluffle.outcome"] = delivery.properties.type or ""
        self._tracing.span(f"process {REPLIES}", SpanKind.CONSUMER, attributes, parent=trace_of(delivery.headers)).end()
