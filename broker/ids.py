"""Ids that nobody has to hand out."""

import secrets
import time
from uuid import UUID


def uuid7() -> str:
    """A new UUID version 7 (RFC 9562): ids of one process sort by the time they were made.

    The 12 bits after the milliseconds hold the fraction of the millisecond (the RFC's method 3).
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = rest * 4096 // 1_000_000
    return str(UUID(int=milliseconds << 80 | 7 << 76 | fraction << 64 | 0b10 << 62 | secrets.randbits(62)))


def assignment_id(task_id: str, attempt: int) -> str:
    """What an attempt is called in AMQP: the message_id of its assignment, and the correlation_id of what follows."""
    return f"{task_id}/{attempt}"
