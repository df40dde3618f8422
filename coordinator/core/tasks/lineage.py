"""Ancestors of tasks, and the limits of delegation."""

from collections.abc import Mapping, Sequence

from broker.errors import Problem
from broker.protocol.task_requests import Submission
from coordinator.core.tasks.task import Task, lane_of

MOST_ANCESTORS = 8
MOST_TIMES = 2  # that one LLM may be in the chain from the first task to the newest


def ancestors(spec: Submission, tasks: Mapping[str, Task]) -> list[Task]:
    """Return the parent, its parent and so on, as far as they are in `tasks`."""
    found: list[Task] = []
    above = spec.parent_id
    while above is not None and (task := tasks.get(above)):
        found.append(task)
        above = task.spec.parent_id
    return found


def root_of(task: Task, tasks: Mapping[str, Task]) -> str:
    """Return the id of the root of a task's tree, as far as its ancestors are in `tasks`."""
    above = ancestors(task.spec, tasks)
    return above[-1].id if above else task.id


def why_no_child(spec: Submission, above: Sequence[Task]) -> Problem | None:
    """Return why a new task cannot be the child of its parent; None when it can. `above`: its ancestors, parent first.

    Endless delegation would never end. So the chain has a limited length, no LLM may be in it three times, and no LLM
    gets the same request twice.
    """
    if not above:
        return _wrong(f"there is no task {spec.parent_id}")
    parent = above[0]
    if parent.status.is_final:
        return _wrong(f"{parent.id} is already {parent.status}")
    if len(above) >= MOST_ANCESTORS:
        return _wrong(
            f"too deep: {parent.id} has {len(above) - 1} ancestors; at most {MOST_ANCESTORS} levels are allowed"
        )
    way = [task.llm for task in reversed(above) if task.llm] + ([spec.assignee] if spec.assignee else [])
    if often := [llm for llm in way if way.count(llm) > MOST_TIMES]:
        return _wrong(f"delegation loop: {often[0]} would have this work {MOST_TIMES + 1} times: {' -> '.join(way)}")
    if same := [task for task in above if _request(task.spec) == _request(spec)]:
        return _wrong(f"delegation loop: {same[0].id} already asks the same LLM for the same work")
    return None


def _request(spec: Submission) -> tuple[object, ...]:
    """Return what a submission asks for, and which LLMs may do it."""
    return spec.description, spec.inputs, lane_of(spec)


def _wrong(message: str) -> Problem:
    return Problem("parent_id", message)
