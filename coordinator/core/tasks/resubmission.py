"""Whether a submission with a known id repeats the known task.

A client that does not know whether its submission arrived publishes it again, and gets the known task. A different
submission with the same id is a mistake, and its sender must not get the old result as an answer.
"""

from typing import Any

from broker.errors import Problem
from broker.protocol.task_requests import Submission
from coordinator.core.tasks.task import Task, plain

_NOT_CONTENT = {"id", "force", "answers"}  # how a submission is accepted and answered
_OF_THE_PARENT = {"priority", "labels"}  # a part gets the values that its parent has at that time
_COMPARED = [name for name in Submission.model_fields if name not in _NOT_CONTENT]


def differences(spec: Submission, priority: int, known: Task) -> list[Problem]:
    """Return a problem for each field that differs from the first submission of the known task.

    Later changes of the task are no difference. Without a record of the first submission there is none.
    """
    original = known.original
    if original is None:
        return []
    skipped = _OF_THE_PARENT if spec.parent_id else ()
    text = f"differs from that of task {known.id}, which is there already"
    return [
        Problem(name, text)
        for name in _COMPARED
        if name not in skipped
        and not _is_same(
            priority if name == "priority" else plain(spec, name),
            original[name] if name in original else known.priority if name == "priority" else plain(known.spec, name),
        )
    ]


def _is_same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal: in any order of names; 1 equals 1.0, and true does not equal 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
