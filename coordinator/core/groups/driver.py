"""Tasks for several LLMs: makes their parts, and ends them when collaboration.py says so."""

from collections.abc import Sequence
from typing import assert_never

from pydantic import JsonValue
from pydantic_core import to_json

from broker.protocol.primitives import MAX_GROUP_RESULT_BYTES
from broker.protocol.status import Status
from broker.protocol.worker_reports import Failure
from broker.timestamps import Instant, Micros, seconds
from coordinator.core.events import GroupChanged
from coordinator.core.groups.naming import part_id, part_number
from coordinator.core.groups.steps import AskPerson, CreatePart, Fail, Finding, Finish, KeepWaiting, failure
from coordinator.core.groups.strategies import step
from coordinator.core.groups.voting import HALF
from coordinator.core.state import CoreState
from coordinator.core.tasks import transitions
from coordinator.core.tasks.entry import enter_part
from coordinator.core.tasks.task import COORDINATOR, OpenQuestion, Task

LONGEST = seconds(
    86_400
)  # that a group takes when nothing is said, so that one that is silent does not hold it for ever
TIE = "tie"  # the id of the question


class GroupDriver:
    """Takes every group from one step to the next."""

    def __init__(self, board: CoreState, *, learn: bool) -> None:
        """With `learn`, what reviews and votes find changes what LLMs are believed to be able to do."""
        self._state = board
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
                    enter_part(self._state, part_id(group, number), spec, group, now)
                self._wake_in_time(group, spent)
            case AskPerson(question, choices):
                group.wake_at = None  # people take the time that they need
                transitions.ask(group, OpenQuestion(TIE, question, choices, now), now)
                self._end_all(parts, "the vote is over", now)
                self._state.touch(group)
                self._state.announce(group, now)
            case Finish(result, note, found):
                self._note(group, note, found, now)
                if size := _too_large(result):
                    self._state.fail(group, _result_too_large(parts, size), now)
                    return
                self._state.complete(group, result, now)
                self._end_all(parts, f"{group.id} was done without it", now)
            case Fail(error, result, note, found):
                self._note(group, note, found, now)
                self._state.fail(group, error, now, None if _too_large(result) else result)
            case other:
                assert_never(other)

    def _parts(self, group: Task, stored: Sequence[str]) -> tuple[list[Task], list[Task]]:
        """The parts of its present run, in the order of their making, and those of earlier ones."""
        known = {id_: self._state.tasks[id_] for id_ in stored} | {
            t.id: t for t in self._state.children.get(group.id, ())
        }
        numbered = {number: part for part in known.values() if (number := part_number(group, part.id)) is not None}
        of_before = [part for part in known.values() if part_number(group, part.id) is None]
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
            group.note(now, COORDINATOR, note)
        for finding in found if self._learn else ():
            if llm := self._state.llms.get(finding.part.llm or ""):
                llm.learned.judge(finding.part.spec.skills, finding.score, now)
                self._state.changes.llms[llm.name] = llm

    def _end_all(self, parts: Sequence[Task], why: str, now: Instant) -> None:
        for part in parts:
            if not part.status.is_final:
                self._state.cancel(part, COORDINATOR, why, now)


def _too_large(result: JsonValue) -> int:
    """How many bytes a result has that no answer could carry; 0 when it is none."""
    size = len(to_json(result))
    return size if size > MAX_GROUP_RESULT_BYTES else 0


def _result_too_large(parts: Sequence[Task], size: int) -> Failure:
    told = f"the results of its parts have {size:,} bytes together; the limit is {MAX_GROUP_RESULT_BYTES:,}"
    ids = [part.id for part in parts]
    return failure("result_too_large", f"{told}. Each is the result of its part: {ids[0]} to {ids[-1]}")


def _time_of(group: Task) -> Micros:
    return LONGEST if group.spec.timeout is None else seconds(group.spec.timeout)
