"""Relay and review: one LLM after the other, and rounds of draft and review."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

from pydantic import JsonValue

from broker.mappings import without_none
from broker.protocol.task_requests import Submission
from coordinator.core.groups.steps import (
    CreatePart,
    Fail,
    Finding,
    Finish,
    KeepWaiting,
    Step,
    failure,
    fields_of,
    is_good,
    name_of,
    nobody,
    part_of,
    too_late,
    why_not,
)
from coordinator.core.tasks.task import Task

MAX_REMARK_CHARACTERS = 300  # characters of a remark in the history

VERDICT: dict[str, JsonValue] = {
    "type": "object",
    "properties": {
        "approved": {"type": "boolean"},
        "remarks": {"type": "string"},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
    },
    "required": ["approved", "remarks"],
    "additionalProperties": False,
}


class _Verdict(NamedTuple):
    approved: bool
    remarks: str
    score: float | None


class _Turns:
    """The parts by purpose: the authors' first drafts, the reviews, the drafts that follow them."""

    def __init__(self, group: Submission, parts: Sequence[Task]) -> None:
        self.authors = len(group.assignees) if group.mode == "relay" else 1
        self.firsts = parts[: self.authors]
        self.reviews = parts[self.authors :: 2]
        self.nexts = parts[self.authors + 1 :: 2]

    @property
    def best(self) -> Task | None:
        """The last finished draft."""
        return next((part for part in reversed([*self.firsts, *self.nexts]) if is_good(part)), None)

    @property
    def reviewed(self) -> list[Task]:
        """The draft of each round."""
        first = [part for part in self.firsts if is_good(part)][-1:]
        return [*first, *self.nexts][: len(self.reviews)]


def take_turns(group: Submission, parts: Sequence[Task], late: bool) -> Step:
    """Return the next step: each author in turn, then rounds of review until the reviewer approves."""
    turns = _Turns(group, parts)
    if parts and not parts[-1].status.is_final:
        return too_late(parts[-1], _made_so_far(group, turns)) if late else KeepWaiting()
    if len(turns.firsts) < turns.authors:
        return _first_draft(group, turns)
    if (best := turns.best) is None:
        return nobody({name_of(part): why_not(part) for part in turns.firsts})
    if group.reviewer is None:
        return Finish(_made_so_far(group, turns), (best,))
    if len(turns.reviews) > len(turns.nexts):
        return _after_review(group, group.reviewer, turns, best)
    if turns.nexts and not is_good(turns.nexts[-1]):
        text = f"{name_of(best)} has not changed it as {group.reviewer} wanted: {why_not(turns.nexts[-1])}"
        return Fail(failure("author_failed", text), _made_so_far(group, turns))
    return _review(group, group.reviewer, best)


def _first_draft(group: Submission, turns: _Turns) -> CreatePart:
    if group.mode != "relay":
        part = part_of(group, assignee=group.assignee, assignees=group.assignees)
        return CreatePart((part if part.assignee or not group.reviewer else _without(part, group.reviewer),))
    llm, best = group.assignees[len(turns.firsts)], turns.best
    if best is None:
        return CreatePart((part_of(group, assignee=llm),))
    text = (
        f"{group.description}\n\nWhat {name_of(best)} made of this is given ({best.id}). Improve it: correct what is "
        "wrong, add what is missing, and answer with the whole of it."
    )
    return CreatePart((part_of(group, assignee=llm, description=text, after=(best,)),))


def _without(part: Submission, reviewer: str) -> Submission:
    """The reviewer does not review its own work."""
    return part.model_copy(update={"excluded": [*part.excluded, reviewer]})


def _review(group: Submission, reviewer: str, draft: Task) -> CreatePart:
    text = (
        f"Review what {name_of(draft)} made of the task below; it is given ({draft.id}). Approve it if it does what "
        "was asked; else say in your remarks what has to be changed. Your score is from 0, useless, to 1.\n\n"
        f"The task: {group.description}"
    )
    part = part_of(group, assignee=reviewer, description=text, after=(draft,), schema=VERDICT)
    return CreatePart((part.model_copy(update={"skills": ["review"]}),))


def _after_review(group: Submission, reviewer: str, turns: _Turns, draft: Task) -> Step:
    review, number = turns.reviews[-1], len(turns.reviews)
    made = _made_so_far(group, turns)
    verdict = _verdict(review)
    if verdict is None:
        why = "its answer is no verdict" if is_good(review) else why_not(review)
        return Fail(failure("review_failed", f"{reviewer} has not reviewed it: {why}"), made)
    found = (Finding(draft, float(verdict.approved) if verdict.score is None else verdict.score),)
    if verdict.approved:
        return Finish(made, (draft,), f"round {number}: approved by {reviewer}", found)
    note = f"round {number}: sent back by {reviewer}: {verdict.remarks[:MAX_REMARK_CHARACTERS]}"
    if number >= group.max_rounds:
        rounds = f"{number} round{'s' if number > 1 else ''}"
        text = (
            f"{reviewer} has not approved it in {rounds}; the last remarks: {verdict.remarks[:MAX_REMARK_CHARACTERS]}"
        )
        return Fail(failure("not_approved", text), made, note, found)
    text = (
        f"{group.description}\n\nYou have done this before, and {reviewer} has sent it back. What you made is given "
        f"({draft.id}). The remarks:\n{verdict.remarks}\n\nChange it accordingly, and answer with the whole of it."
    )
    return CreatePart((part_of(group, assignee=draft.llm, description=text, after=(draft,)),), note, found)


def _made_so_far(group: Submission, turns: _Turns) -> JsonValue:
    """Return the last draft, the authors, and the verdicts of the reviews."""
    made: dict[str, JsonValue] = {"result": None if turns.best is None else turns.best.result}
    if group.mode == "relay":
        made["steps"] = [
            {"llm": name_of(part), **({"result": part.result} if is_good(part) else {"failed": why_not(part)})}
            for part in turns.firsts
        ]
    if group.reviewer is not None:
        verdicts = [_verdict(review) for review in turns.reviews]
        made["approved"] = len(turns.reviews) > len(turns.nexts) and verdicts[-1] is not None and verdicts[-1].approved
        made["rounds"] = [
            {"author": name_of(draft), "reviewer": group.reviewer, **(_shown(verdict) if verdict else {})}
            for draft, verdict in zip_longest(turns.reviewed, verdicts)
        ]
    return made


def _shown(verdict: _Verdict) -> dict[str, JsonValue]:
    return without_none(verdict._asdict())


def _verdict(review: Task) -> _Verdict | None:
    """Return the verdict of a review; None when the answer is none."""
    given = fields_of(review.result) if is_good(review) else {}
    approved, score = given.get("approved"), given.get("score")
    if not isinstance(approved, bool):
        return None
    in_range = isinstance(score, int | float) and not isinstance(score, bool) and 0 <= score <= 1
    return _Verdict(approved, str(given.get("remarks") or "").replace("\0", ""), float(score) if in_range else None)  # type: ignore[arg-type]
