"""The wire values of statuses and outcomes."""

from broker.protocol.status import FINAL, LIVE, Outcome, Status


def test_statuses_have_their_wire_values() -> None:
    assert list(Status) == [
        "blocked",
        "pending",
        "assigned",
        "in_progress",
        "input_required",
        "completed",
        "failed",
        "cancelled",
    ]


def test_outcomes_have_their_wire_values() -> None:
    assert list(Outcome) == ["completed", "failed", "cancelled", "lost", "unclaimed", "moved"]


def test_every_status_is_either_live_or_final() -> None:
    assert frozenset(Status) == LIVE | FINAL
    assert not LIVE & FINAL
    assert [status for status in Status if status.is_final] == ["completed", "failed", "cancelled"]
