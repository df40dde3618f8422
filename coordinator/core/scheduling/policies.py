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
from coordinator.core.scheduling.cheapest_in_time import CheapestInTime
from coordinator.core.scheduling.decision import Decision, HeldBack, Policy
from coordinator.core.scheduling.earliest_finish import SEARCHED, EarliestFinish
from coordinator.core.scheduling.lane import Lane
from coordinator.core.scheduling.ready_queue import ReadyQueue
from coordinator.core.tasks.task import Task

Choose = Callable[[Task, Sequence[LLM], Instant], tuple[LLM, str] | None]

DEFAULT = "earliest-finish"
CHEAPEST_IN_TIME = "cheapest-in-time"
_RUNNERS_UP = 2  # that the line of a decision names


class TaskByTask:
    """A policy that gives the first task of a lane to the free LLM that `choose` names.

    The first task is the first for which one of the free LLMs is suitable.

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
        head = next(lane.first(1))
        for task in lane.first(SEARCHED):
            allowed = [llm for llm in free if ready.objection(task, llm, lane, now) is None]
            if allowed:
                break
        else:
            return HeldBack([head], ready.objection(head, free[0], lane, now) or "")
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
    CHEAPEST_IN_TIME: CheapestInTime,
}
NAMES = tuple(BUILT_IN)
