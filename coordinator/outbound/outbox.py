"""The outbox: what a batch has to publish, as one database row with references to tasks instead of bodies.

After a restart, a committed batch that may not be published is published again. Its views show the tasks as they are by
then, except that an event keeps the status and LLM that it announces.
"""

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from typing import Any, assert_never

from pydantic_core import from_json, to_json

from broker.errors import Problem
from broker.ids import uuid7
from broker.mappings import without_none
from broker.protocol.chat import Message
from broker.protocol.status import Status
from broker.timestamps import Instant
from coordinator.core.commands import (
    AnnounceBudget,
    AnnounceHealth,
    AnnounceLimit,
    AnnounceLLM,
    AnnounceMessage,
    AnnounceTask,
    AnswerRequest,
    AnswerSubmitter,
    Command,
    DeliverMessage,
    Refuse,
    SendAssignment,
    SendDrain,
    SendNotice,
    SendPersonAnswer,
    SendSlots,
    SendStop,
)
from coordinator.core.tasks.task import Task, view


@dataclass(frozen=True, slots=True)
class RejectedMessage:
    """A refused message with its problems: it becomes a dead letter, and an event announces it."""

    exchange: str
    routing_key: str
    body: bytes
    properties: Mapping[str, Any]  # of broker.amqp.envelope.Outgoing, by name
    problems: tuple[Problem, ...]
    at: Instant
    event_id: str = field(default_factory=uuid7)
    user: str | None = None


Item = Command | RejectedMessage


def pack(items: Sequence[Item]) -> str:
    """Return the items as one JSON text."""
    return to_json([_packed(item) for item in items]).decode()


def _packed(item: Item) -> tuple[Any, ...]:
    match item:
        case AnnounceTask(at, shown, what):
            return ("event", at, shown["id"], shown["status"], shown.get("llm"), what)
        case AnswerRequest(kind, reply_to, correlation_id, shown):
            return ("reply", kind, reply_to, correlation_id, shown)
        case SendDrain(llm, instance):
            return ("drain", llm, instance)
        case AnswerSubmitter(kind, reply_to, correlation_id, shown, known):
            return ("answer", kind, reply_to, correlation_id, shown["id"], *([known] if known else []))
        case SendAssignment():
            return ("assign", *astuple(item))
        case SendStop(llm, instance, task_id, attempt, reason):
            return ("stop", llm, instance, task_id, attempt, reason)
        case SendNotice():
            return ("notify", *astuple(item))
        case SendPersonAnswer():
            return ("tell", *astuple(item))
        case Refuse(task_id, problems, reply_to, correlation_id, _, kind):
            return ("refuse", task_id, problems, reply_to, correlation_id, kind)
        case AnnounceMessage(at, message):
            return ("message", at, message)
        case DeliverMessage(message, to, correlation_id):
            return ("deliver", message, to, correlation_id)
        case AnnounceLLM():
            return ("llm", *astuple(item))
        case AnnounceHealth():
            return ("health", *astuple(item))
        case AnnounceLimit():
            return ("limit", *astuple(item))
        case SendSlots():
            return ("slots", *astuple(item))
        case AnnounceBudget():
            return ("budget", *astuple(item))
        case RejectedMessage():
            return ("keep", {**asdict(item), "body": b64encode(item.body).decode()})
        case _:
            assert_never(item)


def task_ids(text: str) -> set[str]:
    """Return the ids of the tasks that `unpack` needs."""
    return {row[_TASK_AT[row[0]]] for row in from_json(text) if row[0] in _TASK_AT}


_TASK_AT = {"event": 2, "answer": 4, "assign": 1}


def unpack(text: str, tasks: Mapping[str, Task]) -> list[Item]:
    """Return the items of a packed batch, with views of the tasks as they are now.

    An event keeps its status and LLM, so that it is the same event again. Assignments that are claimed or over are left
    out, and so is everything about a task that no longer exists.
    """
    items: list[Item] = []
    for kind, *rest in from_json(text):
        match kind, rest:
            case "event", [at, task_id, status, llm, what] if task := tasks.get(task_id):
                shown = {**view(task), "status": status, "llm": llm}
                items.append(AnnounceTask(at, without_none(shown), what))
            case "answer", [kind_of_answer, reply_to, correlation_id, task_id, *known] if task := tasks.get(task_id):
                items.append(AnswerSubmitter(kind_of_answer, reply_to, correlation_id, view(task), bool(known)))
            case "assign", [task_id, attempt, llm, *allowance] if task := tasks.get(task_id):
                if task.status is Status.ASSIGNED and task.attempt == attempt:
                    items.append(SendAssignment(task_id, attempt, llm, *allowance))
            case "stop", fields:
                items.append(SendStop(*fields))
            case "tell", fields:
                items.append(SendPersonAnswer(*fields))
            case "refuse", [task_id, problems, reply_to, correlation_id, kind]:
                items.append(Refuse(task_id, _problems(problems), reply_to, correlation_id, type=kind))
            case "message", [at, message]:
                items.append(AnnounceMessage(at, _message(message)))
            case "deliver", [message, to, correlation_id]:
                items.append(DeliverMessage(_message(message), to, correlation_id))
            case "reply", fields:
                items.append(AnswerRequest(*fields))
            case "notify", fields:
                items.append(SendNotice(*fields))
            case "drain", fields:
                items.append(SendDrain(*fields))
            case "budget", fields:
                items.append(AnnounceBudget(*fields))
            case "llm", fields:
                items.append(AnnounceLLM(*fields))
            case "health", fields:
                items.append(AnnounceHealth(*fields))
            case "limit", fields:
                items.append(AnnounceLimit(*fields))
            case "slots", fields:
                items.append(SendSlots(*fields))
            case "keep", [fields]:
                body, problems = b64decode(fields["body"]), _problems(fields["problems"])
                items.append(RejectedMessage(**{**fields, "body": body, "problems": problems}))
    return items


def _message(fields: dict[str, Any]) -> Message:
    return Message.model_validate_json(to_json(fields))


def _problems(rows: list[list[str]]) -> tuple[Problem, ...]:
    return tuple(Problem(*row) for row in rows)
