"""The requests that clients and workers send to the coordinator on the exchange `fluffle.tasks`.

Each class names its routing key. docs/protocol.md describes every field for users.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, AwareDatetime, Field, model_validator

from broker.protocol.primitives import (
    MAX_TEXT,
    Ability,
    ContextWindow,
    Json,
    JsonObject,
    Level,
    Name,
    NoteName,
    Seconds,
    Spill,
    Tag,
    TaskId,
    Text,
    WireModel,
    in_utc,
)

OnEmpty = Literal["wait", "ask", "fail"]
Tool = Literal["send", "ask", "delegate", "ask_person", "share", "read"]
TOOLS: tuple[Tool, ...] = get_args(Tool)  # the tools that a model may call while it works
MAX_NOTE = 100_000  # characters
MOST_ASSIGNEES = 32  # their names are a key of an index
ROUNDS = 3  # the default number of review rounds
MOST_DEPENDENCIES = 900  # of a group task: its parts depend on these and on each other

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ZERO_TIME = datetime(1, 1, 1, tzinfo=UTC)  # Go, C# and others write this for an absent time


def _possible_time(moment: datetime | None) -> datetime | None:
    if moment is None:
        return None
    if (moment := in_utc(moment)) < _EPOCH:
        raise ValueError("must not be before 1970; leave the field out to set no time")
    return moment


def _time_if_given(moment: datetime | None) -> datetime | None:
    return None if moment == _ZERO_TIME else _possible_time(moment)


ChangedMoment = Annotated[AwareDatetime | None, AfterValidator(_possible_time)]
GivenMoment = Annotated[AwareDatetime | None, AfterValidator(_time_if_given)]


class Vote(WireModel):
    """How the assignees of a task vote: for one of `choices`, or with free texts between which a `judge` decides."""

    choices: Annotated[list[Annotated[Text, Field(max_length=200)]], Field(min_length=2, max_length=50)] | None = None
    judge: Name | None = None
    quorum: Annotated[int, Field(ge=1, le=MOST_ASSIGNEES)] | None = None
    weights: dict[Name, Annotated[float, Field(gt=0, le=1_000_000)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if (self.choices is None) == (self.judge is None):
            raise ValueError("needs either choices or a judge")
        if len(set(self.choices or ())) != len(self.choices or ()):
            raise ValueError("choices: must differ from each other")
        if self.weights and self.judge is not None:
            raise ValueError("weights: only with choices")
        return self


class TaskBudget(WireModel):
    """What a task and its whole tree may use. `on_empty`: what happens to a task when not enough is left."""

    usd: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    tokens: Annotated[int, Field(gt=0, le=10**12)] | None = None
    on_empty: OnEmpty = "fail"

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        if self.usd is None and self.tokens is None:
            raise ValueError("needs usd or tokens")
        return self


class Submission(WireModel):
    """Routing key `submit`: a new task. Only `description` is required."""

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
    needs: Annotated[list[Ability], Field(max_length=16)] = Field(default_factory=list)
    budget: TaskBudget | None = None

    def encode(self) -> bytes:
        """Return the body as JSON: the given fields, without defaults."""
        return self.model_dump_json(exclude_unset=True, exclude_none=True).encode()

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if self.id is not None and self.id in self.depends_on:
            raise ValueError(f"depends_on: a cycle: {self.id} -> {self.id}")
        is_for_one = not (self.mode or self.reviewer or self.assignees or self.vote or self.excluded)
        if (not is_for_one or self.max_rounds != ROUNDS) and (wrong := group_contradiction(self)):
            raise ValueError(wrong)
        return self

    @property
    def is_group(self) -> bool:
        """Whether the task is split into parts for several LLMs. No LLM gets the task itself."""
        return self.reviewer is not None or self.mode in ("all", "vote", "relay")


def group_contradiction(task: Submission) -> str | None:
    """Return the first contradiction between the group fields of a task, with the field's name; None without one."""
    return next(_contradictions(task), None)


def _contradictions(task: Submission) -> Iterator[str]:
    if task.assignee and task.assignees:
        yield "assignees: give either assignee or assignees"
    if task.mode and not task.assignees:
        yield f"mode: {task.mode} needs assignees"
    if task.assignees and not task.mode:
        yield "mode: required with assignees: any, all, vote or relay"
    if twice := [name for name in task.assignees if task.assignees.count(name) > 1]:
        yield f"assignees: {twice[0]} appears twice"
    if both := [name for name in (task.assignee, *task.assignees, task.reviewer) if name in task.excluded]:
        yield f"excluded: {both[0]} is also asked to work on the task"
    if task.is_group and len(task.depends_on) > MOST_DEPENDENCIES:
        yield f"depends_on: a group task can have at most {MOST_DEPENDENCIES} dependencies"
    yield from _vote_contradictions(task)
    yield from _review_contradictions(task)


