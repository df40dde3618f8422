"""What goes into the machine: facts that have arrived, in the past tense, and the moments when time has passed.

`origin` is the number that the shell gave the delivery of an event. The core returns the number when it refuses an
event whose delivery is to be kept as a rejected message; None: the event came by no delivery.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from broker.protocol.chat import Message
from broker.protocol.spending import ManageBudget, ManageLimit, ManageSpending
from broker.protocol.task_requests import ManageLLM, Submission
from broker.protocol.worker_reports import Claim, Goodbye, Presence, Progress, Result, ResumeReport, WaitReport
from broker.timestamps import Instant, Micros


@dataclass(frozen=True, slots=True)
class Sender:
    """The sender of a request: the user, the address of the answers, and the trace (a W3C traceparent).

    `is_llm`: the request came by the exchange for LLMs, so the user has the role of an LLM.
    """

    user: str | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    trace: str | None = None
    is_llm: bool = False


@dataclass(frozen=True, slots=True)
class Submitted:
    """A task was submitted. `task_id` and `priority` come from the body, the properties or the defaults.

    `ancestry` has the dependencies of all tasks that this one depends on, directly or not. The transaction adds it
    when another task waits for this one already.
    """

    task_id: str
    spec: Submission
    priority: int
    sender: Sender = Sender()
    ancestry: Mapping[str, Sequence[str]] = field(default_factory=dict)
    origin: int | None = None


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """A request to cancel a task."""

    task_id: str
    sender: Sender = Sender()
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class RetryRequested:
    """A request to run a finished task again, perhaps with other fields of its submission."""

    task_id: str
    sender: Sender = Sender()
    changes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AssignRequested:
    """A request to assign a live task to an LLM by hand; None leaves the choice to the coordinator again.

    `now` stops the running attempt; `force` accepts an LLM that never connected.
    """

    task_id: str
    llm: str | None
    now: bool = False
    force: bool = False
    sender: Sender = Sender()


@dataclass(frozen=True, slots=True)
class UpdateRequested:
    """A request to change fields of a live task."""

    task_id: str
    changes: dict[str, Any]
    sender: Sender = Sender()


@dataclass(frozen=True, slots=True)
class AnswerGiven:
    """A person answers a question of a task; without `question`, the only one."""

    task_id: str
    answer: str
    question: str | None = None
    sender: Sender = Sender()


class SubmitterNote(NamedTuple):
    """A note on a board. `content` is None where only the name matters."""

    board: str
    name: str
    content: str | None
    by: str
    at: Instant


@dataclass(frozen=True, slots=True)
class Shared:
    """A request to put a note on a board. `known` are the stored notes of the board."""

    note: SubmitterNote
    sender: Sender = Sender()
    known: tuple[SubmitterNote, ...] = ()


@dataclass(frozen=True, slots=True)
class NotesRequested:
    """A request to read a note, or to list the notes. `known` are the stored notes of the board."""

    board: str
    name: str | None = None
    sender: Sender = Sender()
    known: tuple[SubmitterNote, ...] = ()


@dataclass(frozen=True, slots=True)
class ManageRequested:
    """A request to pause, resume or drain an LLM, or to change its slots or skills."""

    order: ManageLLM
    sender: Sender = Sender()


@dataclass(frozen=True, slots=True)
class ManageLimitRequested:
    """A request to pause or resume a rate limit, or to set its figures."""

    order: ManageLimit
    sender: Sender = Sender()


@dataclass(frozen=True, slots=True)
class ManageBudgetRequested:
    """A request to set, raise or drop a budget."""

    order: ManageBudget
    sender: Sender = Sender()


@dataclass(frozen=True, slots=True)
class ManageSpendingRequested:
    """A request to stop all spending, or to allow it again."""

    order: ManageSpending
    sender: Sender = Sender()


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """An instance sent its hello or a heartbeat."""

    presence: Presence
    control: str | None = None  # the queue for its orders, where that is not named after the instance


@dataclass(frozen=True, slots=True)
class InstanceLeft:
    """An instance sent its goodbye."""

    goodbye: Goodbye


@dataclass(frozen=True, slots=True)
class Claimed:
    """An instance of that LLM claimed an attempt."""

    llm: str
    claim: Claim
    control: str | None = None  # the queue for its orders, as in Heartbeat


@dataclass(frozen=True, slots=True)
class Progressed:
    """A running attempt reported progress."""

    llm: str
    progress: Progress


@dataclass(frozen=True, slots=True)
class WaitBegan:
    """A running attempt waits, and its slot is free."""

    llm: str
    wait: WaitReport


@dataclass(frozen=True, slots=True)
class WaitEnded:
    """A waiting attempt goes on."""

    llm: str
    resume: ResumeReport


@dataclass(frozen=True, slots=True)
class Reported:
    """An attempt ended."""

    llm: str
    result: Result
    origin: int | None = None


@dataclass(frozen=True, slots=True)
class BeingChecked:
    """An attempt answered; the check against the output schema of its task is not finished."""

    llm: str
    task_id: str
    attempt: int
    instance: str


@dataclass(frozen=True, slots=True)
class MessageSent:
    """A message was sent.

    `unnamed`: it came without an id. Then `known` counts the equal messages of the history, and `again` says that this
    message may be one of them.
    """

    message: Message
    unnamed: bool = False
    known: int = 0
    again: bool = False


@dataclass(frozen=True, slots=True)
class MessageUndelivered:
    """A message was sent with a routing key that leads to no mailbox. `unnamed` and `known` as in MessageSent."""

    message: Message
    routing_key: str
    sender: Sender = Sender()
    unnamed: bool = False
    known: int = 0
    origin: int | None = None


@dataclass(frozen=True, slots=True)
class TaskEnded:
    """A task ended. `dependents` wait for the task, `children` are its live children; all are loaded."""

    task_id: str
    dependents: tuple[str, ...] = ()
    children: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupChanged:
    """A task for several LLMs changed, or one of its `parts`, which are all stored parts.

    The parts and the dependencies of the task are loaded.
    """

    task_id: str
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed. `woken` are loaded tasks whose `wake_at` is reached, `overdue` those whose due date is.

    Every message that was published before `heard_until` is handled; None: every message until now.
    """

    woken: tuple[str, ...] = ()
    overdue: tuple[str, ...] = ()
    heard_until: Instant | None = None


@dataclass(frozen=True, slots=True)
class Outage:
    """RabbitMQ or this coordinator was away: a silent worker may have had no chance to be heard."""


@dataclass(frozen=True, slots=True)
class ClockSet:
    """The wall clock was set forward by this much, or back where that is negative."""

    by: Micros


@dataclass(frozen=True, slots=True)
class ReportSaved:
    """A request to save a report under a name, or with None to drop the saved one."""

    name: str
    definition: dict[str, Any] | None
    sender: Sender = Sender()


TaskRequest = Submitted | CancelRequested | RetryRequested | AssignRequested | UpdateRequested
ManageRequests = ManageRequested | ManageLimitRequested | ManageBudgetRequested | ManageSpendingRequested
Request = TaskRequest | ManageRequests | ReportSaved
Correspondence = MessageSent | MessageUndelivered
Event = (
    Request
    | AnswerGiven
    | Shared
    | NotesRequested
    | Correspondence
    | Heartbeat
    | InstanceLeft
    | Claimed
    | Progressed
    | WaitBegan
    | WaitEnded
    | Reported
    | BeingChecked
    | TaskEnded
    | GroupChanged
    | Tick
    | Outage
    | ClockSet
)

NEVER = Instant(2**62)
