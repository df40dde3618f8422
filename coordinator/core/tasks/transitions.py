"""The states of a task: one table of transitions, and a function for each trigger.

Nothing else changes the status of a task. Each function does all that belongs to its trigger: counters, resets,
timestamps and the history. It raises IllegalTransition and changes nothing when the table has no such transition.
"""

from collections.abc import Iterable
from enum import Enum, auto

from pydantic import JsonValue

from broker.errors import IllegalTransition
from broker.protocol.status import Status
from broker.protocol.worker_reports import Failure
from broker.timestamps import NO_TIME, Instant, Micros, from_datetime
from coordinator.core.tasks.task import RETRIED, OpenQuestion, Task


class Trigger(Enum):
    """What can happen to a task."""

    READY = auto()  # dependencies met, not_before reached, backoff over
    ASSIGN = auto()  # published to an LLM
    EXPAND = auto()  # made into parts, for several LLMs
    CLAIM = auto()  # an instance has taken it
    ASK = auto()  # its LLM asks a person
    RESUME = auto()  # its LLM has the answer, or goes on without
    RELEASE = auto()  # taken back from an LLM, to be assigned again
    BACK_OFF = auto()  # failed, to be tried again after a pause
    HOLD = auto()  # too little is left of a budget
    COMPLETE = auto()
    FAIL = auto()
    CANCEL = auto()
    RETRY = auto()  # a person wants a finished task to run once more


_S, _T = Status, Trigger

LIVE = (_S.BLOCKED, _S.PENDING, _S.ASSIGNED, _S.IN_PROGRESS, _S.INPUT_REQUIRED)

TRANSITIONS: dict[tuple[Status, Trigger], Status] = {
    (_S.BLOCKED, _T.READY): _S.PENDING,
    (_S.PENDING, _T.ASSIGN): _S.ASSIGNED,
    (_S.PENDING, _T.EXPAND): _S.IN_PROGRESS,
    (_S.PENDING, _T.HOLD): _S.BLOCKED,
    (_S.PENDING, _T.ASK): _S.INPUT_REQUIRED,  # about its budget
    (_S.ASSIGNED, _T.CLAIM): _S.IN_PROGRESS,
    (_S.IN_PROGRESS, _T.ASK): _S.INPUT_REQUIRED,
    (_S.INPUT_REQUIRED, _T.RESUME): _S.IN_PROGRESS,
    (_S.ASSIGNED, _T.RELEASE): _S.PENDING,
    (_S.IN_PROGRESS, _T.RELEASE): _S.PENDING,
    (_S.INPUT_REQUIRED, _T.RELEASE): _S.PENDING,
    (_S.ASSIGNED, _T.BACK_OFF): _S.BLOCKED,
    (_S.IN_PROGRESS, _T.BACK_OFF): _S.BLOCKED,
    # A late result of an older attempt counts as long as the task is open, wherever the task is by then.
    **{(live, _T.COMPLETE): _S.COMPLETED for live in LIVE},
    **{(live, _T.FAIL): _S.FAILED for live in LIVE},
    **{(live, _T.CANCEL): _S.CANCELLED for live in LIVE},
    **{(final, _T.RETRY): _S.BLOCKED for final in (_S.COMPLETED, _S.FAILED, _S.CANCELLED)},
}


def after(status: Status, trigger: Trigger) -> Status:
    """Return the state that follows. Raises IllegalTransition when the table has none."""
    try:
        return TRANSITIONS[status, trigger]
    except KeyError:
        raise IllegalTransition(f"a task that is {status} cannot {trigger.name.lower().replace('_', ' ')}") from None


def make_ready(task: Task, now: Instant) -> None:
    """Nothing blocks the task any more."""
    _move(task, Trigger.READY)
    _begin_to_wait(task, now)


def assign(task: Task, llm: str, why: str, now: Instant) -> None:
    """An LLM gets the task: the next attempt begins."""
    _move(task, Trigger.ASSIGN)
    task.attempt += 1
    task.llm, task.why, task.assigned_at, task.named_at = llm, why, now, now
    task.usage = task.duration = task.model = None


def expand(task: Task, now: Instant) -> None:
    """A task for several LLMs begins its next run. The group driver creates the parts."""
    _move(task, Trigger.EXPAND)
    task.attempt += 1
    task.started_at = now
    task.questions.clear()


