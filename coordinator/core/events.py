"""What goes into the machine: facts that have arrived, in the past tense, and the moments when time has passed.

`origin` is the number that the shell gave the delivery of an event. The core returns the number when it refuses an
event whose delivery is to be kept as a rejected message; None: the event came by no delivery.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from broker.protocol.chat import Message
from broker.protocol.task_requests import ManageLLM, Submission
from broker.protocol.worker_reports import Claim, Goodbye, Presence, Progress, Result, ResumeReport, WaitReport
from broker.timestamps import Instant, Micros


@dataclass(frozen=True, slots=True)
class Sender:
    """Who asked, where the answers go, and in which trace (a W3C traceparent).

    `is_llm`: the request came by the exchange for LLMs, so the user has the role of an LLM.
    """

    user: str | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    trace: str | None = None
    is_llm: bool = False


@dataclass(frozen=True, slots=True)
class Submitted:
    """A task came in. `task_id` and `priority` are settled already, from the body, the properties or the defaults.

    `ancestry` tells what the tasks that this one depends on, directly or not, depend on themselves; it is needed
    only when another task waits for this one already.
    """

    task_id: str
    spec: Submission
    priority: int
    sender: Sender = Sender()
    ancestry: Mapping[str, Sequence[str]] = field(default_factory=dict)
    origin: int | None = None


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """Somebody wants a task ended."""

    task_id: str
    sender: Sender = Sender()
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class RetryRequested:
    """Somebody wants a finished task to run again, perhaps with other fields of its submission."""

    task_id: str
    sender: Sender = Sender()
    changes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AssignRequested:
    """Somebody gives a live task to an LLM by hand; None leaves it to the coordinator again.

    `now` stops it where it runs; `force` accepts an LLM that nobody has heard of.
    """

    task_id: str
    llm: str | None
    now: bool = False
    force: bool = False
    sender: Sender = Sender()


@dataclass(frozen=True, slots=True)
class UpdateRequested:
    """Somebody changes fields of a live task."""

    task_id: str
    changes: dict[str, Any]
    sender: Sender = Sender()


@dataclass(frozen=True, slots=True)
class AnswerGiven:
    """Somebody answers what a task asks; without `question`, the only one."""

    task_id: str
    answer: str
    question: str | None = None
    sender: Sender = Sender()


class SubmitterNote(NamedTuple):
    """What somebody has put on a board. `content` is None where only the name matters."""

    board: str
    name: str
    content: str | None
    by: str
    at: Instant


@dataclass(frozen=True, slots=True)
class Shared:
    """Somebody puts a note on a board. `known` are those that the database has there."""

    note: SubmitterNote
    sender: Sender = Sender()
    known: tuple[SubmitterNote, ...] = ()


@dataclass(frozen=True, slots=True)
class NotesRequested:
    """Somebody reads a note, or asks which there are. `known` are those that the database has there."""

    board: str
    name: str | None = None
    sender: Sender = Sender()
    known: tuple[SubmitterNote, ...] = ()


@dataclass(frozen=True, slots=True)
class ManageRequested:
    """Somebody pauses, resumes or drains an LLM, or changes its slots or skills."""

    order: ManageLLM
    sender: Sender = Sender()


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """An instance said hello or gave a beat."""

    presence: Presence
    control: str | None = None  # the queue for its orders, where that is not named after the instance


@dataclass(frozen=True, slots=True)
class InstanceLeft:
    """An instance said goodbye."""

    goodbye: Goodbye


@dataclass(frozen=True, slots=True)
class Claimed:
    """An instance of that LLM takes an attempt."""

    llm: str
    claim: Claim
    control: str | None = None  # the queue for its orders, as in Seen


@dataclass(frozen=True, slots=True)
class Progressed:
    """A sign of life from a running attempt."""

    llm: str
    progress: Progress


@dataclass(frozen=True, slots=True)
class WaitBegan:
    """A running attempt waits, and has given its slot free."""

    llm: str
    wait: WaitReport


@dataclass(frozen=True, slots=True)
class WaitEnded:
    """An attempt that waited goes on."""

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
    """An attempt has given its answer, which is held against the output schema of its task at this moment."""

    llm: str
    task_id: str
    attempt: int
    instance: str


@dataclass(frozen=True, slots=True)
class MessageSent:
    """Somebody has said something to somebody.

    `unnamed`: it came without an id. Then `known` counts those in the history that say the same, and `again` tells that
    this one may be among them.
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
    """A task ended. `dependents` wait for it, `children` were part of it and may still be live; all are loaded."""

    task_id: str
    dependents: tuple[str, ...] = ()
    children: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupChanged:
    """Something has happened to a task for several LLMs, or to one of its `parts`: all that are stored, and loaded.

    What it depends on is loaded as well.
    """

    task_id: str
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed. `woken` are loaded tasks whose `wake_at` has come, `overdue` those whose due date has.

    All that was published before `heard_until` has been handled; None: all that was published until now.
    """

    woken: tuple[str, ...] = ()
    overdue: tuple[str, ...] = ()
    heard_until: Instant | None = None


@dataclass(frozen=True, slots=True)
class Outage:
    """RabbitMQ, or this coordinator, was away: who has been silent may have had no chance to be heard."""


@dataclass(frozen=True, slots=True)
class ClockSet:
    """Somebody has set the wall clock, forward by so much or, where that is negative, back."""

    by: Micros


@dataclass(frozen=True, slots=True)
class ReportSaved:
    """Somebody keeps a report under a name, or with None drops what is kept there."""

    name: str
    definition: dict[str, Any] | None
    sender: Sender = Sender()


TaskRequest = Submitted | CancelRequested | RetryRequested | AssignRequested | UpdateRequested
Request = TaskRequest | ManageRequested | ReportSaved
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
