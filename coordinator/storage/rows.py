"""Conversion of tasks, attempts, LLMs and messages to database rows and back."""

from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

from pydantic_core import from_json, to_json
from sqlalchemy import RowMapping

from broker.mappings import without_none
from broker.protocol.chat import Message
from broker.protocol.status import Outcome, Status
from broker.protocol.task_requests import Submission
from broker.protocol.worker_reports import Failure
from broker.timestamps import EPOCH, Instant, from_datetime, to_iso
from coordinator.core.health.breaker import Breaker
from coordinator.core.health.record import HealthRecord
from coordinator.core.limits.rate_limit import RateLimit
from coordinator.core.llms.duration_estimates import DurationEstimates
from coordinator.core.llms.llm import LLM, Instance
from coordinator.core.llms.properties import InstanceProfile, Properties
from coordinator.core.tasks.task import Attempt, Change, OpenQuestion, Task
from coordinator.storage.usage_columns import usage_of, usage_row

Row = RowMapping | Mapping[str, Any]


def task_row(task: Task) -> dict[str, Any]:
    """Return every column of a task."""
    spec = task.spec
    return {
        "seq": task.seq,
        "id": task.id,
        "parent_id": spec.parent_id,
        "conversation_id": spec.conversation_id,
        "submitted_by": task.submitted_by,
        "submitted_at": task.submitted_at,
        "trace": task.trace,
        "charged_to": _json(list(task.charged_to) or None),
        **specified_row(task),
        **changing_row(task),
    }


def specified_row(task: Task) -> dict[str, Any]:
    """Return the columns of the submission, which change only with an update of the task."""
    spec = task.spec
    priority, due_order, _ = task.rank
    return {
        "lane": task.lane,
        "priority": -priority,
        "due_order": due_order,
        "assignee": spec.assignee,
        "description": spec.description,
        "inputs": _json(spec.inputs),
        "spec": spec.model_dump_json(exclude_unset=True, exclude={"id", "description", "inputs"}),
        "original": None if task.original == {} else to_json(task.original).decode(),
    }


def changing_row(task: Task) -> dict[str, Any]:
    """Return the columns that change while a task is processed."""
    return {
        "status": task.status.value,
        "reply_to": task.reply_to,
        "correlation_id": task.correlation_id,
        "attempt": task.attempt,
        "starts": task.starts,
        "waiting_on": task.waiting_on,
        "context_length": task.context_length,
        "wake_at": task.wake_at,
        "waits_for": task.waits_for,
        "reserved_nanos": task.reserved_nanos,
        "reserved_tokens": task.reserved_tokens,
        "overdue": int(task.overdue),
        "parked": int(task.parked),
        "asking_since": task.asking_since,
        "person_wait": task.person_wait,
        "accepted": None if task.accepted is None else int(task.accepted),
        "llm": task.llm,
        "instance": task.instance,
        "model": task.model,
        "why": task.why,
        "ready_at": task.ready_at,
        "assigned_at": task.assigned_at,
        "started_at": task.started_at,
        "finished_at": task.finished_at,
        "duration": task.duration,
        **usage_row(task.usage),
        "error_type": _error_type(task.error),
        "result": _json(task.result),
        "error": None if task.error is None else task.error.model_dump_json(),
        "questions": _json([astuple(asked) for asked in task.questions] or None),
        "history": _json([(change.at, change.by, change.what) for change in task.history] or None),
    }


