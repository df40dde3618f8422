"""Everything that travels, as frozen models; primitives.decode turns bytes into one of them or says what is wrong.

Version 1 of the protocol. docs/protocol.md describes every field for people.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, AwareDatetime, Field, JsonValue, model_validator

from broker.protocol.group_rules import ROUNDS, what_is_wrong
from broker.protocol.primitives import (
    Json,
    JsonObject,
    Level,
    Name,
    NoteName,
    Seconds,
    Storable,
    Tag,
    TaskId,
    Text,
    Tokens,
    WireModel,
    in_the_calendar,
    shortened,
)

LOCAL, LOCAL_ONLY = "local", "local-only"  # labels: of an LLM that nothing leaves; of a task for such LLMs alone

MAX_TEXT = 20_000  # characters of a question or an answer
Tool = Literal["send", "ask", "delegate", "ask_person", "share", "read"]
TOOLS: tuple[Tool, ...] = get_args(Tool)  # what LLMs may do while they work
MAX_NOTE = 100_000  # characters
MOST_ERROR_TYPE, MOST_ERROR_MESSAGE = 200, 2_000  # characters that are kept


class Status(StrEnum):
    """The states of a task."""

    BLOCKED = "blocked"
    PENDING = "pending"
    ASSIGNED = "assigned"
    IN_PROGRESS = "in_progress"
    INPUT_REQUIRED = "input_required"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether a task in this state is over."""
        return self in FINAL


FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


# --- fluffle.tasks: what anyone may ask of the coordinator -------------------------------------------------------

MOST_ASSIGNEES = 32  # their names are a key of an index

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ZERO_TIME = datetime(1, 1, 1, tzinfo=UTC)  # how Go, C# and others write that there is no moment


def _must_be_possible(moment: datetime | None) -> datetime | None:
    if moment is None:
        return None
    if (moment := in_the_calendar(moment)) < _EPOCH:
        raise ValueError("is before 1970: leave it out where there is no such moment")
    return moment


def _if_given(moment: datetime | None) -> datetime | None:
    return None if moment == _ZERO_TIME else _must_be_possible(moment)


ChangedMoment = Annotated[AwareDatetime | None, AfterValidator(_must_be_possible)]
GivenMoment = Annotated[AwareDatetime | None, AfterValidator(_if_given)]


