"""The policy `cheapest-in-time`: the cheapest LLM that is expected to meet the due date of a task."""

from collections.abc import Iterator
from heapq import heapify, heapreplace
from typing import NamedTuple

from broker.timestamps import Instant
from coordinator.core.llms.cost import expected_cost, in_dollars
from coordinator.core.llms.llm import LLM
from coordinator.core.scheduling.decision import Decision, HeldBack
from coordinator.core.scheduling.earliest_finish import CAUTION, HANDOVER, LOOK_AHEAD, SEARCHED, as_text, is_by_hand
from coordinator.core.scheduling.lane import Lane
from coordinator.core.scheduling.ready_queue import ReadyQueue
from coordinator.core.tasks.task import Task

_UNKNOWN = 2**62  # nanodollars: an unknown price counts as the highest


class CheapestInTime:
    """Every task where it costs least, of the LLMs that are expected to finish it in time; without a due date, of all.

    Among equal costs, the earliest finish counts, and if no LLM is in time, nothing else. Where that is an LLM whose
    slots are all taken, the task waits for it, and the free slots are offered to the next tasks.
    """

    moves_stragglers = False

    def pick(self, lane: Lane, ready: ReadyQueue, now: Instant) -> Decision | HeldBack | None:
        """See Policy."""
        if not lane.all_free():
            return None
        slots = _Slots(lane, ready, now)
        tasks, refused, reason = [], 0, ""
        for task in lane.first(SEARCHED):
            options = list(slots.options(task))
            if not options:
                continue
            best = min(options)
            if best.llm.free and best.wait == 0:
                return Decision(task, best.llm, _why(task, best, lane, now))
            slots.occupy(best)
            reason = reason or f"waits for {best.name}: {_why_there(task, best)}"
            tasks.append(task)
            refused += any(option.llm.free for option in options)
            if refused == LOOK_AHEAD:
                break
        if not tasks:
            tasks = [next(lane.first(1))]
            reason = next(filter(None, (ready.objection(tasks[0], llm, lane, now) for llm in lane.all_free())), "")
        return HeldBack(tasks, reason)


class _Option(NamedTuple):
    """An LLM for a task, in the order of preference: microseconds until its slot is free and until the task is done."""

    is_late: bool
    cost: int
    finish: float
    name: str
    wait: float
    llm: LLM


class _Slots:
    """When the slots of all LLMs of a lane are expected to be free, with the tasks that are to wait for them."""

    def __init__(self, lane: Lane, ready: ReadyQueue, now: Instant) -> None:
        self._lane = lane
        self._ready = ready
        self._now = now
        self._free_in: dict[str, list[float]] = {}
        for llm in lane.eligible.values():
            may_work = llm.free or (llm.available and llm.slots)
            if may_work and llm.name not in lane.reserves:
                waits = [0.0] * llm.free + [wait + HANDOVER for wait in llm.waits(now)]
                heapify(waits)
                self._free_in[llm.name] = waits or [0.0]

    def options(self, task: Task) -> Iterator[_Option]:
        """Yield the LLMs that may get the task."""
        lane, now = self._lane, self._now
        for name, waits in self._free_in.items():
            llm = lane.eligible[name]
            if not self._ready.objection(task, llm, lane, now):
                run, wait = task.size * lane.pace(llm, now), waits[0]
                cost = expected_cost(llm, task)
                is_late = task.due is not None and now + wait + CAUTION * run > task.due
                known = _UNKNOWN if cost is None else cost
                yield _Option(is_late, 0 if is_late else known, wait + run, name, wait, llm)

    def occupy(self, option: _Option) -> None:
        """A task waits for this LLM."""
        heapreplace(self._free_in[option.name], option.finish + HANDOVER)


def _why(task: Task, chosen: _Option, lane: Lane, now: Instant) -> str:
    if is_by_hand(lane):
        return "assigned by hand"
    due = "" if task.due is None else f", due in {as_text(task.due - now)}"
    return f"{chosen.name}: {_why_there(task, chosen)}, expected finish in {as_text(chosen.finish)}{due}"


def _why_there(task: Task, chosen: _Option) -> str:
    if chosen.is_late:
        return "no LLM is expected to be in time"
    cost = in_dollars(expected_cost(chosen.llm, task))
    return f"the cheapest ({cost})" if task.due is None else f"the cheapest in time ({cost})"
