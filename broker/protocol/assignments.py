"""The messages that the coordinator sends to workers: assignments, and commands to one instance.

docs/protocol.md describes every field for users.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from broker.protocol.primitives import TaskId, WireModel
from broker.protocol.status import Status


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
