"""The next step of a task for several LLMs, computed from the task and its parts alone.

A task for several LLMs, a group, is never assigned itself. It is expanded into parts, which are ordinary tasks, and
their results are joined. The driver calls `step` whenever a part ended or time has passed. There is no other state:
the parts are in the order of their creation, and the place of a part says its purpose. So nothing is lost when the
coordinator crashes in between.
"""

from collections.abc import Sequence

from broker.protocol.task_requests import Submission
from coordinator.core.groups.relay_review import take_turns
from coordinator.core.groups.steps import (
    CreatePart,
    Finish,
    KeepWaiting,
    Step,
    is_good,
    live,
    nobody,
    part_of,
    seats,
    why_not,
    with_failed,
)
from coordinator.core.groups.voting import count_votes, put_before_judge
from coordinator.core.tasks.task import Task


def step(group: Submission, parts: Sequence[Task], *, spent: float = 0.0, answer: str | None = None) -> Step:
    """Return the next step.

    `parts` are all parts so far, in the order of their creation; `spent` is the elapsed share of the group's
    time, at most 1; `answer` is the answer of the person who was asked, if any was.
    """
    late = spent >= 1
    match group.mode:
        case "all":
            return _all(group, parts, late)
        case "vote" if group.vote and group.vote.judge:
            return put_before_judge(group, group.vote, group.vote.judge, parts, spent)
        case "vote" if group.vote:
            return count_votes(group, group.vote, parts, late, answer)
        case _:
            return take_turns(group, parts, late)


# -- all at once -----------------------------------------------------------------------------------------------------


def _all(group: Submission, parts: Sequence[Task], late: bool) -> Step:
    if not parts:
        return CreatePart(tuple(part_of(group, assignee=llm) for llm in group.assignees))
    if live(parts) and not late:
        return KeepWaiting()
    results = {llm: part.result for llm, part in seats(group, parts) if is_good(part)}
    failed = {llm: why_not(part) for llm, part in seats(group, parts) if llm not in results}
    if not results:
        return nobody(failed)
    return Finish(with_failed({"results": results}, failed), tuple(filter(is_good, parts)))
