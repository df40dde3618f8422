"""Time-ordered ids."""

import time
from uuid import UUID

from broker.ids import uuid7


def test_an_id_is_a_uuid_of_version_7_that_holds_the_time() -> None:
    before = time.time_ns() // 1_000_000
    made = UUID(uuid7())
    after = time.time_ns() // 1_000_000
    assert (made.version, made.variant) == (7, UUID(int=2 << 62).variant)
    assert before <= made.int >> 80 <= after


def test_ids_differ_and_sort_by_the_time_they_were_made() -> None:
    ids = []
    for _ in range(100):
        ids.append(uuid7())
        made_at = time.time_ns()
        while time.time_ns() - made_at < 1000:  # the fraction counts steps of 244 ns
            pass
    assert len(set(ids)) == 100
    assert ids == sorted(ids)
