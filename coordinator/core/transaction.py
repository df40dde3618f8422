"""One transaction: the one call between the core and its shell.

The shell gives the events that arrived, a loader that reads the database, and the time. Inside the block it has what
to store and what to publish, in agreement with each other. The order in which tasks are loaded, events are handled
and tasks are dropped from memory is the affair of this module:

    with transaction(machine, loader, events, now) as effects:
        store(effects.changes, effects.commands)

When the block raises, the machine no longer agrees with the database: build another one and call `take_over`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple, Protocol, assert_never

from broker.timestamps import EPOCH, Instant
from coordinator.core.budgets.loading import AccountLoader, BudgetLoader, load_for_events, load_for_tasks
from coordinator.core.budgets.loading import restore as restore_budgets
from coordinator.core.commands import Command
from coordinator.core.events import (
    AnswerGiven,
    AssignRequested,
    BeingChecked,
    CancelRequested,
    Claimed,
    ClockSet,
    Event,
    GroupChanged,
    Heartbeat,
    InstanceLeft,
    ManageBudgetRequested,
    ManageLimitRequested,
    ManageRequested,
    ManageSpendingRequested,
    MessageSent,
    MessageUndelivered,
    NotesRequested,
    Outage,
    Progressed,
    Reported,
    ReportSaved,
    RetryRequested,
    Shared,
    Submitted,
    SubmitterNote,
    TaskEnded,
    Tick,
    UpdateRequested,
    WaitBegan,
    WaitEnded,
)
from coordinator.core.groups.naming import groups_named_in, reserved
from coordinator.core.limits.rate_limit import RateLimit
from coordinator.core.llms.llm import LLM
from coordinator.core.machine import Machine
from coordinator.core.state import StateChanges
from coordinator.core.tasks.task import Rank, Task

WOKEN_AT_ONCE = 1000  # tasks whose time has come, in one transaction

Revise = Callable[[list[Event], Mapping[str, Task]], list[Event]]
"""Replaces the events of a transaction, given the tasks in memory, once the tasks of the events are loaded."""


class TaskLoader(AccountLoader, Protocol):
    """Reads tasks from the database. Every task is a fresh object."""

    def load(self, ids: Iterable[str], /) -> list[Task]:
        """Return the tasks with these ids, where they exist."""

    def lane(self, key: str, after: Rank, limit: int, /) -> list[Task]:
        """Return the first pending tasks of a lane that rank below `after`, in their order."""

    def waking(self, now: Instant, limit: int, /) -> list[Task]:
        """Return tasks whose `wake_at` is reached and that depend on nothing unfinished, the earliest first."""

    def overdue(self, now: Instant, limit: int, /) -> list[Task]:
        """Return live tasks whose due date has passed and that are not marked overdue, the earliest first."""

    def next_wake(self, *, after: Instant) -> Instant:
        """Return the next `wake_at` after that time, NEVER when there is none."""

    def next_due(self, *, after: Instant) -> Instant:
        """Return the next due date after that time, NEVER when there is none."""

    def waiting_for(self, ids: Sequence[str], /) -> Mapping[str, Sequence[str]]:
        """Return for each of these tasks that has waiting dependents the ids of those."""

    def children(self, ids: Sequence[str], /, *, live: bool = False) -> Mapping[str, Sequence[str]]:
        """Return for each of these tasks that has children the ids of those; with `live`, of unfinished ones only."""

    def lineage(self, ids: Iterable[str], /) -> set[str]:
        """Return the ids of these tasks and of all their ancestors."""

    def ancestry(self, ids: Iterable[str], /) -> Mapping[str, Sequence[str]]:
        """Return for these tasks, and for all that they depend on, the ids of their dependencies."""

    def notes(self, board: str, content_of: str | None = None, /) -> Sequence[SubmitterNote]:
        """Return the notes of a board, with the text of one of them."""

    def repeats(self, message_id: str, /) -> int:
        """Return how many messages without an id in the history say the same as this one."""


class Loader(TaskLoader, BudgetLoader, Protocol):
    """Reads what a new machine begins with, too."""

    def in_hand(self) -> list[Task]:
        """Return the tasks that are assigned to an LLM or running."""

    def llms(self) -> list[LLM]:
        """Return all LLMs, with their instances."""

    def limits(self) -> list[RateLimit]:
        """Return all rate limits, without their runs."""

    def lanes(self) -> list[str]:
        """Return the keys of the lanes that have pending tasks."""

    def any_dependencies(self) -> bool:
        """Return whether any task waits for another."""

    def any_children(self) -> bool:
        """Return whether any task has a parent."""


class Effects(NamedTuple):
    """What a transaction brings about: what to store, and what to publish once that is stored."""

    changes: StateChanges
    commands: list[Command]


def take_over(machine: Machine, loader: Loader, now: Instant) -> None:
    """Give a new machine the state of the database. Every lease begins again."""
    machine.restore(loader.in_hand(), loader.llms(), loader.lanes(), now, limits=loader.limits())
    restore_budgets(machine.state, loader, now)
    state = machine.state
    state.next_wake = loader.next_wake(after=EPOCH)
    state.next_due = loader.next_due(after=EPOCH)
    state.any_dependencies = loader.any_dependencies()
    state.any_children = loader.any_children()


@contextmanager
def transaction(
    machine: Machine,
    loader: TaskLoader,
    events: Sequence[Event],
    now: Instant,
    *,
    revise: Revise | None = None,
    between_rounds: Callable[[], None] | None = None,
    woken_at_once: int = WOKEN_AT_ONCE,
) -> Iterator[Effects]:
    """Handle events, and the consequences that tasks have for other tasks, until nothing more follows.

    A Tick among the events gets the tasks whose time has come. `between_rounds` is called before each round of
    consequences: a long chain of tasks may end one after the other.
    """
    run = _Transaction(machine, loader, now, woken_at_once)
    run.refill_lanes()
    yield Effects(*run.handle(list(events), revise, between_rounds))
    machine.forget(now)


class _Transaction:
    def __init__(self, machine: Machine, loader: TaskLoader, now: Instant, woken_at_once: int) -> None:
        self._machine = machine
        self._state = machine.state
        self._loader = loader
        self._now = now
        self._woken_at_once = woken_at_once

    def refill_lanes(self) -> None:
        """Load tasks into lanes that run low. Only between two transactions do database and memory say the same."""
        for lane, known_to, room in self._state.ready.needs_refill():
            tasks = self._loader.lane(lane, known_to, room)
            self._machine.refill(lane, tasks, room)
            load_for_tasks(self._state, self._loader, tasks)

    def handle(
        self, events: list[Event], revise: Revise | None, between_rounds: Callable[[], None] | None
    ) -> tuple[StateChanges, list[Command]]:
        """Handle the events and all that follows from them."""
        machine, now = self._machine, self._now
        self._load_for(events)
        if revise is not None:
            events = revise(events, self._state.tasks)
        self._complete(events)
        commands = machine.handle(*events, now=now)
        while machine.unfinished:
            if between_rounds is not None:
                between_rounds()
            follow_ups = [*self._ends(machine.take_ended()), *self._groups(machine.take_dirty_groups())]
            commands += machine.handle(*follow_ups, now=now)
        return machine.take_changes(), commands

    # -- loading -----------------------------------------------------------------------------------------------------

    def _load(self, ids: Iterable[str]) -> None:
        if missing := {task_id for task_id in ids if task_id not in self._state.tasks}:
            self._take(self._loader.load(missing))

    def _take(self, tasks: list[Task]) -> None:
        self._machine.load(tasks)
        load_for_tasks(self._state, self._loader, tasks)

    def _load_for(self, events: Sequence[Event]) -> None:
        known = self._state.tasks
        ids = {task_id for event in events for task_id in _needed(event) if task_id not in known}
        if below := {task_id for event in events for task_id in _lineage_needed(event)}:
            ids.update(self._loader.lineage(below) - known.keys())
        if ids:
            self._take(self._loader.load(ids))
        load_for_events(self._state, self._loader, events, self._now)
        retried = [event.task_id for event in events if isinstance(event, RetryRequested)]
        self._load(above for task_id in retried if task_id in known for above in known[task_id].spec.depends_on)

    def _complete(self, events: list[Event]) -> None:
        """Give the events what they need of the database besides tasks."""
        new: dict[int, Submitted] = {}
        for place, event in enumerate(events):
            match event:
                case Submitted(_, spec):
                    if spec.depends_on:
                        new[place] = event
                case Shared(note):
                    events[place] = replace(event, known=tuple(self._loader.notes(note.board)))
                case NotesRequested(board, name):
                    events[place] = replace(event, known=tuple(self._loader.notes(board, name)))
                case MessageSent() | MessageUndelivered():
                    if event.unnamed:
                        events[place] = replace(event, known=self._loader.repeats(event.message.id))
                case ClockSet():
                    self._state.next_wake = self._loader.next_wake(after=EPOCH)
                case Tick():
                    events[place] = replace(event, woken=self._wake(), overdue=self._overdue())
        if new:
            self._give_ancestry(events, new)

    def _give_ancestry(self, events: list[Event], new: Mapping[int, Submitted]) -> None:
        """Give new tasks that others wait for the dependencies of their dependencies: only they can close a circle."""
        awaited = set(self._loader.waiting_for([event.task_id for event in new.values()]))
        closing = []
        for place, event in new.items():
            if event.task_id in awaited:
                closing.append(place)
            awaited.update(event.spec.depends_on)
        if closing:
            ancestry = self._loader.ancestry({above for event in new.values() for above in event.spec.depends_on})
            for place in closing:
                events[place] = replace(new[place], ancestry=ancestry)

    # -- time --------------------------------------------------------------------------------------------------------

    def _wake(self) -> tuple[str, ...]:
        if self._state.next_wake > self._now:
            return ()
        woken = self._loader.waking(self._now, self._woken_at_once)
        self._take(woken)
        more = len(woken) == self._woken_at_once
        self._state.next_wake = self._now if more else self._loader.next_wake(after=self._now)
        return tuple(task.id for task in woken)

    def _overdue(self) -> tuple[str, ...]:
        if self._state.next_due > self._now:
            return ()
        late = self._loader.overdue(self._now, self._woken_at_once)
        self._take(late)
        more = len(late) == self._woken_at_once
        self._state.next_due = self._now if more else self._loader.next_due(after=self._now)
        return tuple(task.id for task in late)

    # -- consequences ------------------------------------------------------------------------------------------------

    def _ends(self, ended: list[str]) -> list[Event]:
        """Return what the end of these tasks means to others; nothing where no task has to do with another."""
        state, loader = self._state, self._loader
        any_dependencies = state.any_dependencies or bool(state.changes.waits)
        any_children = state.any_children or bool(state.children)
        if not ended or not (any_dependencies or any_children):
            return []
        waiting = loader.waiting_for(ended) if any_dependencies else {}
        children = loader.children(ended, live=True) if any_children else {}
        follow_ups: list[Event] = [
            TaskEnded(task_id, tuple(waiting.get(task_id, ())), tuple(children.get(task_id, ())))
            for task_id in ended
            if task_id in waiting or task_id in children or self._machine.concerns_others(task_id)
        ]
        self._load_for(follow_ups)
        return follow_ups

    def _groups(self, dirty: list[str]) -> list[Event]:
        """Return the next step of those of these tasks that are groups."""
        self._load(dirty)
        tasks = self._state.tasks
        groups = [task_id for task_id in dirty if task_id in tasks and tasks[task_id].spec.is_group]
        parts = self._loader.children(groups) if groups else {}
        follow_ups: list[Event] = [GroupChanged(task_id, tuple(parts.get(task_id, ()))) for task_id in groups]
        self._load(above for task_id in groups for above in tasks[task_id].spec.depends_on)
        self._load_for(follow_ups)
        return follow_ups


def _needed(event: Event) -> Iterable[str]:
    """Return the ids of the tasks that must be loaded, where they exist, before the event is handled."""
    match event:
        case Submitted(task_id, spec):
            parent = [spec.parent_id] if spec.parent_id else []
            parts = reserved(task_id) if spec.is_group else []
            return (task_id, *spec.depends_on, *parent, *parts, *groups_named_in(task_id))
        case CancelRequested() | RetryRequested() | AssignRequested() | UpdateRequested() | AnswerGiven():
            return (event.task_id,)
        case Claimed(_, claim):
            return (claim.task_id,)
        case Reported(_, result):
            return (result.task_id,)
        case TaskEnded(task_id, dependents, children):
            return (task_id, *dependents, *children)
        case GroupChanged(task_id, parts):
            return (task_id, *parts)
        case (
            Heartbeat()
            | InstanceLeft()
            | Progressed()
            | WaitBegan()
            | WaitEnded()
            | BeingChecked()
            | ManageRequested()
            | ManageLimitRequested()
            | ManageBudgetRequested()
            | ManageSpendingRequested()
            | ReportSaved()
            | Shared()
            | NotesRequested()
            | MessageSent()
            | MessageUndelivered()
            | Tick()
            | Outage()
            | ClockSet()
        ):
            return ()
        case _:
            assert_never(event)


def _lineage_needed(event: Event) -> Iterable[str]:
    """Return the ids of the tasks whose ancestors must be loaded, too."""
    if not isinstance(event, Submitted):
        return ()
    parent = [event.spec.parent_id] if event.spec.parent_id else []
    return (*parent, *event.spec.depends_on) if event.sender.is_llm else parent
