"""The messages that the coordinator sends to workers: assignments, and commands to one instance.

docs/protocol.md describes every field for users.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from broker.protocol.primitives import TaskId, WireModel
from broker.protocol.status import Status


class ToWorker(WireModel):
    """The base of messages to workers. Unknown fields are ignored: a newer coordinator may send more."""

    ignores_unknown: ClassVar[bool] = True


class Dependency(ToWorker):
    """A finished dependency of the task, with its result."""

    id: TaskId
    description: str
    status: Status
    result: JsonValue = None


class AnsweredQuestion(ToWorker):
    """A question that a person answered in an earlier attempt."""

    question: str
    answer: str


class Allowance(ToWorker):
    """What an attempt may use before it is stopped, in US dollars and tokens; None: no limit."""

    usd: float | None = None
    tokens: int | None = None


class Assignment(ToWorker):
    """To `llm.<name>.work`: an attempt at a task."""

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
    budget: Allowance | None = None


class Stop(ToWorker):
    """To an instance's control queue: stop this attempt."""

    type: Literal["stop"] = "stop"
    task_id: TaskId
    attempt: Annotated[int, Field(ge=1)]
    reason: str = ""


class Drain(ToWorker):
    """To an instance's control queue: take no new tasks, finish the running ones, then leave."""

    type: Literal["drain"] = "drain"


class PersonAnswer(ToWorker):
    """To an instance's control queue: a person's answer to the question that the attempt waits for."""

    type: Literal["answer"] = "answer"
    task_id: TaskId
    attempt: Annotated[int, Field(ge=1)]
    question: TaskId
    answer: str


class Slots(WireModel):
    """To an instance's control queue: work on at most so many tasks at a time; None: as many as the instance offers.

    With 0, the instance takes no assignments and gives waiting ones back to its queue. The task id "-" is as in Notice.
    """

    type: Literal["slots"] = "slots"
    task_id: Literal["-"] = "-"
    attempt: Literal[1] = 1
    slots: Annotated[int, Field(ge=0)] | None = None
    reason: str = ""


class Notice(WireModel):
    """To an instance's control queue: a text for its log.

    The task id "-" belongs to no task: old workers treat every message other than `drain` as a `stop`.
    """

    type: Literal["notice"] = "notice"
    task_id: Literal["-"] = "-"
    attempt: Literal[1] = 1
    text: str


Control = Annotated[Stop | Drain | PersonAnswer | Slots | Notice, Field(discriminator="type")]
