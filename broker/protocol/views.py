"""The coordinator's answers: views of tasks, LLMs, messages and reports, and rejections.

docs/protocol.md describes every field for users.
"""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from broker.protocol.chat import COORDINATOR
from broker.protocol.primitives import WireModel
from broker.protocol.status import Status
from broker.protocol.worker_reports import Failure, Usage


class View(BaseModel):
    """What the coordinator shows. A reader ignores fields that it does not know yet."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class AttemptView(View):
    """One try of a task by one LLM. Times are datetimes in UTC, `duration` is seconds.

    Two fields are in answers to the query `task` only: `quiet_since`, the moment since when a running attempt has sent
    no text, if that is long ago and some could be expected; `result`, when the task was retried after this attempt had
    completed it.
    """

    attempt: int
    llm: str
    instance: str | None = None
    model: str | None = None
    why: str | None = None
    outcome: str | None = None
    error: Failure | None = None
    usage: Usage | None = None
    assigned_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    duration: float | None = None
    quiet_since: datetime | None = None
    result: Any = None


class ChangeView(View):
    """Something that was done to a task: when, by whom, what."""

    at: datetime
    by: str
    what: str

    @property
    def told(self) -> str:
        """What, and by whom, unless the coordinator did it of itself."""
        return self.what if self.by == COORDINATOR else f"{self.what} (by {self.by})"


class QuestionView(View):
    """What a task asked a person. It is open as long as it has no answer."""

    id: str
    text: str
    choices: list[str] = Field(default_factory=list)
    asked_at: datetime
    answer: str | None = None
    answered_by: str | None = None
    answered_at: datetime | None = None


class TaskView(View):
    """A task as it stands: the body of answers, the `data` of events, the lines of `fluffle task show --json`.

    `not_submitted` are those of `depends_on` that nobody has submitted. `left_out` tells which fields are left out, or
    cut and end with `…`, because they are too large, and how many bytes each has.
    """

    id: str
    status: Status
    description: str
    priority: int
    skills: list[str] = Field(default_factory=list)
    assignee: str | None = None
    assignees: list[str] = Field(default_factory=list)
    excluded: list[str] = Field(default_factory=list)
    mode: str | None = None
    vote: dict[str, Any] | None = None
    reviewer: str | None = None
    max_rounds: int | None = None
    llm: str | None = None
    model: str | None = None
    attempt: int = 0
    max_attempts: int = 3
    timeout: float | None = None
    due: datetime | None = None
    not_before: datetime | None = None
    depends_on: list[str] = Field(default_factory=list)
    waiting_on: int = 0
    overdue: bool = False
    inputs: Any = None
    output_schema: dict[str, Any] | None = None
    labels: list[str] = Field(default_factory=list)
    metadata: dict[str, Any] = Field(default_factory=dict)
    parent_id: str | None = None
    conversation_id: str | None = None
    submitted_by: str | None = None
    submitted_at: datetime
    ready_at: datetime | None = None
    assigned_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    result: Any = None
    error: Failure | None = None
    usage: Usage | None = None
    parked: bool = False
    questions: list[QuestionView] = Field(default_factory=list)
    duration: float | None = None
    person_wait: float | None = None
    attempts: list[AttemptView] = Field(default_factory=list)
    history: list[ChangeView] = Field(default_factory=list)
    not_submitted: list[str] = Field(default_factory=list)
    left_out: dict[str, int] = Field(default_factory=dict)
    known: bool | None = None


class InstanceView(View):
    """One process of an LLM, and what it says of itself."""

    id: str
    model: str = ""
    skills: dict[str, float] = Field(default_factory=dict)
    labels: list[str] = Field(default_factory=list)
    slots: int = 0
    draining: bool = False


class LLMView(View):
    """An LLM as the coordinator knows it. `in_hand` counts assigned and running tasks of all its instances,
    `parked` those that wait for a person or another task and hold no slot.

    `paused`, `slots_limit` and `skills_given` are what was set by hand; `skills` and `slots` are what counts.
    `by_instance` is there when the instances do not say the same of themselves. `quiet` has the running tasks that have
    sent no text for long, with the moment since when.
    """

    name: str
    state: Literal["online", "paused", "draining", "offline"]
    model: str = ""
    skills: dict[str, float] = Field(default_factory=dict)
    quality: dict[str, float] = Field(default_factory=dict)
    slots: int = 0
    paused: bool = False
    slots_limit: int | None = None
    skills_given: dict[str, float] | None = None
    in_hand: int = 0
    parked: int = 0
    instances: list[str] = Field(default_factory=list)
    by_instance: list[InstanceView] = Field(default_factory=list)
    description: str = ""
    labels: list[str] = Field(default_factory=list)
    last_seen: datetime | None = None
    tasks: list[str] = Field(default_factory=list)
    quiet: dict[str, datetime] = Field(default_factory=dict)
    left_out: dict[str, int] = Field(default_factory=dict)


class TaskPage(View):
    """Tasks without their inputs and results, and with the beginnings of long texts.

    `next` is the `before` of the following page, None on the last one. A page ends early when it holds much.
    """

    tasks: list[TaskView]
    next: int | None = None


class LLMList(View):
    """LLMs by name. `next` is the `after` of the following page, None on the last one."""

    llms: list[LLMView]
    next: str | None = None


class NoteView(View):
    """A note on a board. `content` is there when it was asked for."""

    name: str
    by: str
    at: datetime
    content: str | None = None


class NoteList(View):
    """The answer to `read`: the note that was asked for, or all of the board by name, without what they say."""

    notes: list[NoteView]


class MessageView(View):
    """A message of the history. `delivered` is false when no mailbox was found for it."""

    id: str
    sender: str
    receiver: str
    content: str
    metadata: dict[str, Any] = Field(default_factory=dict)
    conversation_id: str
    in_reply_to: str | None = None
    sent_at: datetime
    delivered: bool = True


class MessagePage(View):
    """Messages of the history. `next` is the `before` of the following page, None on the last one."""

    messages: list[MessageView]
    next: int | None = None


class ConversationView(View):
    """A conversation: how many messages it has, and the last of them. `left_out` of that as in a TaskView."""

    id: str
    count: int
    last: MessageView
    left_out: dict[str, int] = Field(default_factory=dict)


class ConversationPage(View):
    """Conversations. `next` is the `before` of the following page, None on the last one."""

    conversations: list[ConversationView]
    next: int | None = None


class Placement(View):
    """Who would get a task: its status at once, the LLM if one has a slot for it, and why, or why not yet."""

    status: Status
    llm: str | None = None
    why: str = ""


class NamedReport(View):
    """A report that there is: a predefined one with its meaning, or one that somebody has saved."""

    name: str
    meaning: str = ""
    saved_by: str | None = None
    saved_at: datetime | None = None
    group_by: list[str] = Field(default_factory=list)
    metrics: list[str] = Field(default_factory=list)
    where: dict[str, list[Any]] = Field(default_factory=dict)
    moment: str = "submitted"
    sort: str | None = None
    limit: int = 1000


class ReportList(View):
    """The predefined reports, then the saved ones by name."""

    reports: list[NamedReport]


class ReportColumn(View):
    """A column of a report: a dimension, or a metric with its unit."""

    name: str
    title: str
    unit: Literal["count", "s", "share", "tokens", "USD", "1/h"] | None = None


class ReportView(View):
    """A report: its rows by the names of its columns; in `values` the figures of one with a shape of its own.

    Durations are seconds. `left_out` counts the rows past the limit.
    """

    name: str
    generated_at: datetime
    since: datetime | None = None
    until: datetime | None = None
    group_by: list[str] = Field(default_factory=list)
    metrics: list[str] = Field(default_factory=list)
    where: dict[str, list[Any]] = Field(default_factory=dict)
    moment: str = "submitted"
    sort: str | None = None
    limit: int = 1000
    columns: list[ReportColumn] = Field(default_factory=list)
    rows: list[dict[str, Any]] = Field(default_factory=list)
    left_out: int = 0
    values: dict[str, Any] = Field(default_factory=dict)


class ErrorDetail(WireModel):
    """One error in a rejected message: its path and what is wrong."""

    path: str
    message: str


class Rejection(WireModel):
    """Type `task.rejected` or `query.rejected`."""

    id: str | None = None
    errors: list[ErrorDetail]