class Vote(WireModel):
    """How the assignees of a task vote: for one of `choices`, or in free text for a `judge` to decide."""

    choices: Annotated[list[Annotated[Text, Field(max_length=200)]], Field(min_length=2, max_length=50)] | None = None
    judge: Name | None = None
    quorum: Annotated[int, Field(ge=1, le=MOST_ASSIGNEES)] | None = None
    weights: dict[Name, Annotated[float, Field(gt=0, le=1_000_000)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _must_make_sense(self) -> Self:
        if (self.choices is None) == (self.judge is None):
            raise ValueError("needs choices to count the votes for, or a judge who decides, and not both")
        if len(set(self.choices or ())) != len(self.choices or ()):
            raise ValueError("choices: each may be there once")
        if self.weights and self.judge is not None:
            raise ValueError("weights: a judge weighs the answers")
        return self


class Submission(WireModel):
    """A task as it is published with the routing key `submit`. Only `description` is required."""

    routing_key: ClassVar[str] = "submit"

    id: TaskId | None = None
    description: Text
    inputs: Json = None
    skills: Annotated[list[Tag], Field(max_length=64)] = Field(default_factory=list)
    assignee: Name | None = None
    assignees: Annotated[list[Name], Field(max_length=MOST_ASSIGNEES)] = Field(default_factory=list)
    excluded: Annotated[list[Name], Field(max_length=MOST_ASSIGNEES)] = Field(default_factory=list)
    mode: Literal["any", "all", "vote", "relay"] | None = None
    vote: Vote | None = None
    reviewer: Name | None = None
    max_rounds: Annotated[int, Field(ge=1, le=10)] = ROUNDS
    priority: Annotated[int, Field(ge=0, le=9)] | None = None
    due: GivenMoment = None
    not_before: GivenMoment = None
    depends_on: Annotated[list[TaskId], Field(max_length=1000)] = Field(default_factory=list)
    on_dependency_failure: Literal["fail", "run"] = "fail"
    timeout: Seconds | None = None
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    output_schema: JsonObject | None = None
    labels: Annotated[list[Tag], Field(max_length=64)] = Field(default_factory=list)
    metadata: JsonObject = Field(default_factory=dict)
    parent_id: TaskId | None = None
    conversation_id: TaskId | None = None
    force: bool = False
    answers: Literal["all", "final"] = "all"

    def encode(self) -> bytes:
        """The body as JSON: what is given, without defaults."""
        return self.model_dump_json(exclude_unset=True, exclude_none=True).encode()

    @model_validator(mode="after")
    def _must_make_sense(self) -> Self:
        if self.id is not None and self.id in self.depends_on:
            raise ValueError(f"depends_on: a cycle: {self.id} -> {self.id}")
        is_for_one = not (self.mode or self.reviewer or self.assignees or self.vote or self.excluded)
        if (not is_for_one or self.max_rounds != ROUNDS) and (wrong := what_is_wrong(self)):
            raise ValueError(wrong)
        return self

    @property
    def is_group(self) -> bool:
        """Whether several LLMs work on it, each on a part of its own: no LLM gets the task itself."""
        return self.reviewer is not None or self.mode in ("all", "vote", "relay")


class Cancel(WireModel):
    """Routing key `cancel`: end a live task; a running call is stopped."""

    routing_key: ClassVar[str] = "cancel"

    id: TaskId
    reason: Annotated[str, Field(max_length=2000)] | None = None


class Patch(WireModel):
    """A message in which null takes something away, and what is not given stays as it is."""

    def encode(self) -> bytes:
        """The body as JSON: all that is given, null included."""
        return self.model_dump_json(exclude_unset=True).encode()


class TaskPatch(Patch):
    """Fields of a submission of which those that are given replace the present ones."""

    @model_validator(mode="after")
    def _must_leave_a_task(self) -> Self:
        for name in NEVER_NULL & self.model_fields_set:
            if getattr(self, name) is None:
                raise ValueError(f"{name}: cannot be null")
        return self

    def given(self) -> dict[str, Any]:
        """The fields that are given, null included, by name; without the id of the task."""
        return {name: getattr(self, name) for name in self.model_fields_set - {"id"}}


NEVER_NULL = frozenset({"description", "skills", "priority", "max_attempts", "labels", "metadata"})


class RetryPatch(TaskPatch):
    """What is to be different when a task is tried again."""

    description: Text | None = None
    inputs: Json = None
    skills: Annotated[list[Tag], Field(max_length=64)] | None = None
    assignee: Name | None = None
    priority: Annotated[int, Field(ge=0, le=9)] | None = None
    due: ChangedMoment = None
    timeout: Seconds | None = None
    max_attempts: Annotated[int, Field(ge=1, le=100)] | None = None
    output_schema: JsonObject | None = None
    labels: Annotated[list[Tag], Field(max_length=64)] | None = None
    metadata: JsonObject | None = None


class Retry(Patch):
    """Routing key `retry`: run a task that is over once more, with all its attempts, perhaps with other fields."""

    routing_key: ClassVar[str] = "retry"

    id: TaskId
    changes: RetryPatch = Field(default_factory=RetryPatch)


class Update(TaskPatch):
    """Routing key `update`: change a live task. `due` null takes the due date away."""

    routing_key: ClassVar[str] = "update"

    id: TaskId
    priority: Annotated[int, Field(ge=0, le=9)] | None = None
    due: ChangedMoment = None
    labels: Annotated[list[Tag], Field(max_length=64)] | None = None
    metadata: JsonObject | None = None


class AssignTask(WireModel):
    """Routing key `assign`: give a live task to an LLM by hand. Without `llm` the coordinator assigns it again.

    A task that an LLM runs is moved only with `now`, and stopped there. `force` takes an LLM that nobody knows.
    """

    routing_key: ClassVar[str] = "assign"

    id: TaskId
    llm: Name | None = None
    now: bool = False
    force: bool = False


class AnswerQuestion(WireModel):
    """Routing key `answer`: a person's answer to what a task asks. `question` is needed only when it asks several."""

    routing_key: ClassVar[str] = "answer"

    id: TaskId
    question: TaskId | None = None
    answer: Annotated[Text, Field(max_length=MAX_TEXT)]


class ShareNote(WireModel):
    """Routing key `share`: put a note on a board, in place of the one of that name. See `board_of`."""

    routing_key: ClassVar[str] = "share"

    board: TaskId
    name: NoteName
    content: Annotated[Text, Field(max_length=MAX_NOTE)]
    by: Annotated[str, Field(max_length=100)] | None = None


class ReadNote(WireModel):
    """Routing key `read`: ask for the note of that name; without a name, which notes there are."""

    routing_key: ClassVar[str] = "read"

    board: TaskId
    name: NoteName | None = None


def board_of(task_id: str, conversation_id: str | None) -> str:
    """The notes board of a task: that of its conversation. Without one the task begins it, for all that it hands on."""
    return conversation_id or task_id


class ManageLLM(Patch):
    """Routing key `manage`: pause, resume or drain an LLM, or set its slots and skills. What is not given stays.

    A paused LLM finishes what it has and gets nothing new. `slots` bounds what all its instances get together;
    `slots` or `skills` null: as its instances say. `forget` takes an LLM that is offline out of the list.
    """

    routing_key: ClassVar[str] = "manage"

    llm: Name
    paused: bool | None = None
    drain: bool = False
    forget: bool = False
    slots: Annotated[int, Field(ge=0, le=10_000)] | None = None
    skills: dict[Tag, Level] | None = None


# --- fluffle.status: what workers report -------------------------------------------------------------------------


class WorkerReport(WireModel):
    """What a worker says, and what that is made of. A newer worker, or another's, may say more than is known here."""

    ignores_unknown: ClassVar[bool] = True


class RunningTask(WorkerReport):
    """A task that an instance has in hand."""

    task_id: TaskId
    attempt: Annotated[int, Field(ge=1)]


class Presence(WorkerReport):
    """Routing keys `<name>.hello` and `<name>.beat`: who is there, what it can do, what it has in hand."""

    dispensable: ClassVar[frozenset[str]] = frozenset({"model", "description"})

    name: Name
    instance: Name
    model: Annotated[Storable, Field(max_length=200)] = ""
    skills: dict[Tag, Level] = Field(default_factory=dict)
    labels: Annotated[list[Tag], Field(max_length=64)] = Field(default_factory=list)
    slots: Annotated[int, Field(ge=1, le=10_000)] = 1
    description: Annotated[Storable, Field(max_length=2000)] = ""
    draining: bool = False
    tasks: list[RunningTask] = Field(default_factory=list)


class Goodbye(WorkerReport):
    """Routing key `<name>.goodbye`: this instance leaves; it has nothing in hand."""

    name: Name
    instance: Name


class Claim(WorkerReport):
    """Routing key `<name>.claim`: the instance takes this attempt. Confirmed before the assignment is acked."""

    dispensable: ClassVar[frozenset[str]] = frozenset({"at"})

    task_id: TaskId
    attempt: Annotated[int, Field(ge=1)]
    instance: Name
    at: AwareDatetime | None = None


class Progress(WorkerReport):
    """Routing key `<name>.progress`: text as it comes, a fraction done, or a note."""

    dispensable: ClassVar[frozenset[str]] = frozenset({"fraction", "note"})

    task_id: TaskId
    attempt: Annotated[int, Field(ge=1)]
    instance: Name
    text: str | None = None
    fraction: Level | None = None
    note: Annotated[str, Field(max_length=2000)] | None = None


class Question(WorkerReport):
    """What an LLM asks a person while it works. `id` is unique in its task; an answer is one of `choices`, if given."""

    id: TaskId
    text: Annotated[Text, Field(max_length=MAX_TEXT)]
    choices: Annotated[list[Annotated[Text, Field(max_length=500)]], Field(max_length=50)] = Field(default_factory=list)


class WaitReport(WorkerReport):
    """Routing key `<name>.wait`: the attempt waits and needs no slot, for a person if it brings a question."""

    task_id: TaskId
    attempt: Annotated[int, Field(ge=1)]
    instance: Name
    question: Question | None = None


class ResumeReport(WorkerReport):
    """Routing key `<name>.resume`: the attempt goes on as soon as the instance has a slot, and asks nobody any more."""

    task_id: TaskId
    attempt: Annotated[int, Field(ge=1)]
    instance: Name


class Failure(WorkerReport):
    """Why an attempt or a task failed. `retryable` tells whether another attempt may help. Long texts are cut."""

    dispensable: ClassVar[frozenset[str]] = frozenset({"message"})

    type: Annotated[str, Field(min_length=1), AfterValidator(partial(shortened, most=MOST_ERROR_TYPE))]
    message: Annotated[str, AfterValidator(partial(shortened, most=MOST_ERROR_MESSAGE))] = ""
    retryable: bool = True


class Usage(WorkerReport):
    """What an attempt used; None where unknown."""

    dispensable: ClassVar[frozenset[str]] = frozenset({"input_tokens", "output_tokens", "cost_usd"})

    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    cost_usd: Annotated[float, Field(ge=0, le=1_000_000)] | None = None


class Result(WorkerReport):
    """Routing key `<name>.result`: how an attempt ended. `duration` in seconds by the worker's monotonic clock."""

    dispensable: ClassVar[frozenset[str]] = frozenset({"started_at", "finished_at", "duration", "usage"})

    task_id: TaskId
    attempt: Annotated[int, Field(ge=1)]
    instance: Name
    outcome: Literal["completed", "failed", "cancelled"]
    result: Json = None
    error: Failure | None = None
    started_at: AwareDatetime | None = None
    finished_at: AwareDatetime | None = None
    duration: Annotated[float, Field(ge=0)] | None = None
    usage: Usage | None = None

    @model_validator(mode="after")
    def _failures_have_a_reason(self) -> Self:
        if self.outcome == "failed" and self.error is None:
            raise ValueError("error: a failed result needs an error")
        return self


# --- fluffle.work: what the coordinator tells workers ------------------------------------------------------------


class ToWorker(WireModel):
    """What workers get, and what that is made of. A newer coordinator may say more than is known here."""

    ignores_unknown: ClassVar[bool] = True


class Dependency(ToWorker):
    """The outcome of a task that this one builds on."""

    id: TaskId
    description: str
    status: Status
    result: JsonValue = None


class AnsweredQuestion(ToWorker):
    """A question that a person has answered in an earlier attempt."""

    question: str
    answer: str


class Assignment(ToWorker):
    """To `llm.<name>.work`: do this."""

    task_id: TaskId
    attempt: Annotated[int, Field(ge=1)]
    description: str
    inputs: JsonValue = None
    skills: list[str] = Field(default_factory=list)
    context: list[Dependency] = Field(default_factory=list)
    timeout: float | None = None
    output_schema: dict[str, JsonValue] | None = None
    labels: list[str] = Field(default_factory=list)
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    parent_id: TaskId | None = None
    conversation_id: TaskId | None = None
    answers: list[AnsweredQuestion] = Field(default_factory=list)


class Stop(ToWorker):
    """To an instance's control queue: give this attempt up."""

    type: Literal["stop"] = "stop"
    task_id: TaskId
    attempt: Annotated[int, Field(ge=1)]
    reason: str = ""


class Drain(ToWorker):
    """To an instance's control queue: take nothing new, finish what is in hand, leave."""

    type: Literal["drain"] = "drain"


class PersonAnswer(ToWorker):
    """To an instance's control queue: a person's answer to the question that the attempt waits for."""

    type: Literal["answer"] = "answer"
    task_id: TaskId
    attempt: Annotated[int, Field(ge=1)]
    question: TaskId
    answer: str


class Notice(WireModel):
    """To an instance's control queue: something for its log. Nothing is to be done about it.

    It names a task that nobody has, for workers that take whatever is no `drain` for a `stop`.
    """

    type: Literal["notice"] = "notice"
    task_id: Literal["-"] = "-"
    attempt: Literal[1] = 1
    text: str


Control = Annotated[Stop | Drain | PersonAnswer | Notice, Field(discriminator="type")]


# --- what the coordinator answers --------------------------------------------------------------------------------


class ErrorDetail(WireModel):
    """One error in a rejected message: its path and what is wrong."""

    path: str
    message: str


class Rejection(WireModel):
    """Type `task.rejected` or `query.rejected`."""

    id: str | None = None
    errors: list[ErrorDetail]


def skills_in_text(levels: Mapping[str, float]) -> str:
    """Skills as `fluffle worker --skills` takes them, such as `python=0.9,review`: a level of 1 is left out."""
    return ",".join(tag if level == 1 else f"{tag}={level:g}" for tag, level in sorted(levels.items()))
