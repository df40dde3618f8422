"""How a new task enters the state: its dependencies, its place in a lane, its first announcement."""

from broker.protocol.status import Status
from broker.protocol.task_requests import Submission
from broker.timestamps import Instant, from_datetime
from coordinator.core.state import CoreState
from coordinator.core.tasks.dependencies import count_dependencies, fail_dependent
from coordinator.core.tasks.task import Task


def enter(state: CoreState, task: Task, now: Instant) -> None:
    """Add a new task, whose number is `state.next_seq`."""
    spec = task.spec
    state.next_seq += 1
    state.tasks[task.id] = task
    state.borrowed.add(task.id)
    state.changes.new.append(task)
    if spec.parent_id:
        state.children.setdefault(spec.parent_id, []).append(task)
    state.budgets.begin_tree(task, state.tasks.get(spec.parent_id or ""))
    failed = count_dependencies(state, task)
    if spec.not_before is not None:
        task.wake_at = from_datetime(spec.not_before)
    state.watch_due_date(task)
    if failed is not None or not state.unblock(task, now):
        state.announce(task, now)
    if spec.answers == "all":
        state.answer(task, "task.accepted")
    if failed is not None:
        fail_dependent(state, task, failed, now)


def enter_part(state: CoreState, task_id: str, spec: Submission, group: Task, now: Instant) -> None:
    """Add a part of a task for several LLMs."""
    part = Task(
        id=task_id,
        seq=state.next_seq,
        spec=spec.model_copy(update={"parent_id": group.id}),
        status=Status.BLOCKED,
        priority=group.priority,
        submitted_at=now,
        submitted_by=group.submitted_by,
        trace=group.trace,
        accepted=False,
    )
    enter(state, part, now)
