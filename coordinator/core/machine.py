"""The decisions of the coordinator: events in, changes and commands out. No I/O, no clock.

`transaction` drives a machine: it loads the tasks that the events are about, has the events handled, and drops tasks
from memory. A machine whose changes could not be stored is thrown away, and another one is built from the database.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import assert_never

from broker.protocol.status import Status
from broker.protocol.topology import control_address
from broker.timestamps import EPOCH, Instant, Micros
from coordinator.core.authorization import Restricted, objection
from coordinator.core.budgets.control import BudgetControl
from coordinator.core.budgets.enforcement import enforce, period_ended, store_changes
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
    TaskEnded,
    Tick,
    UpdateRequested,
    WaitBegan,
    WaitEnded,
)
from coordinator.core.groups.driver import GroupDriver
from coordinator.core.health.monitor import HealthMonitor
from coordinator.core.limits.control import LimitControl
from coordinator.core.limits.rate_limit import RateLimit
from coordinator.core.llms.control import LLMControl
from coordinator.core.llms.llm import LLM
from coordinator.core.llms.skill_match import Expertise
from coordinator.core.saved_reports import save_report
from coordinator.core.scheduling.decision import Policy
from coordinator.core.scheduling.dispatch import fill_slots
from coordinator.core.scheduling.earliest_finish import EarliestFinish
from coordinator.core.scheduling.stragglers import LOOK, move_stragglers
from coordinator.core.state import CoreState, StateChanges
from coordinator.core.tasks.attempts import AttemptReports
from coordinator.core.tasks.chat import Chat
from coordinator.core.tasks.control import TaskControl
from coordinator.core.tasks.dependencies import task_ended
from coordinator.core.tasks.notes import Notes
from coordinator.core.tasks.questions import Questions
from coordinator.core.tasks.submit import Submissions
from coordinator.core.tasks.task import Task

WINDOW = 5000  # ready tasks of a lane that are kept in memory


@dataclass(frozen=True, slots=True)
class MachineOptions:
    """How the machine of a coordinator decides; the same for every machine that takes over from another.

    `policy` makes the policy of one machine. With `expertise`, tasks that name no skills get those that their text
    suggests. With `require_identity`, not every user may ask for everything (see authorization). With `learn_quality`,
    the scores of reviews and votes count when tasks are assigned. With `trusts_labels`, an LLM with the label `local`
    is local; else only one that an operator calls local. `advice_for` returns what a sender can do about an address
    that has no mailbox.
    """

    lease: Micros
    policy: Callable[[], Policy] = EarliestFinish
    expertise: Expertise | None = None
    require_identity: bool = False
    learn_quality: bool = True
    trusts_labels: bool = True
    advice_for: Callable[[str], str] | None = None
    window: int = WINDOW


class Machine:
    """Decides what follows from what happens. Callers may read its `state`, and must not change it."""

    def __init__(self, options: MachineOptions, *, next_seq: int = 1) -> None:
        """`next_seq` is the number of the next new task."""
        learn_quality = options.learn_quality
        self.state = CoreState(
            lease=options.lease, window=options.window, next_seq=next_seq, trusts_labels=options.trusts_labels
        )
        self._require_identity = options.require_identity
        self._submissions = Submissions(self.state, expertise=options.expertise)
        self._control = TaskControl(self.state)
        self._health = HealthMonitor(self.state)
        self._llms = LLMControl(self.state, self._health)
        self._limits = LimitControl(self.state)
        self._budgets = BudgetControl(self.state)
        self._groups = GroupDriver(self.state, learn=learn_quality)
        self._learn_quality = learn_quality
        self._attempts = AttemptReports(self.state, self._health)
        self._questions = Questions(self.state)
        self._notes = Notes(self.state)
        self._chat = Chat(self.state, options.advice_for)
        self._policy = options.policy()
        self._looked_at = EPOCH

    def load(self, tasks: Iterable[Task]) -> None:
        """Add tasks from the database. A task that is in memory already stays as it is."""
        for task in tasks:
            if task.id not in self.state.tasks:
                self.state.tasks[task.id] = task
                self.state.borrowed.add(task.id)

    def restore(
        self,
        in_hand: Sequence[Task],
        llms: Iterable[LLM],
        lanes: Iterable[str],
        now: Instant,
        *,
        limits: Iterable[RateLimit] = (),
    ) -> None:
        """Take over from another machine: every lease begins again, and every lane needs a refill."""
        state = self.state
        for llm in llms:
            llm.label_counts = state.trusts_labels
            state.llms[llm.name] = llm
        if not self._learn_quality:
            for llm in state.llms.values():
                llm.learned.quality.clear()
        for task in in_hand:
            state.tasks[task.id] = task
            task.text_at = now
            llm = state.llm(task.llm or "")
            if task.status is Status.ASSIGNED or not task.instance:
                llm.unclaimed.add(task.id)
            else:
                llm.instance(task.instance, now, state.lease).hold(task.id, parked=task.parked)
            if not task.parked:
                llm.begin(task.id, task.size, task.spec.skills, task.started_at or task.assigned_at or now)
        state.limits.restore(limits, state.llms.values(), in_hand, now)
        self._attempts.outage(now)
        for llm in state.llms.values():
            llm.count()
            llm.was_available = llm.available
            state.ready.llm_changed(llm)
        state.freed_llms.update(state.llms)
        for lane in lanes:
            state.ready.expect(lane, now)

    def refill(self, lane: str, tasks: list[Task], asked: int) -> None:
        """Add the next pending tasks of a lane (see ReadyQueue.needs_refill).

        Every change must be stored: a task that the database does not return counts as not pending.
        """
        self.load(tasks)
        self.state.ready.refill(lane, [self.state.tasks[task.id] for task in tasks], asked)

    def handle(self, *events: Event, now: Instant) -> list[Command]:
        """Handle events; return the commands.

        Free slots are filled after all events, and after the ends of tasks are taken (see `take_ended`): dependents of
        these tasks may have the highest priority.
        """
        state = self.state
        for event in events:
            self._handle(event, now)
        enforce(state, now)
        self._fill_slots(now)
        if self._policy.moves_stragglers and self._looked_at + LOOK <= now and not self.unfinished:
            self._looked_at = now
            if move_stragglers(state, now):
                self._fill_slots(now)
        return state.take_commands()

    def _fill_slots(self, now: Instant) -> None:
        state = self.state
        for llm in state.freed_llms.values():
            if llm.free:
                state.ready.freed_llms(llm)
        state.freed_llms.clear()
        if state.ready.changed_lanes and not self.unfinished:
            fill_slots(state, self._policy, now)

    def take_ended(self) -> list[str]:
        """Return the ids of tasks that ended since the last call: `handle` needs a TaskEnded for each."""
        ended, self.state.ended = list(self.state.ended), {}
        for task_id in ended:
            self.state.budgets.tree_ended(task_id)
        return ended

    def concerns_others(self, task_id: str) -> bool:
        """Whether the end of a task concerns its parent, or tasks of the same batch."""
        state = self.state
        return task_id in state.waiting or task_id in state.children or bool(state.tasks[task_id].spec.parent_id)

    def take_dirty_groups(self) -> list[str]:
        """Return the ids of tasks that changed, or whose children did, since the last call: `handle` needs a
        GroupChanged for those that are for several LLMs.
        """
        dirty_groups, self.state.dirty_groups = list(self.state.dirty_groups), {}
        return dirty_groups

    @property
    def in_doubt(self) -> bool:
        """Whether a lease has expired, unless an unread message in the inbox extends it."""
        return self.state.in_doubt

    def control_queue(self, llm: str, instance: str) -> str:
        """Return the queue for the orders to an instance of an LLM."""
        known = self.state.llms.get(llm)
        return control_address(llm, instance) if known is None else known.control_queue(instance)

    @property
    def unfinished(self) -> bool:
        """Whether `take_ended` or `take_dirty_groups` has something to return."""
        return bool(self.state.ended or self.state.dirty_groups)

    def take_changes(self) -> StateChanges:
        """Return the changes to store."""
        state = self.state
        state.any_dependencies = state.any_dependencies or bool(state.changes.waits)
        state.any_children = state.any_children or bool(state.children)
        store_changes(state)
        changes, state.changes, state.waiting, state.children = state.changes, StateChanges(), {}, {}
        changes.limits, changes.forgotten_limits = state.limits.take_changed()
        return changes

    def forget(self, now: Instant) -> None:
        """After the commit, drop tasks that are not assigned, running, or in the window of ready tasks."""
        state = self.state
        for task_id in state.borrowed:
            task = state.tasks.get(task_id)
            if task and not task.in_hand and not (task.status is Status.PENDING and task in state.ready):
                del state.tasks[task_id]
        state.borrowed.clear()
        for task_id in state.ready.forget():
            del state.tasks[task_id]
        state.budgets.forget(state.tasks.values(), now)

    def _handle(self, event: Event, now: Instant) -> None:
        if self._require_identity and isinstance(event, Restricted) and self._is_refused(event):
            return
        match event:
            case Submitted():
                self._submissions.submitted(event, now)
            case Claimed():
                self._attempts.claimed(event, now)
            case Reported():
                self._attempts.reported(event, now)
            case BeingChecked():
                self._attempts.being_checked(event, now)
            case Heartbeat():
                self._attempts.heartbeat(event, now)
            case Progressed():
                self._attempts.progressed(event, now)
            case InstanceLeft():
                self._attempts.left(event, now)
            case WaitBegan():
                self._questions.wait_began(event, now)
            case WaitEnded():
                self._questions.wait_ended(event, now)
            case AnswerGiven():
                self._questions.answered(event, now)
            case Shared():
                self._notes.shared(event, now)
            case NotesRequested():
                self._notes.requested(event)
            case TaskEnded():
                task_ended(self.state, event, now)
            case GroupChanged():
                self._groups.advance(event, now)
            case Tick():
                self._tick(event, now)
            case Outage():
                self._attempts.outage(now)
            case ClockSet(by):
                self._clock_set(by)
            case MessageSent() | MessageUndelivered():
                self._chat.handle(event, now)
            case CancelRequested():
                self._control.cancel(event, now)
            case RetryRequested():
                self._control.retry(event, now)
            case AssignRequested():
                self._control.assign(event, now)
            case UpdateRequested():
                self._control.update(event, now)
            case ManageRequested():
                self._llms.manage(event, now)
            case ManageLimitRequested():
                self._limits.manage(event, now)
            case ManageBudgetRequested():
                self._budgets.manage(event, now)
            case ManageSpendingRequested():
                self._budgets.stop_or_allow(event, now)
            case ReportSaved():
                save_report(self.state, event, now)
            case _:
                assert_never(event)

    def _is_refused(self, event: Restricted) -> bool:
        """Refuse a request that its sender may not make; return whether that is so."""
        state = self.state
        problem = objection(event, state.tasks, state.llms)
        if problem is not None:
            match event:
                case ManageRequested():
                    about = event.order.llm
                case ManageLimitRequested():
                    about = event.order.limit
                case ManageBudgetRequested():
                    about = event.order.budget
                case ManageSpendingRequested():
                    about = "spending"
                case ReportSaved():
                    about = event.name
                case Shared():
                    about = event.note.board
                case NotesRequested():
                    about = event.board
                case _:
                    about = event.task_id
            state.refuse(about, event.sender, problem, origin=event.origin if isinstance(event, Submitted) else None)
        return problem is not None

    def _tick(self, tick: Tick, now: Instant) -> None:
        state = self.state
        for task_id in tick.woken:
            task = state.tasks[task_id]
            if not state.unblock(task, now) and task.status is Status.IN_PROGRESS:
                state.dirty_groups[task_id] = None
            elif task.status is Status.INPUT_REQUIRED and task.waits_for is not None:
                period_ended(state, task, now)
        for task_id in tick.overdue:
            task = state.tasks[task_id]
            if not task.overdue and not task.status.is_final and task.due is not None and task.due <= now:
                task.overdue = True
                state.touch(task)
                state.announce_overdue(task, now)
        self._attempts.tick(now, now if tick.heard_until is None else tick.heard_until)
        self._health.tick(now)
        state.ready.time_passed()

    def _clock_set(self, by: Micros) -> None:
        """Move every measured time along with the clock."""
        self._looked_at = Instant(self._looked_at + by)
        self._attempts.clock_set(by)
        self._health.clock_set(by)
        self.state.ready.clock_set(by)
