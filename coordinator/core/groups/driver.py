"""Tasks for several LLMs: makes their parts, and ends them when collaboration.py says so."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, assert_never

from pydantic import JsonValue, ValidationError
from pydantic_core import to_json

from broker.errors import Problem
from broker.protocol.primitives import MAX_GROUP_RESULT_BYTES, problems
from broker.protocol.status import Status
from broker.protocol.task_requests import Submission
from broker.protocol.worker_reports import Failure
from broker.timestamps import Instant, Micros, seconds
from coordinator.core.events import GroupChanged
from coordinator.core.groups.steps import AskPerson, CreatePart, Fail, Finding, Finish, KeepWaiting, failure
from coordinator.core.groups.strategies import step
from coordinator.core.groups.voting import HALF
from coordinator.core.state import CoreState
from coordinator.core.tasks.task import OpenQuestion, Task
from coordinator.core.tasks.transitions import Trigger

LONGEST = seconds(
    86_400
)  # that a group takes when nothing is said, so that one that is silent does not hold it for ever
LONGEST_ID = 56  # characters: parts are named after their group
MOST_PARTS = 64
TIE = "tie"  # the id of the question

_PART = re.compile(r"(.+?)((?:\.\d+)+)")

Make = Callable[[str, Submission, Task, Instant], Task]
"""Enters a part into the books: its id, what it is, its group, and the moment."""

End = Callable[[Task, str, Instant], None]
"""Cancels a part that is not over, and says why."""


class GroupDriver:
    """Takes every group from one step to the next."""

    def __init__(self, board: CoreState, make: Make, end: End, *, learn: bool) -> None:
        """With `learn`, what reviews and votes find changes what LLMs are believed to be able to do."""
        self._state = board
        self._make = make
        self._end = end
        self._learn = learn

    def dirty_groups(self, event: GroupChanged, now: Instant) -> None:
        """Something has happened to a group or its parts, which are loaded."""
        group = self._state.tasks[event.task_id]
        if group.status is not Status.IN_PROGRESS:
            return
        parts, of_before = self._parts(group, event.parts)
        self._end_all(of_before, f"{group.id} has begun anew", now)
        spent = self._spent(group, now)
        answer = group.questions[-1].answer if group.questions else None
        match step(group.spec, parts, spent=spent, answer=answer):
            case KeepWaiting():
                self._wake_in_time(group, spent)
            case CreatePart(specs, note, found, alone):
                self._note(group, note, found, now)
                if alone:
                    self._end_all(parts, "it goes on without", now)
                for number, spec in enumerate(specs, len(parts) + 1):
                    self._make(part_id(group, number), spec, group, now)
                self._wake_in_time(group, spent)
            case AskPerson(question, choices):
                group.wake_at = None  # people take the time that they need
                group.ask(OpenQuestion(TIE, question, choices, now), now)
                self._end_all(parts, "the vote is over", now)
                self._state.touch(group)
                self._state.announce(group, now)
            case Finish(result, note, found):
                self._note(group, note, found, now)
                if size := _too_large(result):
                    group.error = _result_too_large(parts, size)
                    self._state.finish(group, Trigger.FAIL, now)
                    return
                group.result = result
                self._state.finish(group, Trigger.COMPLETE, now)
                self._end_all(parts, f"{group.id} was done without it", now)
            case Fail(error, result, note, found):
                self._note(group, note, found, now)
                group.result, group.error = None if _too_large(result) else result, error
                self._state.finish(group, Trigger.FAIL, now)
            case other:
                assert_never(other)

    def _parts(self, group: Task, stored: Sequence[str]) -> tuple[list[Task], list[Task]]:
        """The parts of its present run, in the order of their making, and those of earlier ones."""
        known = {id_: self._state.tasks[id_] for id_ in stored} | {
            t.id: t for t in self._state.children.get(group.id, ())
        }
        numbered = {number: part for part in known.values() if (number := _number(group, part.id)) is not None}
        of_before = [part for part in known.values() if _number(group, part.id) is None]
        return [part for _, part in sorted(numbered.items())], of_before

    def _spent(self, group: Task, now: Instant) -> float:
        """The share of its time that is over; none of it matters any more once a person was asked."""
        if group.started_at is None or group.questions:
            return 0.0
        return min(1.0, (now - group.started_at) / _time_of(group))

    def _wake_in_time(self, group: Task, spent: float) -> None:
        share = HALF if spent < HALF else 1.0
        group.wake_at = Instant((group.started_at or 0) + round(share * _time_of(group)))
        self._state.next_wake = min(self._state.next_wake, group.wake_at)
        self._state.touch(group)

    def _note(self, group: Task, note: str | None, found: Sequence[Finding], now: Instant) -> None:
        if note:
            group.note(now, "coordinator", note)
        for finding in found if self._learn else ():
            if llm := self._state.llms.get(finding.part.llm or ""):
                llm.learned.judge(finding.part.spec.skills, finding.score, now)
                self._state.changes.llms[llm.name] = llm

    def _end_all(self, parts: Sequence[Task], why: str, now: Instant) -> None:
        for part in parts:
            if not part.status.is_final:
                self._end(part, why, now)


def _too_large(result: JsonValue) -> int:
    """How many bytes a result has that no answer could carry; 0 when it is none."""
    size = len(to_json(result))
    return size if size > MAX_GROUP_RESULT_BYTES else 0


def _result_too_large(parts: Sequence[Task], size: int) -> Failure:
    told = f"the results of its parts have {size:,} bytes together; the limit is {MAX_GROUP_RESULT_BYTES:,}"
    ids = [part.id for part in parts]
    return failure("result_too_large", f"{told}. Each is the result of its part: {ids[0]} to {ids[-1]}")


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


def _number(group: Task, id_: str) -> int | None:
    number = id_.removeprefix(_prefix(group))
    return int(number) if number != id_ and number.isdecimal() else None


def _prefix(group: Task) -> str:
    return f"{group.id}." if group.attempt == 1 else f"{group.id}.{group.attempt}."


def _time_of(group: Task) -> Micros:
    return LONGEST if group.spec.timeout is None else seconds(group.spec.timeout)
