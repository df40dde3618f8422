"""Warnings about messages of others: one line each, and a flood does not fill a disk."""

from typing import Any

from coordinator.telemetry.rate_limited_log import MAX_PER_SECOND, MAX_VALUE_CHARACTERS, RateLimitedLog


class Lines:
    """The logged lines."""

    def __init__(self) -> None:
        self.all: list[tuple[str, dict[str, Any]]] = []

    def warning(self, event: str, **values: Any) -> None:
        self.all.append((event, values))


def test_each_warning_is_one_line() -> None:
    lines = Lines()
    log = RateLimitedLog(lines, lambda: 7.0)
    log.warning("refused", id="a", user=None)
    log.warning("refused", id="b", attempt=3)
    assert lines.all == [("refused", {"id": "a"}), ("refused", {"id": "b", "attempt": 3})]


def test_a_flood_of_warnings_is_counted_in_one_line_after_its_second() -> None:
    lines, now = Lines(), [7.0]
    log = RateLimitedLog(lines, lambda: now[0])
    for number in range(10_000):
        log.warning("refused", id=number)
    log.warning("lost", id="x")
    assert len(lines.all) == MAX_PER_SECOND + 1
    now[0] = 8.0
    log.flush()
    assert lines.all[-1] == ("refused: more of this kind", {"not_logged": 10_000 - MAX_PER_SECOND})
    log.warning("refused", id="later")
    assert lines.all[-1:] == [("refused", {"id": "later"})]


def test_logged_values_are_shortened_without_control_characters() -> None:
    lines = Lines()
    RateLimitedLog(lines, lambda: 7.0).warning("refused", errors="\x1b[2J" + "x" * 1000)
    ((_, values),) = lines.all
    assert values["errors"].startswith("\N{REPLACEMENT CHARACTER}[2Jxx")
    assert len(values["errors"]) == MAX_VALUE_CHARACTERS
