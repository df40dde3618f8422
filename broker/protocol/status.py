"""The states of a task and the outcomes of an attempt."""

from enum import StrEnum


class Status(StrEnum):
    """The states of a task."""

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
        """Whether a task in this state is over."""
        return self in FINAL


class Outcome(StrEnum):
    """How an attempt ended. A worker reports the first three; the coordinator finds the others by itself."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    UNCLAIMED = "unclaimed"
    MOVED = "moved"


FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})
LIVE = frozenset(Status) - FINAL
