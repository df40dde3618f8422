"""What comes out of the machine: messages to publish once the changes of the batch are committed.

Views tell how a task stands when all events that were handled together have had their effect.
"""

from dataclasses import dataclass
from typing import Any, Literal

from broker.errors import Problem
from broker.protocol.chat import Message
from broker.timestamps import Instant

AnswerType = Literal["task.accepted", "task.completed", "task.failed", "task.cancelled"]
RejectionType = Literal["task.rejected", "message.rejected", "query.rejected"]
View = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SendAssignment:
    """Publish the attempt to the LLM's work queue."""

    task_id: str
    attempt: int
    llm: str


@dataclass(frozen=True, slots=True)
class SendStop:
    """Tell an instance to give an attempt up."""

    llm: str
    instance: str
    task_id: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class AnswerSubmitter:
    """Tell whoever submitted the task; `known`: that it was there before."""

    type: AnswerType
    reply_to: str
    correlation_id: str | None
    view: View
    known: bool = False


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell a sender what is wrong. `origin` is the delivery that is refused, when it is kept as a rejected message."""

    task_id: str
    problems: tuple[Problem, ...]
    reply_to: str | None
    correlation_id: str | None
    origin: int | None = None
    type: RejectionType = "task.rejected"


@dataclass(frozen=True, slots=True)
class AnnounceTask:
    """Publish a fact about a task as an event: its status, or `what` else there is to tell."""

    at: Instant
    view: View
    what: str | None = None


@dataclass(frozen=True, slots=True)
class AnnounceLLM:
    """Publish how an LLM stands as an event."""

    at: Instant
    name: str
    state: str
    slots: int
    model: str


@dataclass(frozen=True, slots=True)
class AnnounceMessage:
    """Publish a message that was sent as an event."""

    at: Instant
    message: Message


@dataclass(frozen=True, slots=True)
class DeliverMessage:
    """Send a message to a mailbox, or bring it to the queue `to`, which is no mailbox."""

    message: Message
    to: str
    correlation_id: str | None = None


@dataclass(frozen=True, slots=True)
class SendDrain:
    """Tell an instance to take nothing new, finish what it has and leave."""

    llm: str
    instance: str


@dataclass(frozen=True, slots=True)
class SendNotice:
    """Tell an instance, for its log, something that whoever runs it should know."""

    llm: str
    instance: str
    text: str


@dataclass(frozen=True, slots=True)
class SendPersonAnswer:
    """Tell an instance what a person has answered to a question of its attempt."""

    llm: str
    instance: str
    task_id: str
    attempt: int
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """Tell whoever asked for something that is not a task: `llm.accepted`, `report.accepted`, `note.accepted` …"""

    type: str
    reply_to: str
    correlation_id: str | None
    view: View


Command = (
    SendAssignment
    | SendStop
    | SendPersonAnswer
    | SendDrain
    | SendNotice
    | AnswerSubmitter
    | AnswerRequest
    | Refuse
    | AnnounceTask
    | AnnounceLLM
    | AnnounceMessage
    | DeliverMessage
)
