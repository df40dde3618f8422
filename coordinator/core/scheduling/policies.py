"""The built-in policies by name, and the policy that asks a function.

Such a function sees one task, the first of its lane, and the LLMs that have a free slot for it:

    def choose(task: Task, free: Sequence[LLM], now: Instant) -> tuple[LLM, str] | None

`free` has at least one LLM and is in order of name. What is returned is one of them and a line that tells people
why, or None to let the task wait until something changes in its lane, or the coordinator's clock ticks.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from heapq import nsmallest
from itertools import cycle, islice

from broker.timestamps import Instant
from coordinator.core.llms.llm import LLM
from coordinator.core.scheduling.decision import Decision, HeldBack, Policy
from coordinator.core.scheduling.earliest_finish import EarliestFinish, failed_at
from coordinator.core.scheduling.lane import Lane
from coordinator.core.scheduling.ready_queue import ReadyQueue
from coordinator.core.tasks.task import Task

Choose = Callable[[Task, Sequence[LLM], Instant], tuple[LLM, str] | None]

DEFAULT = "earliest-finish"
_RUNNERS_UP = 2  # that the line of a decision names


class TaskByTask:
    """A policy that gives the first task of a lane to the free LLM that `choose` names.

    A function that raises or returns something else does not stop the work: the emptiest LLM gets the task, and its
    line tells what went wrong.
    """

    moves_stragglers = False

    def __init__(self, choose: Choose) -> None:
        self._choose = choose

    def pick(self, lane: Lane, ready: ReadyQueue, now: Instant) -> Decision | HeldBack | None:
        """See Policy."""
        free = lane.all_free()
        if not free:
            return None
        _, head = lane.order[0]
        task = lane.members[head]
        suitable = [llm for llm in free if ready.objection(task, llm, lane, now) is None]
        if not suitable:
            return HeldBack([task], ready.objection(task, free[0], lane, now) or "")
        allowed = [llm for llm in suitable if not (failed_at(task, llm) and lane.others_can(llm))]
        if not allowed:
            return HeldBack([task], f"it has just failed at {suitable[0].name}")
        try:
            chosen = self._choose(task, allowed, now)
            if chosen is None:
                return HeldBack([task], "the policy lets it wait")
            llm, why = chosen
            if llm not in allowed or not isinstance(why, str):
                raise TypeError("it must return one of the free LLMs and a line of text, or None")
        except Exception as error:  # whatever a stranger's function raises: all the other tasks have to go on
            llm, why = _least_loaded(task, allowed, now)
            why = f"{why}; the policy failed: {type(error).__name__}: {error}"
        return Decision(task, llm, f"{llm.name}: {why}")


class RoundRobin:
    """Each LLM in its turn."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, task: Task, free: Sequence[LLM], now: Instant) -> tuple[LLM, str]:
        """The next by name after the one that was chosen last."""
        at = next((at for at, llm in enumerate(free) if llm.name > self._last), 0)
        llm = free[at]
        self._last = llm.name
        after = [other.name for other in islice(cycle(free), at + 1, at + min(len(free), 1 + _RUNNERS_UP))]
        return llm, f"its turn, of {len(free)} with a free slot{_then(after)}"


def _least_loaded(task: Task, free: Sequence[LLM], now: Instant) -> tuple[LLM, str]:
    llm, *others = nsmallest(1 + _RUNNERS_UP, free, key=lambda llm: llm.taken / llm.slots)
    after = [f"{other.name} {other.taken} of {other.slots}" for other in others]
    what = f"least loaded ({llm.taken} of {llm.slots} slots taken), of {len(free)} with a free slot"
    return llm, what + _then(after)


def _then(after: Sequence[str]) -> str:
    """The runners-up, as the line of a decision tells them."""
    return f"; then {', '.join(after)}" if after else ""


def _random(task: Task, free: Sequence[LLM], now: Instant) -> tuple[LLM, str]:
    drawn = int.from_bytes(blake2b(f"{task.id} {task.attempt}".encode(), digest_size=8).digest(), "big")
    return free[drawn % len(free)], f"drawn from {len(free)} with a free slot"


BUILT_IN: dict[str, Callable[[], Policy]] = {
    DEFAULT: EarliestFinish,
    "round-robin": lambda: TaskByTask(RoundRobin()),
    "least-loaded": lambda: TaskByTask(_least_loaded),
    "random": lambda: TaskByTask(_random),
}
NAMES = tuple(BUILT_IN)
