"""Whether a submission with a known id is the same once more.

A client that does not know whether its submission has arrived publishes it again. That is the task as it is; another
submission with the same id is a mistake, and its sender must not take the old result for an answer.
"""

from typing import Any

from broker.errors import Problem
from broker.protocol.task_requests import Submission
from coordinator.core.tasks.task import Task, plain

_NOT_CONTENT = {"id", "force", "answers"}  # how it is taken and answered
_OF_THE_PARENT = {"priority", "labels"}  # whoever hands on a part of a task gives it those that the task has by then
_COMPARED = [name for name in Submission.model_fields if name not in _NOT_CONTENT]


def differences(spec: Submission, priority: int, known: Task) -> list[Problem]:
    """The fields in which a submission differs from that of the known task, as it came first.

    What was changed of the task since is no difference. Where it is not known how it came, there is none.
    """
    original = known.original
    if original is None:
        return []
    skipped = _OF_THE_PARENT if spec.parent_id else ()
    told = f"differs from that of task {known.id}, which is there already"
    return [
        Problem(name, told)
        for name in _COMPARED
        if name not in skipped
        and not _is_same(
            priority if name == "priority" else plain(spec, name),
            original[name] if name in original else known.priority if name == "priority" else plain(known.spec, name),
        )
    ]


def _is_same(one: Any, other: Any) -> bool:
    """Whether it is the same JSON: the order of names does not matter, 1 is 1.0, and true is not 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
