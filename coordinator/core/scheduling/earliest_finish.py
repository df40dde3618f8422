"""The policy `earliest-finish`: which LLM does a task, and why. It reads lanes and LLMs; the time is an argument.

Tasks are looked at in their order, and each goes where it is expected to finish first. Where that is an LLM whose
slots are all taken, the task waits for it, and the free slot goes to the first task further down for which waiting
is not the better way; it stays free only when there is none. docs/assignment.md tells it at length.
"""

from collections.abc import Iterable

from broker.protocol.primitives import LOCAL
from broker.timestamps import Instant, seconds
from coordinator.core.llms.duration_estimates import BASE_LENGTH
from coordinator.core.llms.llm import LLM
from coordinator.core.scheduling.aging import early
from coordinator.core.scheduling.decision import Decision, HeldBack
from coordinator.core.scheduling.lane import Candidate, Lane
from coordinator.core.scheduling.ready_queue import ReadyQueue
from coordinator.core.tasks.task import NO_DUE_DATE, Task

LOOK_AHEAD = 16  # tasks of a lane that a free slot is offered to
SEARCHED = 500  # tasks of a lane of which some may be unsuitable for an LLM
OTHERS_TRIED = 8  # free LLMs that are looked at when the quickest is not to have a task
HANDOVER = seconds(0.1)  # microseconds between the end of a run and the start of the next at the same slot
CAUTION = 1.5
MUCH_QUICKER = 0.75  # an LLM is waited for only if its runs take at most this share of the other's
RUNNERS_UP = 2
LARGE = 1.5  # times as much work as the average of what waits


class EarliestFinish:
    """Every task where it is expected to finish first."""

    moves_stragglers = True

    def pick(self, lane: Lane, ready: ReadyQueue, now: Instant) -> Decision | HeldBack | None:
        """See Policy."""
        lane.survey(now)
        best = lane.best_free(now)
        if best is None:
            return None
        if lane.quickest:
            self._let_late_ones_wait(lane, now)
            self._let_old_ones_go_first(lane, now)
        reason = ""
        for candidate in self._candidates(lane, best, now):
            if needed := self._needed_elsewhere(candidate.llm, lane, ready, now):
                reason = f"{candidate.llm.name} is spared for {needed.key}"
                continue
            found = self._first_for(candidate, lane, ready, now)
            if isinstance(found, Task):
                return Decision(found, candidate.llm, _why(found, candidate, lane, now))
            reason = found
        return HeldBack(list(lane.first(LOOK_AHEAD)), reason)

    def _candidates(self, lane: Lane, best: Candidate, now: Instant) -> Iterable[Candidate]:
        """The free LLMs of the lane, the quickest first; the others are looked up only when it does not get a task."""
        yield best
        yield from lane.free(OTHERS_TRIED, now)[1:]

    def _let_late_ones_wait(self, lane: Lane, now: Instant) -> None:
        """A task that even the quickest cannot finish in time must not make others late."""
        for _ in range(LOOK_AHEAD):
            task = lane.order and lane.members[lane.order[0][1]]
            if not task or lane.order[0][0] != task.rank:
                return
            if not _is_late(task, lane, now):
                return
            lane.put_behind(task)

    def _let_old_ones_go_first(self, lane: Lane, now: Instant) -> None:
        """Due dates of others make no task wait for much longer than all that waits needs.

        That is not for large tasks that are late already: they hold up the most.
        """
        if lane.order[0][0][1] == NO_DUE_DATE:
            return
        aging, large = lane.backlog / lane.speed, LARGE * lane.backlog / len(lane.members)
        for _ in range(LOOK_AHEAD):
            task = lane.aging.take_oldest(now, Instant(now - round(aging)))
            if task is None:
                return
            if task.size <= large or not _is_late(task, lane, now):
                lane.put_first(task)

    def _needed_elsewhere(self, llm: LLM, lane: Lane, ready: ReadyQueue, now: Instant) -> Lane | None:
        """A lane that would be done later than this one if the LLM worked here, as fewer LLMs can work there."""
        for other in ready.lanes_of(llm):
            if other is lane or len(other.members) <= llm.free or other.order[0][0][0] > lane.order[0][0][0]:
                continue
            other.survey(now)
            spare = lane.speed - other.speed
            if spare > 0 and other.backlog * spare > lane.backlog * other.speed:
                return other
        return None

    def _first_for(self, candidate: Candidate, lane: Lane, ready: ReadyQueue, now: Instant) -> Task | str:
        """The first task that this free LLM should take, or why it takes none."""
        slots = self._quicker_slots(candidate, lane, ready, now)
        cost = candidate.cost * self._caution(candidate, lane, now)
        to_wait = f"waits for {lane.quickest[0].llm.name}: expected to finish sooner than at {candidate.llm.name}"
        if slots and lane.backlog < _done_meanwhile(BASE_LENGTH, cost, slots):
            return to_wait
        before, looked_at, last, reason = 0, 0, None, to_wait
        for task in lane.first(SEARCHED):
            if why_not := ready.objection(task, candidate.llm, lane, now):
                reason = why_not
                continue
            if not slots or before >= _done_meanwhile(task.size, cost, slots):
                return task
            before += task.size
            last = task
            looked_at += 1
            if looked_at == LOOK_AHEAD:
                break
        if last and len(lane.members) > LOOK_AHEAD and lane.backlog >= _done_meanwhile(last.size, cost, slots):
            return last
        return to_wait if last else reason

    def _quicker_slots(
        self, candidate: Candidate, lane: Lane, ready: ReadyQueue, now: Instant
    ) -> list[tuple[float, float]]:
        """The taken slots of much quicker LLMs: the cost there, and in how many microseconds a task can start."""
        slots = []
        for other in lane.quickest:
            if other.cost >= MUCH_QUICKER * candidate.cost:
                break
            if other.llm is not candidate.llm and other.llm.available:
                ahead = HANDOVER + _load(other.llm, lane, ready)
                slots += [(other.cost, wait + ahead) for wait in other.llm.waits(now)]
        return slots

    def _caution(self, candidate: Candidate, lane: Lane, now: Instant) -> float:
        """How much longer than expected a run there is taken to be: more towards the end of what there is to do."""
        ending = lane.is_complete and (now - lane.fed_at) * lane.speed > lane.backlog
        return max(CAUTION, lane.unlucky_run(candidate)) if ending else CAUTION


