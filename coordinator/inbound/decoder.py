"""Decoding of deliveries: bytes become an event of the core, or a rejection with every problem."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from broker.access.roles import may_be_answered_at, speaks_for, was_dead_lettered
from broker.amqp.envelope import Delivery
from broker.errors import DecodeError, Problem
from broker.ids import uuid7
from broker.messaging.chat_client import is_unnamed, read_message
from broker.protocol import topology
from broker.protocol.chat import MessageProgress, is_address
from broker.protocol.primitives import NAME_PATTERN, OnIgnored, decode
from broker.protocol.queries import SaveReport
from broker.protocol.report_catalog import PREDEFINED, Report
from broker.protocol.report_catalog import problems_of as problems_of_report
from broker.protocol.spending import ManageBudget, ManageLimit, ManageSpending
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
from broker.protocol.worker_reports import Claim, Goodbye, Presence, Progress, Result, ResumeReport, WaitReport
from broker.telemetry.traceparent import trace_of
from broker.timestamps import EPOCH
from coordinator.core.events import (
    AnswerGiven,
    AssignRequested,
    CancelRequested,
    Claimed,
    Event,
    Heartbeat,
    InstanceLeft,
    ManageBudgetRequested,
    ManageLimitRequested,
    ManageRequested,
    ManageSpendingRequested,
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
from coordinator.report_definition import CUSTOM, with_fields
from coordinator.validation import must_be_identified, must_be_schema, shortened_problems

PLAIN_ENCODINGS = ("utf-8", "utf8", "us-ascii", "ascii", "identity", "binary", "8bit", "7bit")  # they change nothing
MAX_SKILLS_CHARACTERS = 2000  # of all skills of a task: they are the key of an index, whose size PostgreSQL limits
REPORTS = ("hello", "beat", "claim", "progress", "wait", "resume", "result", "goodbye")


@dataclass(frozen=True, slots=True)
class RejectedDelivery:
    """A delivery that cannot become an event. Its sender gets an answer only if `answered`."""

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
    """Decode a delivery into an event, or into a rejection. Never raises.

    Returns None for a message that does not concern the coordinator. `on_ignored` is called with the fields of a
    worker's report that are left out. `origin` is the number of the delivery, for the event.
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
            return None  # its copy for the history is refused
        may_be_answered = may_be_answered_at(properties.user_id, properties.reply_to or "")
        answered = not require_identity or (may_be_answered and not was_dead_lettered(delivery.headers))
        return RejectedDelivery(delivery, shortened_problems(error.problems), answered)


def address_of(delivery: Delivery) -> tuple[str, str]:
    """Return the exchange and the routing key that give the kind of a delivery.

    For a delivery through a foreign exchange, or straight to the queue, they follow from its routing key, else from its
    type. A delivery straight to the queue was in no mailbox, so it is no chat message.
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


def _request(delivery: Delivery, verb: str, limit: int, origin: int | None, *, is_llm: bool) -> Event:
    """Decode a request. An LLM may choose a task id only in the body, where authorization limits the choice."""
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
            saved = decode(SaveReport, delivery.body, limit=limit)
            if saved.name in (*PREDEFINED, CUSTOM):
                raise DecodeError([Problem("name", f"must not be the name of a predefined report: {saved.name}")])
            if saved.report and (problems := problems_of_report(with_fields(Report(), saved.report))):
                raise DecodeError([Problem(f"report.{problem.path}", problem.message) for problem in problems])
            definition = None if saved.report is None else saved.report.model_dump(mode="json", exclude_none=True)
            return ReportSaved(saved.name, definition, sender)
        case "manage":
            return ManageRequested(decode(ManageLLM, delivery.body, limit=limit), sender)
        case "manage_limit":
            return ManageLimitRequested(decode(ManageLimit, delivery.body, limit=limit), sender)
        case "manage_budget":
            budget = decode(ManageBudget, delivery.body, limit=limit)
            _must_be_text("value", budget.value or "")
            return ManageBudgetRequested(budget, sender)
        case "spending":
            spending = decode(ManageSpending, delivery.body, limit=limit)
            _must_be_text("reason", spending.reason)
            return ManageSpendingRequested(spending, sender)
        case _:
            raise _unknown_key(delivery)


def _status(delivery: Delivery, key: str, limit: int, origin: int | None, on_ignored: OnIgnored | None) -> Event | None:
    name, _, kind = key.rpartition(".")
    if not re.fullmatch(NAME_PATTERN, name):
        raise DecodeError([Problem("", f"routing key {delivery.routing_key!r} must begin with an LLM's name")])
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
                    return None  # progress of an answer to a message, which only listeners need
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
    """Decode a chat message. It arrives for the history, and once more if it found no mailbox."""
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
    """Return the control queue that an instance names; None for the default queue of the instance."""
    _must_be_text("reply_to", delivery.properties.reply_to or "")
    return delivery.properties.reply_to or None


def _must_be_plain(encoding: str | None) -> None:
    if encoding and encoding.lower() not in PLAIN_ENCODINGS:
        message = f"{encoding!r} is not supported: publish the body as plain JSON in UTF-8"
        raise DecodeError([Problem("content_encoding", message)])


def _must_speak_for(name: str, user: str | None) -> None:
    if not speaks_for(user, topology.llm_address(name)):
        raise DecodeError([Problem("user_id", f"is {user!r}, which may not publish for the LLM {name!r}")])


def _must_match(name: str, claimed: str) -> None:
    if name != claimed:
        raise DecodeError([Problem("name", f"is {claimed!r}, but the routing key says {name!r}")])


def _must_be_text(path: str, text: str) -> None:
    """Raise DecodeError for text with NUL, which PostgreSQL cannot store."""
    if "\0" in text:
        raise DecodeError([Problem(path, "must not contain NUL")])


def _must_fit(skills: Sequence[str]) -> None:
    """Raise DecodeError for skills that are too long for the index of the database."""
    if sum(len(skill) + 1 for skill in skills) > MAX_SKILLS_CHARACTERS:
        raise DecodeError([Problem("skills", f"must have at most {MAX_SKILLS_CHARACTERS:,} characters together")])


def _id_from(message_id: str | None) -> str | None:
    """Return the AMQP message_id as a task id, None without one. Raises DecodeError for an invalid id."""
    if not message_id:
        return None
    try:
        return Submission(description="-", id=message_id).id
    except ValueError as error:
        rule = "must be 1-64 characters: A-Z, a-z, 0-9 or one of . _ : - (it becomes the task ID)"
        raise DecodeError([Problem("message_id", rule)]) from error


def _priority(spec: Submission, from_properties: int | None) -> int:
    if spec.priority is not None:
        return spec.priority
    if from_properties is None:
        return DEFAULT_PRIORITY
    return min(from_properties, 9)


def _unknown_key(delivery: Delivery) -> DecodeError:
    return DecodeError([Problem("", f"unknown routing key {delivery.routing_key!r} of exchange {delivery.exchange!r}")])
