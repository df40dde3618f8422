"""Which of the LLMs that meet the demands of a task must not get it: it failed there, or it is too long for them."""

from collections.abc import Mapping

from broker.protocol.status import Outcome
from coordinator.core.llms.duration_estimates import tokens
from coordinator.core.llms.llm import LLM
from coordinator.core.tasks.task import RETRIED, Attempt, Task

CONTEXT_TOO_LONG = "context_too_long"  # type of a failure


def unsuitable(task: Task, llm: LLM, eligible: Mapping[str, LLM]) -> str | None:
    """Return why the LLM must not get the task now; None if it may.

    `eligible` are all LLMs that meet the demands of the task. An LLM at which the task has just failed, or whose
    context window is too small by the estimate, may get it if there is no other.
    """
    if task.attempts:
        if refused_as_too_long(task, llm, eligible):
            return f"it is too long for {llm.name}"
        if failed_at(task, llm) and any(_is_alternative(other, llm) for other in eligible.values()):
            return f"it has just failed at {llm.name}"
    if is_too_long(task, llm) and any(_could_read(other, task, eligible) for other in eligible.values()):
        return f"it has about {tokens(task.size)} tokens, and {llm.name} takes {llm.context_window}"
    return None


def failed_at(task: Task, llm: LLM) -> bool:
    """Whether the last attempt of the task went wrong there."""
    if not task.attempts:
        return False
    last = task.attempts[-1]
    return last.llm == llm.name and last.outcome not in (Outcome.COMPLETED, Outcome.CANCELLED)


def is_too_long(task: Task, llm: LLM) -> bool:
    """Whether the task is expected not to fit into the context window."""
    window = llm.context_window
    return window is not None and tokens(task.size) > window


def refused_as_too_long(task: Task, llm: LLM, known: Mapping[str, LLM]) -> bool:
    """Whether the task was too long for this LLM, or for one of the known LLMs whose window is not smaller."""
    refused = {attempt.llm for attempt in _since_retry(task) if _was_too_long(attempt)}
    if not refused:
        return False
    if llm.name in refused:
        return True
    own = llm.properties.context_window
    windows = [known[name].properties.context_window for name in refused if name in known]
    return own is not None and any(window is not None and own <= window for window in windows)


def _was_too_long(attempt: Attempt) -> bool:
    return attempt.error is not None and attempt.error.type == CONTEXT_TOO_LONG


def _since_retry(task: Task) -> list[Attempt]:
    """The attempts since a person made the task run once more, perhaps with other inputs."""
    if not any(map(_was_too_long, task.attempts)):
        return []
    retried = max((change.at for change in task.history if change.what.startswith(RETRIED)), default=None)
    return [attempt for attempt in task.attempts if retried is None or attempt.finished_at > retried]


def _is_alternative(other: LLM, llm: LLM) -> bool:
    """Whether another LLM may get a task that failed. A failure alone does not call in a reserve."""
    return other is not llm and other.available and (llm.properties.reserve or not other.properties.reserve)


def _could_read(other: LLM, task: Task, eligible: Mapping[str, LLM]) -> bool:
    return other.available and not is_too_long(task, other) and not refused_as_too_long(task, other, eligible)
