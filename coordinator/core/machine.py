"""The coordinator's mind: facts in, changes and messages out. No I/O, no clock.

The caller loads the tasks that an event is about (`needs`), passes events with the time to `handle`, stores
`take_changes()` in one transaction, publishes the commands, and then lets `forget` drop what need not stay in
memory. A machine whose changes could not be stored is thrown away and built anew from the database.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import assert_never

from broker.errors import Problem
from broker.instants import Instant, Micros, from_datetime, seconds
from broker.messages import Failure, Result, Status
from coordinator.core.assignment import Decision, EarliestFinish, Held, Policy
from coordinator.core.commands import Announce, AnnounceLLM, Answer, AnswerType, Assign, Command, Refuse, Stop, View
from coordinator.core.dependencies import find_cycle
from coordinator.core.events import (
    NEVER,
    CancelRequested,
    Claimed,
    DependencyEnded,
    Event,
    Left,
    Progressed,
    Reported,
    RetryRequested,
    Seen,
    Sender,
    Submitted,
    Tick,
)
from coordinator.core.lifecycle import Trigger
from coordinator.core.pool import LLM, Instance
from coordinator.core.ready import Ready
from coordinator.core.task import Attempt, Task, view

COORDINATOR = "coordinator"
FIRST_PAUSE, LONGEST_PAUSE = seconds(1), seconds(60)  # before a failed task is tried again
LONGEST_RUN = 100 * 365 * 86_400.0  # seconds
NOT_YOURS = "the task is no longer yours"


@dataclass(slots=True)
class Changes:
    """What a batch changed and the database has to hold before anything is published."""

    new: list[Task] = field(default_factory=list)
    changed: dict[str, Task] = field(default_factory=dict)
    attempts: list[tuple[Task, Attempt]] = field(default_factory=list)
    waits: list[tuple[Task, frozenset[str]]] = field(default_factory=list)  # new tasks and their open dependencies
    met: list[str] = field(default_factory=list)  # ids of ended tasks whose dependents have been told
    llms: dict[str, LLM] = field(default_factory=dict)


class Machine:
    """The tasks in hand, a window on the ready ones, the LLMs, and what to do when something happens."""

    def __init__(self, *, lease: Micros, window: int = 2000, next_seq: int = 1, policy: Policy | None = None) -> None:
        self.tasks: dict[str, Task] = {}
        self.llms: dict[str, LLM] = {}
        self.ready = Ready(window)
        self.next_wake: Instant = NEVER
        self._lease = lease
        self._next_seq = next_seq
        self._policy = policy or EarliestFinish()
        self._changes = Changes()
        self._waiting: dict[str, list[Task]] = {}  # new tasks by each open dependency
        self._guests: set[str] = set()
        self._ended: dict[str, None] = {}
        self._commands: list[Command] = []
        self._shown: tuple[Task, View] | None = None  # the view of an unchanged task is taken once
        self._opened: dict[str, LLM] = {}  # LLMs that may have a slot that they had not before

    # -- the caller's side -----------------------------------------------------------------------------------------

    @staticmethod
    def needs(event: Event) -> Iterable[str]:
        """The ids of the tasks that must be loaded, where they exist, before the event is handled."""
        match event:
            case Submitted(task_id, spec):
                return (task_id, *spec.depends_on)
            case CancelRequested(task_id) | RetryRequested(task_id):
                return (task_id,)
            case Claimed(_, claim):
                return (claim.task_id,)
            case Reported(_, result):
                return (result.task_id,)
            case DependencyEnded(task_id, dependents):
                return (task_id, *dependents)
            case Tick(woken):
                return woken
            case Seen() | Left() | Progressed():
                return ()
            case _:
                assert_never(event)

    def load(self, tasks: Iterable[Task]) -> None:
        """Take in tasks from the database. A task that is in memory already stays as it is."""
        for task in tasks:
            if task.id not in self.tasks:
                self.tasks[task.id] = task
                self._guests.add(task.id)

    def restore(self, in_hand: Iterable[Task], llms: Iterable[LLM], lanes: Iterable[str], now: Instant) -> None:
        """Take over: every lease is extended once, and every lane is to be refilled."""
        self.llms = {llm.name: llm for llm in llms}
        for llm in self.llms.values():
            for instance in llm.instances.values():
                instance.lease_until = Instant(now + self._lease)
        for task in in_hand:
            self.tasks[task.id] = task
            task.named_at = now
            llm = self._llm(task.llm or "")
            if task.status is Status.IN_PROGRESS and task.instance:
                llm.instance(task.instance, now, self._lease).held.add(task.id)
            else:
                llm.unclaimed.add(task.id)
            llm.begin(task.id, task.size, task.spec.skills, task.started_at or task.assigned_at or now)
        for llm in self.llms.values():
            llm.count()
            self.ready.llm_changed(llm)
        self._opened.update(self.llms)
        for lane in lanes:
            self.ready.expect(lane, now)

    def refill(self, lane: str, tasks: list[Task], asked: int) -> None:
        """Take in the best pending tasks of a hungry lane (see Ready.hungry).

        Only when every change is stored: what the database does not tell as pending is taken for not pending.
        """
        self.load(tasks)
        self.ready.refill(lane, [self.tasks[task.id] for task in tasks], asked)

    def handle(self, *events: Event, now: Instant) -> list[Command]:
        """What these events lead to.

        Free slots are filled after all of them, and not before the ends of tasks are taken (see `take_ended`): who
        waits for these may be the most urgent.
        """
        for event in events:
            self._handle(event, now)
        for llm in self._opened.values():
            if llm.free:
                self.ready.opened(llm, now)
        self._opened.clear()
        if self.ready.touched and not self._ended:
            self._assign(now)
        commands, self._commands = self._commands, []
        return commands

    def take_ended(self) -> list[str]:
        """Ids of tasks that have ended since the last call: whoever depends on them is to be told by `handle`."""
        ended, self._ended = list(self._ended), {}
        return ended

    @property
    def new_dependencies(self) -> bool:
        """Whether a task of this batch waits for another."""
        return bool(self._changes.waits)

    def take_changes(self) -> Changes:
        """What is to be stored."""
        changes, self._changes, self._waiting = self._changes, Changes(), {}
        return changes

    def forget(self) -> None:
        """Drop from memory, after the commit, what is neither in hand nor in the window of ready tasks."""
        for task_id in self._guests:
            task = self.tasks.get(task_id)
            if task and not task.in_hand and not (task.status is Status.PENDING and task in self.ready):
                del self.tasks[task_id]
        self._guests.clear()
        self.ready.forget_empty()

    # -- events ----------------------------------------------------------------------------------------------------

    def _handle(self, event: Event, now: Instant) -> None:
        match event:
            case Submitted():
                self._submitted(event, now)
            case Claimed():
                self._claimed(event, now)
            case Reported(llm, result):
                self._reported(llm, result, now)
            case Seen():
                self._seen(event, now)
            case Progressed(llm, progress):
                task = self._held(progress.task_id, progress.attempt, llm, progress.instance)
                if task:
                    task.named_at = now
            case Left(goodbye):
                leaving = self.llms.get(goodbye.name)
                if leaving and (instance := leaving.instances.get(goodbye.instance)):
                    self._drop_instance(leaving, instance, "the instance left", now)
            case CancelRequested():
                self._cancel(event, now)
            case RetryRequested():
                self._retry(event, now)
            case DependencyEnded(task_id, dependents):
                self._dependency_ended(task_id, dependents, now)
            case Tick(woken):
                self._tick(woken, now)
            case _:
                assert_never(event)

    def _submitted(self, event: Submitted, now: Instant) -> None:
        spec, sender = event.spec, event.sender
        known = self.tasks.get(event.task_id)
        if known is not None:  # published again: answered with what is known, at the newest address
            if sender.reply_to:
                known.reply_to, known.correlation_id = sender.reply_to, sender.correlation_id
                self._touch(known)
            self._answer(known, "task.accepted")
            if known.status.is_final:
                self._answer(known, _final_answer(known.status))
            return
        if circle := self._circle(event):
            problem = Problem("depends_on", "a cycle: " + " -> ".join(circle))
            self._refuse(event.task_id, sender, problem, is_submission=True)
            return
        task = Task(
            id=event.task_id,
            seq=self._next_seq,
            spec=spec,
            status=Status.BLOCKED,
            priority=event.priority,
            submitted_at=now,
            submitted_by=sender.user,
            reply_to=sender.reply_to,
            correlation_id=sender.correlation_id,
        )
        self._next_seq += 1
        self.tasks[task.id] = task
        self._guests.add(task.id)
        self._changes.new.append(task)
        failed = self._count_dependencies(task)
        if spec.not_before is not None:
            task.wake_at = from_datetime(spec.not_before)
        if failed is not None or not self._unblock(task, now):
            self._announce(task, now)
        self._answer(task, "task.accepted")
        if failed is not None:
            self._fail_dependent(task, failed, now)

    def _count_dependencies(self, task: Task) -> Task | None:
        """Count what it still waits for; returns the dependency whose failure it does not survive, if any."""
        if not task.spec.depends_on:
            return None
        known = [self.tasks[id_] for id_ in task.spec.depends_on if id_ in self.tasks]
        over = {dependency.id: dependency for dependency in known if dependency.status.is_final}
        failed = [d for d in over.values() if d.status is not Status.COMPLETED]
        open_ones = frozenset(task.spec.depends_on) - over.keys()
        task.waiting_on = len(open_ones)
        self._changes.waits.append((task, open_ones))
        for dependency in open_ones:
            self._waiting.setdefault(dependency, []).append(task)
        return failed[0] if failed and task.spec.on_dependency_failure == "fail" else None

    def _circle(self, event: Submitted) -> list[str] | None:
        """The circle that a new task would close. It can only close one when another task waits for it already."""
        if not event.ancestry and event.task_id not in self._waiting:
            return None
        fresh = {task.id: task.spec.depends_on for task, _ in self._changes.waits}
        return find_cycle(event.task_id, event.spec.depends_on, {**event.ancestry, **fresh})

    def _cancel(self, event: CancelRequested, now: Instant) -> None:
        task = self.tasks.get(event.task_id)
        if task is None:
            self._refuse(event.task_id, event.sender, Problem("id", "there is no such task"))
            return
        if task.status.is_final:
            self._refuse(event.task_id, event.sender, Problem("id", f"the task is over already: {task.status}"))
            return
        reason = f": {event.reason}" if event.reason else ""
        where = f" while {task.status.replace('_', ' ')} at {task.llm}" if task.in_hand else f" while {task.status}"
        task.note(now, event.sender.user or "anonymous", f"cancelled{where}{reason}")
        self._stop_and_take_back(task, "cancelled", now)
        self._finish(task, Trigger.CANCEL, now)
        self._answer_to(event.sender, "task.cancelled", task)

    def _retry(self, event: RetryRequested, now: Instant) -> None:
        task = self.tasks.get(event.task_id)
        if task is None:
            self._refuse(event.task_id, event.sender, Problem("id", "there is no such task"))
            return
        if not task.status.is_final:
            self._refuse(event.task_id, event.sender, Problem("id", f"the task is not over: {task.status}"))
            return
        task.note(now, event.sender.user or "anonymous", f"retried after it was {task.status}")
        task.move(Trigger.RETRY)
        task.starts = 0
        task.wake_at = None if task.spec.not_before is None else from_datetime(task.spec.not_before)
        self._ended.pop(task.id, None)  # whoever depends on it waits for its new end
        task.llm = task.instance = task.why = task.result = task.error = task.usage = task.duration = None
        task.ready_at = task.assigned_at = task.started_at = task.finished_at = None
        if event.sender.reply_to:
            task.reply_to, task.correlation_id = event.sender.reply_to, event.sender.correlation_id
        self._touch(task)
        if not self._unblock(task, now):
            self._announce(task, now)
        self._answer_to(event.sender, "task.accepted", task)

    def _seen(self, event: Seen, now: Instant) -> None:
        presence = event.presence
        llm = self._llm(presence.name)
        before, offers = llm.state, (llm.skills, llm.labels, llm.slots)
        llm.see(presence, now, self._lease)
        self._changes.llms[llm.name] = llm
        if (llm.skills, llm.labels, llm.slots) != offers:
            self.ready.llm_changed(llm)
        self._opened[llm.name] = llm
        if llm.state != before:
            self._commands.append(AnnounceLLM(now, llm.name, llm.state))
        for holding in presence.tasks:
            task = self._held(holding.task_id, holding.attempt, llm.name, presence.instance)
            if task:
                task.named_at = now
            elif not self._may_claim(holding.task_id, holding.attempt, llm.name):  # an earlier stop got lost
                self._stop(llm.name, presence.instance, holding.task_id, holding.attempt, NOT_YOURS)

    def _claimed(self, event: Claimed, now: Instant) -> None:
        claim = event.claim
        task = self.tasks.get(claim.task_id)
        mine = task is not None and task.llm == event.llm and task.attempt == claim.attempt
        if task and mine and task.status is Status.ASSIGNED:
            llm = self.llms[event.llm]
            task.move(Trigger.CLAIM)
            task.instance, task.started_at, task.named_at = claim.instance, now, now
            task.starts += 1
            free = llm.free
            llm.unclaimed.discard(task.id)
            llm.instance(claim.instance, now, self._lease).held.add(task.id)
            llm.count()
            if llm.free > free:
                self._opened[llm.name] = llm
            self._touch(task)
            self._announce(task, now)
        elif not (task and mine and task.instance == claim.instance):
            self._stop(event.llm, claim.instance, claim.task_id, claim.attempt, NOT_YOURS)

    def _reported(self, llm: str, result: Result, now: Instant) -> None:
        task = self.tasks.get(result.task_id)
        if task is None:
            return
        if task.in_hand and task.attempt == result.attempt and task.llm == llm:
            self._attempt_ended(task, result, now)
            return
        tried = [a for a in task.attempts if a.attempt == result.attempt and a.llm == llm]
        if any(a.outcome == result.outcome and a.instance == result.instance for a in tried):
            return  # the same result once more
        if result.outcome == "completed" and tried and not task.status.is_final:
            self._late_result(task, llm, result, now)
        elif result.outcome != "cancelled":  # else it obeys a stop
            over = f"the task was {task.status}" if task.status.is_final else result.outcome
            task.note(now, llm, f"stale result of attempt {result.attempt}: {over}")
            self._touch(task)

    def _attempt_ended(self, task: Task, result: Result, now: Instant) -> None:
        if task.status is Status.ASSIGNED:  # its claim was lost
            task.starts += 1
            task.started_at = now
        task.instance = result.instance
        task.usage = result.usage
        task.duration = _run_time(result)
        llm = self._take_back(task)
        if result.outcome == "completed":
            task.result = result.result
            self._record(task, task.end_attempt(now, "completed"))
            if task.duration is not None:
                llm.learn(task.duration)  # stored with the next beat
                llm.learned.learn(task.spec.skills, task.size, task.duration, now)
            self._finish(task, Trigger.COMPLETE, now)
            return
        error = result.error or Failure(type="stopped", message="the worker gave the task up")
        self._record(task, task.end_attempt(now, result.outcome, error))
        if error.retryable and task.starts < task.spec.max_attempts:
            pause = min(FIRST_PAUSE * 2 ** (task.starts - 1), LONGEST_PAUSE)
            task.move(Trigger.BACK_OFF)
            task.wake_at = Instant(now + pause)
            self.next_wake = min(self.next_wake, task.wake_at)
            self._touch(task)
            self._announce(task, now)
        else:
            task.error = error
            self._finish(task, Trigger.FAIL, now)

    def _late_result(self, task: Task, llm: str, result: Result, now: Instant) -> None:
        """An older attempt has the answer after all: it counts, and the newer attempt is stopped."""
        if task.in_hand:
            self._stop_and_take_back(task, "superseded by a late result", now)
        else:
            self.ready.discard(task)
        task.note(now, llm, f"late result of attempt {result.attempt} accepted")
        task.llm, task.instance, task.usage, task.result = llm, result.instance, result.usage, result.result
        task.duration = _run_time(result)
        for ended in [a for a in task.attempts if a.attempt == result.attempt]:
            task.attempts.remove(ended)
            task.assigned_at, task.started_at, task.why = ended.assigned_at, ended.started_at, ended.why
            task.ready_at = ended.assigned_at  # the latest that it can have been; by now it tells of a newer attempt
        newest, task.attempt = task.attempt, result.attempt
        self._record(task, task.end_attempt(now, "completed"))
        task.attempt = newest
        task.attempts.sort(key=lambda attempt: attempt.attempt)
        self._finish(task, Trigger.COMPLETE, now)

    def _dependency_ended(self, task_id: str, dependents: Iterable[str], now: Instant) -> None:
        ended = self.tasks[task_id]
        self._changes.met.append(task_id)
        stored = [self.tasks[dependent] for dependent in dependents]
        for task in [*stored, *self._waiting.get(task_id, ())]:
            task.waiting_on -= 1
            self._touch(task)
            failed = ended.status is not Status.COMPLETED and task.spec.on_dependency_failure == "fail"
            if failed and task.status is Status.BLOCKED:
                self._fail_dependent(task, ended, now)
            else:
                self._unblock(task, now)

    def _fail_dependent(self, task: Task, dependency: Task, now: Instant) -> None:
        message = f"{dependency.id}, which this task depends on, was {dependency.status}"
        task.error = Failure(type="dependency_failed", message=message, retryable=False)
        self._finish(task, Trigger.FAIL, now)

    # -- time ------------------------------------------------------------------------------------------------------

    def _tick(self, woken: Iterable[str], now: Instant) -> None:
        for task_id in woken:
            self._unblock(self.tasks[task_id], now)
        for llm in list(self.llms.values()):
            for instance in list(llm.instances.values()):
                if instance.lease_until <= now:
                    self._drop_instance(llm, instance, "the instance fell silent", now)
                    continue
                for task in [self.tasks[task_id] for task_id in instance.held]:
                    if task.named_at + self._lease <= now:
                        self._lose(task, "its worker no longer has it", now)
            for task in [self.tasks[task_id] for task_id in llm.unclaimed]:
                if task.named_at + self._lease <= now:
                    self._lose(task, "nobody claimed it", now)
        self.ready.time_passed()

    def _drop_instance(self, llm: LLM, instance: Instance, reason: str, now: Instant) -> None:
        before = llm.state
        lost = [self.tasks[task_id] for task_id in instance.held]
        del llm.instances[instance.id]
        if not llm.instances:
            lost += [self.tasks[task_id] for task_id in llm.unclaimed]
        for task in lost:
            self._lose(task, reason, now)
        llm.count()
        self._changes.llms[llm.name] = llm
        if llm.state != before:
            self._commands.append(AnnounceLLM(now, llm.name, llm.state))

    def _lose(self, task: Task, reason: str, now: Instant) -> None:
        """Take a task from an LLM that has lost it; try again while attempts are left."""
        error = Failure(type="lost", message=f"{reason} (attempt {task.attempt} at {task.llm})")
        started = task.status is Status.IN_PROGRESS
        if started and task.instance:
            self._stop(task.llm or "", task.instance, task.id, task.attempt, reason)
        self._take_back(task)
        self._record(task, task.end_attempt(now, "lost" if started else "unclaimed", error))
        if task.starts >= task.spec.max_attempts:
            task.error = error
            self._finish(task, Trigger.FAIL, now)
            return
        task.move(Trigger.RELEASE)
        self._make_ready(task, now)

    # -- steps -----------------------------------------------------------------------------------------------------

    def _unblock(self, task: Task, now: Instant) -> bool:
        """Make a blocked task ready when nothing holds it any more; else see to it that it wakes in time."""
        if task.status is not Status.BLOCKED or task.waiting_on:
            return False
        if task.wake_at is not None and task.wake_at > now:
            self.next_wake = min(self.next_wake, task.wake_at)
            return False
        task.wake_at = None
        task.move(Trigger.READY)
        self._make_ready(task, now)
        return True

    def _make_ready(self, task: Task, now: Instant) -> None:
        task.ready_at = now
        task.llm = task.instance = task.why = task.assigned_at = task.started_at = None
        self._touch(task)
        self._announce(task, now)
        self._guests.update(self.ready.add(task, now))

    def _assign(self, now: Instant) -> None:
        """Fill free slots from the lanes in which something has changed, the first in rank first."""
        lanes = {lane.key: lane for lane in self.ready.take_touched()}
        order = [(lane.order[0], key) for key, lane in lanes.items()]
        heapify(order)
        while order:
            _, key = heappop(order)
            lane = lanes[key]
            match self._policy.pick(lane, self.ready, now):
                case Decision() as decision:
                    lane.remove(decision.task.id)
                    self._give(decision, now)
                    if decision.llm.free:
                        lane.offer(decision.llm, now)
                    if lane.order:
                        heappush(order, (lane.order[0], key))
                case Held(tasks, why):
                    self.ready.hold(lane)
                    self._tell_why(tasks, why)

    def _tell_why(self, tasks: Iterable[Task], why: str) -> None:
        for task in tasks:
            if task.why is None:
                task.why = why
                self._touch(task)

    def _give(self, decision: Decision, now: Instant) -> None:
        task, llm = decision.task, decision.llm
        task.move(Trigger.ASSIGN)
        task.attempt += 1
        task.llm, task.why, task.assigned_at, task.named_at = llm.name, decision.why, now, now
        task.usage = task.duration = None
        llm.unclaimed.add(task.id)
        llm.begin(task.id, task.size, task.spec.skills, now)
        llm.free -= 1
        self._touch(task)
        self._commands.append(Assign(task.id, task.attempt, llm.name))
        self._announce(task, now)

    def _stop_and_take_back(self, task: Task, reason: str, now: Instant) -> None:
        if task.in_hand:
            if task.instance and task.llm:
                self._stop(task.llm, task.instance, task.id, task.attempt, reason)
            self._take_back(task)
            self._record(task, task.end_attempt(now, "cancelled"))
        else:
            self.ready.discard(task)

    def _take_back(self, task: Task) -> LLM:
        llm = self._llm(task.llm or "")
        llm.give_up(task.id)
        self._opened[llm.name] = llm
        return llm

    def _finish(self, task: Task, trigger: Trigger, now: Instant) -> None:
        if task.status is Status.PENDING:
            self.ready.discard(task)
        task.move(trigger)
        task.finished_at = now
        task.wake_at = None
        self._touch(task)
        self._announce(task, now)
        self._answer(task, _final_answer(task.status))
        self._ended[task.id] = None

    def _held(self, task_id: str, attempt: int, llm: str, instance: str) -> Task | None:
        task = self.tasks.get(task_id)
        held = task and task.status is Status.IN_PROGRESS and task.attempt == attempt
        return task if task and held and task.llm == llm and task.instance == instance else None

    def _may_claim(self, task_id: str, attempt: int, llm: str) -> bool:
        task = self.tasks.get(task_id)
        return task is not None and task.status is Status.ASSIGNED and task.attempt == attempt and task.llm == llm

    def _stop(self, llm: str, instance: str, task_id: str, attempt: int, reason: str) -> None:
        self._commands.append(Stop(llm, instance, task_id, attempt, reason))

    def _llm(self, name: str) -> LLM:
        if name not in self.llms:
            self.llms[name] = LLM(name)
            self.ready.llm_changed(self.llms[name])
        return self.llms[name]

    def _touch(self, task: Task) -> None:
        self._shown = None
        self._changes.changed[task.id] = task
        self._guests.add(task.id)

    def _record(self, task: Task, attempt: Attempt) -> None:
        self._changes.attempts.append((task, attempt))

    def _view(self, task: Task) -> View:
        if self._shown is None or self._shown[0] is not task:
            self._shown = (task, view(task))
        return self._shown[1]

    def _announce(self, task: Task, now: Instant) -> None:
        self._commands.append(Announce(now, self._view(task)))

    def _answer(self, task: Task, kind: AnswerType) -> None:
        if task.reply_to:
            self._commands.append(Answer(kind, task.reply_to, task.correlation_id, self._view(task)))

    def _answer_to(self, sender: Sender, kind: AnswerType, task: Task) -> None:
        if sender.reply_to:
            self._commands.append(Answer(kind, sender.reply_to, sender.correlation_id, self._view(task)))

    def _refuse(self, task_id: str, sender: Sender, problem: Problem, *, is_submission: bool = False) -> None:
        self._commands.append(Refuse(task_id, (problem,), sender.reply_to, sender.correlation_id, is_submission))


def _run_time(result: Result) -> Micros | None:
    """How long the worker says that it took, within what the database can hold."""
    return None if result.duration is None else seconds(min(result.duration, LONGEST_RUN))


def _final_answer(status: Status) -> AnswerType:
    match status:
        case Status.COMPLETED:
            return "task.completed"
        case Status.FAILED:
            return "task.failed"
        case _:
            return "task.cancelled"
