"""What people and programs ask of the coordinator: submit, cancel, retry, assign, update, manage an LLM."""

from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from typing import Any, assert_never

from pydantic_core import to_json

from broker.errors import Problem, did_you_mean
from broker.protocol.status import Status
from broker.protocol.task_requests import Submission
from broker.protocol.worker_reports import Failure
from broker.timestamps import NO_TIME, Instant, from_datetime, to_iso
from coordinator.core.commands import AnswerRequest, SendDrain
from coordinator.core.events import (
    AssignRequested,
    CancelRequested,
    ManageRequested,
    ReportSaved,
    Request,
    RetryRequested,
    Sender,
    Submitted,
    TaskEnded,
    UpdateRequested,
)
from coordinator.core.groups.driver import contradiction, instead_of_several, why_no_group
from coordinator.core.llms.duration_estimates import text_length
from coordinator.core.llms.llm import LLM, llm_view
from coordinator.core.llms.skill_match import Expertise
from coordinator.core.state import NO_SUCH_TASK, CoreState, SavedReport, final_answer
from coordinator.core.tasks.dependencies import find_cycle
from coordinator.core.tasks.lineage import ancestors, why_no_child
from coordinator.core.tasks.resubmission import differences
from coordinator.core.tasks.task import COORDINATOR, Task
from coordinator.core.tasks.transitions import Trigger

ANYBODY = "anonymous"

_LOOKED_AT = 100  # LLMs, for one that may have been meant
_NAMED = 10  # tasks of an LLM in a refusal


