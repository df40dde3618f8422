"""Stragglers: runs that take far longer than expected, while a much quicker LLM has a free slot and nothing to do.

Nobody can know beforehand which task is a hundred times the work of its neighbours; where it runs at a slow LLM, it
ends long after all the rest. Such a run is stopped and begins anew at the quick one, once for each task.
"""

from math import exp

from broker.instants import Instant, seconds
from broker.messages import Status
from coordinator.core.assignment import HANDOVER, failed_at
from coordinator.core.board import Board
from coordinator.core.lifecycle import Trigger
from coordinator.core.pool import OVERDUE, LLM
from coordinator.core.task import Task

MOVED = "moved"
LOOK = seconds(1)  # between two looks at all runs
LONG = seconds(5)  # nothing shorter is worth the work that is thrown away
MUCH_SOONER = 0.75  # a run begins anew only if it is expected to take at most this share of what is left of it


def move_stragglers(board: Board, now: Instant) -> bool:
    """Make stragglers ready again for which a much quicker LLM is free; returns whether there were any."""
    if not any(llm.free for llm in board.llms.values()):
        return False
    slow = [
        (now - run.since, task_id, llm)
        for llm in board.llms.values()
        for task_id, run in llm.runs.items()
        if now - run.since > max(LONG, run.expected * exp(llm.learned.unlucky))
    ]
    moved: set[str] = set()
    for elapsed, task_id, llm in sorted(slow, key=lambda it: -it[0]):
        task = board.tasks[task_id]
        better = _better(board, task, llm, elapsed, now)
        if better and better.name not in moved:
            moved.add(better.name)
            _move(board, task, f"{llm.name} takes much longer than expected, {better.name} is quicker and free", now)
    return bool(moved)


def _better(board: Board, task: Task, llm: LLM, elapsed: int, now: Instant) -> LLM | None:
    """A free LLM that is expected to be done much sooner, although it begins anew."""
    if task.status is not Status.IN_PROGRESS or any(attempt.outcome == MOVED for attempt in task.attempts):
        return None
    lane = board.ready.lane(task.lane, now)
    best = lane.best_free()
    if lane.members or best is None or failed_at(task, best.llm):
        return None
    left = elapsed * OVERDUE
    anew = (elapsed + left) * best.pace / llm.learned.pace(task.spec.skills, now) + HANDOVER
    return best.llm if anew < MUCH_SOONER * left else None


def _move(board: Board, task: Task, reason: str, now: Instant) -> None:
    task.note(now, "coordinator", f"moved: {reason}")
    task.starts -= 1  # it was not the attempt's fault
    board.withdraw(task, MOVED, reason, now)
    task.move(Trigger.RELEASE)
    board.make_ready(task, now)
