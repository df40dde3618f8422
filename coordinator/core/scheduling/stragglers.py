"""Stragglers: runs that take far longer than expected while a much quicker LLM has a free slot and nothing to do.

No estimate shows which task needs a hundred times more work than similar tasks. At a slow LLM such a task ends long
after all others. Its run is stopped and begins again at the fast LLM, once for each task.
"""

from math import exp

from broker.protocol.status import Outcome, Status
from broker.timestamps import Instant, Micros, seconds
from coordinator.core.llms.llm import LLM, OVERDUE, HeldTask
from coordinator.core.scheduling.earliest_finish import HANDOVER
from coordinator.core.state import CoreState
from coordinator.core.tasks.task import COORDINATOR, Task

LOOK = seconds(1)  # between two looks at all runs
LONG = seconds(5)  # for less, work that is done is not thrown away
MUCH_SOONER = 0.75  # a run starts again only if that is expected to take at most this share of what is left of it


def move_stragglers(state: CoreState, now: Instant) -> bool:
    """Make stragglers ready again for which a much faster LLM is free; return whether there were any."""
    if not any(llm.free for llm in state.llms.values()):
        return False
    late = [
        (now - run.since, task_id, run, llm)
        for llm in state.llms.values()
        for task_id, run in llm.runs.items()
        if now - run.since > max(LONG, run.expected * exp(llm.learned.unlucky))
    ]
    taken: set[str] = set()
    for elapsed, task_id, run, llm in sorted(late, key=lambda it: (-it[0], it[1])):
        task = state.tasks[task_id]
        if _may_move(task, run) and (quick := _quicker(state, task, llm, Micros(elapsed), now)) and quick not in taken:
            taken.add(quick)
            _move(
                state, task, f"{llm.name} takes much longer than expected; {quick} is faster and has a free slot", now
            )
    return bool(taken)


def _may_move(task: Task, run: HeldTask) -> bool:
    """Whether a run may be moved: not twice, and not when it asked a person or waited for other tasks."""
    waited = task.started_at is None or run.resumed
    moved = any(attempt.outcome == Outcome.MOVED for attempt in task.attempts)
    return task.status is Status.IN_PROGRESS and not (waited or moved or task.questions)


def _quicker(state: CoreState, task: Task, llm: LLM, elapsed: Micros, now: Instant) -> str | None:
    """Return the free LLM that is expected to finish much sooner, although the run begins again."""
    lane = state.ready.lane(task.lane, now)
    best = lane.best_free(now)
    if lane.members or best is None or state.ready.objection(task, best.llm, lane, now):
        return None
    left = elapsed * OVERDUE
    elsewhere = (elapsed + left) * best.pace / lane.pace(llm, now) + HANDOVER
    return best.llm.name if elsewhere <= MUCH_SOONER * left else None


def _move(state: CoreState, task: Task, why: str, now: Instant) -> None:
    task.note(now, COORDINATOR, f"moved: {why}")
    state.withdraw(task, Outcome.MOVED, why, now)
    state.release(task, now, counts=False)