def task_of(row: Row, ended: list[Attempt]) -> Task:
    """Return the task of a row, with its ended attempts."""
    return Task(
        id=row["id"],
        seq=row["seq"],
        spec=Submission.model_validate_json(_submission(row)),
        status=Status(row["status"]),
        priority=row["priority"],
        submitted_at=row["submitted_at"],
        submitted_by=row["submitted_by"],
        reply_to=row["reply_to"],
        correlation_id=row["correlation_id"],
        trace=row["trace"],
        attempt=row["attempt"],
        starts=row["starts"],
        waiting_on=row["waiting_on"],
        context_length=row["context_length"],
        wake_at=row["wake_at"],
        waits_for=row["waits_for"],
        charged_to=tuple(_value(row["charged_to"]) or ()),
        reserved_nanos=row["reserved_nanos"],
        reserved_tokens=row["reserved_tokens"],
        overdue=bool(row["overdue"]),
        parked=bool(row["parked"]),
        asking_since=row["asking_since"],
        person_wait=row["person_wait"],
        accepted=None if row["accepted"] is None else bool(row["accepted"]),
        original={} if row["original"] is None else from_json(row["original"]),
        llm=row["llm"],
        instance=row["instance"],
        model=row["model"],
        why=row["why"],
        ready_at=row["ready_at"],
        assigned_at=row["assigned_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        duration=row["duration"],
        result=_value(row["result"]),
        error=_failure(row["error"]),
        usage=usage_of(row),
        attempts=ended,
        questions=[
            OpenQuestion(id_, text, tuple(choices), *rest)
            for id_, text, choices, *rest in _value(row["questions"]) or ()
        ],
        history=[Change(*change) for change in _value(row["history"]) or ()],
    )


def _submission(row: Row) -> bytes:
    """Return the submission as JSON, put together from its three JSON columns."""
    inputs: str | None = row["inputs"]
    spec: str = row["spec"]
    rest = spec.encode()[1:]  # past the brace
    document = b'{"description":' + to_json(row["description"])
    if inputs is not None:
        document += b',"inputs":' + inputs.encode()
    return document + (rest if rest == b"}" else b"," + rest)


def attempt_row(task: Task, attempt: Attempt) -> dict[str, Any]:
    """Return every column of an attempt at a task."""
    return {
        "task_seq": task.seq,
        "attempt": attempt.attempt,
        "llm": attempt.llm,
        "instance": attempt.instance,
        "model": attempt.model,
        "why": attempt.why,
        "outcome": attempt.outcome.value,
        "assigned_at": attempt.assigned_at,
        "started_at": attempt.started_at,
        "finished_at": attempt.finished_at,
        "duration": attempt.duration,
        **usage_row(attempt.usage),
        "charged_nanos": attempt.charged_nanos,
        "charged_tokens": attempt.charged_tokens,
        "submitted_at": task.submitted_at,
        "error_type": _error_type(attempt.error),
        "error": None if attempt.error is None else attempt.error.model_dump_json(),
    }


def attempt_of(row: Row) -> Attempt:
    """Return the attempt of a row."""
    return Attempt(
        attempt=row["attempt"],
        llm=row["llm"],
        instance=row["instance"],
        why=row["why"],
        outcome=Outcome(row["outcome"]),
        error=_failure(row["error"]),
        usage=usage_of(row),
        assigned_at=row["assigned_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        duration=row["duration"],
        model=row["model"],
        charged_nanos=row["charged_nanos"],
        charged_tokens=row["charged_tokens"],
    )


def llm_row(llm: LLM) -> dict[str, Any]:
    """Return every column of an LLM."""
    offered = InstanceProfile(llm.model, llm.told_skills, llm.labels, llm.description, llm.told_properties)
    properties = {"told": llm.told_properties.plain(), "given": llm.properties_given}
    instances = {i.id: _instance(i, offered) for i in llm.instances.values()}
    return {
        "name": llm.name,
        "state": llm.state,
        "model": llm.model,
        "skills": to_json(llm.skills).decode(),
        "told_skills": to_json(llm.told_skills).decode(),
        "skills_given": _json(llm.skills_given),
        "labels": to_json(llm.labels).decode(),
        "paused": llm.paused,
        "slots_limit": llm.slots_limit,
        "learned": to_json(llm.learned.plain()).decode(),
        "properties": to_json(properties).decode(),
        "health": to_json(llm.health.plain()).decode(),
        "description": llm.description,
        "last_seen": llm.last_seen,
        "instances": to_json(instances).decode(),
    }


def llm_of(row: Row) -> LLM:
    """Return the LLM of a row, without tasks and with expired leases."""
    properties = _value(row["properties"]) or {"told": {}, "given": {}}
    told = Properties.from_plain(properties["told"])
    offered = InstanceProfile(
        row["model"], from_json(row["told_skills"]), from_json(row["labels"]), row["description"], told
    )
    instances = from_json(row["instances"])
    llm = LLM(
        name=row["name"],
        model=row["model"],
        skills=from_json(row["skills"]),
        told_skills=from_json(row["told_skills"]),
        skills_given=_value(row["skills_given"]),
        labels=from_json(row["labels"]),
        paused=row["paused"],
        slots_limit=row["slots_limit"],
        learned=DurationEstimates.from_plain(from_json(row["learned"])),
        description=row["description"],
        last_seen=Instant(row["last_seen"]),
        instances={key: _instance_of(key, value, offered) for key, value in instances.items()},
        told_properties=told,
        health=HealthRecord.from_plain(_value(row["health"])),
    )
    given = properties["given"]
    llm.give_properties(given | {"abilities": tuple(given["abilities"])} if "abilities" in given else given)
    return llm


def _instance(instance: Instance, offered: InstanceProfile) -> dict[str, Any]:
    """Return an instance as JSON; of its profile, only the fields that differ from those of the LLM."""
    offer = instance.offer or InstanceProfile()
    own = {name: value for name, value in offer._asdict().items() if value != getattr(offered, name)}
    if "properties" in own:
        own["properties"] = offer.properties.plain()
    more: dict[str, Any] = {"offer": own} if instance.offer is not None and own else {}
    if instance.control is not None:
        more["control"] = instance.control
    if breaker := instance.breaker.plain():
        more["breaker"] = breaker
    if instance.told_slots is not None:
        more["told_slots"] = instance.told_slots
    return {"slots": instance.slots, "draining": instance.draining, **more}


def _instance_of(key: str, value: dict[str, Any], offered: InstanceProfile) -> Instance:
    own = value.get("offer", {})
    if "properties" in own:
        own["properties"] = Properties.from_plain(own["properties"])
    offer = offered._replace(**own) if value["slots"] else None
    return Instance(
        key,
        value["slots"],
        EPOCH,
        value["draining"],
        value.get("control"),
        offer=offer,
        breaker=Breaker.from_plain(value.get("breaker")),
        told_slots=value.get("told_slots"),
    )


def limit_row(limit: RateLimit) -> dict[str, Any]:
    """Return every column of a rate limit."""
    return {"name": limit.name, "state": to_json(limit.plain()).decode()}


def message_row(message: Message, at: Instant) -> dict[str, Any]:
    """Return every column of a message received at a moment, except its number."""
    return {
        "id": message.id,
        "conversation_id": message.conversation_id,
        "sender": message.sender,
        "receiver": message.receiver,
        "content": message.content,
        "metadata": _json(message.metadata or None),
        "in_reply_to": message.in_reply_to,
        "sent_at": from_datetime(message.sent_at),
        "received_at": at,
        "delivered": True,
    }


def message_view(row: Row) -> dict[str, Any]:
    """Return the message of a row as JSON-able data without empty fields."""
    shown = {
        "id": row["id"],
        "sender": row["sender"],
        "receiver": row["receiver"],
        "content": row["content"],
        "metadata": _value(row["metadata"]),
        "conversation_id": row["conversation_id"],
        "in_reply_to": row["in_reply_to"],
        "sent_at": to_iso(row["sent_at"]),
        "delivered": bool(row["delivered"]),
    }
    return without_none(shown)


def _json(value: Any) -> str | None:
    return None if value is None else to_json(value).decode()


def _value(text: str | None) -> Any:
    return None if text is None else from_json(text)


def _failure(text: str | None) -> Failure | None:
    return None if text is None else Failure.model_validate_json(text)


def _error_type(error: Failure | None) -> str | None:
    """Return the type of an error without NUL, which PostgreSQL cannot store."""
    return None if error is None else error.type.replace("\0", "")
