"""The states of a task, the outcomes of an attempt, and whose fault a failure is."""

from enum import StrEnum


class Status(StrEnum):
    """The status of a task."""

    BLOCKED = "blocked"
    PENDING = "pending"
    ASSIGNED = "assigned"
    IN_PROGRESS = "in_progress"
    INPUT_REQUIRED = "input_required"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether a task with this status has ended."""
        return self in FINAL


class Fault(StrEnum):
    """Whose fault the failure of an attempt is.

    `TASK`: the task cannot be done like this, by any LLM. `LLM`: the LLM cannot do any task at the moment. `UNCLEAR`:
    either may be the case.
    """

    TASK = "task"
    LLM = "llm"
    UNCLEAR = "unclear"


FAULTS: dict[str, Fault] = {
    **dict.fromkeys(("authentication", "quota_exceeded", "rate_limited"), Fault.LLM),
    **dict.fromkeys(("connection", "provider_error", "overloaded", "model_not_found"), Fault.LLM),
    **dict.fromkeys(("not_a_model_server", "command_not_started", "disk_full"), Fault.LLM),
    **dict.fromkeys(("worker_stopped", "lost", "unclaimed"), Fault.LLM),
    **dict.fromkeys(("command_failed", "stalled", "timeout", "no_answer", "cancelled"), Fault.UNCLEAR),
    **dict.fromkeys(("request_rejected", "content_filter", "context_too_long", "output_truncated"), Fault.TASK),
    **dict.fromkeys(("output_schema", "not_json", "output_too_large", "output_encoding"), Fault.TASK),
    **dict.fromkeys(("wrong_tool_call", "too_many_steps", "result_too_large"), Fault.TASK),
    **dict.fromkeys(("budget_exceeded", "not_approved", "dependency_failed"), Fault.TASK),
}
"""Whose fault a failure of each type is, unless the worker says so. Other types are unclear.

An unclear failure that is not retryable is the fault of the task.
"""


UNANSWERED = frozenset(
    {"authentication", "quota_exceeded", "rate_limited", "overloaded"}
    | {"model_not_found", "not_a_model_server", "command_not_started"}
)
"""Types of failures with which a model has done nothing, unless a usage is reported: they cost nothing."""


class Outcome(StrEnum):
    """How an attempt ended. Workers report the first three; the coordinator sets the others."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    UNCLAIMED = "unclaimed"
    MOVED = "moved"


FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})
LIVE = frozenset(Status) - FINAL
