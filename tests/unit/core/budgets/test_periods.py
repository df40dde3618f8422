from datetime import UTC, datetime

import pytest

from broker.protocol.spending import Per
from broker.timestamps import from_datetime
from coordinator.core.budgets.periods import beginning, end


@pytest.mark.parametrize(
    ("per", "since", "until"),
    [
        ("hour", datetime(2026, 12, 31, 23, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
        ("day", datetime(2026, 12, 31, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
        ("week", datetime(2026, 12, 28, tzinfo=UTC), datetime(2027, 1, 4, tzinfo=UTC)),
        ("month", datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_period_contains_the_moment_and_ends_when_the_next_begins(per: Per, since: datetime, until: datetime) -> None:
    now = from_datetime(datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))
    assert beginning(per, now) == from_datetime(since)
    assert end(per, beginning(per, now)) == from_datetime(until)
    assert beginning(per, end(per, from_datetime(since))) == from_datetime(until)