def _done_meanwhile(size: int, cost: float, slots: list[tuple[float, float]]) -> float:
    """How much work quicker slots do until one of them must start a task of that size to be the first to finish it."""
    done = 0.0
    for quick, wait in slots:
        if (left := size * (cost - quick) - wait) > 0:
            done += left / quick
    return done


def _load(llm: LLM, lane: Lane, ready: ReadyQueue) -> float:
    """How long an LLM is busy with its share of what waits in other lanes."""
    return sum(other.backlog / other.speed for other in ready.lanes_of(llm) if other is not lane and other.speed)


def _is_late(task: Task, lane: Lane, now: Instant) -> bool:
    """Whether even the quickest LLM is not expected to finish a task by its due date."""
    return task.due is not None and now + task.size * lane.quickest[0].pace > task.due


def _why(task: Task, chosen: Candidate, lane: Lane, now: Instant) -> str:
    llm = chosen.llm
    if is_by_hand(lane):
        return "assigned by hand"
    if len(lane.quickest) == 1:
        return f"the only {_kind(lane)} online"
    size = task.size
    levels = "".join([f"{skill} {llm.skills[skill]:g}, " for skill in lane.skills])
    text = (
        f"{llm.name}: expected finish in {as_text(size * chosen.pace)} ({levels}{llm.free} of {llm.slots} slots free)"
    )
    others = [other for other in lane.quickest[: RUNNERS_UP + 1] if other.llm is not llm][:RUNNERS_UP]
    then = sorted([(wait_for_slot(other.llm, now) + size * other.pace, other.llm.name) for other in others])
    if task.id != lane.order[0][1]:
        text += ", what ranks before it waits for quicker ones"
    elif lane.order[0][0] == early(task):
        text += ", first because it has waited for long"
    return f"{text}; then {', '.join([f'{name} {as_text(expected)}' for expected, name in then])}"


def is_by_hand(lane: Lane) -> bool:
    """Whether the tasks of the lane were assigned to one LLM by hand."""
    return lane.key.startswith("@") and "|" not in lane.key


def _kind(lane: Lane) -> str:
    kind = "local LLM" if f"!{LOCAL}" in lane.demands else "LLM"
    able = [demand[1:] for demand in lane.demands if demand[0] == "!" and demand[1:] != LOCAL]
    return f"{kind} with {', '.join((*lane.skills, *able))}" if lane.skills or able else kind


def wait_for_slot(llm: LLM, now: Instant) -> float:
    """Return in how many microseconds a slot is expected to be free."""
    return 0.0 if llm.free else min(llm.waits(now), default=0.0)


def as_text(micros: float) -> str:
    """Return a duration in microseconds as text."""
    value = micros / 1_000_000
    return f"{value * 1000:.0f} ms" if value < 0.1 else f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
