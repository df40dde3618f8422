"""A task: its fields, what follows from them, and its view for people and programs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from pydantic import BaseModel, JsonValue

from broker.mappings import without_none
from broker.protocol.primitives import LOCAL, LOCAL_ONLY, shortened
from broker.protocol.status import Outcome, Status
from broker.protocol.task_requests import Submission
from broker.protocol.worker_reports import Failure, Usage
from broker.timestamps import EPOCH, NO_TIME, Instant, Micros, from_datetime, in_seconds, seconds, to_iso
from coordinator.core.llms.duration_estimates import BASE_LENGTH, text_length

DEFAULT_PRIORITY = 4
COORDINATOR = "coordinator"  # the author of changes that no user asked for
ANYBODY = "anonymous"  # the author of changes by a client that names no user
HISTORY_KEPT = 200  # changes; the oldest go first
QUIET_AFTER = seconds(30)  # without text
_NO_MODELS = ("exec:", "handler:")  # beginnings of model names whose attempts need not send text
LONGEST_CHANGE = 2_100  # characters of one
ATTEMPTS_SHOWN = 200  # the latest
RETRIED = "retried after it"  # begins the change that a person makes to run a finished task once more

Rank = tuple[int, int, int]  # lower goes first: higher priority, earlier due date, older
NO_DUE_DATE = 2**62


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt that ended. Instants in UTC microseconds, `duration` by the worker's clock in microseconds.

    `model` is that of the instance that had it; None where no instance claimed it, and of earlier versions. Its budgets
    are charged `charged_nanos` (nanodollars) and `charged_tokens`; None where it has no budget, or the cost is unknown.
    """

    attempt: int
    llm: str
    instance: str | None
    why: str | None
    outcome: Outcome
    error: Failure | None
    usage: Usage | None
    assigned_at: Instant | None
    started_at: Instant | None
    finished_at: Instant
    duration: Micros | None
    model: str | None = None
    charged_nanos: int | None = None
    charged_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a task, for its history."""

    at: Instant
    by: str
    what: str


@dataclass(frozen=True, slots=True)
class OpenQuestion:
    """A question to a person. Open as long as it has no answer."""

    id: str
    text: str
    choices: tuple[str, ...]
    asked_at: Instant
    answer: str | None = None
    answered_by: str | None = None
    answered_at: Instant | None = None


@dataclass(slots=True, eq=False)
class Task:
    """A task. Only the machine changes it.

    `attempt` counts assignments and is the fence for claims and results; `starts` counts those that an LLM took up
    and is what `max_attempts` limits; `waiting_on` counts unmet dependencies; a blocked task is not looked at before
    `wake_at`; `overdue` is shown once; `context_length` counts the characters of the results that it builds on;
    `parked` tells that its attempt waits and holds no slot; `asking_since` is when it became input_required, and
    `person_wait` how long it was before; `trace` is the traceparent that it came with; `original` holds the
    fields of the submission that were changed since, as they were (JSON-able, see resubmission), None where that is not
    known; `accepted` says of a part whether its group took its work; `charged_to` are the ids of the tasks of its tree
    that have a budget, with its own; `reserved_nanos` and `reserved_tokens` are set aside in its budgets for its
    present attempt; `waits_for` is the budget that it waits for (see budgets/account.py). Not stored are `named_at`,
    when a beat last named it, `run_time`, how long its attempt has run without the time that people took, `text_at`,
    when text of its attempt last came or could begin to come, and `streams`, whether any has come.
    """

    id: str
    seq: int
    spec: Submission
    status: Status
    priority: int
    submitted_at: Instant
    submitted_by: str | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    trace: str | None = None
    attempt: int = 0
    starts: int = 0
    waiting_on: int = 0
    wake_at: Instant | None = None
    llm: str | None = None
    instance: str | None = None
    model: str | None = None
    why: str | None = None
    ready_at: Instant | None = None
    assigned_at: Instant | None = None
    started_at: Instant | None = None
    finished_at: Instant | None = None
    duration: Micros | None = None
    result: JsonValue = None
    error: Failure | None = None
    usage: Usage | None = None
    attempts: list[Attempt] = field(default_factory=list)
    history: list[Change] = field(default_factory=list)
    overdue: bool = False
    parked: bool = False
    questions: list[OpenQuestion] = field(default_factory=list)
    asking_since: Instant | None = None
    person_wait: Micros = NO_TIME
    original: dict[str, Any] | None = field(default_factory=dict)
    accepted: bool | None = None
    named_at: Instant = EPOCH
    text_at: Instant = EPOCH
    streams: bool = False
    run_time: Micros = NO_TIME
    context_length: int = 0
    charged_to: tuple[str, ...] = ()
    reserved_nanos: int | None = None
    reserved_tokens: int | None = None
    waits_for: str | None = None
    _size: int | None = None
    _submitted_view: dict[str, Any] | None = None

    def note(self, now: Instant, by: str, what: str) -> None:
        """Add a change to the history."""
        self.history.append(Change(now, by, shortened(what, LONGEST_CHANGE)))
        del self.history[:-HISTORY_KEPT]

    @property
    def in_hand(self) -> bool:
        """Whether an LLM has the task. A task that asks a person may have lost its LLM; a group has none."""
        if self.status is Status.INPUT_REQUIRED:
            return self.instance is not None
        return self.status is Status.ASSIGNED or (self.status is Status.IN_PROGRESS and self.llm is not None)

    def quiet_since(self, now: Instant) -> Instant | None:
        """Return since when the attempt sent no text, where that is long and text is expected; else None.

        Text is expected from an attempt that sent text before, and from a model.
        """
        works = self.status is Status.IN_PROGRESS and self.instance is not None and not self.parked
        if not works or now - self.text_at < QUIET_AFTER:
            return None
        is_model = bool(self.model) and not (self.model or "").startswith(_NO_MODELS)
        return self.text_at if self.streams or is_model else None

    @property
    def open_questions(self) -> list[OpenQuestion]:
        """The questions without an answer."""
        return [asked for asked in self.questions if asked.answer is None]

    def answer(self, asked: OpenQuestion, answer: str, by: str, now: Instant) -> OpenQuestion:
        """Store a person's answer; return the answered question."""
        answered = replace(asked, answer=answer, answered_by=by, answered_at=now)
        self.questions[self.questions.index(asked)] = answered
        return answered

    @property
    def due(self) -> Instant | None:
        """The due date."""
        return None if self.spec.due is None else from_datetime(self.spec.due)

    @property
    def rank(self) -> Rank:
        """The place of the task among the ready tasks."""
        return (-self.priority, NO_DUE_DATE if self.spec.due is None else from_datetime(self.spec.due), self.seq)

    @property
    def lane(self) -> str:
        """The demands of the task on an LLM, as a key.

        `@name`, one of `@name|@name`, or the skills; not `-@name`; `!local` if the task must stay here; `!tools` and
        the like if the LLM needs more abilities than text.
        """
        return lane_of(self.spec)

    @property
    def size(self) -> int:
        """The amount of work, as far as known before the task runs: characters of text, with a usual answer.

        Computed when the task first becomes ready, and the same from then on.
        """
        if self._size is None:
            spec = self.spec
            self._size = BASE_LENGTH + len(spec.description) + text_length(spec.inputs) + self.context_length
        return self._size

    def submitted_view(self) -> dict[str, Any]:
        """Return the part of the view that comes from the submission; made once."""
        if self._submitted_view is None:
            spec = self.spec
            shown = {
                "id": self.id,
                "description": spec.description,
                "priority": self.priority,
                "skills": spec.skills,
                "assignee": spec.assignee,
                "assignees": spec.assignees or None,
                "excluded": spec.excluded or None,
                "mode": spec.mode,
                "vote": spec.vote and spec.vote.model_dump(exclude_none=True, exclude_defaults=True),
                "reviewer": spec.reviewer,
                "max_rounds": spec.max_rounds if spec.reviewer else None,
                "max_attempts": spec.max_attempts,
                "needs": spec.needs,
                "budget": spec.budget and spec.budget.model_dump(exclude_none=True),
                "timeout": spec.timeout,
                "due": to_iso(self.due),
                "not_before": None if spec.not_before is None else to_iso(from_datetime(spec.not_before)),
                "depends_on": spec.depends_on,
                "inputs": spec.inputs,
                "output_schema": spec.output_schema,
                "labels": spec.labels,
                "metadata": spec.metadata,
                "parent_id": spec.parent_id,
                "conversation_id": spec.conversation_id,
                "submitted_by": self.submitted_by,
                "submitted_at": to_iso(self.submitted_at),
            }
            self._submitted_view = without_none(shown)
        return self._submitted_view

    def respecify(self, changes: dict[str, Any]) -> None:
        """Change fields of the submission."""
        self._keep_original(changes)
        self.spec = self.spec.model_copy(update=changes)
        if self.spec.priority is not None and "priority" in changes:
            self.priority = self.spec.priority
        if "due" in changes:
            self.overdue = False
        self._submitted_view = self._size = None

    def _keep_original(self, changes: Iterable[str]) -> None:
        if self.original is not None:
            now = {name: self.priority if name == "priority" else plain(self.spec, name) for name in changes}
            self.original = now | self.original

    def end_attempt(self, now: Instant, outcome: Outcome, error: Failure | None = None) -> Attempt:
        """End the present attempt and return its record, which the task keeps."""
        ended = Attempt(
            attempt=self.attempt,
            llm=self.llm or "",
            instance=self.instance,
            why=self.why,
            outcome=outcome,
            error=error,
            usage=self.usage,
            assigned_at=self.assigned_at,
            started_at=self.started_at,
            finished_at=now,
            duration=self.duration,
            model=self.model,
        )
        self.attempts.append(ended)
        self.parked = False
        return ended


