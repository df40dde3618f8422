"""Whose fault a failure is, and whether the failed attempt counts for the task."""

from collections.abc import Mapping

from broker.protocol.status import FAULTS, Fault, Outcome
from broker.protocol.worker_reports import Failure
from coordinator.core.llms.llm import LLM
from coordinator.core.tasks.task import Attempt, Task

MOST_EXCUSED = 10  # failures of a task at LLMs that work for other tasks; from then on every failure counts


def fault_of(failure: Failure) -> Fault:
    """Return whose fault a failure is: what the worker says, else what its type says.

    Where that is unclear and no other attempt may help, it is the fault of the task.
    """
    if failure.fault is not None:
        return Fault(failure.fault)
    fault = FAULTS.get(failure.type, Fault.UNCLEAR)
    return Fault.TASK if fault is Fault.UNCLEAR and not failure.retryable else fault


def is_excused(task: Task, failure: Failure, llms: Mapping[str, LLM], *, elsewhere: bool, is_sick: bool) -> bool:
    """Whether a failed attempt, the last of the task, does not count.

    The fault of an LLM is excused as long as it may heal, and as long as the task is not the one thing that it cannot
    do. An unclear fault is excused once, if another LLM can do the task (`elsewhere`), or if the LLM `is_sick`: its
    breaker is open.
    """
    match fault_of(failure):
        case Fault.TASK:
            return False
        case Fault.LLM:
            return sum(_worked_since(attempt, llms) for attempt in task.attempts) < MOST_EXCUSED
        case Fault.UNCLEAR:
            places = {attempt.llm for attempt in task.attempts if _is_unclear(attempt)}
            return is_sick or (elsewhere and len(places) == 1)


def _worked_since(attempt: Attempt, llms: Mapping[str, LLM]) -> bool:
    """Whether an attempt failed by the fault of an LLM that has completed another task since."""
    error = attempt.error
    if error is None or attempt.outcome is not Outcome.FAILED or fault_of(error) is not Fault.LLM:
        return False
    llm = llms.get(attempt.llm)
    return llm is not None and llm.health.succeeded_at > attempt.finished_at


def _is_unclear(attempt: Attempt) -> bool:
    return attempt.outcome is Outcome.FAILED and attempt.error is not None and fault_of(attempt.error) is Fault.UNCLEAR
