"""Reports of workers: heartbeats, claims, progress, results; and workers that fall silent."""

from collections.abc import Sequence
from itertools import takewhile

from broker.backoff import Backoff
from broker.errors import Problem
from broker.protocol.status import Outcome, Status
from broker.protocol.worker_reports import Failure, Result
from broker.timestamps import NO_TIME, Instant, Micros, from_datetime, in_seconds, seconds
from coordinator.core.commands import SendNotice
from coordinator.core.events import BeingChecked, Claimed, Heartbeat, InstanceLeft, Progressed, Reported, Sender
from coordinator.core.health.monitor import HealthMonitor
from coordinator.core.llms.llm import LLM, Instance
from coordinator.core.scheduling.too_long import handle_too_long
from coordinator.core.state import NOT_YOURS, CoreState
from coordinator.core.tasks import transitions
from coordinator.core.tasks.task import Attempt, Task
from coordinator.core.usage import at_least

RETRY = Backoff(initial=1.0, maximum=60.0)  # before a failed task is tried again
MOST_UNCLAIMED = 10  # attempts in a row
MOST_EXCUSED = 10  # lost attempts of a task; from then on every loss counts
LATE_REPORT = 5.0  # seconds; clocks of two machines may differ by less
LONGEST_RUN = 365 * 86_400.0  # seconds
NOBODY = Sender()  # no sender waits for an answer to a report


