"""Filling free slots with ready tasks."""

from collections.abc import Iterable
from heapq import heapify, heappop, heappush

from broker.timestamps import Instant
from coordinator.core.scheduling.decision import Decision, HeldBack, Policy
from coordinator.core.state import CoreState
from coordinator.core.tasks.task import Task


def fill_slots(board: CoreState, policy: Policy, now: Instant) -> None:
    """Fill free slots from the lanes in which something has changed, the first in rank first."""
    lanes = {lane.key: lane for lane in board.ready.take_touched()}
    order = [(lane.order[0], key) for key, lane in lanes.items()]
    heapify(order)
    while order:
        _, key = heappop(order)
        lane = lanes[key]
        match policy.pick(lane, board.ready, now):
            case Decision() as decision:
                lane.remove(decision.task.id)
                board.give(decision, now)
                if decision.llm.free:
                    lane.offer(decision.llm)
                if lane.order:
                    heappush(order, (lane.order[0], key))
            case HeldBack(tasks, why):
                board.ready.hold(lane)
                _tell_why(board, tasks, why)


def _tell_why(board: CoreState, tasks: Iterable[Task], why: str) -> None:
    for task in tasks:
        if task.why is None:
            task.why = why
            board.touch(task)
