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
    """The base of answers of the coordinator. Unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class AttemptView(View):
    """An attempt of an LLM at a task. Times are datetimes in UTC, `duration` is in seconds.

    Two fields are only in answers to the query `task`: `quiet_since`, the time since which a running attempt has sent
    no text, if it is unusually long ago; `result`, when the task was retried after this attempt had completed it.
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
    """A change of a task by a person, an LLM or the coordinator."""

    at: datetime
    by: str
    what: str

    @property
    def summary(self) -> str:
        """The change and its author, unless the author is the coordinator."""
        return self.what if self.by == COORDINATOR else f"{self.what} (by {self.by})"


class QuestionView(View):
    """A question of a task to a person. A question without an answer is open."""

    id: str
    text: str
    choices: list[str] = Field(default_factory=list)
    asked_at: datetime
    answer: str | None = None
    answered_by: str | None = None
    answered_at: datetime | None = None


class TaskView(View):
    """A task as it is now: in answers, in the `data` of events, in `fluffle task show --json`.

    `waits` says in words what a task waits for: an LLM or a budget. `budget` has the fields of the submission, and
    `spent_usd` and `spent_tokens` of the whole tree. `not_submitted` has the IDs in `depends_on` of tasks that do not
    exist. `left_out` has the fields that are missing, or cut and end with `…`, because they are too large, with the
    bytes of each.
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
    needs: list[str] = Field(default_factory=list)
    budget: dict[str, Any] | None = None
    waits: str | None = None
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
    """An instance of an LLM, as it describes itself."""

    id: str
    model: str = ""
    skills: dict[str, float] = Field(default_factory=dict)
    labels: list[str] = Field(default_factory=list)
    slots: int = 0
    draining: bool = False


class LastError(View):
    """The last failure of an LLM that was not the fault of a task."""

    type: str
    message: str = ""
    at: datetime


class HealthView(View):
    """The health of an LLM: its circuit breaker, and what it did in the last hour.

    `state` is `healthy`, `failing` after failures that did not open the breaker, `open` while the LLM gets no tasks
    until `next_probe`, and `probing` while it works on a probe. `why` is the reason in words. `tokens_per_second` and
    `seconds_per_task` are means of the last hour, `cost_usd` is the sum of the last hour; None where unknown.
    """

    state: Literal["healthy", "failing", "open", "probing"] = "healthy"
    why: str = ""
    last_error: LastError | None = None
    next_probe: datetime | None = None
    completed: int = 0
    failed: int = 0
    tokens_per_second: float | None = None
    seconds_per_task: float | None = None
    cost_usd: float | None = None


class PriceView(View):
    """The price of an LLM in US dollars per million tokens."""

    input: float
    output: float
    cached_input: float | None = None
    cache_write: float | None = None


class LLMView(View):
    """An LLM in the coordinator's state.

    `in_hand` counts the assigned and running tasks of all its instances; `parked` counts tasks that wait for a person
    or another task and hold no slot. `paused`, `slots_limit` and `skills_given` were set by hand; `skills` and `slots`
    are the values in effect. `by_instance` is given when the instances describe themselves differently. `quiet` has
    the running tasks that have sent no text for unusually long, with the time since when. `why_not` says in words why
    the LLM gets no tasks although it is online. `reserve`, `spill` and `spill_after`: see protocol.md. `local` is None
    where nobody has set it by hand.
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
    why_not: str | None = None
    health: HealthView = HealthView()
    limit: str | None = None
    price: PriceView | None = None
    reserve: bool = False
    spill: str | None = None
    spill_after: float | None = None
    local: bool | None = None
    context_window: int | None = None
    abilities: list[str] | None = None


class TaskPage(View):
    """Tasks without their inputs and results; long texts are cut.

    `next` is the `before` of the following page, None on the last page. A page with much data ends early.
    """

    tasks: list[TaskView]
    next: int | None = None


class LLMList(View):
    """LLMs by name. `next` is the `after` of the following page, None on the last page."""

    llms: list[LLMView]
    next: str | None = None


class NoteView(View):
    """A note on a board. `content` is given when the query names the note."""

    name: str
    by: str
    at: datetime
    content: str | None = None


class NoteList(View):
    """The answer to `read`: the requested note, or all notes of the board by name, without their contents."""

    notes: list[NoteView]


class MessageView(View):
    """A message of the history. `delivered` is false when no mailbox took the message."""

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
    """Messages of the history. `next` is the `before` of the following page, None on the last page."""

    messages: list[MessageView]
    next: int | None = None


class ConversationView(View):
    """A conversation: the number of its messages, and the last one. `left_out` of the last one as in a TaskView."""

    id: str
    count: int
    last: MessageView
    left_out: dict[str, int] = Field(default_factory=dict)


class ConversationPage(View):
    """Conversations. `next` is the `before` of the following page, None on the last page."""

    conversations: list[ConversationView]
    next: int | None = None


class Placement(View):
    """The result of a dry run: the status that the task would get, the LLM if one has a free slot, and the reason."""

    status: Status
    llm: str | None = None
    why: str = ""


class NamedReport(View):
    """The definition of a report: a predefined one with its meaning, or a saved one."""

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
    unit: Literal["count", "s", "share", "tokens", "USD", "1/h", "tokens/s"] | None = None


class ReportView(View):
    """The figures of a report: its rows by the names of its columns; `values` has the figures of a special shape.

    Durations are in seconds. `left_out` counts the rows beyond the limit.
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
    """A problem of a rejected message: its path and what is wrong."""

    path: str
    message: str


class Rejection(WireModel):
    """The answer to a request that the coordinator refuses: type `task.rejected` or `query.rejected`."""

    id: str | None = None
    errors: list[ErrorDetail]
