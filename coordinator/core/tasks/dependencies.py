"""Dependencies between tasks: which are open, what the end of a task means to others, and circles."""

from collections.abc import Mapping, Sequence

from broker.protocol.status import Status
from broker.protocol.worker_reports import Failure
from broker.timestamps import Instant
from coordinator.core.events import Submitted, TaskEnded
from coordinator.core.llms.duration_estimates import text_length
from coordinator.core.state import CoreState
from coordinator.core.tasks import transitions
from coordinator.core.tasks.task import COORDINATOR, Task


def count_dependencies(state: CoreState, task: Task) -> Task | None:
    """Count what a task still waits for; return the dependency whose failure ends the task, if any."""
    if not task.spec.depends_on:
        return None
    known = [state.tasks[task_id] for task_id in task.spec.depends_on if task_id in state.tasks]
    settled = [dependency for dependency in known if dependency.id not in state.ended]
    over = {dependency.id: dependency for dependency in settled if dependency.status.is_final}
    failed = [dependency for dependency in over.values() if dependency.status is not Status.COMPLETED]
    open_ones = frozenset(task.spec.depends_on) - over.keys()
    task.waiting_on = len(open_ones)
    task.context_length = sum(text_length(dependency.result) for dependency in over.values())
    state.changes.waits.append((task, open_ones))
    for dependency in open_ones:
        state.waiting.setdefault(dependency, []).append(task)
    return failed[0] if failed and task.spec.on_dependency_failure == "fail" else None


def fail_dependent(state: CoreState, task: Task, dependency: Task, now: Instant) -> None:
    """End a task because a task that it depends on failed or was cancelled."""
    message = f"{dependency.id}, which this task depends on, {transitions.ended(dependency)}"
    state.fail(task, Failure(type="dependency_failed", message=message, retryable=False), now)


def task_ended(state: CoreState, event: TaskEnded, now: Instant) -> None:
    """Unblock or fail the dependents of a task that ended, and end its children; also those of this batch."""
    ended = state.tasks[event.task_id]
    stored = [state.tasks[dependent] for dependent in event.dependents]
    dependents = dict.fromkeys([*stored, *state.waiting.get(ended.id, ())])
    if dependents:
        state.changes.met.append(ended.id)
    for task in dependents:
        task.waiting_on -= 1
        task.context_length += text_length(ended.result)
        state.touch(task)
        failed = ended.status is not Status.COMPLETED and task.spec.on_dependency_failure == "fail"
        if failed and task.status is Status.BLOCKED:
            fail_dependent(state, task, ended, now)
        else:
            state.unblock(task, now)
    if ended.spec.parent_id:
        state.dirty_groups[ended.spec.parent_id] = None
    if ended.status is Status.CANCELLED or ended.status is Status.FAILED:
        children = [state.tasks[child] for child in event.children]
        for task in [*children, *state.children.get(ended.id, ())]:
            if not task.status.is_final:
                state.cancel(task, COORDINATOR, f"{ended.id}, which it is part of, {transitions.ended(ended)}", now)


def closed_circle(state: CoreState, event: Submitted) -> list[str] | None:
    """Return the circle that a new task would close. It can close one only when another task waits for it already."""
    if not event.ancestry and event.task_id not in state.waiting:
        return None
    fresh = {task.id: task.spec.depends_on for task, _ in state.changes.waits}
    return find_cycle(event.task_id, event.spec.depends_on, {**event.ancestry, **fresh})


def find_cycle(task_id: str, depends_on: Sequence[str], edges: Mapping[str, Sequence[str]]) -> list[str] | None:
    """Return the circle that a new task would close, as `[task, dependency, …, task]`; None when there is none.

    `edges` holds the dependencies of the tasks that are reachable from `depends_on`.
    """
    came_from = dict.fromkeys(depends_on, task_id)
    stack = list(depends_on)
    while stack:
        current = stack.pop()
        if current == task_id:
            path = [task_id]
            while (current := came_from[current]) != task_id:
                path.append(current)
            return [task_id, *reversed(path)]
        for dependency in edges.get(current, ()):
            if dependency not in came_from:
                came_from[dependency] = current
                stack.append(dependency)
    return None
