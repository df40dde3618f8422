"""Stragglers: runs that take far longer than expected while a much quicker LLM has a free slot and nothing to do.

Nobody can know beforehand which task is a hundred times the work of its neighbours; where it runs at a slow LLM, it
ends long after all the rest. Such a run is stopped and begins anew at the quick one, once for each task.
"""

from math import exp

from broker.protocol.status import Status
from broker.timestamps import Instant, Micros, seconds
from coordinator.core.llms.llm import LLM, OVERDUE, HeldTask
from coordinator.core.scheduling.earliest_finish import HANDOVER, failed_at
from coordinator.core.state import CoreState
from coordinator.core.tasks.task import COORDINATOR, Task

MOVED = "moved"
LOOK = seconds(1)  # between two looks at all runs
LONG = seconds(5)  # for less, work that is done is not thrown away
MUCH_SOONER = 0.75  # a run begins anew only if that is expected to take at most this share of what is left of it


def move_stragglers(board: CoreState, now: Instant) -> bool:
    """Make stragglers ready again for which a much quicker LLM is free; returns whether there were any."""
    if not any(llm.free for llm in board.llms.values()):
        return False
    late = [
        (now - run.since, task_id, run, llm)
        for llm in board.llms.values()
        for task_id, run in llm.runs.items()
        if now - run.since > max(LONG, run.expected * exp(llm.learned.unlucky))
    ]
    taken: set[str] = set()
    for elapsed, task_id, run, llm in sorted(late, key=lambda it: (-it[0], it[1])):
        task = board.tasks[task_id]
        if _may_move(task, run) and (quick := _quicker(board, task, llm, Micros(elapsed), now)) and quick not in taken:
            taken.add(quick)
            _move(board, task, f"it takes {llm.name} much longer than expected, and {quick} is quicker and free", now)
    return bool(taken)


def _may_move(task: Task, run: HeldTask) -> bool:
    """Not a second time, and not when it has asked or waited for others: that is not to be done twice."""
    waited = task.started_at is None or run.resumed
    moved = any(attempt.outcome == MOVED for attempt in task.attempts)
    return task.status is Status.IN_PROGRESS and not (waited or moved or task.questions)


def _quicker(board: CoreState, task: Task, llm: LLM, elapsed: Micros, now: Instant) -> str | None:
    """The free LLM that is expected to be done much sooner, although it begins anew."""
    lane = board.ready.lane(task.lane, now)
    best = lane.best_free(now)
    if lane.members or best is None or failed_at(task, best.llm):
        return None
    left = elapsed * OVERDUE
    anew = (elapsed + left) * best.pace / lane.pace(llm, now) + HANDOVER
    return best.llm.name if anew <= MUCH_SOONER * left else None


def _move(board: CoreState, task: Task, why: str, now: Instant) -> None:
    task.note(now, COORDINATOR, f"begins anew: {why}")
    board.withdraw(task, MOVED, why, now)
    board.release(task, now, counts=False)
