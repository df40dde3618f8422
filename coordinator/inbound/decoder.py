"""Deliveries as events: where bytes become types, or a refusal that says what is wrong."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from broker.access.roles import may_be_answered_at, speaks_for, was_dead_lettered
from broker.amqp.envelope import Delivery
from broker.chat_client import is_unnamed, read_message
from broker.errors import DecodeError, Problem
from broker.ids import uuid7
from broker.protocol import topology
from broker.protocol.chat import MessageProgress, is_address
from broker.protocol.primitives import NAME_PATTERN, OnIgnored, decode
from broker.protocol.queries import SaveReport
from broker.protocol.report_catalog import PREDEFINED, Report
from broker.protocol.report_catalog import problems_of as problems_of_report
from broker.protocol.task_requests import (
    AnswerQuestion,
    AssignTask,
    Cancel,
    ManageLLM,
    ReadNote,
    Retry,
    ShareNote,
    Submission,
    Update,
)
from broker.protocol.traceparent import trace_of
from broker.protocol.worker_reports import Claim, Goodbye, Presence, Progress, Result, ResumeReport, WaitReport
from broker.timestamps import EPOCH, Instant
from broker.untrusted.json_schema import schema_problem
from coordinator.core.commands import Refuse, RejectionType
from coordinator.core.events import (
    AnswerGiven,
    AssignRequested,
    CancelRequested,
    Claimed,
    Event,
    Heartbeat,
    InstanceLeft,
    ManageRequested,
    MessageSent,
    MessageUndelivered,
    NotesRequested,
    Progressed,
    Reported,
    ReportSaved,
    RetryRequested,
    Sender,
    Shared,
    Submitted,
    SubmitterNote,
    UpdateRequested,
    WaitBegan,
    WaitEnded,
)
from coordinator.core.tasks.task import ANYBODY, DEFAULT_PRIORITY
from coordinator.outbound.outbox import Item, RejectedMessage
from coordinator.queries.reports.definition import CUSTOM, with_fields

KEPT_PROPERTIES = ("message_id", "reply_to", "correlation_id", "priority", "type", "content_type")
MOST_KEPT_HEADERS = 8192  # bytes
PLAIN = ("utf-8", "utf8", "us-ascii", "ascii", "identity", "binary", "8bit", "7bit")  # encodings that change nothing
PROBLEMS_TOLD = 20  # they travel in a header, and all headers of a message have to fit into one frame
PATH_TOLD, MESSAGE_TOLD = 200, 300  # characters
MOST_SKILLS = 2000  # characters of all skills of a task: they are a key of an index, which PostgreSQL bounds


REPORTS = ("hello", "beat", "claim", "progress", "wait", "resume", "result", "goodbye")

_REJECTIONS: Mapping[str, RejectionType] = {topology.MESSAGES: "message.rejected", topology.QUERIES: "query.rejected"}


@dataclass(frozen=True, slots=True)
class RejectedDelivery:
    """A delivery that cannot become an event. Unless `answered`, its sender is not to be told."""

    delivery: Delivery
    problems: tuple[Problem, ...]
    answered: bool = True


def read(
    delivery: Delivery,
    *,
    limit: int,
    require_identity: bool = False,
    on_ignored: OnIgnored | None = None,
    origin: int | None = None,
) -> Event | RejectedDelivery | None:
    """The event that a delivery stands for, or why it stands for none. Never raises.

    None when it is nothing that the coordinator has to do with. `on_ignored` is called with what was left out of a
    worker's report. `origin` is the number of the delivery, for the event.
    """
    properties = delivery.properties
    exchange, key = address_of(delivery)
    try:
        if problems := properties.problems():
            raise DecodeError(problems)
        if require_identity:
            must_be_identified(delivery)
            if exchange == topology.STATUS:
                _must_speak_for(key.rpartition(".")[0], properties.user_id)
            elif exchange == topology.REQUESTS:
                _must_speak_for(key.partition(".")[0], properties.user_id)
        _must_be_plain(properties.content_encoding)
        match exchange:
            case topology.TASKS:
                return _request(delivery, key, limit, origin, is_llm=delivery.exchange != topology.TASKS)
            case topology.REQUESTS:
                return _request(delivery, key.partition(".")[2], limit, origin, is_llm=True)
            case topology.STATUS:
                return _status(delivery, key, limit, origin, on_ignored)
            case topology.MESSAGES:
                return _message(delivery, limit, origin, require_identity)
            case _:
                raise _unknown_key(delivery)
    except DecodeError as error:
        if delivery.queue == topology.UNDELIVERED and exchange == topology.MESSAGES:
            return None  # it is refused where it comes for the history
        may_be_answered = may_be_answered_at(properties.user_id, properties.reply_to or "")
        answered = not require_identity or (may_be_answered and not was_dead_lettered(delivery.headers))
        return RejectedDelivery(delivery, in_short(error.problems), answered)


def address_of(delivery: Delivery) -> tuple[str, str]:
    """The exchange and the routing key that say what a delivery is.

    One that came by an exchange of somebody else, or straight to the queue, is what its routing key says, else what its
    type says. What went straight to the queue was in no mailbox, so it is no message.
    """
    exchange, key = delivery.exchange, delivery.routing_key
    if exchange in topology.EXCHANGES:
        return exchange, key
    if delivery.queue == topology.UNDELIVERED or (exchange and is_address(key)):
        return topology.MESSAGES, key
    for word in (key, delivery.properties.type or ""):
        if word in topology.TASK_KEYS:
            return topology.TASKS, word
        name, _, kind = word.rpartition(".")
        if kind in REPORTS and re.fullmatch(NAME_PATTERN, name):
            return topology.STATUS, word
    return exchange, key


def must_be_identified(delivery: Delivery) -> None:
    """Raises DecodeError for a message whose sender is unknown, or which reaches for what belongs to others."""
    user, reply_to, headers = delivery.properties.user_id, delivery.properties.reply_to, delivery.headers
    problems = []
    if not user:
        problems.append(Problem("user_id", "is missing: say as which user of RabbitMQ you publish"))
    if not may_be_answered_at(user, reply_to or ""):
        problems.append(Problem("reply_to", "names a queue that belongs to somebody else"))
    if "CC" in headers:
        problems.append(Problem("headers.CC", "is refused: publish once for each receiver"))
    if was_dead_lettered(headers):
        problems.append(Problem("headers.x-death", "is refused: it is a dead letter of another queue"))
    if "headers" in delivery.properties.unreadable:
        problems.append(Problem("headers", "cannot be read"))
    if problems:
        raise DecodeError(problems)


def must_be_schema(schema: dict[str, Any] | None, *, path: str = "output_schema") -> None:
    """Raises DecodeError when there is a schema that no answer could be held against."""
    if schema is not None and (why := schema_problem(schema)):
        raise DecodeError([Problem(path, why)])


def in_short(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    """The problems without those that are too many, and no longer than a person would read."""
    told = [Problem(path[:PATH_TOLD], message[:MESSAGE_TOLD]) for path, message in problems[:PROBLEMS_TOLD]]
    if len(problems) > PROBLEMS_TOLD:
        told.append(Problem("", f"and {len(problems) - PROBLEMS_TOLD:,} more"))
    return tuple(told)


def _request(delivery: Delivery, verb: str, limit: int, origin: int | None, *, is_llm: bool) -> Event:
    """The request of that name. LLMs choose an id in the body only, where their choice is limited (authorization)."""
    properties, sender = delivery.properties, _sender(delivery, is_llm=is_llm)
    match verb:
        case "submit":
            spec = decode(Submission, delivery.body, limit=limit)
            task_id = spec.id or (None if is_llm else _id_from(properties.message_id)) or str(uuid7())
            if task_id in spec.depends_on:
                raise DecodeError([Problem("depends_on", f"a cycle: {task_id} -> {task_id}")])
            _must_fit(spec.skills)
            must_be_schema(spec.output_schema)
            return Submitted(task_id, spec, _priority(spec, properties.priority), sender, origin=origin)
        case "cancel":
            cancel = decode(Cancel, delivery.body, limit=limit)
            return CancelRequested(cancel.id, sender, cancel.reason)
        case "retry":
            retry = decode(Retry, delivery.body, limit=limit)
            changes = retry.changes
            _must_fit(changes.skills or ())
            must_be_schema(changes.output_schema, path="changes.output_schema")
            return RetryRequested(retry.id, sender, changes.given())
        case "assign":
            assign = decode(AssignTask, delivery.body, limit=limit)
            return AssignRequested(assign.id, assign.llm, assign.now, assign.force, sender)
        case "update":
            update = decode(Update, delivery.body, limit=limit)
            return UpdateRequested(update.id, update.given(), sender)
        case "answer":
            given = decode(AnswerQuestion, delivery.body, limit=limit)
            return AnswerGiven(given.id, given.answer, given.question, sender)
        case "share":
            share = decode(ShareNote, delivery.body, limit=limit)
            by = share.by or sender.user or ANYBODY
            _must_be_text("by", by)
            return Shared(SubmitterNote(share.board, share.name, share.content, by, EPOCH), sender)
        case "read":
            wanted = decode(ReadNote, delivery.body, limit=limit)
            return NotesRequested(wanted.board, wanted.name, sender)
        case "save_report":
            wish = decode(SaveReport, delivery.body, limit=limit)
            if wish.name in (*PREDEFINED, CUSTOM):
                raise DecodeError([Problem("name", f"there is a report {wish.name} already, which stays as it is")])
            if wish.report and (problems := problems_of_report(with_fields(Report(), wish.report))):
                raise DecodeError([Problem(f"report.{problem.path}", problem.message) for problem in problems])
            definition = None if wish.report is None else wish.report.model_dump(mode="json", exclude_none=True)
            return ReportSaved(wish.name, definition, sender)
        case "manage":
            return ManageRequested(decode(ManageLLM, delivery.body, limit=limit), sender)
        case _:
            raise _unknown_key(delivery)


def _status(delivery: Delivery, key: str, limit: int, origin: int | None, on_ignored: OnIgnored | None) -> Event | None:
    name, _, kind = key.rpartition(".")
    if not re.fullmatch(NAME_PATTERN, name):
        raise DecodeError([Problem("", f"the routing key {delivery.routing_key!r} does not begin with a name")])
    match kind:
        case "claim":
            return Claimed(name, decode(Claim, delivery.body, limit=limit, on_ignored=on_ignored), _control(delivery))
        case "result":
            return Reported(name, decode(Result, delivery.body, limit=limit, on_ignored=on_ignored), origin)
        case "wait":
            return WaitBegan(name, decode(WaitReport, delivery.body, limit=limit, on_ignored=on_ignored))
        case "resume":
            return WaitEnded(name, decode(ResumeReport, delivery.body, limit=limit, on_ignored=on_ignored))
        case "progress":
            if b'"message_id"' in delivery.body:
                with suppress(DecodeError):
                    decode(MessageProgress, delivery.body, limit=limit)
                    return None  # an answer to a message, for whoever listens
            return Progressed(name, decode(Progress, delivery.body, limit=limit, on_ignored=on_ignored))
        case "hello" | "beat":
            presence = decode(Presence, delivery.body, limit=limit, on_ignored=on_ignored)
            _must_match(name, presence.name)
            return Heartbeat(presence, _control(delivery))
        case "goodbye":
            goodbye = decode(Goodbye, delivery.body, limit=limit, on_ignored=on_ignored)
            _must_match(name, goodbye.name)
            return InstanceLeft(goodbye)
        case _:
            raise _unknown_key(delivery)


def _message(delivery: Delivery, limit: int, origin: int | None, require_identity: bool) -> Event:
    """A message comes once for the history, and once more when it has found no mailbox."""
    message, sender = read_message(delivery, limit=limit, require_identity=require_identity), _sender(delivery)
    unnamed = is_unnamed(delivery, message)
    if delivery.queue == topology.UNDELIVERED:
        return MessageUndelivered(message, delivery.routing_key, sender, unnamed, origin=origin)
    return MessageSent(message, unnamed, again=delivery.redelivered)


def _sender(delivery: Delivery, *, is_llm: bool = False) -> Sender:
    properties = delivery.properties
    for name in ("user_id", "reply_to", "correlation_id"):
        _must_be_text(name, getattr(properties, name) or "")
    trace = trace_of(properties.headers)
    return Sender(properties.user_id, properties.reply_to, properties.correlation_id, trace, is_llm)


def _control(delivery: Delivery) -> str | None:
    """The queue for orders that an instance names; None: the one that is named after it."""
    _must_be_text("reply_to", delivery.properties.reply_to or "")
    return delivery.properties.reply_to or None


def _must_be_plain(encoding: str | None) -> None:
    if encoding and encoding.lower() not in PLAIN:
        told = f"{encoding!r} is not understood: publish the body as it is, JSON in UTF-8"
        raise DecodeError([Problem("content_encoding", told)])


def _must_speak_for(name: str, user: str | None) -> None:
    if not speaks_for(user, topology.llm_address(name)):
        raise DecodeError([Problem("user_id", f"is {user!r}, who does not speak for the LLM {name!r}")])


def _must_match(name: str, claimed: str) -> None:
    if name != claimed:
        raise DecodeError([Problem("name", f"is {claimed!r}, but the routing key says {name!r}")])


def _must_be_text(path: str, text: str) -> None:
    """PostgreSQL has no place for NUL."""
    if "\0" in text:
        raise DecodeError([Problem(path, "contains NUL")])


def _must_fit(skills: Sequence[str]) -> None:
    """What the types let through and the database has no place for."""
    if sum(len(skill) + 1 for skill in skills) > MOST_SKILLS:
        raise DecodeError([Problem("skills", f"are too many: together they may have {MOST_SKILLS:,} characters")])


def _id_from(message_id: str | None) -> str | None:
    """The AMQP message_id as a task id, if there is one. Raises DecodeError when it cannot be one."""
    if not message_id:
        return None
    try:
        return Submission(description="-", id=message_id).id
    except ValueError as error:
        raise DecodeError([Problem("message_id", "must be 1-64 of A-Za-z0-9._:- to serve as the task id")]) from error


def _priority(spec: Submission, from_properties: int | None) -> int:
    if spec.priority is not None:
        return spec.priority
    if from_properties is None:
        return DEFAULT_PRIORITY
    return min(from_properties, 9)


def _unknown_key(delivery: Delivery) -> DecodeError:
    return DecodeError([Problem("", f"unknown routing key {delivery.routing_key!r} of exchange {delivery.exchange!r}")])


def refusal(refused: RejectedDelivery, now: Instant, task_id: str | None = None) -> list[Item]:
    """What to do about a delivery that is refused: tell its sender, and keep it among the rejected.

    `task_id` is the task that it is about; without it, it is the message_id that the sender knows.
    """
    properties = refused.delivery.properties
    name = task_id or properties.message_id or ""
    reply_to = properties.reply_to if refused.answered else None
    exchange, _ = address_of(refused.delivery)
    kind = _REJECTIONS.get(exchange, "task.rejected")
    answer = Refuse(name, refused.problems, reply_to, properties.correlation_id, type=kind)
    return [answer, _keep(refused.delivery, refused.problems, now)]


def _keep(delivery: Delivery, problems: tuple[Problem, ...], now: Instant) -> RejectedMessage:
    """The delivery as a rejected message."""
    properties = {name: getattr(delivery.properties, name) for name in KEPT_PROPERTIES}
    properties["headers"] = _kept_headers(delivery.headers)
    given = {name: value for name, value in properties.items() if value not in (None, {})}
    user = delivery.properties.user_id
    return RejectedMessage(delivery.exchange, delivery.routing_key, delivery.body, given, problems, now, user=user)


def _kept_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are text, such as a trace context; none where they are too large to add ours to them."""
    text = {key: value for key, value in headers.items() if isinstance(key, str) and isinstance(value, str)}
    size = sum(len((key + value).encode()) for key, value in text.items())
    return text if size <= MOST_KEPT_HEADERS else {}