_SETS = ("skills", "labels", "excluded", "depends_on", "needs")  # lists whose order means nothing


def plain(spec: Submission, name: str) -> Any:
    """Return a field of a submission as JSON-able data that is equal for equal meanings."""
    value = getattr(spec, name)
    if isinstance(value, datetime):
        return from_datetime(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    return sorted(set(value)) if name in _SETS else value


def lane_of(spec: Submission) -> str:
    """See Task.lane."""
    if not (spec.labels or spec.assignees or spec.excluded or spec.needs) and len(spec.skills) < 2:
        return f"@{spec.assignee}" if spec.assignee else "".join(spec.skills)
    named = [spec.assignee] if spec.assignee else spec.assignees
    demands = {"|".join(f"@{name}" for name in sorted(named))} if named else set(spec.skills)
    demands |= {f"-@{name}" for name in spec.excluded} | {f"!{ability}" for ability in spec.needs}
    return " ".join(sorted(demands | {f"!{LOCAL}"} if LOCAL_ONLY in spec.labels else demands))


def meets(offers: frozenset[str], demands: Sequence[str]) -> bool:
    """Whether an LLM that offers this (see LLM.offers) may take the tasks of the lane with these demands."""
    return all(_met(demand, offers) for demand in demands)


def _met(demand: str, offers: frozenset[str]) -> bool:
    if demand[0] == "-":
        return demand[1:] not in offers
    return demand in offers or any(one in offers for one in demand.split("|"))


def view(task: Task) -> dict[str, Any]:
    """Return the task as JSON-able data: the fields of views.TaskView, without those that are empty."""
    shown = task.submitted_view().copy()
    shown["status"] = task.status.value
    shown["attempt"] = task.attempt
    shown["waiting_on"] = task.waiting_on
    for name in ("llm", "model", "result"):
        if (value := getattr(task, name)) is not None:
            shown[name] = value
    for name in ("ready_at", "assigned_at", "started_at", "finished_at"):
        if (moment := getattr(task, name)) is not None:
            shown[name] = to_iso(moment)
    if task.error is not None:
        shown["error"] = _failure(task.error)
    if task.usage is not None:
        shown["usage"] = _usage(task.usage)
    if task.overdue:
        shown["overdue"] = True
    if task.parked:
        shown["parked"] = True
    if task.questions:
        shown["questions"] = [_asked(asked) for asked in task.questions]
    if task.duration is not None:
        shown["duration"] = in_seconds(task.duration)
    if task.person_wait:
        shown["person_wait"] = in_seconds(task.person_wait)
    shown["attempts"] = [*map(_attempt, task.attempts[-ATTEMPTS_SHOWN:]), *_present_attempt(task)]
    shown["history"] = [{"at": to_iso(change.at), "by": change.by, "what": change.what} for change in task.history]
    return shown


def _failure(error: Failure | None) -> dict[str, Any] | None:
    return None if error is None else {"type": error.type, "message": error.message, "retryable": error.retryable}


def _asked(asked: OpenQuestion) -> dict[str, Any]:
    shown = {
        "id": asked.id,
        "text": asked.text,
        "choices": list(asked.choices) or None,
        "asked_at": to_iso(asked.asked_at),
        "answer": asked.answer,
        "answered_by": asked.answered_by,
        "answered_at": to_iso(asked.answered_at),
    }
    return without_none(shown)


def _usage(usage: Usage | None) -> dict[str, Any] | None:
    return None if usage is None else usage.model_dump(exclude_none=True)


def _attempt(attempt: Attempt) -> dict[str, Any]:
    shown = {
        "attempt": attempt.attempt,
        "llm": attempt.llm,
        "instance": attempt.instance,
        "model": attempt.model,
        "why": attempt.why,
        "outcome": attempt.outcome,
        "error": _failure(attempt.error),
        "usage": _usage(attempt.usage),
        "assigned_at": to_iso(attempt.assigned_at),
        "started_at": to_iso(attempt.started_at),
        "finished_at": to_iso(attempt.finished_at),
        "duration": in_seconds(attempt.duration),
    }
    return without_none(shown)


def _present_attempt(task: Task) -> list[dict[str, Any]]:
    if not task.in_hand:
        return []
    shown = {
        "attempt": task.attempt,
        "llm": task.llm,
        "instance": task.instance,
        "model": task.model,
        "why": task.why,
        "assigned_at": to_iso(task.assigned_at),
        "started_at": to_iso(task.started_at),
    }
    return [without_none(shown)]