def claim(task: Task, instance: str, model: str | None, now: Instant) -> None:
    """An instance takes the attempt: the attempt counts."""
    _move(task, Trigger.CLAIM)
    task.instance, task.model, task.started_at, task.named_at = instance, model, now, now
    task.text_at, task.streams = now, False
    task.run_time = NO_TIME
    task.starts += 1


def ask(task: Task, question: OpenQuestion, now: Instant) -> None:
    """The LLM of the task, its group or the coordinator asks a person. A second question leaves the status as it is."""
    if task.asking_since is None:
        _move(task, Trigger.ASK)
        task.asking_since = now
    task.questions.append(question)


def resume(task: Task, now: Instant) -> None:
    """The task has its answers, or goes on without them."""
    _move(task, Trigger.RESUME)
    _stop_asking(task, now)


def lose_asking_attempt(task: Task) -> None:
    """The attempt that asked is over; the next one begins with the answer. That is no failure of the task."""
    task.starts -= 1
    task.instance = None


def release(task: Task, now: Instant, *, counts: bool = True) -> None:
    """The attempt is over without an answer, and the next one may begin at once. Without `counts`, it is excused."""
    _move(task, Trigger.RELEASE)
    if not counts:
        task.starts -= 1
    _begin_to_wait(task, now)


def back_off(task: Task, until: Instant) -> None:
    """The attempt failed, and the next one begins after a pause."""
    _move(task, Trigger.BACK_OFF)
    task.wake_at = until


def hold(task: Task, waits_for: str, until: Instant | None, why: str) -> None:
    """Too little is left of a budget for the next attempt. The task tries again at `until`, or when it is woken."""
    _move(task, Trigger.HOLD)
    task.waits_for, task.wake_at, task.why = waits_for, until, why


def complete(task: Task, result: JsonValue, now: Instant) -> None:
    """The task has its result."""
    _move(task, Trigger.COMPLETE)
    task.result = result
    _end(task, now)


def fail(task: Task, error: Failure, now: Instant, result: JsonValue = None) -> None:
    """The task ends with an error. `result` is what a group has of its parts."""
    _move(task, Trigger.FAIL)
    task.error, task.result = error, result
    _end(task, now)


def cancel(task: Task, by: str, reason: str | None, now: Instant) -> None:
    """Somebody ends the task."""
    before, where = task.status, f" at {task.llm}" if task.in_hand else ""
    _move(task, Trigger.CANCEL)
    task.note(now, by, f"cancelled while {before.replace('_', ' ')}{where}{f': {reason}' if reason else ''}")
    _end(task, now)


def retry(task: Task, by: str, changed: Iterable[str], now: Instant) -> None:
    """A finished task begins again, with these fields of its submission changed."""
    ending, different = ended(task), ", ".join(sorted(changed))
    _move(task, Trigger.RETRY)
    task.note(now, by, f"{RETRIED} {ending}{f', with changed {different}' if different else ''}")
    task.starts = 0
    task.wake_at = None if task.spec.not_before is None else from_datetime(task.spec.not_before)
    task.llm = task.instance = task.model = task.why = None
    task.result = task.error = task.usage = task.duration = None
    task.ready_at = task.assigned_at = task.started_at = task.finished_at = None
    task.questions, task.person_wait = [], NO_TIME


def ended(task: Task) -> str:
    """Return how a task ended, as a verb: `failed`, `was completed` or `was cancelled`."""
    return "failed" if task.status is Status.FAILED else f"was {task.status}"


def _move(task: Task, trigger: Trigger) -> None:
    task.status = after(task.status, trigger)


def _begin_to_wait(task: Task, now: Instant) -> None:
    """The task waits for a slot, and belongs to no LLM."""
    task.ready_at = now
    task.wake_at = task.waits_for = None
    _stop_asking(task, now)
    task.llm = task.instance = task.model = task.why = task.assigned_at = task.started_at = None


def _stop_asking(task: Task, now: Instant) -> None:
    """Add up the time that people took, and drop the questions that are open."""
    if task.asking_since is not None:
        task.person_wait = Micros(task.person_wait + max(0, now - task.asking_since))
        task.asking_since = None
    task.questions = [asked for asked in task.questions if asked.answer is not None]


def _end(task: Task, now: Instant) -> None:
    task.finished_at = now
    task.wake_at = task.waits_for = None
    _stop_asking(task, now)