class AttemptReports:
    """Tracks attempts and leases."""

    def __init__(self, state: CoreState, health: HealthMonitor) -> None:
        self._state = state
        self._health = health
        self._ticked_at: Instant | None = None

    def heartbeat(self, event: Heartbeat, now: Instant) -> None:
        """An instance sent its hello or a heartbeat."""
        presence = event.presence
        llm = self._state.llm(presence.name)
        before, offers = llm.status, (llm.skills, llm.labels, llm.slots, llm.properties)
        known = llm.instances.get(presence.instance)
        said = None if known is None else known.offer
        known_control = None if known is None else known.control
        llm.see(presence, event.control, now, self._state.lease)
        if said != llm.instances[presence.instance].offer:
            self._tell_who_differs(llm, presence.instance)
        self._state.changes.llms[llm.name] = llm
        if (llm.skills, llm.labels, llm.slots, llm.properties) != offers:
            self._state.ready.llm_changed(llm)
        if known is not None and known_control != event.control:
            self._health.reconnected(llm, known)
        self._health.seen(llm, now)
        self._state.announce_llm(llm, before, now)
        for holding in presence.tasks:
            task = self._state.held(holding.task_id, holding.attempt, llm.name, presence.instance)
            if task:
                task.named_at = now
            elif waits := self._claimable(holding.task_id, holding.attempt, llm.name):
                waits.named_at = now
            else:  # an earlier stop got lost
                self._state.stop(llm.name, presence.instance, holding.task_id, holding.attempt, NOT_YOURS)
        if llm.state == "draining":
            named = {holding.task_id for holding in presence.tasks}
            for task in [self._state.tasks[task_id] for task_id in llm.unclaimed - named]:
                self._lose(task, "all its instances are draining", now)

    def _tell_who_differs(self, llm: LLM, newcomer: str) -> None:
        """Send notices to an instance and to those before it when their profiles differ."""
        if not (others := llm.others_than(newcomer)):
            return
        mine = llm.instances[newcomer]
        first, *rest = others
        more = f", and {len(rest)} more" if rest else ""
        self._state.emit(SendNotice(llm.name, newcomer, _differs(mine, first) + more))
        for other in others:
            self._state.emit(SendNotice(llm.name, other.id, _differs(other, mine)))

    def claimed(self, event: Claimed, now: Instant) -> None:
        """An instance claimed an attempt; it gets a stop when the attempt is not its own."""
        claim, sender = event.claim, self._state.llms.get(event.llm)
        if event.control and sender and (claimant := sender.instances.get(claim.instance)):
            claimant.control = event.control  # after a reconnect its claims may come before its hello
        task = self._state.tasks.get(claim.task_id)
        mine = task is not None and task.llm == event.llm and task.attempt == claim.attempt
        if task and mine and task.status is Status.ASSIGNED:
            llm = self._state.llms[event.llm]
            transitions.claim(task, claim.instance, llm.model_of(claim.instance), now)
            free = llm.free
            llm.unclaimed.discard(task.id)
            llm.instance(claim.instance, now, self._state.lease).hold(task.id)
            llm.count()
            if llm.free > free:
                self._state.freed_llms[llm.name] = llm
            self._state.touch(task)
            self._state.announce(task, now)
        elif not (task and mine and task.instance == claim.instance):
            self._state.stop(event.llm, claim.instance, claim.task_id, claim.attempt, NOT_YOURS)

    def progressed(self, event: Progressed, now: Instant) -> None:
        """A running attempt reported progress."""
        progress = event.progress
        task = self._state.held(progress.task_id, progress.attempt, event.llm, progress.instance)
        if task:
            task.named_at = now
            if progress.text:
                task.text_at, task.streams = now, True
            if progress.usage and (usage := at_least(task.usage, progress.usage)) != task.usage:
                task.usage = usage
                self._state.budgets.use(task, self._state.llms[event.llm])
                self._state.touch(task)

    def being_checked(self, event: BeingChecked, now: Instant) -> None:
        """An answer arrived: the attempt is neither lost nor timed out before the answer is checked."""
        if task := self._state.held(event.task_id, event.attempt, event.llm, event.instance):
            task.named_at, task.run_time = now, NO_TIME
            instance = self._state.llms[event.llm].instances[event.instance]
            instance.lease_until = max(instance.lease_until, Instant(now + self._state.lease))

    def left(self, event: InstanceLeft, now: Instant) -> None:
        """An instance sent its goodbye."""
        llm = self._state.llms.get(event.goodbye.name)
        if llm and (instance := llm.instances.get(event.goodbye.instance)):
            self._drop_instance(llm, instance, now, left=True)

    def reported(self, event: Reported, now: Instant) -> None:
        """The present attempt of a task ended, or an earlier one."""
        llm, result = event.llm, event.result
        task = self._state.tasks.get(result.task_id)
        if task is None:
            self._state.refuse(result.task_id, NOBODY, Problem("task_id", "there is no such task"), origin=event.origin)
            return
        if task.in_hand and task.attempt == result.attempt and task.llm == llm:
            self._attempt_ended(task, result, now)
            return
        tried = [a for a in task.attempts if a.attempt == result.attempt and a.llm == llm]
        if not tried:
            never = Problem("attempt", f"{llm} has never had attempt {result.attempt} of this task")
            self._state.refuse(task.id, NOBODY, never, origin=event.origin)
            return
        outcome = Outcome(result.outcome)
        if outcome is not Outcome.COMPLETED or task.status.is_final:
            self._used_more(task, tried, result)
        if any(a.outcome is outcome and a.instance == result.instance for a in tried):
            return  # the same result once more
        if outcome is Outcome.COMPLETED and not task.status.is_final:
            self._late_result(task, llm, result, now)
        elif outcome is not Outcome.CANCELLED:  # else it obeys a stop
            over = f"the task was {task.status}" if task.status.is_final else outcome
            summary = f"stale result of attempt {result.attempt}: {over}"
            if not any(change.by == llm and change.what == summary for change in task.history):
                task.note(now, llm, summary)
                self._state.touch(task)

    def tick(self, now: Instant, heard_until: Instant) -> None:
        """Time has passed: leases and timeouts may have run out.

        A message that is not handled yet may extend a lease. So the time that counts is not `now` but `heard_until`:
        every message that was published before it is handled.
        """
        elapsed, self._ticked_at = Micros(now - (now if self._ticked_at is None else self._ticked_at)), now
        lease, in_doubt = self._state.lease, False
        for llm in list(self._state.llms.values()):
            for instance in list(llm.instances.values()):
                if instance.lease_until <= now:
                    if instance.lease_until <= heard_until:
                        self._drop_instance(llm, instance, now)
                        continue
                    in_doubt = True
                for task in [self._state.tasks[task_id] for task_id in instance.held]:
                    if task.named_at + lease <= now:
                        if task.named_at + lease <= heard_until:
                            self._lose(task, "the worker no longer reports this attempt", now)
                            continue
                        in_doubt = True
                    if task.spec.timeout is not None and (left := self._time_left(task, elapsed)) <= 0:
                        if now + left <= heard_until:
                            self._time_out(task, now)
                        else:
                            in_doubt = True
            for task in [self._state.tasks[task_id] for task_id in llm.unclaimed]:
                if task.named_at + lease <= now:
                    if task.named_at + lease <= heard_until:
                        self._lose(task, "no instance claimed it", now)
                    else:
                        in_doubt = True
        self._state.in_doubt = in_doubt

    def outage(self, now: Instant) -> None:
        """Begin every lease again. An instance that does not come back is lost, but its attempts do not count."""
        for llm in self._state.llms.values():
            for instance in llm.instances.values():
                instance.extend(now, self._state.lease)
                instance.excused = True
                for task_id in instance.held:
                    self._state.tasks[task_id].named_at = now
            for task_id in llm.unclaimed:
                self._state.tasks[task_id].named_at = now

    def clock_set(self, by: Micros) -> None:
        """Move every measured time along with the clock."""
        if self._ticked_at is not None:
            self._ticked_at = Instant(self._ticked_at + by)
        for llm in self._state.llms.values():
            llm.clock_set(by)
            for task_id in (*llm.unclaimed, *(held for instance in llm.instances.values() for held in instance.held)):
                task = self._state.tasks[task_id]
                task.named_at = Instant(task.named_at + by)
                task.text_at = Instant(task.text_at + by)

    def _time_left(self, task: Task, elapsed: Micros) -> int:
        """Return for how many microseconds the attempt may go on. The worker has a lease to report the timeout itself.

        The time that people take does not count.
        """
        if task.status is Status.IN_PROGRESS:
            task.run_time = Micros(task.run_time + elapsed)
        return seconds(task.spec.timeout or 0) + self._state.lease - task.run_time

    def _time_out(self, task: Task, now: Instant) -> None:
        """End an attempt whose worker does not report the timeout itself."""
        late = Failure(type="timeout", message=f"no answer within {task.spec.timeout:g} s")
        self._state.stop(task.llm or "", task.instance or "", task.id, task.attempt, late.message)
        llm = self._state.take_back(task, now)
        self._failed(task, llm, Outcome.FAILED, late, now)

    def _attempt_ended(self, task: Task, result: Result, now: Instant) -> None:
        if task.status is Status.ASSIGNED:  # the claim was lost
            model = self._state.llm(task.llm or "").model_of(result.instance)
            transitions.claim(task, result.instance, model, now)
        if task.instance != result.instance or task.model is None:
            task.instance, task.model = result.instance, self._state.llm(task.llm or "").model_of(result.instance)
        task.model = result.model or task.model
        task.usage = at_least(task.usage, result.usage)
        task.duration = _run_time(result)
        llm = self._state.take_back(task, now)
        outcome = Outcome(result.outcome)
        if outcome is Outcome.COMPLETED:
            self._state.record(task, task.end_attempt(now, Outcome.COMPLETED))
            self._health.completed(task, llm, now)
            if task.duration is not None:
                llm.learned.learn(task.spec.skills, task.size, task.duration, now)  # stored with the next beat
            self._state.complete(task, result.result, now)
            return
        error = result.error or Failure(type="stopped", message="the worker stopped the attempt")
        self._failed(task, llm, outcome, _as_of_now(error, result, now), now)

    def _failed(self, task: Task, llm: LLM, outcome: Outcome, error: Failure, now: Instant) -> None:
        """Record a failed attempt. Try again at once if it is excused, else after a pause, or end the task."""
        self._state.record(task, task.end_attempt(now, outcome, error))
        if handle_too_long(self._state, task, error, now):
            return
        if self._health.failed(task, llm, error, now):
            self._excuse(task, now)
        elif error.retryable and task.status is Status.INPUT_REQUIRED:
            self._state.lose_asking_attempt(task, now)
        elif error.retryable and task.starts < task.spec.max_attempts:
            pause = seconds(RETRY.pause(task.starts))
            self._state.back_off(task, Instant(now + pause), now)
        else:
            self._state.fail(task, error, now)

    def _excuse(self, task: Task, now: Instant) -> None:
        """Make a task ready again whose failed attempt does not count."""
        if task.status is Status.INPUT_REQUIRED:
            self._state.lose_asking_attempt(task, now)
        else:
            self._state.release(task, now, counts=False)

    def _used_more(self, task: Task, tried: Sequence[Attempt], result: Result) -> None:
        """Keep what an attempt used until it really ended: a stopped worker reports that after the attempt is over."""
        for ended in tried:
            usage = at_least(ended.usage, result.usage)
            if ended.instance == result.instance and usage is not None and usage != ended.usage:
                settled = self._state.budgets.correct(task, ended, usage, self._state.llm(ended.llm))
                task.attempts[task.attempts.index(ended)] = settled
                if task.attempt == ended.attempt and task.usage == ended.usage:
                    task.usage = usage
                    self._state.touch(task)
                self._state.changes.attempts.append((task, settled))
                self._state.changes.settled.append(settled)
                self._state.changes.undone.append(ended.finished_at)

    def _late_result(self, task: Task, llm: str, result: Result, now: Instant) -> None:
        """Accept the answer of an older attempt; stop the newer one."""
        if task.in_hand:
            self._state.withdraw(task, Outcome.CANCELLED, "superseded by a late result", now)
        else:
            self._state.ready.discard(task)
        task.note(now, llm, f"late result of attempt {result.attempt} accepted")
        task.llm, task.instance, task.usage = llm, result.instance, at_least(None, result.usage)
        task.model = self._state.llm(llm).model_of(result.instance)
        task.duration = _run_time(result)
        for ended in [a for a in task.attempts if a.attempt == result.attempt]:
            task.attempts.remove(ended)
            self._state.budgets.take_back(task, ended, self._state.llm(llm))
            self._state.changes.undone.append(ended.finished_at)
            task.assigned_at, task.started_at, task.why = ended.assigned_at, ended.started_at, ended.why
            task.model = ended.model if ended.instance == result.instance else task.model
            task.usage = at_least(task.usage, ended.usage)
            task.ready_at = ended.assigned_at  # the latest possible; the recorded time is of a newer attempt
        task.model = result.model or task.model
        newest, task.attempt = task.attempt, result.attempt
        self._state.record(task, task.end_attempt(now, Outcome.COMPLETED))
        task.attempt = newest
        task.attempts.sort(key=lambda attempt: attempt.attempt)
        self._state.complete(task, result.result, now)

    def _drop_instance(self, llm: LLM, instance: Instance, now: Instant, *, left: bool = False) -> None:
        before, excused = llm.status, instance.excused and not left
        offers = llm.skills, llm.labels, llm.properties
        if left:
            reason = "the instance left"
        else:
            reason = "the instance did not come back after an outage" if excused else "the instance fell silent"
        lost = [self._state.tasks[task_id] for task_id in instance.held]
        del llm.instances[instance.id]
        if not llm.instances:
            lost += [self._state.tasks[task_id] for task_id in llm.unclaimed]
        for task in lost:
            self._lose(task, reason, now, excused=excused)
        llm.speak()
        if (llm.skills, llm.labels, llm.properties) != offers:
            self._state.ready.llm_changed(llm)
        self._health.seen(llm, now)
        self._state.changes.llms[llm.name] = llm
        self._state.announce_llm(llm, before, now)

    def _lose(self, task: Task, reason: str, now: Instant, *, excused: bool = False) -> None:
        """Take a task from an LLM that lost it; try again while attempts are left.

        An `excused` loss does not count as an attempt, unless the task had too many losses.
        """
        error = Failure(type=Outcome.LOST.value, message=f"{reason} (attempt {task.attempt} at {task.llm})")
        started = task.status is not Status.ASSIGNED
        excused = excused and sum(attempt.outcome == Outcome.LOST for attempt in task.attempts) < MOST_EXCUSED
        counts = not (task.status is Status.IN_PROGRESS and (task.parked or excused))  # parked, it only waited
        if started and task.instance:
            self._state.stop(task.llm or "", task.instance, task.id, task.attempt, reason)
        self._state.take_back(task, now)
        self._state.record(task, task.end_attempt(now, Outcome.LOST if started else Outcome.UNCLAIMED, error))
        if task.status is Status.INPUT_REQUIRED:
            self._state.lose_asking_attempt(task, now)
        elif counts and (task.starts >= task.spec.max_attempts or _is_never_taken_up(task)):
            self._state.fail(task, error, now)
        else:
            self._state.release(task, now, counts=counts)

    def _claimable(self, task_id: str, attempt: int, llm: str) -> Task | None:
        task = self._state.tasks.get(task_id)
        assigned = task and task.status is Status.ASSIGNED and task.attempt == attempt and task.llm == llm
        return task if assigned else None


def _differs(instance: Instance, other: Instance) -> str:
    return f"another worker of this name, {other.id}, has {other.offer}; this one, {instance.id}, has {instance.offer}"


def _is_never_taken_up(task: Task) -> bool:
    """Whether so many attempts in a row were not claimed that no LLM can be expected to claim the next one."""
    unclaimed = takewhile(lambda attempt: attempt.outcome is Outcome.UNCLAIMED, reversed(task.attempts))
    count = sum(1 for _ in unclaimed)
    return count > 0 and count % MOST_UNCLAIMED == 0  # a retry begins to count again


def _as_of_now(error: Failure, result: Result, now: Instant) -> Failure:
    """Return the failure with what is left of the time that a provider asked for, if the report comes late."""
    if error.retry_after is None or result.finished_at is None:
        return error
    late = in_seconds(now - from_datetime(result.finished_at)) or 0.0
    if late < LATE_REPORT:
        return error
    return error.model_copy(update={"retry_after": max(0.0, error.retry_after - late)})


def _run_time(result: Result) -> Micros | None:
    """Return the duration that the worker reports, within the limits of the database."""
    return None if result.duration is None else seconds(min(result.duration, LONGEST_RUN))
