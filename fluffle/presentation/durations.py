"""Durations and times as text."""

from datetime import UTC, datetime

_UNITS = (
    (86_400, "d", 3_600, "h"),
    (3_600, "h", 60, "min"),
    (60, "min", 1, "s"),
)  # each unit with the next smaller one


def duration(seconds: float) -> str:
    """Return a duration in its largest units: `250 ms`, `4.2 s`, `42 s`, `3 min 5 s`, `2 h 10 min`, `4 d 3 h`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    rest = round(seconds)
    for size, unit, part_size, part_unit in _UNITS:
        if rest >= size:
            part = rest % size // part_size
            return f"{rest // size} {unit} {part} {part_unit}" if part else f"{rest // size} {unit}"
    return f"{rest} s"


def time_since(at: datetime) -> str:
    """Return the time between `at` and now as text."""
    return duration(max(0.0, (datetime.now(UTC) - at).total_seconds()))


def iso(at: datetime) -> str:
    """Return a time as ISO 8601 in UTC, to the millisecond."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
