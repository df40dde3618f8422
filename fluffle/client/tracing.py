"""The spans of a client: of each submission, and of each result that comes."""

from opentelemetry.trace import SpanKind

from broker.amqp.envelope import Delivery, Outgoing
from broker.protocol.topology import REPLIES
from broker.protocol.traceparent import in_trace, trace_of
from broker.telemetry.tracing import Tracing, about, header_of


class ClientTracing:
    """Below the present span of the program that uses the client, if it has one."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def submitting(self, message: Outgoing) -> None:
        """A submission is about to be published: its task is in this trace."""
        key = message.routing_key
        attributes = about(SpanKind.PRODUCER, f"{message.exchange}:{key}", "publish", key)
        attributes["fluffle.task.id"] = message.message_id or ""
        span = self._tracing.span(f"publish {message.exchange}", SpanKind.PRODUCER, attributes)
        message.headers = in_trace(header_of(span))
        span.end()

    def ended(self, delivery: Delivery) -> None:
        """A task of this client is over."""
        attributes = about(SpanKind.CONSUMER, REPLIES, "process", REPLIES)  # its own name is another for every client
        attributes["fluffle.task.id"] = delivery.properties.correlation_id or ""
        attributes["fluffle.outcome"] = delivery.properties.type or ""
        self._tracing.span(f"process {REPLIES}", SpanKind.CONSUMER, attributes, parent=trace_of(delivery.headers)).end()
