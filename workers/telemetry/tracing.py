"""The spans of a worker: one for each attempt, and within it one for the call of the LLM."""

from opentelemetry.trace import SpanKind, Status, StatusCode

from broker.amqp.envelope import Delivery
from broker.protocol.assignments import Assignment
from broker.protocol.topology import work_queue
from broker.protocol.worker_reports import Failure, Usage
from broker.telemetry.traceparent import trace_of
from broker.telemetry.tracing import Tracing, about, header_of, within


class WorkerTracing:
    """Creates the spans of one LLM. `model` is the name shown in lists: `provider:model`, or another one."""

    def __init__(self, tracing: Tracing, llm: str, model: str) -> None:
        self._tracing = tracing
        self._llm = llm
        provider, _, name = model.partition(":")
        self._model = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": llm,
            "gen_ai.provider.name": provider if name else "fluffle",
            "gen_ai.request.model": name or model,
        }

    def begin(self, assignment: Assignment, delivery: Delivery) -> "AttemptSpan":
        """Begin the span of an attempt, before the LLM is called."""
        return AttemptSpan(self._tracing, self._llm, self._model, assignment, delivery)

    def close(self) -> None:
        """Send the spans that are left. Blocks until then."""
        self._tracing.close()


class AttemptSpan:
    """The span of one attempt. The LLM is called in `context`, so that its own spans are below this one.

    `traceparent` is for the result of the attempt, `call_traceparent` for tasks that the LLM delegates.
    """

    def __init__(
        self, tracing: Tracing, llm: str, model: dict[str, str], assignment: Assignment, delivery: Delivery
    ) -> None:
        queue, key = work_queue(llm), delivery.routing_key
        attributes = about(SpanKind.CONSUMER, f"{delivery.exchange}:{key}:{queue}", "process", key)
        attributes |= {"fluffle.task.id": assignment.task_id, "fluffle.attempt": assignment.attempt}
        self._work = tracing.span(f"process {queue}", SpanKind.CONSUMER, attributes, parent=trace_of(delivery.headers))
        self.traceparent = header_of(self._work)
        self._call = tracing.span(f"invoke_agent {llm}", SpanKind.INTERNAL, {**model}, parent=self.traceparent)
        if assignment.conversation_id:
            self._call.set_attribute("gen_ai.conversation.id", assignment.conversation_id)
        self.call_traceparent = header_of(self._call)
        self.context = within(self._call)

    def end(self, outcome: str, failure: Failure | None, usage: Usage | None) -> None:
        """End the span with the outcome of the attempt."""
        used = {} if usage is None else {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
        for name, count in used.items():
            if count is not None:
                self._call.set_attribute(f"gen_ai.usage.{name}", count)
        for span in (self._call, self._work):
            if failure is not None:
                span.set_attribute("error.type", failure.type)
                span.set_status(Status(StatusCode.ERROR, failure.type))
        self._work.set_attribute("fluffle.outcome", outcome)
        self._call.end()
        self._work.end()
