"""Reserve LLMs: they get the tasks that the other LLMs of a lane cannot do, or cannot do soon enough.

Policies know nothing of reserves. Before a policy is asked, the first tasks of a lane are looked at: whether all other
LLMs are unavailable, and by the `spill` of each reserve, whether the task would be late or wait for too long.
"""

from collections.abc import Iterator, Sequence

from broker.timestamps import Instant, seconds
from coordinator.core.health.view import why_not
from coordinator.core.llms.cost import expected_cost, in_dollars
from coordinator.core.llms.llm import LLM
from coordinator.core.scheduling.decision import Decision
from coordinator.core.scheduling.earliest_finish import (
    HANDOVER,
    SEARCHED,
    as_text,
    is_by_hand,
    wait_for_slot,
)
from coordinator.core.scheduling.lane import Candidate, Lane
from coordinator.core.scheduling.ready_queue import ReadyQueue
from coordinator.core.scheduling.suitability import unsuitable
from coordinator.core.tasks.task import Rank, Task

CAUTION = 1.5  # times as long as expected, since nobody knows how long an answer will be

_NAMED = 3  # LLMs in a reason
_UNKNOWN = 2**62  # in place of an unknown cost


def call_in_reserve(lane: Lane, ready: ReadyQueue, now: Instant) -> Decision | None:
    """Return the first task of a lane that a reserve gets, with the reserve; None if there is none.

    Tasks that the reserve can finish in time go before those that are late there, too.
    """
    free = [lane.reserves[name] for name in sorted(lane.reserves) if lane.reserves[name].free > 0]
    if not free:
        return None
    lane.survey(now)
    if not all(candidate.llm.available for candidate in lane.quickest):
        lane.survey_again(now)
    others = _Others(lane, ready, now)
    fastest = min(lane.pace(llm, now) for llm in free)
    ahead, late = 0, None
    for number, task in enumerate(lane.first(SEARCHED)):
        others.queue(number, ahead)
        ahead += task.size
        due = task.due
        if not others.may_fail(task, due) or (late and (due is None or now + task.size * fastest > due)):
            continue
        reasons = {
            llm.name: reason
            for llm in free
            if not ready.objection(task, llm, lane, now) and (reason := others.why_not(task, llm))
        }
        if reasons:
            (is_late, _, _), llm = _best_reserve(task, [llm for llm in free if llm.name in reasons], lane, now)
            decision = Decision(task, llm, _why(task, llm, reasons[llm.name], lane))
            if not is_late:
                return decision
            late = late or decision
    return late


def _best_reserve(
    task: Task, reserves: Sequence[LLM], lane: Lane, now: Instant
) -> tuple[tuple[bool, float, float], LLM]:
    """Return the cheapest that is in time, else the one that finishes first; and whether it is late."""
    ranked = [(_preference(task, llm, lane, now), llm) for llm in reserves]
    return min(ranked, key=lambda it: it[0])


def _why(task: Task, llm: LLM, reason: str, lane: Lane) -> str:
    if is_by_hand(lane):
        return "assigned by hand"
    return f"{llm.name} (reserve, {in_dollars(expected_cost(llm, task))}): {reason}"


def _preference(task: Task, llm: LLM, lane: Lane, now: Instant) -> tuple[bool, float, float]:
    """Whether the task would be late, what it would cost if not, and how long it would take."""
    run = task.size * lane.pace(llm, now)
    is_late = task.due is not None and now + run > task.due
    cost = expected_cost(llm, task)
    return is_late, 0 if is_late else _UNKNOWN if cost is None else cost, run


