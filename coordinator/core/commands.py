"""What comes out of the machine: messages to publish once the changes of the batch are committed.

Views show the state of a task after all events of the batch.
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
    """Publish the attempt to the LLM's work queue. It may use so many nanodollars and tokens; None: no limit."""

    task_id: str
    attempt: int
    llm: str
    nanos: int | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class SendStop:
    """Order an instance to stop an attempt."""

    llm: str
    instance: str
    task_id: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class AnswerSubmitter:
    """Answer the submitter of a task; `known`: the task existed before."""

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
    """Publish an event about a task: its status, or `what`, such as `overdue`."""

    at: Instant
    view: View
    what: str | None = None


@dataclass(frozen=True, slots=True)
class AnnounceLLM:
    """Publish the status of an LLM as an event."""

    at: Instant
    name: str
    state: str
    slots: int
    model: str


@dataclass(frozen=True, slots=True)
class AnnounceHealth:
    """Publish as an event that the circuit breaker of an instance opened or closed.

    `what` is `circuit_open` or `circuit_closed`.
    """

    at: Instant
    name: str
    instance: str
    what: str
    why: str
    next_probe: Instant | None


@dataclass(frozen=True, slots=True)
class AnnounceLimit:
    """Publish that a rate limit was `closed` or `opened` as an event."""

    at: Instant
    name: str
    what: str
    why: str
    until: Instant | None
    tier: str | None


@dataclass(frozen=True, slots=True)
class AnnounceBudget:
    """Publish as an event that a budget is nearly, or entirely, used up. `view`: the fields of spending.BudgetView."""

    at: Instant
    name: str
    why: Literal["warning", "empty"]
    view: View


@dataclass(frozen=True, slots=True)
class AnnounceMessage:
    """Publish a message that was sent as an event."""

    at: Instant
    message: Message


@dataclass(frozen=True, slots=True)
class DeliverMessage:
    """Send a message to the mailbox or to the queue `to`."""

    message: Message
    to: str
    correlation_id: str | None = None


@dataclass(frozen=True, slots=True)
class SendDrain:
    """Order an instance to take no new work, finish its tasks and exit."""

    llm: str
    instance: str


@dataclass(frozen=True, slots=True)
class SendSlots:
    """Order an instance to work on at most so many tasks at a time; None: as many as it offers."""

    llm: str
    instance: str
    slots: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class SendNotice:
    """Send an instance a notice for its log, for the person who runs it."""

    llm: str
    instance: str
    text: str


@dataclass(frozen=True, slots=True)
class SendPersonAnswer:
    """Send an instance a person's answer to a question of its attempt."""

    llm: str
    instance: str
    task_id: str
    attempt: int
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """Answer a request that is not about a task: `llm.accepted`, `report.accepted`, `note.accepted` …"""

    type: str
    reply_to: str
    correlation_id: str | None
    view: View


Command = (
    SendAssignment
    | SendStop
    | SendPersonAnswer
    | SendDrain
    | SendSlots
    | SendNotice
    | AnswerSubmitter
    | AnswerRequest
    | Refuse
    | AnnounceTask
    | AnnounceLLM
    | AnnounceHealth
    | AnnounceLimit
    | AnnounceBudget
    | AnnounceMessage
    | DeliverMessage
)
