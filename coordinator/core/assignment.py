"""Who does a task, and why. Pure: looks at the task and the LLMs, changes nothing."""

from collections.abc import Sequence
from typing import NamedTuple

from coordinator.core.pool import LLM
from coordinator.core.task import Task


class Decision(NamedTuple):
    """The chosen LLM and a line that tells people why."""

    llm: LLM
    why: str


def choose(task: Task, eligible: Sequence[LLM]) -> Decision | None:
    """The LLM with a free slot and the least expected wait; None when every slot is taken.

    The expected wait is the mean run time times the tasks in hand for each slot. Equal waits go to the higher level
    in the skills asked for, then to the LLM with more free slots.
    """
    free = [llm for llm in eligible if llm.free > 0]
    if not free:
        return None
    if len(free) == 1:
        return Decision(free[0], _only(task, sum(llm.state == "online" for llm in eligible)))
    best = min(free, key=lambda llm: (_expected_wait(llm), -_level(task, llm), -llm.free, llm.name))
    wait = _expected_wait(best) / 1_000_000
    return Decision(best, f"least expected wait ({wait:.1f} s) of {len(free)} with a free slot")


def _only(task: Task, online: int) -> str:
    if task.spec.assignee:
        return "assigned by hand"
    asked = f" with {', '.join(task.spec.skills)}" if task.spec.skills else ""
    return f"the only LLM{asked} online" if online == 1 else f"the only free one of {online} LLMs{asked} online"


def _expected_wait(llm: LLM) -> float:
    return (llm.mean_run or 0) * llm.in_hand / (llm.slots or 1)


def _level(task: Task, llm: LLM) -> float:
    return sum(llm.skills.get(skill, 0.0) for skill in task.spec.skills)