def _vote_contradictions(task: Submission) -> Iterator[str]:
    vote = task.vote
    if vote is None:
        if task.mode == "vote":
            yield "mode: vote needs vote.choices or vote.judge"
        return
    if task.mode != "vote":
        yield "vote: only with mode vote"
    if unknown := [name for name in vote.weights if name not in task.assignees]:
        yield f"vote.weights: {unknown[0]} is not one of the assignees"
    if vote.judge in task.assignees:
        yield f"vote.judge: {vote.judge} is an assignee, who votes already"
    if vote.judge in task.excluded:
        yield f"excluded: {vote.judge} is also asked to work on the task"
    if vote.quorum and vote.quorum > len(task.assignees):
        yield f"vote.quorum: must be at most {len(task.assignees)}, the number of assignees"
    if vote.choices and task.output_schema is not None:
        yield "output_schema: a vote with choices has a fixed output schema"


def _review_contradictions(task: Submission) -> Iterator[str]:
    if task.reviewer is None:
        if task.max_rounds != ROUNDS:
            yield "max_rounds: only with a reviewer"
        return
    if task.reviewer == task.assignee or task.reviewer in task.assignees:
        yield f"reviewer: {task.reviewer} cannot review its own work"
    if task.mode in ("all", "vote"):
        yield f"reviewer: mode {task.mode} has no single result to review"


class Cancel(WireModel):
    """Routing key `cancel`: end a live task; its running attempt is stopped."""

    routing_key: ClassVar[str] = "cancel"

    id: TaskId
    reason: Annotated[str, Field(max_length=2000)] | None = None


class Patch(WireModel):
    """A message in which null removes a value and an absent field keeps its value."""

    def encode(self) -> bytes:
        """Return the body as JSON: the given fields, null included."""
        return self.model_dump_json(exclude_unset=True).encode()


class TaskPatch(Patch):
    """Fields of a submission; the given ones replace the values of a task."""

    @model_validator(mode="after")
    def _check_nulls(self) -> Self:
        for name in NEVER_NULL & self.model_fields_set:
            if getattr(self, name) is None:
                raise ValueError(f"{name}: cannot be null")
        return self

    def given(self) -> dict[str, Any]:
        """Return the given fields by name, null included; without the task's id."""
        return {name: getattr(self, name) for name in self.model_fields_set - {"id"}}


NEVER_NULL = frozenset({"description", "skills", "priority", "max_attempts", "labels", "metadata"})


class RetryPatch(TaskPatch):
    """The changes to a task that is retried."""

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
    """Routing key `retry`: run a finished task again, with all its attempts and optional changes."""

    routing_key: ClassVar[str] = "retry"

    id: TaskId
    changes: RetryPatch = Field(default_factory=RetryPatch)


class Update(TaskPatch):
    """Routing key `update`: change a live task. `due` null removes the due date."""

    routing_key: ClassVar[str] = "update"

    id: TaskId
    priority: Annotated[int, Field(ge=0, le=9)] | None = None
    due: ChangedMoment = None
    labels: Annotated[list[Tag], Field(max_length=64)] | None = None
    metadata: JsonObject | None = None


class AssignTask(WireModel):
    """Routing key `assign`: assign a live task to an LLM by hand. Without `llm` the coordinator chooses again.

    A running task moves only with `now`, which stops its attempt. `force` accepts an unknown LLM.
    """

    routing_key: ClassVar[str] = "assign"

    id: TaskId
    llm: Name | None = None
    now: bool = False
    force: bool = False


class AnswerQuestion(WireModel):
    """Routing key `answer`: a person's answer to a question of a task. `question` is needed when several are open."""

    routing_key: ClassVar[str] = "answer"

    id: TaskId
    question: TaskId | None = None
    answer: Annotated[Text, Field(max_length=MAX_TEXT)]


class ShareNote(WireModel):
    """Routing key `share`: write a note on a board; it replaces the note of that name. See `board_of`."""

    routing_key: ClassVar[str] = "share"

    board: TaskId
    name: NoteName
    content: Annotated[Text, Field(max_length=MAX_NOTE)]
    by: Annotated[str, Field(max_length=100)] | None = None


class ReadNote(WireModel):
    """Routing key `read`: read the note of that name; without a name, list the notes of the board."""

    routing_key: ClassVar[str] = "read"

    board: TaskId
    name: NoteName | None = None


def board_of(task_id: str, conversation_id: str | None) -> str:
    """Return the notes board of a task: its conversation, else the task itself, which its subtasks share."""
    return conversation_id or task_id


class ManageLLM(Patch):
    """Routing key `manage`: pause, resume or drain an LLM, or set its properties. Absent fields keep their value.

    A paused LLM finishes its tasks and gets no new ones. `paused` false also closes its circuit breaker. `slots` limits
    the tasks of all its instances together. Null resets a field to the value of its instances. `local` says whether
    the LLM sends no data to other machines. `forget` removes an offline LLM from the list.
    """

    routing_key: ClassVar[str] = "manage"

    llm: Name
    paused: bool | None = None
    drain: bool = False
    forget: bool = False
    slots: Annotated[int, Field(ge=0, le=10_000)] | None = None
    skills: dict[Tag, Level] | None = None
    local: bool | None = None
    reserve: bool | None = None
    spill: Spill | None = None
    spill_after: Seconds | None = None
    context_window: ContextWindow | None = None
    abilities: Annotated[list[Ability], Field(max_length=16)] | None = None
