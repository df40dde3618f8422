"""Dispatch: fills free slots with ready tasks. Reserve LLMs come in where the others do not suffice."""

from collections.abc import Iterable
from heapq import heapify, heappop, heappush

from broker.timestamps import Instant
from coordinator.core.budgets.admission import admit
from coordinator.core.scheduling.decision import Decision, HeldBack, Policy
from coordinator.core.scheduling.reserves import call_in_reserve
from coordinator.core.state import CoreState
from coordinator.core.tasks.task import Task


def fill_slots(state: CoreState, policy: Policy, now: Instant) -> None:
    """Fill free slots from the lanes that changed, in the order of their first tasks."""
    lanes = {lane.key: lane for lane in state.ready.take_touched()}
    order = [(lane.order[0], key) for key, lane in lanes.items()]
    heapify(order)
    while order:
        _, key = heappop(order)
        lane = lanes[key]
        called_in = call_in_reserve(lane, state.ready, now) if lane.reserves else None
        match called_in or policy.pick(lane, state.ready, now):
            case Decision() as decision:
                lane.remove(decision.task.id)
                if admit(state, decision.task, decision.llm, now):
                    state.assign(decision, now)
                if decision.llm.free:
                    lane.offer(decision.llm)
                if lane.order:
                    heappush(order, (lane.order[0], key))
            case HeldBack(tasks, why):
                state.ready.hold(lane)
                _tell_why(state, tasks, why)
            case None if any(llm.free for llm in lane.reserves.values()):
                state.ready.hold(lane)


def _tell_why(state: CoreState, tasks: Iterable[Task], why: str) -> None:
    for task in tasks:
        if task.why != why:
            task.why = why
            state.touch(task)
