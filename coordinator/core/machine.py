"""The decisions of the coordinator: events in, changes and commands out. No I/O, no clock.

`transaction` drives a machine: it loads the tasks that the events are about, has the events handled, and drops tasks
from memory. A machine whose changes could not be stored is thrown away, and another one is built from the database.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import assert_never

from broker.protocol.status import Status
from broker.protocol.topology import control_address
from broker.timestamps import EPOCH, Instant, Micros
from coordinator.core.authorization import Restricted, objection
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
    ManageRequested,
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
    the scores of reviews and votes count when tasks are assigned.
    """

    lease: Micros
    policy: Callable[[], Policy] = EarliestFinish
    expertise: Expertise | None = None
    require_identity: bool = False
    learn_quality: bool = True
    window: int = WINDOW


class Machine:
    """Decides what follows from what happens. Callers may read its `board`, and must not change it."""

    def __init__(self, options: MachineOptions, *, next_seq: int = 1) -> None:
        """`next_seq` is the number of the next new task."""
        learn_quality = options.learn_quality
        self.board = CoreState(lease=options.lease, window=options.window, next_seq=next_seq)
        self._require_identity = options.require_identity
        self._submissions = Submissions(self.board, expertise=options.expertise)
        self._control = TaskControl(self.board)
        self._llms = LLMControl(self.board)
        self._groups = GroupDriver(self.board, learn=learn_quality)
        self._learn_quality = learn_quality
        self._work = AttemptReports(self.board)
        self._questions = Questions(self.board)
        self._notes = Notes(self.board)
        self._mail = Chat(self.board)
        self._policy = options.policy()
        self._looked_at = EPOCH

    def load(self, tasks: Iterable[Task]) -> None:
        """Take in tasks from the database. A task that is in memory already stays as it is."""
        for task in tasks:
            if task.id not in self.board.tasks:
                self.board.tasks[task.id] = task
                self.board.borrowed.add(task.id)

    def restore(self, in_hand: Iterable[Task], llms: Iterable[LLM], lanes: Iterable[str], now: Instant) -> None:
        """Take over: every lease is extended once, and every lane is to be refilled."""
        board = self.board
        board.llms.update((llm.name, llm) for llm in llms)
        if not self._learn_quality:
            for llm in board.llms.values():
                llm.learned.quality.clear()
        for task in in_hand:
            board.tasks[task.id] = task
            task.text_at = now
            llm = board.llm(task.llm or "")
            if task.status is Status.ASSIGNED or not task.instance:
                llm.unclaimed.add(task.id)
            else:
                llm.instance(task.instance, now, board.lease).hold(task.id, parked=task.parked)
            if not task.parked:
                llm.begin(task.id, task.size, task.spec.skills, task.started_at or task.assigned_at or now)
        self._work.outage(now)
        for llm in board.llms.values():
            llm.count()
            board.ready.llm_changed(llm)
        board.freed_llms.update(board.llms)
        for lane in lanes:
            board.ready.expect(lane, now)

    def refill(self, lane: str, tasks: list[Task], asked: int) -> None:
        """Take in the next pending tasks of a hungry lane (see Ready.hungry).

        Only when every change is stored: what the database does not tell as pending is taken for not pending.
        """
        self.load(tasks)
        self.board.ready.refill(lane, [self.board.tasks[task.id] for task in tasks], asked)

    def handle(self, *events: Event, now: Instant) -> list[Command]:
        """What these events lead to.

        Free slots are filled after all of them, and not before the ends of tasks are taken (see `take_ended`): who
        waits for these may be the most urgent.
        """
        board = self.board
        for event in events:
            self._handle(event, now)
        self._fill_slots(now)
        if self._policy.moves_stragglers and self._looked_at + LOOK <= now and not self.unfinished:
            self._looked_at = now
            if move_stragglers(board, now):
                self._fill_slots(now)
        return board.take_commands()

    def _fill_slots(self, now: Instant) -> None:
        board = self.board
        for llm in board.freed_llms.values():
            if llm.free:
                board.ready.freed_llms(llm)
        board.freed_llms.clear()
        if board.ready.changed_lanes and not self.unfinished:
            fill_slots(board, self._policy, now)

    def take_ended(self) -> list[str]:
        """Ids of tasks that have ended since the last call: what that means to others is to be told by `handle`."""
        ended, self.board.ended = list(self.board.ended), {}
        return ended

    def concerns_others(self, task_id: str) -> bool:
        """Whether the end of a task means something to its parent, or to tasks that came in the same batch."""
        board = self.board
        return task_id in board.waiting or task_id in board.children or bool(board.tasks[task_id].spec.parent_id)

    def take_dirty_groups(self) -> list[str]:
        """Ids of tasks for several LLMs, or of tasks that have parts, that something has happened to since the last
        call: where they are the former, that is to be told by `handle`.
        """
        dirty_groups, self.board.dirty_groups = list(self.board.dirty_groups), {}
        return dirty_groups

    @property
    def in_doubt(self) -> bool:
        """Whether a lease has run out unless the inbox holds a sign of life: to be heard before it is judged."""
        return self.board.in_doubt

    def control_queue(self, llm: str, instance: str) -> str:
        """The queue for the orders to that instance of an LLM."""
        known = self.board.llms.get(llm)
        return control_address(llm, instance) if known is None else known.control_queue(instance)

    @property
    def unfinished(self) -> bool:
        """Whether there is something to take by `take_ended` or `take_dirty_groups`."""
        return bool(self.board.ended or self.board.dirty_groups)

    def take_changes(self) -> StateChanges:
        """What is to be stored."""
        board = self.board
        board.any_dependencies = board.any_dependencies or bool(board.changes.waits)
        board.any_children = board.any_children or bool(board.children)
        changes, board.changes, board.waiting, board.children = board.changes, StateChanges(), {}, {}
        return changes

    def forget(self) -> None:
        """Drop from memory, after the commit, what is neither in hand nor in the window of ready tasks."""
        board = self.board
        for task_id in board.borrowed:
            task = board.tasks.get(task_id)
            if task and not task.in_hand and not (task.status is Status.PENDING and task in board.ready):
                del board.tasks[task_id]
        board.borrowed.clear()
        for task_id in board.ready.forget():
            del board.tasks[task_id]

    def _handle(self, event: Event, now: Instant) -> None:
        if self._require_identity and isinstance(event, Restricted) and self._is_refused(event):
            return
        match event:
            case Submitted():
                self._submissions.submitted(event, now)
            case Claimed():
                self._work.claimed(event, now)
            case Reported():
                self._work.reported(event, now)
            case BeingChecked():
                self._work.being_checked(event, now)
            case Heartbeat():
                self._work.seen(event, now)
            case Progressed():
                self._work.progressed(event, now)
            case InstanceLeft():
                self._work.left(event, now)
            case WaitBegan():
                self._questions.waited(event, now)
            case WaitEnded():
                self._questions.resumed(event, now)
            case AnswerGiven():
                self._questions.answered(event, now)
            case Shared():
                self._notes.shared(event, now)
            case NotesRequested():
                self._notes.requested(event)
            case TaskEnded():
                task_ended(self.board, event, now)
            case GroupChanged():
                self._groups.dirty_groups(event, now)
            case Tick():
                self._tick(event, now)
            case Outage():
                self._work.outage(now)
            case ClockSet(by):
                self._clock_set(by)
            case MessageSent() | MessageUndelivered():
                self._mail.handle(event, now)
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
            case ReportSaved():
                save_report(self.board, event, now)
            case _:
                assert_never(event)

    def _is_refused(self, event: Restricted) -> bool:
        """Whether its sender may not ask that, and is told so."""
        board = self.board
        problem = objection(event, board.tasks, board.llms)
        if problem is not None:
            match event:
                case ManageRequested():
                    about = event.order.llm
                case ReportSaved():
                    about = event.name
                case Shared():
                    about = event.note.board
                case NotesRequested():
                    about = event.board
                case _:
                    about = event.task_id
            board.refuse(about, event.sender, problem, origin=event.origin if isinstance(event, Submitted) else None)
        return problem is not None

    def _tick(self, tick: Tick, now: Instant) -> None:
        board = self.board
        for task_id in tick.woken:
            task = board.tasks[task_id]
            if not board.unblock(task, now) and task.status is Status.IN_PROGRESS:
                board.dirty_groups[task_id] = None
        for task_id in tick.overdue:
            task = board.tasks[task_id]
            if not task.overdue and not task.status.is_final and task.due is not None and task.due <= now:
                task.overdue = True
                board.touch(task)
                board.announce_overdue(task, now)
        self._work.tick(now, now if tick.heard_until is None else tick.heard_until)
        board.ready.time_passed()

    def _clock_set(self, by: Micros) -> None:
        """Go on measuring from where everything was by the clock as it was before."""
        self._looked_at = Instant(self._looked_at + by)
        self._work.clock_set(by)
        self.board.ready.clock_set(by)
