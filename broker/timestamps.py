"""Times and durations as whole microseconds: exact sums, equal in SQLite, PostgreSQL and Python.

On the wire a time is ISO 8601 in UTC; a duration is in seconds.
"""

import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NewType

Instant = NewType("Instant", int)  # microseconds since 1970-01-01T00:00:00Z
Micros = NewType("Micros", int)  # a duration in microseconds

EPOCH = Instant(0)
NO_TIME = Micros(0)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def now() -> Instant:
    """Return the time of the wall clock."""
    return Instant(time.time_ns() // 1000)


def seconds(value: float) -> Micros:
    """Convert a duration in seconds to microseconds."""
    return Micros(round(value * 1_000_000))


def in_seconds(value: int | None) -> float | None:
    """Convert a duration in microseconds to seconds; None stays None."""
    return None if value is None else value / 1_000_000


def from_datetime(moment: datetime) -> Instant:
    """Convert an aware datetime to an instant."""
    return Instant((moment - _EPOCH) // _MICROSECOND)


def to_datetime(moment: int) -> datetime:
    """Convert an instant to an aware datetime in UTC."""
    return _EPOCH + timedelta(microseconds=moment)


@lru_cache(maxsize=4096)  # events of one batch share their time
def to_iso(moment: int | None) -> str | None:
    """Format an instant as `2026-12-01T09:00:00.000000Z`; None stays None."""
    if moment is None:
        return None
    return to_datetime(moment).isoformat(timespec="microseconds")[:-6] + "Z"


def in_words(moment: int) -> str:
    """Return a moment for people: date and time in UTC, without what is less than a second."""
    return f"{to_datetime(moment):%Y-%m-%d %H:%M:%S} UTC"
