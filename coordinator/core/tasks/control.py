"""Requests about known tasks: cancel, retry, assign to an LLM, change fields."""

from datetime import datetime
from typing import Any

from pydantic_core import to_json

from broker.errors import Problem
from broker.protocol.status import Outcome, Status
from broker.timestamps import Instant, from_datetime, to_iso
from coordinator.core.events import AssignRequested, CancelRequested, RetryRequested, UpdateRequested
from coordinator.core.groups.validation import contradiction, instead_of_several
from coordinator.core.llms.llm import no_such_llm
from coordinator.core.state import NO_SUCH_TASK, CoreState
from coordinator.core.tasks import transitions
from coordinator.core.tasks.dependencies import count_dependencies
from coordinator.core.tasks.task import ANYBODY


class TaskControl:
    """Does what a request asks, or refuses the request with the reason. The task of the request is loaded."""

    def __init__(self, state: CoreState) -> None:
        self._state = state

    def cancel(self, event: CancelRequested, now: Instant) -> None:
        """End a live task."""
        task = self._state.live(event.task_id, event.sender)
        if task is None:
            return
        self._state.cancel(task, event.sender.user or ANYBODY, event.reason, now)
        self._state.answer_to(event.sender, "task.cancelled", task)

    def retry(self, event: RetryRequested, now: Instant) -> None:
        """Run a finished task again, with changed fields if the request has any."""
        task = self._state.tasks.get(event.task_id)
        if task is None:
            self._state.refuse(event.task_id, event.sender, NO_SUCH_TASK)
            return
        if not task.status.is_final:
            self._state.refuse(event.task_id, event.sender, Problem("id", f"the task is not finished: {task.status}"))
            return
        changed = event.changes
        unknown = self._wrong_assignee(changed.get("assignee"), forceable=False)
        if problem := unknown or contradiction(task.spec, changed):
            self._state.refuse(event.task_id, event.sender, problem)
            return
        if changed:
            self._state.respecify(task, instead_of_several(task.spec, changed), now)
        if task.result is not None and (completed := [a for a in task.attempts if a.outcome is Outcome.COMPLETED]):
            self._state.changes.earlier_results.append((task, completed[-1].attempt, task.result))
        if task.finished_at is not None:
            self._state.changes.undone.append(task.finished_at)
        transitions.retry(task, event.sender.user or ANYBODY, changed, now)
        self._state.watch_due_date(task)
        self._state.ended.pop(task.id, None)  # dependents wait for its new end
        if event.sender.reply_to:
            task.reply_to, task.correlation_id = event.sender.reply_to, event.sender.correlation_id
        count_dependencies(self._state, task)  # one that failed may have been retried too, and is to be waited for
        self._state.touch(task)
        if not self._state.unblock(task, now):
            self._state.announce(task, now)
        self._state.answer_to(event.sender, "task.accepted", task)

    def assign(self, event: AssignRequested, now: Instant) -> None:
        """Assign a live task to an LLM by hand, or leave the choice to the coordinator again."""
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
            running = Problem("id", f"the task is running at {task.llm}; use `now` to stop it there and move it")
            self._state.refuse(event.task_id, event.sender, running)
            return
        what = f"assigned to {event.llm}" if event.llm else "left to automatic assignment"
        task.note(now, event.sender.user or ANYBODY, what)
        self._state.respecify(task, instead_of_several(task.spec, changes), now)
        if moves:
            self._state.withdraw(task, Outcome.MOVED, f"moved to {event.llm}" if event.llm else what, now)
            self._state.release(task, now, counts=not runs)
        self._state.announce(task, now)
        self._state.answer_to(event.sender, "task.accepted", task)

    def update(self, event: UpdateRequested, now: Instant) -> None:
        """Change fields of a live task."""
        task = self._state.live(event.task_id, event.sender)
        if task is None:
            return
        text = ", ".join(f"{name} = {_as_text(value)}" for name, value in sorted(event.changes.items()))
        task.note(now, event.sender.user or ANYBODY, f"changed: {text}")
        self._state.respecify(task, event.changes, now)
        self._state.announce(task, now)
        self._state.answer_to(event.sender, "task.accepted", task)

    def _wrong_assignee(self, name: str | None, *, force: bool = False, forceable: bool = True) -> Problem | None:
        if name is None or force or name in self._state.llms:
            return None
        return no_such_llm("assignee", name, self._state.llms, forceable=forceable)


def _as_text(value: Any) -> str:
    """Return a new value as text for people."""
    if value is None or value in ([], {}):
        return "none"
    return (to_iso(from_datetime(value)) or "") if isinstance(value, datetime) else to_json(value).decode()
