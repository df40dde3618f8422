"""What keeps a task from being a group, or the part of one."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json

from broker.errors import Problem
from broker.protocol.primitives import problems
from broker.protocol.task_requests import Submission
from coordinator.core.groups.naming import LONGEST_ID, groups_named_in, reserved
from coordinator.core.state import CoreState


def why_no_group(task_id: str, spec: Submission, board: CoreState) -> Problem | None:
    """What is wrong with the id or the parent of a new task, in view of the groups that there are and that it is."""
    if spec.is_group:
        if len(task_id) > LONGEST_ID:
            return Problem("id", f"may have {LONGEST_ID} characters, as the parts of the task are named after it")
        if taken := [id_ for id_ in reserved(task_id) if id_ in board.tasks]:
            return Problem(
                "id", f"its parts would be named {task_id}.1 and so on, and there is a task {taken[0]} already"
            )
    for above in groups_named_in(task_id):
        if above in board.tasks and board.tasks[above].spec.is_group:
            return Problem("id", f"the parts of {above} are named so")
    parent = board.tasks.get(spec.parent_id or "")
    if parent is not None and parent.spec.is_group:
        return Problem("parent_id", f"{parent.id} is a task for several LLMs, and makes its parts itself")
    return None


def contradiction(spec: Submission, changes: Mapping[str, Any]) -> Problem | None:
    """Why these fields of a task for several LLMs cannot be changed so."""
    if spec.is_group and "assignee" in changes and changes["assignee"] != spec.assignee:
        return Problem("assignee", "the task is for several LLMs: give its parts to others")
    if spec.mode is None and spec.reviewer is None:
        return None
    changed = {**spec.model_dump(mode="json", exclude_unset=True), **instead_of_several(spec, changes)}
    try:
        Submission.model_validate_json(to_json(changed))
    except ValidationError as error:
        return problems(error)[0]
    return None


def instead_of_several(spec: Submission, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes, of which an assignee takes the place of all assignees."""
    if spec.assignees and changes.get("assignee"):
        return {**changes, "assignees": [], "mode": None}
    return dict(changes)
