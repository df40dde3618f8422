"""The requests that clients and workers send to the coordinator on the exchange `fluffle.tasks`.

Each class names its routing key. docs/protocol.md describes every field for users.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, AwareDatetime, Field, model_validator

from broker.protocol.primitives import (
    MAX_TEXT,
    Json,
    JsonObject,
    Level,
    Name,
    NoteName,
    Seconds,
    Tag,
    TaskId,
    Text,
    WireModel,
    in_the_calendar,
)

Tool = Literal["send", "ask", "delegate", "ask_person", "share", "read"]
TOOLS: tuple[Tool, ...] = get_args(Tool)  # the tools that a model may call while it works
MAX_NOTE = 100_000  # characters
MOST_ASSIGNEES = 32  # their names are a key of an index
ROUNDS = 3  # the default number of review rounds
MOST_DEPENDENCIES = 900  # of a group task: its parts depend on these and on each other

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


def what_is_wrong(task: Submission) -> str | None:
    """What contradicts itself in the task, with the name of the field; None where all is well."""
    return next(_contradictions(task), None)


def _contradictions(task: Submission) -> Iterator[str]:
    if task.assignee and task.assignees:
        yield "assignees: give assignee or assignees, not both"
    if task.mode and not task.assignees:
        yield f"mode: {task.mode} needs assignees"
    if task.assignees and not task.mode:
        yield "mode: say how the assignees work together: any, all, vote or relay"
    if twice := [name for name in task.assignees if task.assignees.count(name) > 1]:
        yield f"assignees: {twice[0]} is there twice"
    if both := [name for name in (task.assignee, *task.assignees, task.reviewer) if name in task.excluded]:
        yield f"excluded: {both[0]} is to work on it"
    if task.is_group and len(task.depends_on) > MOST_DEPENDENCIES:
        yield f"depends_on: a task for several LLMs may depend on {MOST_DEPENDENCIES}"
    yield from _of_the_vote(task)
    yield from _of_the_review(task)


def _of_the_vote(task: Submission) -> Iterator[str]:
    vote = task.vote
    if vote is None:
        if task.mode == "vote":
            yield "mode: vote needs vote.choices or vote.judge"
        return
    if task.mode != "vote":
        yield "vote: goes with the mode vote"
    if unknown := [name for name in vote.weights if name not in task.assignees]:
        yield f"vote.weights: {unknown[0]} is not among the assignees"
    if vote.judge in task.assignees:
        yield f"vote.judge: {vote.judge} has a vote already"
    if vote.judge in task.excluded:
        yield f"excluded: {vote.judge} is to work on it"
    if vote.quorum and vote.quorum > len(task.assignees):
        yield f"vote.quorum: there are {len(task.assignees)} assignees"
    if vote.choices and task.output_schema is not None:
        yield "output_schema: a vote for choices has one of its own"


def _of_the_review(task: Submission) -> Iterator[str]:
    if task.reviewer is None:
        if task.max_rounds != ROUNDS:
            yield "max_rounds: goes with a reviewer"
        return
    if task.reviewer == task.assignee or task.reviewer in task.assignees:
        yield f"reviewer: {task.reviewer} would review its own work"
    if task.mode in ("all", "vote"):
        yield f"reviewer: the mode {task.mode} has no one result to review"


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
