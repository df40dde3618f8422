"""Trace spans of a coordinator: of each submission and result that it processes, and of each assignment."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from opentelemetry.trace import Span, SpanKind

from broker.amqp.envelope import Delivery, Outgoing
from broker.protocol.topology import COORDINATOR
from broker.telemetry.traceparent import in_trace, trace_of
from broker.telemetry.tracing import Tracing, about, header_of
from coordinator.core.events import Event, Reported, Submitted
from coordinator.core.tasks.task import Task


class CoordinatorTracing:
    """Makes the spans of batches. Used by one thread at a time."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._open: list[Span] = []

    def take_in(self, events: list[Event], origins: Sequence[Delivery], tasks: Mapping[str, Task]) -> None:
        """Begin a span for every submission and result; a submitted task continues the trace of its span."""
        self._open = []
        for place, (event, delivery) in enumerate(zip(events, origins, strict=True)):
            match event:
                case Submitted(task_id, _, _, sender):
                    span = self._process(delivery, task_id, sender.trace)
                    events[place] = replace(event, sender=replace(sender, trace=header_of(span)))
                case Reported(_, result):
                    task = tasks.get(result.task_id)
                    known = None if task is None else task.trace  # for a result that the worker kept over a restart
                    span = self._process(delivery, result.task_id, trace_of(delivery.headers) or known)
                    span.set_attribute("fluffle.outcome", result.outcome)
                    span.set_attribute("fluffle.attempt", result.attempt)

    def committed(self) -> None:
        """End the spans of the batch, which is committed."""
        for span in self._open:
            span.end()
        self._open = []

    def assigned(self, message: Outgoing, task: Task) -> None:
        """Make the span of an assignment that is about to be published, the parent of the worker's spans."""
        attributes = about(
            SpanKind.PRODUCER, f"{message.exchange}:{message.routing_key}", "publish", message.routing_key
        )
        attributes |= {"fluffle.task.id": task.id, "fluffle.attempt": task.attempt}
        span = self._tracing.span(
            f"publish {message.exchange}", SpanKind.PRODUCER, attributes, parent=task.trace, start=task.assigned_at
        )
        message.headers = in_trace(header_of(span))
        span.end()

    def _process(self, delivery: Delivery, task_id: str, parent: str | None) -> Span:
        key = delivery.routing_key
        attributes = about(SpanKind.CONSUMER, f"{delivery.exchange}:{key}:{COORDINATOR}", "process", key)
        attributes["fluffle.task.id"] = task_id
        span = self._tracing.span(f"process {COORDINATOR}", SpanKind.CONSUMER, attributes, parent=parent)
        self._open.append(span)
        return span
