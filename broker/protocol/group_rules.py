"""What makes sense of all that can be said about several LLMs on one task."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.protocol.messages import Submission

ROUNDS = 3  # of a review, where nothing is said
MOST_DEPENDENCIES = 900  # of a task for several: its parts depend on these and on each other


def what_is_wrong(task: "Submission") -> str | None:
    """What contradicts itself in the task, with the name of the field; None where all is well."""
    return next(_contradictions(task), None)


def _contradictions(task: "Submission") -> Iterator[str]:
    if task.assignee and task.assignees:
        yield "assignees: give assignee or assignees, not both"
    if task.mode and not task.assignees:
        yield f"mode: {task.mode} needs assignees"
    if task.assignees and not task.mode:
        yield "mode: say how the assignees work together: any, all, vote or relay"
    if twice := [name for name in task.assignees if task.assignees.count(name) > 1]:
        yield f"assignees: {twice[0]} is there twice"
    if both := [name for name in (task.assignee, *task.assignees, task.reviewer) if name in task.excluded]:
        yield f"excluded: {both[0]} is to work on it"
    if task.is_group and len(task.depends_on) > MOST_DEPENDENCIES:
        yield f"depends_on: a task for several LLMs may depend on {MOST_DEPENDENCIES}"
    yield from _of_the_vote(task)
    yield from _of_the_review(task)


def _of_the_vote(task: "Submission") -> Iterator[str]:
    vote = task.vote
    if vote is None:
        if task.mode == "vote":
            yield "mode: vote needs vote.choices or vote.judge"
        return
    if task.mode != "vote":
        yield "vote: goes with the mode vote"
    if unknown := [name for name in vote.weights if name not in task.assignees]:
        yield f"vote.weights: {unknown[0]} is not among the assignees"
    if vote.judge in task.assignees:
        yield f"vote.judge: {vote.judge} has a vote already"
    if vote.judge in task.excluded:
        yield f"excluded: {vote.judge} is to work on it"
    if vote.quorum and vote.quorum > len(task.assignees):
        yield f"vote.quorum: there are {len(task.assignees)} assignees"
    if vote.choices and task.output_schema is not None:
        yield "output_schema: a vote for choices has one of its own"


def _of_the_review(task: "Submission") -> Iterator[str]:
    if task.reviewer is None:
        if task.max_rounds != ROUNDS:
            yield "max_rounds: goes with a reviewer"
        return
    if task.reviewer == task.assignee or task.reviewer in task.assignees:
        yield f"reviewer: {task.reviewer} would review its own work"
    if task.mode in ("all", "vote"):
        yield f"reviewer: the mode {task.mode} has no one result to review"
