"""Encoding of outbox items as AMQP messages."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import assert_never

from pydantic_core import to_json

from broker.amqp.envelope import Outgoing
from broker.ids import assignment_id
from broker.mappings import without_none
from broker.messaging.chat_client import to_publish
from broker.protocol.assignments import Allowance, Dependency, Drain, Notice, PersonAnswer, Slots, Stop
from broker.protocol.chat import Message, is_address
from broker.protocol.primitives import EVENT_TYPE, MAX_ANSWER_BYTES, WireModel
from broker.protocol.topology import EVENTS, REJECTED, WORK, control_address, llm_address
from broker.protocol.views import ErrorDetail, Rejection
from broker.telemetry.traceparent import in_trace
from broker.timestamps import Instant, to_iso
from coordinator.core.budgets.admission import is_about_budget
from coordinator.core.commands import (
    AnnounceBudget,
    AnnounceHealth,
    AnnounceLimit,
    AnnounceLLM,
    AnnounceMessage,
    AnnounceTask,
    AnswerRequest,
    AnswerSubmitter,
    DeliverMessage,
    Refuse,
    SendAssignment,
    SendDrain,
    SendNotice,
    SendPersonAnswer,
    SendSlots,
    SendStop,
    View,
)
from coordinator.core.llms.cost_estimates import in_usd
from coordinator.core.tasks.task import Task
from coordinator.outbound.outbox import Item, RejectedMessage
from coordinator.outbound.size_limits import fitted

SOURCE = b"/fluffle/coordinator"
DIRECT_REPLY_TO = "amq.rabbitmq.reply-to."


def messages(
    items: Iterable[Item],
    tasks: Mapping[str, Task],
    context: Mapping[str, Task],
    control_queue: Callable[[str, str], str] = control_address,
    *,
    most: int = MAX_ANSWER_BYTES,
) -> Iterator[Outgoing]:
    """Yield the messages to publish for these items, in order.

    `tasks` holds the tasks of the assignments and answers, `context` the tasks that the assigned ones depend on.
    `control_queue` returns the queue of an LLM's instance. A view has at most about `most` bytes.
    """
    bodies: dict[int, bytes] = {}

    def body_of(view: View) -> bytes:
        """Return a view as JSON, encoded once: answers and events of a batch share it."""
        body = bodies.get(id(view))
        if body is None:
            body = to_json(view)
            bodies[id(view)] = body = body if len(body) <= most else to_json(fitted(view, most))
        return body

    for item in items:
        match item:
            case AnnounceTask(at, view, what):
                yield _task_event(view, what or view["status"], to_iso(at) or "", body_of(view))
            case AnswerRequest(kind, reply_to, correlation_id, shown):
                yield _answer(reply_to, body_of(shown), kind, correlation_id)
            case SendDrain(llm, instance):
                yield _order(control_queue(llm, instance), Drain())
            case SendSlots(llm, instance, slots, reason):
                yield _order(control_queue(llm, instance), Slots(slots=slots, reason=reason))
            case SendNotice(llm, instance, text):
                yield _order(control_queue(llm, instance), Notice(text=text))
            case AnswerSubmitter(kind, reply_to, correlation_id, view, known):
                task = tasks.get(view["id"])
                body = to_json({**view, "known": True}) if known else body_of(view)
                yield _answer(reply_to, body, kind, correlation_id, trace=None if task is None else task.trace)
            case SendAssignment(task_id):
                yield _assignment(tasks[task_id], item, context)
            case SendStop(llm, instance, task_id, attempt, reason):
                stop = Stop(task_id=task_id, attempt=attempt, reason=reason)
                yield _order(control_queue(llm, instance), stop)
            case SendPersonAnswer(llm, instance, task_id, attempt, question, answer):
                answered = PersonAnswer(task_id=task_id, attempt=attempt, question=question, answer=answer)
                yield _order(control_queue(llm, instance), answered)
            case Refuse(_, _, reply_to):
                if reply_to:
                    yield _refusal(item, reply_to)
            case AnnounceLLM(at, name, state, slots, model):
                data = {"name": name, "state": state, "slots": slots, "model": model}
                yield _event(f"llm.{state}", name, f"llm.{state}.{name}", to_iso(at) or "", to_json(data))
            case AnnounceHealth(at, name, instance, what, why, next_probe):
                data = {"name": name, "instance": instance, "why": why, "until": to_iso(next_probe), "at": to_iso(at)}
                yield _event(f"llm.{what}", name, f"llm.{what}.{name}", to_iso(at) or "", to_json(without_none(data)))
            case AnnounceLimit(at, name, what, why, until, tier):
                data = {"name": name, "why": why, "until": to_iso(until), "tier": tier, "at": to_iso(at)}
                yield _event(
                    f"limit.{what}", name, f"limit.{what}.{name}", to_iso(at) or "", to_json(without_none(data))
                )
            case AnnounceBudget(at, name, why, shown):
                data = {**shown, "why": why, "at": to_iso(at)}
                yield _event(f"budget.{why}", name, f"budget.{why}.{name}", to_iso(at) or "", to_json(data))
            case AnnounceMessage(at, message):
                yield _message_event(at, message)
            case DeliverMessage():
                yield _delivered(item)
            case RejectedMessage():
                yield from _dead_letter(item)
            case _:
                assert_never(item)


def _at_most(size: int, text: str) -> str:
    """Return the beginning of a text, at most `size` bytes of UTF-8."""
    return text.encode()[:size].decode(errors="ignore")


def _answer(reply_to: str, body: bytes, kind: str, correlation_id: str | None, *, trace: str | None = None) -> Outgoing:
    return Outgoing(
        "",
        reply_to,
        body,
        type=kind,
        correlation_id=correlation_id,
        headers=in_trace(trace),
        persistent=False,
        # RabbitMQ delivers a direct reply without a queue, but would return it too if it were mandatory.
        mandatory=not reply_to.startswith(DIRECT_REPLY_TO),
    )


def _order(queue: str, order: WireModel) -> Outgoing:
    """Return an order, straight to the queue: through fluffle.work, it would become a dead letter if that is gone."""
    return Outgoing("", queue, order.encode(), mandatory=False)


def _task_event(shown: View, what: str, at: str, body: bytes) -> Outgoing:
    return _event(f"task.{what}", shown["id"], f"task.{what}.{shown.get('llm', 'none')}", at, body)


def _event(kind: str, subject: str, routing_key: str, at: str, data: bytes, *, event_id: str | None = None) -> Outgoing:
    """Return a CloudEvent. It keeps its id when it is published again, so that readers can drop duplicates."""
    id_, about = to_json(event_id or f"{subject}/{kind}/{at}"), to_json(subject)
    head = b'{"specversion":"1.0","id":%b,"source":"%b","type":"fluffle.%b","subject":%b,"time":"%b"'
    body = head % (id_, SOURCE, kind.encode(), about, at.encode())
    body += b',"datacontenttype":"application/json","data":%b}' % data
    return Outgoing(EVENTS, routing_key, body, content_type=EVENT_TYPE, persistent=False, mandatory=False)


def _assignment(task: Task, sent: SendAssignment, context: Mapping[str, Task]) -> Outgoing:
    spec = task.spec
    answered = [asked for asked in task.questions if not is_about_budget(asked)]
    limited = sent.nanos is not None or sent.tokens is not None
    usd = None if sent.nanos is None else in_usd(sent.nanos)
    body = {
        "task_id": task.id,
        "attempt": task.attempt,
        "description": spec.description,
        "inputs": spec.inputs,
        "skills": spec.skills,
        "context": [_dependency(context[above]) for above in spec.depends_on if above in context],
        "timeout": spec.timeout,
        "output_schema": spec.output_schema,
        "labels": spec.labels,
        "metadata": spec.metadata,
        "parent_id": spec.parent_id,
        "conversation_id": spec.conversation_id,
        "answers": [{"question": asked.text, "answer": asked.answer} for asked in answered],
        "budget": Allowance(usd=usd, tokens=sent.tokens).model_dump(exclude_none=True) if limited else None,
    }
    encoded = to_json({key: value for key, value in body.items() if value or key == "inputs"})
    return Outgoing(
        WORK,
        llm_address(sent.llm),
        encoded,
        message_id=assignment_id(task.id, task.attempt),
        priority=task.priority,
        headers=in_trace(task.trace),
    )


def _dependency(task: Task) -> Dependency:
    return Dependency.model_construct(
        id=task.id, description=task.spec.description, status=task.status, result=task.result
    )


def _refusal(refuse: Refuse, reply_to: str) -> Outgoing:
    errors = [ErrorDetail(path=problem.path, message=problem.message) for problem in refuse.problems]
    body = Rejection(id=refuse.task_id or None, errors=errors).encode()
    return _answer(reply_to, body, refuse.type, refuse.correlation_id)


def _message_event(at: Instant, message: Message) -> Outgoing:
    key = f"message.{message.receiver}"
    return _event("message.sent", message.id, key, to_iso(at) or "", message.encode(), event_id=message.id)


def _delivered(item: DeliverMessage) -> Outgoing:
    """Return a chat message: through fluffle.messages to a mailbox, straight to any other queue, which may be gone."""
    message, to = item.message, item.to
    outgoing = to_publish(message, to=to, correlation_id=item.correlation_id or message.in_reply_to)
    if is_address(to):
        return outgoing
    return replace(outgoing, exchange="", routing_key=to, mandatory=not to.startswith(DIRECT_REPLY_TO))


def _dead_letter(item: RejectedMessage) -> Iterator[Outgoing]:
    errors = [problem._asdict() for problem in item.problems]
    at = to_iso(item.at) or ""
    headers = {
        **item.properties.get("headers", {}),
        "x-fluffle-origin-exchange": item.exchange,
        "x-fluffle-origin-key": item.routing_key,
        "x-fluffle-errors": to_json(errors).decode(),
        "x-fluffle-at": at,
    }
    if item.user is not None:
        headers["x-fluffle-user"] = item.user
    routing_key = _at_most(255, f"rejected.{item.exchange}.{item.routing_key}")
    yield Outgoing(REJECTED, routing_key, item.body, **{**item.properties, "headers": headers})
    message_id = item.properties.get("message_id")
    origin = {"exchange": item.exchange, "routing_key": item.routing_key, "message_id": message_id}
    data = to_json({**origin, "errors": errors})
    yield _event("task.rejected", message_id or "", "task.rejected.none", at, data, event_id=item.event_id)
