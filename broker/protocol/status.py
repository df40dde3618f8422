"""The states of a task and the outcomes of an attempt."""

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
