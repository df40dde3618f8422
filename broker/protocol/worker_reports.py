"""The reports that workers send to the coordinator on the exchange `fluffle.status`.

Each class names its routing key. docs/protocol.md describes every field for users.
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, AwareDatetime, Field, model_validator

from broker.protocol.primitives import (
    MAX_TEXT,
    Ability,
    ContextWindow,
    Dollars,
    Json,
    Level,
    Name,
    Seconds,
    Spill,
    Storable,
    Tag,
    TaskId,
    Text,
    Tokens,
    WireModel,
    shortened,
)

ModelName = Annotated[Storable, Field(max_length=200)]
SPILL_AFTER_SECONDS = 60.0
MOST_ERROR_TYPE, MOST_ERROR_MESSAGE = 200, 2_000  # characters that are kept


class WorkerReport(WireModel):
    """The base of reports and their parts. Unknown fields are ignored: a newer worker may send more."""

    ignores_unknown: ClassVar[bool] = True


class RunningTask(WorkerReport):
    """A task that an instance holds: claimed and not finished."""

    task_id: TaskId
    attempt: Annotated[int, Field(ge=1)]


class Price(WorkerReport):
    """What an LLM costs, in US dollars per million tokens. Cached input costs as much as other input if not given."""

    input: Dollars
    output: Dollars
    cached_input: Dollars | None = None
    cache_write: Dollars | None = None


class Presence(WorkerReport):
    """Routing keys `<name>.hello` and `<name>.beat`: an instance of an LLM, its abilities and its tasks."""

    dispensable: ClassVar[frozenset[str]] = frozenset(
        {"model", "description", "limit", "price", "reserve", "spill", "spill_after", "context_window", "abilities"}
    )

    name: Name
    instance: Name
    model: Annotated[Storable, Field(max_length=200)] = ""
    skills: dict[Tag, Level] = Field(default_factory=dict)
    labels: Annotated[list[Tag], Field(max_length=64)] = Field(default_factory=list)
    slots: Annotated[int, Field(ge=1, le=10_000)] = 1
    description: Annotated[Storable, Field(max_length=2000)] = ""
    draining: bool = False
    tasks: list[RunningTask] = Field(default_factory=list)
    limit: Tag | None = None
    price: Price | None = None
    reserve: bool = False
    spill: Spill = "late"
    spill_after: Seconds = SPILL_AFTER_SECONDS
    context_window: ContextWindow | None = None
    abilities: Annotated[list[Ability], Field(max_length=16)] | None = None


class Goodbye(WorkerReport):
    """Routing key `<name>.goodbye`: this instance leaves; it holds no task."""

    name: Name
    instance: Name


class Claim(WorkerReport):
    """Routing key `<name>.claim`: the instance takes this attempt. Confirmed before the worker acks the assignment."""

    dispensable: ClassVar[frozenset[str]] = frozenset({"at"})

    task_id: TaskId
    attempt: Annotated[int, Field(ge=1)]
    instance: Name
    at: AwareDatetime | None = None


class Progress(WorkerReport):
    """Routing key `<name>.progress`: the next piece of text, the share that is done, a note, or the usage so far."""

    dispensable: ClassVar[frozenset[str]] = frozenset({"fraction", "note", "usage"})

    task_id: TaskId
    attempt: Annotated[int, Field(ge=1)]
    instance: Name
    text: str | None = None
    fraction: Level | None = None
    note: Annotated[str, Field(max_length=2000)] | None = None
    usage: "Usage | None" = None


class Question(WorkerReport):
    """A question of an LLM to a person. `id` is unique in its task; the answer is one of `choices`, if given."""

    id: TaskId
    text: Annotated[Text, Field(max_length=MAX_TEXT)]
    choices: Annotated[list[Annotated[Text, Field(max_length=500)]], Field(max_length=50)] = Field(default_factory=list)


class WaitReport(WorkerReport):
    """Routing key `<name>.wait`: the attempt waits without a slot; for a person if there is a question."""

    task_id: TaskId
    attempt: Annotated[int, Field(ge=1)]
    instance: Name
    question: Question | None = None


class ResumeReport(WorkerReport):
    """Routing key `<name>.resume`: the attempt continues when the instance has a free slot; its question is closed."""

    task_id: TaskId
    attempt: Annotated[int, Field(ge=1)]
    instance: Name


class Failure(WorkerReport):
    """Why an attempt or a task failed. `retryable`: another attempt may succeed. Long texts are cut.

    `fault` says whose failure it is; without it, the type does (see faults.py). `retry_after` is what a provider asked
    for, in seconds from the end of the attempt.
    """

    dispensable: ClassVar[frozenset[str]] = frozenset({"message", "fault", "retry_after"})

    type: Annotated[str, Field(min_length=1), AfterValidator(partial(shortened, most=MOST_ERROR_TYPE))]
    message: Annotated[str, AfterValidator(partial(shortened, most=MOST_ERROR_MESSAGE))] = ""
    retryable: bool = True
    fault: Literal["task", "llm"] | None = None
    retry_after: Annotated[float, Field(ge=0)] | None = None


class ModelUsage(WorkerReport):
    """The requests, tokens and cost of one model; None where unknown.

    `input_tokens` include the `cached_tokens` and the `cache_write_tokens`; `output_tokens` the `reasoning_tokens`.
    """

    dispensable: ClassVar[frozenset[str]] = frozenset(
        {
            "input_tokens",
            "output_tokens",
            "cached_tokens",
            "cache_write_tokens",
            "reasoning_tokens",
            "requests",
            "cost_usd",
        }
    )

    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    cached_tokens: Tokens | None = None
    cache_write_tokens: Tokens | None = None
    reasoning_tokens: Tokens | None = None
    requests: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    cost_usd: Dollars | None = None


class Usage(ModelUsage):
    """The usage of an attempt. `models` divides the usage among several models, by name."""

    dispensable: ClassVar[frozenset[str]] = ModelUsage.dispensable | {"models"}

    models: Annotated[dict[ModelName, ModelUsage], Field(max_length=16)] | None = None


class Result(WorkerReport):
    """Routing key `<name>.result`: how an attempt ended. `duration` in seconds by the worker's monotonic clock.

    `model` is the model that answered, where that is not the model of the instance.
    """

    dispensable: ClassVar[frozenset[str]] = frozenset({"started_at", "finished_at", "duration", "usage", "model"})

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
    model: ModelName | None = None

    @model_validator(mode="after")
    def _check_error(self) -> Self:
        if self.outcome == "failed" and self.error is None:
            raise ValueError("error: required when the outcome is failed")
        return self


def skills_in_text(levels: Mapping[str, float]) -> str:
    """Return skills in the form of `fluffle worker --skills`, such as `python=0.9,review`: without levels of 1."""
    return ",".join(tag if level == 1 else f"{tag}={level:g}" for tag, level in sorted(levels.items()))
