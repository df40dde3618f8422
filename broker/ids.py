"""Create ids without a central authority."""

import secrets
import time
from uuid import UUID


def uuid7() -> str:
    """Create a UUID version 7 (RFC 9562). The ids of one process sort by their creation time.

    The 12 bits after the milliseconds hold the fraction of the millisecond (the RFC's method 3).
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = rest * 4096 // 1_000_000
    return str(UUID(int=milliseconds << 80 | 7 << 76 | fraction << 64 | 0b10 << 62 | secrets.randbits(62)))


def assignment_id(task_id: str, attempt: int) -> str:
    """Return the id of an attempt: the message_id of its assignment, and the correlation_id of its reports."""
    return f"{task_id}/{attempt}"
