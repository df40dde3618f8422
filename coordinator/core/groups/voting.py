"""Votes: each LLM answers on its own; the ballots are counted, or a judge decides."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from broker.protocol.task_requests import Submission, Vote
from coordinator.core.groups.steps import (
    AskPerson,
    CreatePart,
    Fail,
    Finding,
    Finish,
    KeepWaiting,
    Step,
    failure,
    fields_of,
    is_good,
    listed,
    live,
    part_of,
    seats,
    too_late,
    why_not,
    with_failed,
)
from coordinator.core.tasks.task import Task

HALF = 0.5  # share of the time after which a judge no longer waits for missing answers
NOT_NEEDED = "it was decided before"
ASKED = 2000  # characters of a description in a question


# -- counted ---------------------------------------------------------------------------------------------------------


def count_votes(group: Submission, vote: Vote, parts: Sequence[Task], late: bool, answer: str | None) -> Step:
    """Return the next step of a vote for one of the choices. It ends when no missing ballot can change the outcome."""
    choices = vote.choices or []
    if not parts:
        text = f"{group.description}\n\nVote for one of these, and say why: {'; '.join(choices)}"
        schema = _ballot(choices)
        return CreatePart(
            tuple(part_of(group, assignee=llm, description=text, schema=schema) for llm in group.assignees)
        )
    ballots = {llm: (part, chosen) for llm, part in seats(group, parts) if (chosen := _choice(part, choices))}
    failed = {llm: _no_vote(part) for llm, part in seats(group, parts) if llm not in ballots}
    decided = {llm: NOT_NEEDED for llm, part in seats(group, parts) if not late and not part.status.is_final}
    waited_for = [] if late else [llm for llm, part in seats(group, parts) if not part.status.is_final]
    quorum = _quorum(group, vote)
    if len(ballots) + len(waited_for) < quorum:
        return _no_quorum(quorum, len(ballots), failed)
    tally = dict.fromkeys(choices, 0.0)
    for llm, (_, chosen) in ballots.items():
        tally[chosen] += _weight(vote, llm)
    first, second = sorted(tally.values(), reverse=True)[:2]
    still_open = sum(_weight(vote, llm) for llm in waited_for)
    if waited_for and (len(ballots) < quorum or first <= second + still_open):
        return KeepWaiting()
    tied = [choice for choice in choices if tally[choice] == first]
    if len(tied) > 1 and answer is None:
        return _ask(group, tally, tied)
    decision = answer if len(tied) > 1 and answer is not None else tied[0]
    result: dict[str, JsonValue] = {
        "choice": decision,
        "decided_by": "person" if len(tied) > 1 else "vote",
        "tally": {**tally},
        "ballots": [
            {"llm": llm, "weight": _weight(vote, llm), "choice": chosen, "reason": fields_of(part.result).get("reason")}
            for llm, (part, chosen) in ballots.items()
        ],
    }
    found = tuple(Finding(part, float(chosen == decision)) for part, chosen in ballots.values())
    accepted = tuple(part for part, chosen in ballots.values() if chosen == decision)
    return Finish(with_failed(result, failed | decided), accepted, found=found)


def _ballot(choices: Sequence[str]) -> dict[str, JsonValue]:
    return {
        "type": "object",
        "properties": {"choice": {"type": "string", "enum": [*choices]}, "reason": {"type": "string"}},
        "required": ["choice", "reason"],
        "additionalProperties": False,
    }


def _choice(part: Task, choices: Sequence[str]) -> str | None:
    """Return the choice of a ballot; None without a valid vote."""
    chosen = fields_of(part.result).get("choice") if is_good(part) else None
    return chosen if isinstance(chosen, str) and chosen in choices else None


def _no_vote(part: Task) -> str:
    return "its answer is none of the choices" if is_good(part) else why_not(part)


def _weight(vote: Vote, llm: str) -> float:
    return vote.weights.get(llm, 1.0)


def _ask(group: Submission, tally: Mapping[str, float], tied: Sequence[str]) -> AskPerson:
    counted = ", ".join(f"{choice}: {tally[choice]:g}" for choice in tied)
    return AskPerson(f"{group.description[:ASKED]}\n\nThe vote is tied ({counted}). Which one is it?", tuple(tied))


# -- judged ----------------------------------------------------------------------------------------------------------


def put_before_judge(group: Submission, vote: Vote, judge: str, parts: Sequence[Task], spent: float) -> Step:
    """Return the next step of a vote with a judge, who makes one decision of all answers, at half of the time."""
    if not parts:
        return CreatePart(tuple(part_of(group, assignee=llm, schema=None) for llm in group.assignees))
    answers = {llm: part for llm, part in seats(group, parts) if is_good(part)}
    failed = {llm: why_not(part) for llm, part in seats(group, parts) if llm not in answers}
    if len(parts) == len(group.assignees):
        return _call_judge(group, vote, judge, answers, failed, len(live(parts)), spent)
    decision = parts[-1]
    shown: dict[str, JsonValue] = {
        "judge": judge,
        "ballots": [{"llm": llm, "answer": part.result} for llm, part in answers.items()],
    }
    if not decision.status.is_final:
        return too_late(decision, with_failed(shown, failed)) if spent >= 1 else KeepWaiting()
    if not is_good(decision):
        error = failure("judge_failed", f"{judge} has not decided: {why_not(decision)}")
        return Fail(error, with_failed(shown, failed))
    return Finish(with_failed({"decision": decision.result, **shown}, failed), (decision,))


def _call_judge(
    group: Submission,
    vote: Vote,
    judge: str,
    answers: Mapping[str, Task],
    failed: Mapping[str, str],
    waited_for: int,
    spent: float,
) -> Step:
    quorum = _quorum(group, vote)
    if spent >= 1 or len(answers) + waited_for < quorum:
        return _no_quorum(quorum, len(answers), failed)
    if len(answers) < quorum or (waited_for and spent < HALF):
        return KeepWaiting()
    whose = ", ".join(f"{part.id} is that of {llm}" for llm, part in answers.items())
    text = f"{group.description}\n\nThe answers of {len(answers)} LLMs to this are given: {whose}. Decide, and say why."
    part = part_of(group, assignee=judge, description=text, after=tuple(answers.values()))
    return CreatePart((part,), note=f"{len(answers)} answers go to {judge}", alone=True)


# -- both ------------------------------------------------------------------------------------------------------------


def _quorum(group: Submission, vote: Vote) -> int:
    """Return how many ballots are needed: more than half of them by default."""
    return vote.quorum or len(group.assignees) // 2 + 1


def _no_quorum(quorum: int, came: int, failed: Mapping[str, str]) -> Fail:
    return Fail(failure("no_quorum", f"{quorum} ballots are needed, {came} came in time; {listed(failed)}"))