class TaskRequests:
    """Does what is asked, or refuses it with the reason."""

    def __init__(self, board: CoreState, *, next_seq: int, expertise: Expertise | None = None) -> None:
        """With `expertise`, a task that says nothing about who may do it gets the skills that its text suggests."""
        self._state = board
        self._next_seq = next_seq
        self._expertise = expertise

    def handle(self, request: Request, now: Instant) -> None:
        """Do what is asked. The tasks that it is about are loaded."""
        match request:
            case Submitted():
                self._submitted(request, now)
            case CancelRequested():
                self._cancel(request, now)
            case RetryRequested():
                self._retry(request, now)
            case AssignRequested():
                self._assign(request, now)
            case UpdateRequested():
                self._update(request, now)
            case ManageRequested():
                self._manage(request, now)
            case ReportSaved(name, definition, sender):
                self._state.changes.reports[name] = SavedReport(definition, sender.user or ANYBODY, now)
                if sender.reply_to:
                    told = {"name": name, **(definition or {})}
                    self._state.say(AnswerRequest("report.accepted", sender.reply_to, sender.correlation_id, told))
            case _:
                assert_never(request)

    def _submitted(self, event: Submitted, now: Instant) -> None:
        spec, sender = event.spec, event.sender
        known = self._state.tasks.get(event.task_id)
        if known is not None:
            self._submitted_again(event, known)
            return
        if circle := self._circle(event):
            closed = Problem("depends_on", "a cycle: " + " -> ".join(circle))
            self._state.refuse(event.task_id, sender, closed, event=event)
            return
        if spec.parent_id and (problem := why_no_child(spec, ancestors(spec, self._state.tasks))):
            self._state.refuse(event.task_id, sender, problem, event=event)
            return
        if problem := why_no_group(event.task_id, spec, self._state) or self._unknown_llm(spec):
            self._state.refuse(event.task_id, sender, problem, event=event)
            return
        suggested = self._suggested_skills(spec)
        task = Task(
            id=event.task_id,
            seq=self._next_seq,
            spec=spec.model_copy(update={"skills": suggested}) if suggested else spec,
            status=Status.BLOCKED,
            priority=event.priority,
            submitted_at=now,
            submitted_by=sender.user,
            reply_to=sender.reply_to,
            correlation_id=sender.correlation_id,
            trace=sender.trace,
        )
        if suggested:
            task.original = {"skills": []}
            task.note(now, COORDINATOR, f"skills suggested by the text: {', '.join(suggested)}")
        self._enter(task, now)

    def _submitted_again(self, event: Submitted, known: Task) -> None:
        """A submission with a known id: answered with what is known, at the newest address, if it is the same."""
        spec, sender = event.spec, event.sender
        if different := differences(spec, event.priority, known):
            self._state.refuse(event.task_id, sender, *different, event=event)
            return
        if sender.reply_to:
            known.reply_to, known.correlation_id = sender.reply_to, sender.correlation_id
            self._state.touch(known)
        if spec.answers == "all":
            self._state.answer(known, "task.accepted", known=True)
        if known.status.is_final:
            self._state.answer(known, final_answer(known.status))

    def enter_part(self, task_id: str, spec: Submission, group: Task, now: Instant) -> Task:
        """A part of a task for several LLMs."""
        task = Task(
            id=task_id,
            seq=self._next_seq,
            spec=spec.model_copy(update={"parent_id": group.id}),
            status=Status.BLOCKED,
            priority=group.priority,
            submitted_at=now,
            submitted_by=group.submitted_by,
            trace=group.trace,
        )
        self._enter(task, now)
        return task

    def _enter(self, task: Task, now: Instant) -> None:
        """A new task is there."""
        spec = task.spec
        self._next_seq += 1
        self._state.tasks[task.id] = task
        self._state.borrowed.add(task.id)
        self._state.changes.new.append(task)
        if spec.parent_id:
            self._state.children.setdefault(spec.parent_id, []).append(task)
        failed = self._count_dependencies(task)
        if spec.not_before is not None:
            task.wake_at = from_datetime(spec.not_before)
        self._state.watch_due_date(task)
        if failed is not None or not self._state.unblock(task, now):
            self._state.announce(task, now)
        if spec.answers == "all":
            self._state.answer(task, "task.accepted")
        if failed is not None:
            self._fail_dependent(task, failed, now)

    def _unknown_llm(self, spec: Submission) -> Problem | None:
        """An LLM that the task names and nobody has heard of."""
        if spec.force or not (spec.assignee or spec.is_group or spec.assignees):
            return None
        named = {"assignee": spec.assignee, "reviewer": spec.reviewer, "vote.judge": spec.vote and spec.vote.judge}
        named |= {f"assignees.{place}": name for place, name in enumerate(spec.assignees)}
        unknown = [(path, name) for path, name in named.items() if name and name not in self._state.llms]
        return _no_such_llm(*unknown[0], self._state.llms) if unknown else None

    def _suggested_skills(self, spec: Submission) -> list[str]:
        if self._expertise is None or spec.skills or spec.assignee or spec.assignees:
            return []
        return self._expertise.skills_for(spec.description, self._state.llms.values())

    def _count_dependencies(self, task: Task) -> Task | None:
        """Count what it still waits for; returns the dependency whose failure it does not survive, if any."""
        if not task.spec.depends_on:
            return None
        known = [self._state.tasks[id_] for id_ in task.spec.depends_on if id_ in self._state.tasks]
        told = [dependency for dependency in known if dependency.id not in self._state.ended]
        over = {dependency.id: dependency for dependency in told if dependency.status.is_final}
        failed = [d for d in over.values() if d.status is not Status.COMPLETED]
        open_ones = frozenset(task.spec.depends_on) - over.keys()
        task.waiting_on = len(open_ones)
        task.context_length = sum(text_length(dependency.result) for dependency in over.values())
        self._state.changes.waits.append((task, open_ones))
        for dependency in open_ones:
            self._state.waiting.setdefault(dependency, []).append(task)
        return failed[0] if failed and task.spec.on_dependency_failure == "fail" else None

    def _circle(self, event: Submitted) -> list[str] | None:
        """The circle that a new task would close. It can only close one when another task waits for it already."""
        if not event.ancestry and event.task_id not in self._state.waiting:
            return None
        fresh = {task.id: task.spec.depends_on for task, _ in self._state.changes.waits}
        return find_cycle(event.task_id, event.spec.depends_on, {**event.ancestry, **fresh})

    def _cancel(self, event: CancelRequested, now: Instant) -> None:
        task = self._state.live(event.task_id, event.sender)
        if task is None:
            return
        self._cancel_task(task, event.sender.user or ANYBODY, event.reason, now)
        self._state.answer_to(event.sender, "task.cancelled", task)

    def end_early(self, task: Task, reason: str, now: Instant) -> None:
        """Cancel a task that is not over, because of another one."""
        self._cancel_task(task, COORDINATOR, reason, now)

    def _cancel_task(self, task: Task, by: str, reason: str | None, now: Instant) -> None:
        told = f": {reason}" if reason else ""
        where = f" at {task.llm}" if task.in_hand else ""
        task.note(now, by, f"cancelled while {task.status.replace('_', ' ')}{where}{told}")
        self._state.withdraw(task, "cancelled", "cancelled", now)
        self._state.finish(task, Trigger.CANCEL, now)

    def _retry(self, event: RetryRequested, now: Instant) -> None:
        task = self._state.tasks.get(event.task_id)
        if task is None:
            self._state.refuse(event.task_id, event.sender, NO_SUCH_TASK)
            return
        if not task.status.is_final:
            self._state.refuse(event.task_id, event.sender, Problem("id", f"the task is not over: {task.status}"))
            return
        changed = event.changes
        unknown = self._wrong_assignee(changed.get("assignee"), forceable=False)
        if problem := unknown or contradiction(task.spec, changed):
            self._state.refuse(event.task_id, event.sender, problem)
            return
        different = f", with changed {', '.join(sorted(changed))}" if changed else ""
        task.note(now, event.sender.user or ANYBODY, f"retried after it {_ended(task)}{different}")
        if changed:
            self._state.respecify(task, instead_of_several(task.spec, changed), now)
        if task.result is not None and (completed := [a for a in task.attempts if a.outcome == "completed"]):
            self._state.changes.earlier_results.append((task, completed[-1].attempt, task.result))
        task.move(Trigger.RETRY)
        if task.finished_at is not None:
            self._state.changes.undone.append(task.finished_at)
        self._state.watch_due_date(task)
        task.starts = 0
        task.wake_at = None if task.spec.not_before is None else from_datetime(task.spec.not_before)
        self._state.ended.pop(task.id, None)  # whoever depends on it waits for its new end
        task.llm = task.instance = task.model = task.why = None
        task.result = task.error = task.usage = task.duration = None
        task.ready_at = task.assigned_at = task.started_at = task.finished_at = None
        task.questions, task.person_wait = [], NO_TIME
        if event.sender.reply_to:
            task.reply_to, task.correlation_id = event.sender.reply_to, event.sender.correlation_id
        self._count_dependencies(task)  # one that failed may have been retried too, and is to be waited for
        self._state.touch(task)
        if not self._state.unblock(task, now):
            self._state.announce(task, now)
        self._state.answer_to(event.sender, "task.accepted", task)

    def _assign(self, event: AssignRequested, now: Instant) -> None:
        task = self._state.live(event.task_id, event.sender)
        if task is None:
            return
        changes = {"assignee": event.llm}
        if problem := self._wrong_assignee(event.llm, force=event.force) or contradiction(task.spec, changes):
            self._state.refuse(event.task_id, event.sender, problem)
            return
        elsewhere = event.now if event.llm is None else task.llm != event.llm
        moves = task.in_hand and elsewhere
        runs = moves and task.status is not Status.ASSIGNED
        if runs and not event.now:
            running = Problem("id", f"the task is running at {task.llm}; to stop it there and move it, say `now`")
            self._state.refuse(event.task_id, event.sender, running)
            return
        what = f"assigned to {event.llm}" if event.llm else "left to automatic assignment"
        task.note(now, event.sender.user or ANYBODY, what)
        self._state.respecify(task, instead_of_several(task.spec, changes), now)
        if moves:
            if runs:
                task.starts -= 1  # it was not the attempt's fault
            self._state.withdraw(task, "moved", f"moved to {event.llm}" if event.llm else what, now)
            task.move(Trigger.RELEASE)
            self._state.make_ready(task, now)
        self._state.announce(task, now)
        self._state.answer_to(event.sender, "task.accepted", task)

    def _update(self, event: UpdateRequested, now: Instant) -> None:
        task = self._state.live(event.task_id, event.sender)
        if task is None:
            return
        told = ", ".join(f"{name} = {_told(value)}" for name, value in sorted(event.changes.items()))
        task.note(now, event.sender.user or ANYBODY, f"changed: {told}")
        self._state.respecify(task, event.changes, now)
        self._state.announce(task, now)
        self._state.answer_to(event.sender, "task.accepted", task)

    def _manage(self, event: ManageRequested, now: Instant) -> None:
        order, sender = event.order, event.sender
        llm = self._state.llms.get(order.llm)
        if llm is None:
            self._state.refuse(order.llm, sender, _no_such_llm("llm", order.llm, self._state.llms, forceable=False))
            return
        if order.forget:
            self._forget(llm, sender, now)
            return
        before = llm.standing
        given = order.model_fields_set
        if order.paused is not None:
            llm.paused = order.paused
        if "slots" in given:
            llm.slots_limit = order.slots
        if "skills" in given:
            llm.give_skills(order.skills)
        if order.drain:
            for instance in llm.instances.values():
                instance.draining = True
                self._state.say(SendDrain(llm.name, instance.id))
        llm.count()
        self._state.ready.llm_changed(llm)
        self._state.freed_llms[llm.name] = llm
        self._state.changes.llms[llm.name] = llm
        self._state.announce_llm(llm, before, now)
        if sender.reply_to:
            view = llm_view(llm, llm.tasks(), now)
            self._state.say(AnswerRequest("llm.accepted", sender.reply_to, sender.correlation_id, view))

    def _forget(self, llm: LLM, sender: Sender, now: Instant) -> None:
        if llm.instances:
            told = f"{llm.name} is {llm.state}: only an LLM that is offline can be forgotten"
            self._state.refuse(llm.name, sender, Problem("llm", told))
        elif tasks := llm.tasks():
            told = f"{llm.name} has tasks: {', '.join(islice(tasks, _NAMED))}"
            self._state.refuse(llm.name, sender, Problem("llm", told))
        else:
            self._state.forget_llm(llm)
            if sender.reply_to:
                view = llm_view(llm, {}, now)
                self._state.say(AnswerRequest("llm.accepted", sender.reply_to, sender.correlation_id, view))

    def _wrong_assignee(self, name: str | None, *, force: bool = False, forceable: bool = True) -> Problem | None:
        if name is None or force or name in self._state.llms:
            return None
        return _no_such_llm("assignee", name, self._state.llms, forceable=forceable)

    def task_ended(self, event: TaskEnded, now: Instant) -> None:
        """A task has ended: tell those that wait for it, and end what was part of it; also those of this batch."""
        ended = self._state.tasks[event.task_id]
        stored = [self._state.tasks[dependent] for dependent in event.dependents]
        dependents = dict.fromkeys([*stored, *self._state.waiting.get(ended.id, ())])
        if dependents:
            self._state.changes.met.append(ended.id)
        for task in dependents:
            task.waiting_on -= 1
            task.context_length += text_length(ended.result)
            self._state.touch(task)
            failed = ended.status is not Status.COMPLETED and task.spec.on_dependency_failure == "fail"
            if failed and task.status is Status.BLOCKED:
                self._fail_dependent(task, ended, now)
            else:
                self._state.unblock(task, now)
        if ended.spec.parent_id:
            self._state.dirty_groups[ended.spec.parent_id] = None
        if ended.status is Status.CANCELLED or ended.status is Status.FAILED:
            children = [self._state.tasks[child] for child in event.children]
            for task in [*children, *self._state.children.get(ended.id, ())]:
                if not task.status.is_final:
                    why = f"{ended.id}, which it is part of, {_ended(ended)}"
                    self.end_early(task, why, now)

    def _fail_dependent(self, task: Task, dependency: Task, now: Instant) -> None:
        message = f"{dependency.id}, which this task depends on, {_ended(dependency)}"
        task.error = Failure(type="dependency_failed", message=message, retryable=False)
        self._state.finish(task, Trigger.FAIL, now)


def _ended(task: Task) -> str:
    """How a task ended, after `it`."""
    return "failed" if task.status is Status.FAILED else f"was {task.status}"


def _told(value: Any) -> str:
    """A new value, for people."""
    if value is None or value in ([], {}):
        return "none"
    return (to_iso(from_datetime(value)) or "") if isinstance(value, datetime) else to_json(value).decode()


def _no_such_llm(path: str, name: str, known: Iterable[str], *, forceable: bool = True) -> Problem:
    hint = did_you_mean(name, islice(known, _LOOKED_AT))
    way_out = f"{hint or ';'} `force` waits for it all the same" if forceable else hint
    return Problem(path, f"no LLM named {name} has ever said hello{way_out}")
