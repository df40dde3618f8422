"""Who has waited for long, whatever has happened to the others meanwhile."""

from typing import Any

import pytest

from broker.timestamps import Instant, seconds
from coordinator.core.scheduling.aging import SPARE, Aging
from coordinator.core.tasks.task import Task
from tests.support.core_driver import T0, moment
from tests.support.stored_tasks import a_task

FAR = "2030-01-01T00:00:00Z"


class Waiting:
    """Tasks that have become ready a second apart."""

    def __init__(self) -> None:
        self.members: dict[str, Task] = {}
        self.aging = Aging(self.members)

    def put(self, number: int, **fields: Any) -> None:
        task = a_task(number, **{"ready_at": Instant(T0 + seconds(number)), **fields})
        self.members[task.id] = task
        self.aging.put(task)

    def oldest(self, *, at: float, after: float = 0.0) -> str | None:
        """Of those that wait for longer than that many seconds at that moment."""
        now = moment(at)
        task = self.aging.take_oldest(now, Instant(now - seconds(after)))
        return None if task is None else task.id


@pytest.fixture
def waiting() -> Waiting:
    return Waiting()


def test_the_one_that_waits_for_the_longest_time_comes_first_and_once(waiting: Waiting) -> None:
    for number in (2, 1, 3):
        waiting.put(number)
    assert [waiting.oldest(at=3.5, after=1) for _ in range(3)] == ["t1", "t2", None]
    assert waiting.oldest(at=9, after=1) == "t3"


def test_a_higher_priority_comes_first_and_one_that_is_young_keeps_the_others_back(waiting: Waiting) -> None:
    waiting.put(1)
    waiting.put(5, priority=9)
    assert waiting.oldest(at=6, after=3) is None
    assert [waiting.oldest(at=9, after=3) for _ in range(2)] == ["t5", "t1"]


def test_what_is_due_is_young_for_two_fifths_of_its_time(waiting: Waiting) -> None:
    waiting.put(0, due="2027-01-15T08:00:10Z")
    assert waiting.oldest(at=3.9) is None
    assert waiting.oldest(at=4.1) == "t0"


def test_one_that_has_gone_or_become_another_keeps_nobody_back(waiting: Waiting) -> None:
    waiting.put(1, priority=9, due=FAR)
    waiting.put(2, priority=9)
    waiting.put(3)
    waiting.put(1, due=FAR)  # of a lower priority now
    del waiting.members["t2"]
    assert [waiting.oldest(at=9) for _ in range(2)] == ["t3", None]


def test_a_due_date_counts_that_is_given_later(waiting: Waiting) -> None:
    waiting.put(1)
    waiting.put(1, due=FAR)
    assert waiting.oldest(at=9) is None
    waiting.put(1)
    assert waiting.oldest(at=9) == "t1"


@pytest.mark.parametrize("due", [None, FAR])
def test_what_has_gone_is_forgotten(waiting: Waiting, due: str | None) -> None:
    waiting.put(0, priority=9, due=due)
    for number in range(1, 2_000):
        waiting.put(number, due=due)
        del waiting.members[f"t{number}"]
    held = waiting.aging._fresh + waiting.aging._aged
    assert len(held) <= SPARE + 5
    assert "t0" in [task_id for *_, task_id in held]
