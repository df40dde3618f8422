"""A database with a large backlog: tasks that wait for every possible reason, and finished ones."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from broker.protocol.status import Outcome, Status
from broker.protocol.task_requests import Submission
from broker.protocol.worker_reports import Failure, Usage
from broker.timestamps import Instant, now, seconds, to_datetime
from coordinator.core.llms.llm import LLM
from coordinator.core.state import StateChanges
from coordinator.core.tasks.task import Task
from coordinator.storage.store import Store

HIGH, LOW = 6, 1  # priorities of the tasks that are ready for any LLM, half of them each
OFFLINE = "atlas"  # an LLM that tasks are assigned to by hand, and that is not there
LANES = 20  # skills that no LLM has

LEASE = seconds(3600)

_LLMS = ("cedar", "hazel", "juniper", "rowan")  # did what is finished
_TOPICS = ("incident", "contract", "interview", "invoice", "paper", "review", "release", "ticket")
_TEXT = "The warren has many entrances, and each of them is known to somebody who has not come back yet. " * 3
_AT_ONCE = 10_000  # tasks of one transaction

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Amount:
    """The numbers of waiting tasks, of ready ones among them, and of finished tasks."""

    waiting: int
    ready: int
    finished: int

    @property
    def tasks(self) -> int:
        """All of them."""
        return self.waiting + self.finished


def fill(store: Store, amount: Amount, progress: Progress = lambda done: None) -> None:
    """Insert the tasks into an empty store that leads. `progress` receives the count after every transaction."""
    changes = StateChanges(llms={name: LLM(name, model="demo") for name in (OFFLINE, *_LLMS)})
    for done, (task, open_dependencies) in enumerate(_tasks(amount, until=now()), start=1):
        changes.new.append(task)
        changes.attempts += [(task, attempt) for attempt in task.attempts]
        if open_dependencies:
            changes.waits.append((task, open_dependencies))
        if done % _AT_ONCE == 0 or done == amount.tasks:
            store.commit(changes, outbox=None, sent=(), now=now(), lease=LEASE)
            changes = StateChanges()
            progress(done)


def _tasks(amount: Amount, until: Instant) -> Iterator[tuple[Task, frozenset[str]]]:
    """Yield every task and its open dependencies, oldest first, ten a second up to `until`, finished ones first."""
    chance = random.Random(amount.waiting)
    for seq in range(1, amount.tasks + 1):
        submitted = Instant(until - seconds(amount.tasks - seq) // 10)
        if seq <= amount.finished:
            yield _finished(seq, submitted, chance), frozenset()
        else:
            yield _waiting(seq, submitted, amount, chance)


def _waiting(seq: int, submitted: Instant, amount: Amount, chance: random.Random) -> tuple[Task, frozenset[str]]:
    """Return a ready task, or one that waits for missing skills, a missing LLM, a time or other tasks."""
    if chance.random() * amount.waiting < amount.ready:
        return _task(seq, submitted, Status.PENDING, priority=chance.choice((HIGH, LOW))), frozenset()
    match chance.randrange(6):
        case 0:
            return _task(seq, submitted, Status.PENDING, assignee=OFFLINE), frozenset()
        case 1:
            wake_at = Instant(submitted + seconds(30 * 86_400 + chance.randrange(86_400)))
            task = _task(seq, submitted, Status.BLOCKED, not_before=to_datetime(wake_at))
            task.wake_at = wake_at
            return task, frozenset()
        case 2:
            others = frozenset(_id(chance.randint(amount.finished + 1, seq)) for _ in range(2)) - {_id(seq)}
            status = Status.BLOCKED if others else Status.PENDING
            task = _task(seq, submitted, status, skills=["skill-0"], depends_on=sorted(others))
            task.waiting_on = len(others)
            return task, others
        case _:
            skills = [f"skill-{chance.randrange(LANES)}"]
            return _task(seq, submitted, Status.PENDING, priority=chance.randrange(10), skills=skills), frozenset()


def _finished(seq: int, submitted: Instant, chance: random.Random) -> Task:
    """Return a finished task: mostly completed after one or two attempts, else failed or cancelled before its start."""
    share = chance.random()
    if share < 0.03:
        task = _task(seq, submitted, Status.CANCELLED)
        task.finished_at = Instant(submitted + seconds(5))
        return task
    status = Status.FAILED if share < 0.1 else Status.COMPLETED
    due = to_datetime(submitted + seconds(chance.expovariate(0.05))) if chance.random() < 0.3 else None
    task = _task(seq, submitted, status, due=due)
    if chance.random() < 0.1:
        _attempt(task, "failed", chance)
    if task.status is Status.COMPLETED:
        task.result = {"summary": _TEXT, "confidence": chance.random()}
        _attempt(task, "completed", chance)
    else:
        _attempt(task, "failed", chance)
        task.error = task.attempts[-1].error
    return task


def _attempt(task: Task, outcome: str, chance: random.Random) -> None:
    """Add one more attempt to the task."""
    task.attempt, task.starts = task.attempt + 1, task.starts + 1
    task.llm, task.instance, task.why = chance.choice(_LLMS), "host-0", "least expected wait (1.0 s) of 4"
    task.ready_at = task.assigned_at = task.finished_at or task.submitted_at
    task.started_at = Instant(task.assigned_at + chance.randrange(1_000_000))
    task.duration = seconds(chance.expovariate(0.1))
    task.usage = Usage(input_tokens=chance.randrange(2_000), output_tokens=chance.randrange(500), cost_usd=0.001)
    task.finished_at = Instant(task.started_at + task.duration)
    error = Failure(type="model_error", message="the model answered with an error") if outcome == "failed" else None
    task.end_attempt(task.finished_at, Outcome(outcome), error)


def _task(seq: int, submitted: Instant, status: Status, *, priority: int = 4, **fields: Any) -> Task:
    return Task(
        id=_id(seq),
        seq=seq,
        spec=everyday(seq, priority=priority, **fields),
        status=status,
        priority=priority,
        submitted_at=submitted,
        submitted_by="ana",
        ready_at=submitted if status is Status.PENDING else None,
    )


def everyday(number: int, **fields: Any) -> Submission:
    """Return a task of typical size: 300 characters of input, two labels."""
    return Submission(
        description=f"Summarise {_TOPICS[number % len(_TOPICS)]} {number} for the weekly report",
        inputs={"text": _TEXT, "number": number},
        labels=["weekly", f"week-{number // 10_000}"],
        metadata={"source": "benchmark"},
        **fields,
    )


def _id(seq: int) -> str:
    """Return the id of the task, as long as a generated one."""
    return f"00000000-0000-7000-8000-{seq:012d}"
