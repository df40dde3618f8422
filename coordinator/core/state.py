"""The state of the core, and the elementary steps that change it.

Each step keeps the task, its LLM, the ready lanes, the changes to store and the messages to publish in agreement.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import JsonValue

from broker.errors import Problem
from broker.protocol.chat import Message
from broker.protocol.status import Outcome, Status
from broker.protocol.worker_reports import Failure
from broker.timestamps import Instant, Micros
from coordinator.core.budgets.account import Account, AccountKey
from coordinator.core.budgets.budget import Budget
from coordinator.core.budgets.ledger import Ledger, Wake
from coordinator.core.commands import (
    AnnounceLLM,
    AnnounceTask,
    AnswerSubmitter,
    AnswerType,
    Command,
    Refuse,
    SendAssignment,
    SendStop,
    View,
)
from coordinator.core.events import NEVER, Sender, SubmitterNote
from coordinator.core.limits.rate_limit import RateLimit
from coordinator.core.limits.registry import RateLimits
from coordinator.core.llms.llm import LLM, LLMStatus
from coordinator.core.scheduling.decision import Decision
from coordinator.core.scheduling.ready_queue import ReadyQueue
from coordinator.core.tasks import transitions
from coordinator.core.tasks.task import Attempt, Task, view

NO_SUCH_TASK = Problem("id", "there is no such task")
NOT_YOURS = "this instance no longer has the task"


class SavedReport(NamedTuple):
    """A report that is saved under a name, as JSON-able data, or None when it is dropped; by whom and since when."""

    definition: dict[str, Any] | None
    by: str
    at: Instant


@dataclass(slots=True)
class StateChanges:
    """What a batch changed. The database must hold it before anything is published."""

    new: list[Task] = field(default_factory=list)
    changed: dict[str, Task] = field(default_factory=dict)
    respecified: dict[str, Task] = field(default_factory=dict)  # of the changed: those whose submission was changed
    attempts: list[tuple[Task, Attempt]] = field(default_factory=list)
    settled: list[Attempt] = field(default_factory=list)  # of these: earlier ones, whose usage grew after their end
    waits: list[tuple[Task, frozenset[str]]] = field(default_factory=list)  # new tasks and their open dependencies
    met: list[str] = field(default_factory=list)  # ids of ended tasks whose dependents know the end
    llms: dict[str, LLM] = field(default_factory=dict)
    forgotten: list[str] = field(default_factory=list)  # names of LLMs
    messages: dict[str, tuple[Message, Instant]] = field(default_factory=dict)  # by id, with their time of arrival
    notes: dict[tuple[str, str], SubmitterNote] = field(default_factory=dict)  # by board and name
    undelivered: list[str] = field(default_factory=list)  # ids of messages
    overtaken: dict[str, list[str]] = field(default_factory=dict)  # id of a message -> answers that arrived before it
    reports: dict[str, SavedReport] = field(default_factory=dict)
    slots: dict[str, tuple[Instant, int]] = field(default_factory=dict)  # by LLM: the new number, and from when on
    limits: dict[str, RateLimit] = field(default_factory=dict)
    forgotten_limits: list[str] = field(default_factory=list)
    budgets: dict[str, Budget | None] = field(default_factory=dict)  # None: dropped
    accounts: dict[AccountKey, Account] = field(default_factory=dict)
    wakes: dict[str, Wake] = field(default_factory=dict)  # tasks that wait for an account, by its label
    settings: dict[str, Any] = field(default_factory=dict)  # by name, as JSON-able data
    earlier_results: list[tuple[Task, int, JsonValue]] = field(default_factory=list)  # with their attempts, at a retry
    undone: list[Instant] = field(default_factory=list)  # former end times that are no longer valid


class _PendingCommand(NamedTuple):
    """A command that needs the view of a task at the end of the batch."""

    task: Task
    command: Callable[[View], Command]


class CoreState:
    """The assigned and running tasks, a window of the ready tasks, the LLMs, and the effects of the present batch."""

    def __init__(self, *, lease: Micros, window: int, next_seq: int = 1, trusts_labels: bool = True) -> None:
        """`next_seq` is the number of the next new task. With `trusts_labels`, the label `local` makes an LLM local."""
        self.lease = lease
        self.next_seq = next_seq
        self.trusts_labels = trusts_labels
        self.tasks: dict[str, Task] = {}
        self.llms: dict[str, LLM] = {}
        self.ready = ReadyQueue(window)
        self.budgets = Ledger()
        self.ready.heed(self.budgets.objection)
        self.next_wake: Instant = NEVER
        self.next_due: Instant = NEVER
        self.freed_llms: dict[str, LLM] = {}  # LLMs that may have a new free slot
        self.limits = RateLimits(self.ready, self.freed_llms)
        self.changes = StateChanges()
        self.waiting: dict[str, list[Task]] = {}  # new tasks by each open dependency
        self.children: dict[str, list[Task]] = {}  # new tasks by their parent
        self.borrowed: set[str] = set()  # tasks that need not stay in memory after the batch
        self.ended: dict[str, None] = {}
        self.dirty_groups: dict[str, None] = {}  # ids of groups whose next step is due
        self.any_dependencies = False  # whether the database has tasks that wait for others
        self.any_children = False  # whether the database has tasks with a parent
        self.in_doubt = False  # whether a lease has expired, unless an unread message extends it
        self._commands: list[Command | _PendingCommand] = []
        self._announced: dict[str, tuple[Instant, Task]] = {}

    # -- tasks on their way ----------------------------------------------------------------------------------------

    def unblock(self, task: Task, now: Instant) -> bool:
        """Make a blocked task ready when nothing blocks it any more; else wake it in time."""
        if task.status is not Status.BLOCKED or task.waiting_on:
            return False
        if task.wake_at is not None and task.wake_at > now:
            self.next_wake = min(self.next_wake, task.wake_at)
            return False
        transitions.make_ready(task, now)
        if task.spec.is_group:
            self._expand(task, now)
        else:
            self._queue(task, now)
        return True

    def _expand(self, group: Task, now: Instant) -> None:
        """Begin a task for several LLMs. The group driver creates its parts."""
        transitions.expand(group, now)
        self.dirty_groups[group.id] = None
        self.touch(group)
        self.announce(group, now)

    def release(self, task: Task, now: Instant, *, counts: bool = True) -> None:
        """Make a task ready again whose attempt is over. Without `counts`, the attempt does not count."""
        transitions.release(task, now, counts=counts)
        self._queue(task, now)

    def _queue(self, task: Task, now: Instant) -> None:
        """Put a task that has just become pending into its lane."""
        self.touch(task)
        self.announce(task, now)
        self.borrowed.update(self.ready.add(task, now))

    def assign(self, decision: Decision, now: Instant) -> None:
        """Assign a task, which has left its lane, to an LLM."""
        task, llm = decision.task, decision.llm
        transitions.assign(task, llm.name, decision.why, now)
        llm.unclaimed.add(task.id)
        llm.begin(task.id, task.size, task.spec.skills, now)
        llm.free -= 1
        self.limits.begin(task, llm, now)
        self.touch(task)
        allowance = self.budgets.allowance(task)
        self.emit(SendAssignment(task.id, task.attempt, llm.name, allowance.nanos, allowance.tokens))
        self.announce(task, now)

    def withdraw(self, task: Task, outcome: Outcome, reason: str, now: Instant) -> None:
        """Take a live task out of its lane, or from its LLM, whose instance gets a stop."""
        if task.in_hand:
            if task.instance and task.llm:
                self.stop(task.llm, task.instance, task.id, task.attempt, reason)
            self.take_back(task, now)
            self.record(task, task.end_attempt(now, outcome))
        else:
            self.ready.discard(task)

    def park(self, task: Task, now: Instant) -> None:
        """Free the slot of a claimed task whose attempt waits."""
        llm = self.llms[task.llm or ""]
        task.parked = True
        self.budgets.park(task)
        llm.instances[task.instance or ""].hold(task.id, parked=True)
        llm.runs.pop(task.id, None)
        self.limits.park(task, llm, now)
        llm.count()
        self.freed_llms[llm.name] = llm
        self.touch(task)

    def unpark(self, task: Task, now: Instant) -> None:
        """Take a slot again for an attempt that goes on."""
        llm = self.llms[task.llm or ""]
        task.parked, task.text_at = False, now
        self.budgets.park(task)
        llm.instances[task.instance or ""].parked.discard(task.id)
        llm.begin(task.id, task.size, task.spec.skills, now, resumed=True)
        self.limits.unpark(task, llm, now)
        llm.count()
        self.touch(task)

    def lose_asking_attempt(self, task: Task, now: Instant) -> None:
        """The attempt that asked is over; the next one begins with the answer."""
        transitions.lose_asking_attempt(task)
        self.touch(task)
        self.announce(task, now)

    def take_back(self, task: Task, now: Instant) -> LLM:
        """Take the task from its LLM; return the LLM."""
        llm = self.llm(task.llm or "")
        llm.give_up(task.id)
        self.limits.end(task, llm, now)
        self.freed_llms[llm.name] = llm
        return llm

    def take_back_unclaimed(self, llm: LLM, now: Instant) -> None:
        """Make the tasks ready again that are assigned to an LLM and not claimed, because it gets no tasks now."""
        for task in [self.tasks[task_id] for task_id in sorted(llm.unclaimed)]:
            self.withdraw(task, Outcome.MOVED, "the LLM fails", now)
            self.release(task, now)

    def back_off(self, task: Task, until: Instant, now: Instant) -> None:
        """Try a failed task again after a pause."""
        transitions.back_off(task, until)
        self.next_wake = min(self.next_wake, until)
        self.touch(task)
        self.announce(task, now)

    def complete(self, task: Task, result: JsonValue, now: Instant) -> None:
        """End a task with its result."""
        self._leave_lane(task)
        transitions.complete(task, result, now)
        self._finish(task, now)

    def fail(self, task: Task, error: Failure, now: Instant, result: JsonValue = None) -> None:
        """End a task with an error. `result` is what a group has of its parts."""
        self._leave_lane(task)
        transitions.fail(task, error, now, result)
        self._finish(task, now)

    def cancel(self, task: Task, by: str, reason: str | None, now: Instant) -> None:
        """End a live task, wherever it is."""
        self.withdraw(task, Outcome.CANCELLED, "cancelled", now)
        transitions.cancel(task, by, reason, now)
        self._finish(task, now)

    def _leave_lane(self, task: Task) -> None:
        if task.status is Status.PENDING:
            self.ready.discard(task)

    def _finish(self, task: Task, now: Instant) -> None:
        """Announce the end of a task, and answer its submitter."""
        self.touch(task)
        self.announce(task, now)
        self.answer(task, final_answer(task.status))
        self.ended[task.id] = None

    def respecify(self, task: Task, changes: dict[str, Any], now: Instant) -> None:
        """Change fields of a task's submission. A pending task moves to its new place in the lanes."""
        pending = task.status is Status.PENDING
        if pending:
            self.ready.discard(task)
        task.respecify(changes)
        self.changes.respecified[task.id] = task
        self.touch(task)
        self.watch_due_date(task)
        if pending:
            self.borrowed.update(self.ready.add(task, now))

    def watch_due_date(self, task: Task) -> None:
        """Report a live task in time when it becomes overdue."""
        if task.due is not None and not task.overdue:
            self.next_due = min(self.next_due, task.due)

    def held(self, task_id: str, attempt: int, llm: str, instance: str) -> Task | None:
        """Return the task if that instance has claimed this attempt and still holds it."""
        task = self.tasks.get(task_id)
        held = task and task.in_hand and task.status is not Status.ASSIGNED and task.attempt == attempt
        return task if task and held and task.llm == llm and task.instance == instance else None

    def live(self, task_id: str, sender: Sender) -> Task | None:
        """Return the task if it exists and is not finished; else refuse the request."""
        task = self.tasks.get(task_id)
        if task is None:
            self.refuse(task_id, sender, NO_SUCH_TASK)
        elif task.status.is_final:
            self.refuse(task_id, sender, Problem("id", f"the task is already {task.status}"))
        else:
            return task
        return None

    # -- changes to store ------------------------------------------------------------------------------------------

    def touch(self, task: Task) -> None:
        """Store the task at the end of the batch."""
        self.changes.changed[task.id] = task
        self.borrowed.add(task.id)

    def record(self, task: Task, attempt: Attempt) -> None:
        """Store the newest attempt of a task, which has ended, and charge its budgets."""
        llm = self.llm(attempt.llm)
        if attempt.outcome is Outcome.COMPLETED and attempt.usage is not None:
            llm.learned.costs.learn(task.size, attempt.usage)
        task.attempts[-1] = attempt = self.budgets.settle(task, attempt, llm)
        self.changes.attempts.append((task, attempt))

    def llm(self, name: str) -> LLM:
        """Return the LLM of that name, a new one if the name is unknown."""
        if name not in self.llms:
            llm = self.llms[name] = LLM(name, label_counts=self.trusts_labels)
            self.ready.llm_changed(llm)
        return self.llms[name]

    def forget_llm(self, llm: LLM) -> None:
        """Delete an LLM that has no instance and no task."""
        del self.llms[llm.name]
        self.limits.remove(llm)
        self.ready.llm_gone(llm)
        self.freed_llms.pop(llm.name, None)
        self.changes.llms.pop(llm.name, None)
        self.changes.forgotten.append(llm.name)

    # -- messages to publish ---------------------------------------------------------------------------------------

    def emit(self, command: Command) -> None:
        """Publish this after the commit."""
        self._commands.append(command)

    def take_commands(self) -> list[Command]:
        """Return the commands of the batch. Views show the present state of tasks: earlier states were never facts."""
        said, self._commands = self._commands, []
        announced, self._announced = self._announced, {}
        views: dict[str, View] = {}

        def shown(task: Task) -> View:
            if task.id not in views:
                views[task.id] = view(task)
            return views[task.id]

        commands = [it.command(shown(it.task)) if isinstance(it, _PendingCommand) else it for it in said]
        commands += [AnnounceTask(at, shown(task)) for at, task in announced.values()]
        return commands

    def announce(self, task: Task, now: Instant) -> None:
        """Publish the state of the task at the end of the batch as an event."""
        self._announced.pop(task.id, None)
        self._announced[task.id] = now, task

    def announce_overdue(self, task: Task, now: Instant) -> None:
        """Publish the event that the task's due date has passed."""
        self._commands.append(_PendingCommand(task, lambda shown: AnnounceTask(now, shown, "overdue")))

    def announce_llm(self, llm: LLM, before: LLMStatus, now: Instant) -> None:
        """Publish an event when the status of an LLM is not `before` any more, and record its slots."""
        if llm.status != before:
            self.emit(AnnounceLLM(now, llm.name, *llm.status))
            self.changes.slots[llm.name] = now, llm.slots

    def answer(self, task: Task, kind: AnswerType, *, known: bool = False) -> None:
        """Answer the submitter of a task; `known`: the task existed before."""
        self.answer_to(Sender(None, task.reply_to, task.correlation_id), kind, task, known=known)

    def answer_to(self, sender: Sender, kind: AnswerType, task: Task, *, known: bool = False) -> None:
        """Answer the sender of a request about a task."""
        if reply_to := sender.reply_to:
            number = sender.correlation_id
            self._commands.append(
                _PendingCommand(task, lambda shown: AnswerSubmitter(kind, reply_to, number, shown, known))
            )

    def present_queue(self, address: str) -> str:
        """Return the present queue of an address: the queue of an instance has another name after a reconnect."""
        kind, _, rest = address.partition(".")
        name, _, instance = rest.partition(".")
        llm = self.llms.get(name) if kind == "llm" and instance else None
        return address if llm is None else llm.control_queue(instance)

    def refuse(self, task_id: str, sender: Sender, *problems: Problem, origin: int | None = None) -> None:
        """Tell the sender that a request is refused, and why. The delivery `origin` is kept as a rejected message."""
        self.emit(Refuse(task_id, problems, sender.reply_to, sender.correlation_id, origin))

    def stop(self, llm: str, instance: str, task_id: str, attempt: int, reason: str) -> None:
        """Order an instance to stop an attempt."""
        self.emit(SendStop(llm, instance, task_id, attempt, reason))


def final_answer(status: Status) -> AnswerType:
    """Return the type of the answer that reports the end of a task."""
    match status:
        case Status.COMPLETED:
            return "task.completed"
        case Status.FAILED:
            return "task.failed"
        case _:
            return "task.cancelled"