class _Others:
    """The LLMs of a lane that are no reserves, and when they are expected to do its first tasks."""

    def __init__(self, lane: Lane, ready: ReadyQueue, now: Instant) -> None:
        self._lane = lane
        self._now = now
        first = lane.order[0][0]
        self._waits = [
            (candidate, wait_for_slot(candidate.llm, now) + _load(candidate.llm, lane, ready, first, now))
            for candidate in lane.quickest
            if candidate.llm.available
        ]
        soonest = min(((wait, candidate.pace) for candidate, wait in self._waits), default=(0.0, 0.0))
        self._first_slot, self._pace = soonest
        self._free = sum(candidate.llm.free for candidate, _ in self._waits)
        self._turn = 0.0
        self._few_can = not self._waits or any(llm.context_window is not None for llm in lane.eligible.values())
        busy = [llm.properties.spill_after for llm in lane.reserves.values() if llm.properties.spill == "busy"]
        self._longest = seconds(min(busy, default=0.0)) if busy else None

    def queue(self, number: int, ahead: int) -> None:
        """Look at the task after so many, which are of that size together."""
        waiting = ahead * (number - self._free) / number if number > self._free else 0.0
        self._turn = self._first_slot + (waiting / self._lane.speed if self._lane.speed else 0.0)

    def may_fail(self, task: Task, due: Instant | None) -> bool:
        """Whether why_not may return a reason for a task with that due date. Cheap, and never wrongly False."""
        if self._few_can or task.attempts:
            return True
        finish = self._turn + HANDOVER + CAUTION * task.size * self._pace
        if due is not None and self._now + finish > due:
            return True
        return self._longest is not None and self._now + finish - (task.ready_at or self._now) > self._longest

    def why_not(self, task: Task, reserve: LLM) -> str | None:
        """Return why the reserve gets the task rather than one of these; None if it does not."""
        if not any(self._may_do(task)):
            return self._absence(task)
        spill = reserve.properties.spill
        if spill == "never" or (spill == "late" and task.due is None):
            return None
        if (best := self._best(task)) is None:
            return None
        candidate, start = best
        run = task.size * candidate.pace
        name, lane, now = candidate.llm.name, self._lane, self._now
        if spill == "late" and task.due is not None:
            expected = start + run
            if now + start + CAUTION * run <= task.due or task.size * lane.pace(reserve, now) >= expected:
                return None
            left = task.due - now
            due = f"due in {as_text(left)}" if left > 0 else f"due {as_text(-left)} ago"
            return f"{name} would finish in {as_text(expected)}, {due}"
        longest = seconds(reserve.properties.spill_after)
        waited = now - (task.ready_at or now)
        if waited + start <= longest:
            return None
        return f"would start at {name} {as_text(waited + start)} after it was ready, at most {as_text(longest)}"

    def _may_do(self, task: Task) -> Iterator[LLM]:
        lane = self._lane
        for llm in lane.eligible.values():
            may_work = llm.free or (llm.available and llm.slots)
            if may_work and llm.name not in lane.reserves and not unsuitable(task, llm, lane.eligible):
                yield llm

    def _absence(self, task: Task) -> str:
        lane = self._lane
        others = [llm for llm in lane.eligible.values() if llm.name not in lane.reserves]
        reasons = [unsuitable(task, llm, lane.eligible) or _state(llm, self._now) for llm in others[:_NAMED]]
        more = f", and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        return f"{', '.join(reasons)}{more}" if reasons else "only reserves can do it"

    def _best(self, task: Task) -> tuple[Candidate, float] | None:
        """Return where the task would finish first, with caution, and in how many microseconds it would start there."""
        found: list[tuple[float, str, Candidate, float]] = []
        any_can = not self._few_can and not task.attempts
        for candidate, wait in self._waits:
            if any_can or not unsuitable(task, candidate.llm, self._lane.eligible):
                start = max(wait, self._turn)
                start += HANDOVER if start else 0
                found.append((start + CAUTION * task.size * candidate.pace, candidate.llm.name, candidate, start))
        if not found:
            return None
        _, _, candidate, start = min(found)
        return candidate, start


def _load(llm: LLM, lane: Lane, ready: ReadyQueue, before: Rank, now: Instant) -> float:
    """How long an LLM is busy with its share of what ranks before the lane in other lanes."""
    load = 0.0
    for other in ready.lanes_of(llm):
        if other is not lane and other.order and other.order[0][0] < before:
            other.survey(now)
            load += other.backlog_before(before) / other.speed if other.speed else 0.0
    return load


def _state(llm: LLM, now: Instant) -> str:
    if llm.state != "online":
        return f"{llm.name} is {llm.state}"
    return f"{llm.name}: {why_not(llm, now) or 'busy'}"
