"""What the coordinator shows, and the queries that ask it: how tasks, LLMs and reports stand.

Version 1 of the protocol, as in broker/protocol/messages.py. docs/protocol.md describes every field for people.
"""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from broker.protocol.chat import COORDINATOR, Address
from broker.protocol.messages import Failure, Status, Submission, Usage
from broker.protocol.primitives import Count, Moment, Name, Tag, TaskId, WireModel
from broker.protocol.report_catalog import METRICS, MOST_DIMENSIONS, MOST_ROWS

ReportWord = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]


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


# --- fluffle.queries: what anyone may ask, answered to reply_to with the type `query.answer` --------------------------


class TaskQuery(WireModel):
    """Routing key `task`: one task. The answer is a TaskView."""

    routing_key: ClassVar[str] = "task"

    id: TaskId


class TasksQuery(WireModel):
    """Routing key `tasks`: a page of tasks, newest first. The answer is a TaskPage. Filters narrow, lists widen."""

    routing_key: ClassVar[str] = "tasks"

    status: list[Status] = Field(default_factory=list)
    llm: Name | None = None
    label: list[Tag] = Field(default_factory=list)
    text: Annotated[str, Field(max_length=200)] | None = None
    within: TaskId | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 50
    before: Count | None = None


class TaskPage(View):
    """Tasks without their inputs and results, and with the beginnings of long texts.

    `next` is the `before` of the following page, None on the last one. A page ends early when it holds much.
    """

    tasks: list[TaskView]
    next: int | None = None


class LLMsQuery(WireModel):
    """Routing key `llms`: a page of the LLMs that have ever said hello, by name, or the one with that name.

    The answer is an LLMList.
    """

    routing_key: ClassVar[str] = "llms"

    name: Name | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 1000
    after: Name | None = None

    def encode(self) -> bytes:
        """The body as JSON: what is given. A coordinator of an earlier version knows nothing but `name`."""
        return self.model_dump_json(exclude_unset=True, exclude_none=True).encode()


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


class MessagesQuery(WireModel):
    """Routing key `messages`: a page of messages, newest first. The answer is a MessagePage. Filters narrow."""

    routing_key: ClassVar[str] = "messages"

    conversation_id: TaskId | None = None
    participant: Address | None = None
    in_reply_to: TaskId | None = None
    text: Annotated[str, Field(max_length=200)] | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 50
    before: Count | None = None


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


class ConversationsQuery(WireModel):
    """Routing key `conversations`: a page of conversations, that with the newest message first.

    The answer is a ConversationPage.
    """

    routing_key: ClassVar[str] = "conversations"

    participant: Address | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 50
    before: Count | None = None


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


class PlacementQuery(Submission):
    """Routing key `placement`: who would get this task if it were submitted now. The answer is a Placement."""

    routing_key: ClassVar[str] = "placement"


class Placement(View):
    """Who would get a task: its status at once, the LLM if one has a slot for it, and why, or why not yet."""

    status: Status
    llm: str | None = None
    why: str = ""


class ReportFields(WireModel):
    """What a report tells; the names are those of broker/protocol/report_catalog.py. What is not given is as it was."""

    group_by: Annotated[list[ReportWord], Field(max_length=MOST_DIMENSIONS)] | None = None
    metrics: Annotated[list[ReportWord], Field(max_length=len(METRICS))] | None = None
    where: dict[ReportWord, list[ReportWord | int | bool | None]] | None = None
    moment: Literal["submitted", "finished"] | None = None
    sort: ReportWord | None = None
    limit: Annotated[int, Field(ge=1, le=MOST_ROWS)] | None = None


class SaveReport(WireModel):
    """Routing key `save_report` of `fluffle.tasks`: keep a report under a name, for everybody. None drops it."""

    routing_key: ClassVar[str] = "save_report"

    name: Name
    report: ReportFields | None = None


class ReportsQuery(WireModel):
    """Routing key `reports`: all reports that there are. The answer is a ReportList."""

    routing_key: ClassVar[str] = "reports"


class ReportQuery(ReportFields):
    """Routing key `report`: figures on what happened in [since, until). The answer is a ReportView.

    Without a name it is `summary`, or a report of one's own when `group_by` or `metrics` are given.
    """

    routing_key: ClassVar[str] = "report"

    name: ReportWord | None = None
    since: Moment | None = None
    until: Moment | None = None


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
