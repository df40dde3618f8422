"""Slots under a limit: new attempts begin while fewer run, and attempts that have waited go on."""

import asyncio

from workers.execution.suspensions import Slots


class Queue:
    """New attempts that take a slot as soon as they may."""

    def __init__(self, slots: int, waiting: int) -> None:
        self.slots = Slots(slots, self._begin)
        self.waiting = waiting
        self.running = 0
        self._begin_all()

    def _begin_all(self) -> None:
        while self.waiting and self.slots.take():
            self.waiting -= 1
            self.running += 1

    def _begin(self) -> None:
        if self.waiting and self.slots.take():
            self.waiting -= 1
            self.running += 1

    def end_one(self) -> None:
        self.running -= 1
        self.slots.give_back()


def test_a_limit_holds_as_soon_as_enough_attempts_have_ended() -> None:
    queue = Queue(4, waiting=10)
    queue.slots.limit(2)
    assert queue.running == 4, "running attempts go on"
    queue.end_one()
    queue.end_one()
    assert queue.running == 2
    queue.end_one()
    assert queue.running == 2, "the next one begins"


def test_no_attempt_begins_with_a_limit_of_0_and_all_may_without_a_limit() -> None:
    queue = Queue(3, waiting=10)
    queue.slots.limit(0)
    for _ in range(3):
        queue.end_one()
    assert queue.running == 0
    queue.slots.limit(None)
    assert queue.running == 3


def test_a_higher_limit_lets_waiting_attempts_begin_at_once() -> None:
    queue = Queue(4, waiting=0)
    queue.slots.limit(1)
    queue.waiting = 10
    queue.slots.limit(2)
    assert queue.running == 2
    queue.slots.limit(99)
    assert queue.running == 4, "there are no more slots"


async def test_an_attempt_that_has_waited_goes_on_whatever_the_limit() -> None:
    slots = Slots(2, lambda: None)
    slots.limit(0)
    assert not slots.take()
    await asyncio.wait_for(slots.take_in_turn(), 5)
