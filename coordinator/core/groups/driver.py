"""Drives tasks for several LLMs: creates their parts, and ends them as strategies.py decides."""

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
    """Takes each group from one step to the next."""

    def __init__(self, state: CoreState, *, learn: bool) -> None:
        """With `learn`, the scores of reviews and votes change the quality of LLMs."""
        self._state = state
        self._learn = learn

    def advance(self, event: GroupChanged, now: Instant) -> None:
        """Take the next step of a group that changed. Its parts are loaded."""
        group = self._state.tasks[event.task_id]
        if group.status is not Status.IN_PROGRESS:
            return
        parts, of_before = self._parts(group, event.parts)
        self._end_all(of_before, f"{group.id} was retried", now)
        spent = self._spent(group, now)
        answer = group.questions[-1].answer if group.questions else None
        match step(group.spec, parts, spent=spent, answer=answer):
            case KeepWaiting():
                self._wake_in_time(group, spent)
            case CreatePart(specs, note, found, alone):
                self._note(group, note, found, now)
                if alone:
                    self._end_all(parts, "the next step does not need this part", now)
                for number, spec in enumerate(specs, len(parts) + 1):
                    enter_part(self._state, part_id(group, number), spec, group, now)
                self._wake_in_time(group, spent)
            case AskPerson(question, choices):
                group.wake_at = None  # people take the time that they need
                transitions.ask(group, OpenQuestion(TIE, question, choices, now), now)
                self._end_all(parts, "the vote is over", now)
                self._state.touch(group)
                self._state.announce(group, now)
            case Finish(result, accepted, note, found):
                self._note(group, note, found, now)
                if size := _too_large(result):
                    self._state.fail(group, _result_too_large(parts, size), now)
                    return
                self._accept(accepted)
                self._state.complete(group, result, now)
                self._end_all(parts, f"{group.id} ended without this part", now)
            case Fail(error, result, note, found):
                self._note(group, note, found, now)
                self._state.fail(group, error, now, None if _too_large(result) else result)
            case other:
                assert_never(other)

    def _parts(self, group: Task, stored: Sequence[str]) -> tuple[list[Task], list[Task]]:
        """Return the parts of the present run in the order of their creation, and those of earlier runs."""
        known = {id_: self._state.tasks[id_] for id_ in stored} | {
            t.id: t for t in self._state.children.get(group.id, ())
        }
        numbered = {number: part for part in known.values() if (number := part_number(group, part.id)) is not None}
        of_before = [part for part in known.values() if part_number(group, part.id) is None]
        return [part for _, part in sorted(numbered.items())], of_before

    def _spent(self, group: Task, now: Instant) -> float:
        """Return the share of the group's time that is over; 0 once a person was asked."""
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

    def _accept(self, parts: Sequence[Task]) -> None:
        for part in parts:
            if part.finished_at is not None and not part.accepted:
                part.accepted = True
                self._state.touch(part)
                self._state.changes.undone.append(part.finished_at)

    def _end_all(self, parts: Sequence[Task], why: str, now: Instant) -> None:
        for part in parts:
            if not part.status.is_final:
                self._state.cancel(part, COORDINATOR, why, now)


def _too_large(result: JsonValue) -> int:
    """Return the size in bytes of a result that no answer can carry; 0 when it is small enough."""
    size = len(to_json(result))
    return size if size > MAX_GROUP_RESULT_BYTES else 0


def _result_too_large(parts: Sequence[Task], size: int) -> Failure:
    text = f"the results of its parts have {size:,} bytes together; the limit is {MAX_GROUP_RESULT_BYTES:,}"
    ids = [part.id for part in parts]
    return failure("result_too_large", f"{text}. Each is the result of its part: {ids[0]} to {ids[-1]}")


def _time_of(group: Task) -> Micros:
    return LONGEST if group.spec.timeout is None else seconds(group.spec.timeout)
