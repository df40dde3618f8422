"""Attempts that failed because the task was too long for the context window of the LLM."""

from broker.protocol.status import Status
from broker.protocol.worker_reports import Failure
from broker.timestamps import Instant
from coordinator.core.scheduling.suitability import CONTEXT_TOO_LONG, refused_as_too_long
from coordinator.core.state import CoreState
from coordinator.core.tasks.task import Task, meets


def handle_too_long(state: CoreState, task: Task, error: Failure, now: Instant) -> bool:
    """Learn from an attempt whose task was too long; release the task for an LLM with a larger or unknown window.

    The attempt does not count. The task fails if no known LLM is left; LLMs that are offline are known, too. Returns
    False, and does nothing, if the attempt failed for another reason.
    """
    if error.type != CONTEXT_TOO_LONG:
        return False
    llm = state.llm(task.attempts[-1].llm)
    llm.learned.learn_too_long(task.size)
    state.changes.llms[llm.name] = llm
    able = [other for other in state.llms.values() if meets(other.offers(), task.lane.split())]
    if all(refused_as_too_long(task, other, state.llms) for other in able):
        state.fail(task, error, now)
    elif task.status is Status.INPUT_REQUIRED:
        state.lose_asking_attempt(task, now)
    else:
        state.release(task, now, counts=False)
    return True
