"""The reports that workers send to the coordinator on the exchange `fluffle.status`.

Each class names its routing key. docs/protocol.md describes every field for users.
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, AwareDatetime, Field, model_validator

from broker.protocol.primitives import (
    MAX_TEXT,
    Json,
    Level,
    Name,
    Storable,
    Tag,
    TaskId,
    Text,
    Tokens,
    WireModel,
    shortened,
)

MOST_ERROR_TYPE, MOST_ERROR_MESSAGE = 200, 2_000  # characters that are kept


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


def skills_in_text(levels: Mapping[str, float]) -> str:
    """Skills as `fluffle worker --skills` takes them, such as `python=0.9,review`: a level of 1 is left out."""
    return ",".join(tag if level == 1 else f"{tag}={level:g}" for tag, level in sorted(levels.items()))
