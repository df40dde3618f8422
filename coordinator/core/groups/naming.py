"""The ids of the parts of a group: made from the group's id, so that they are known before the parts are made."""

import re

from coordinator.core.tasks.task import Task

LONGEST_ID = 56  # characters: parts are named after their group
MOST_PARTS = 64

_PART = re.compile(r"(.+?)((?:\.\d+)+)")


def reserved(group_id: str) -> list[str]:
    """The ids of the parts that a group may have."""
    return [f"{group_id}.{number}" for number in range(1, MOST_PARTS + 1)]


def groups_named_in(task_id: str) -> list[str]:
    """The ids of the groups that a task of that id would be a part of."""
    found = _PART.fullmatch(task_id) if "." in task_id else None
    if not found:
        return []
    numbers = found[2].split(".")[1:]
    return [".".join([found[1], *numbers[:end]]) for end in range(len(numbers))]


def part_id(group: Task, number: int) -> str:
    """The id of a part. Those of a group that is retried have the number of its run in theirs."""
    return f"{_prefix(group)}{number}"


def part_number(group: Task, id_: str) -> int | None:
    """Return the number of a part of the present run; None for the id of any other task."""
    number = id_.removeprefix(_prefix(group))
    return int(number) if number != id_ and number.isdecimal() else None


def _prefix(group: Task) -> str:
    return f"{group.id}." if group.attempt == 1 else f"{group.id}.{group.attempt}."
