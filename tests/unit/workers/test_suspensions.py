"""Slots of a worker: who gets one, and when."""

import asyncio

from workers.execution.suspensions import Slots


class Line:
    """Slots, and how often one was free for new work."""

    def __init__(self, count: int) -> None:
        self.free = 0
        self.slots = Slots(count, self._on_free)

    def _on_free(self) -> None:
        self.free += 1


async def test_an_attempt_that_has_waited_gets_a_slot_before_new_attempts() -> None:
    line = Line(1)
    assert line.slots.take()
    resumed = asyncio.create_task(line.slots.take_in_turn())
    await asyncio.sleep(0)
    assert not line.slots.take()
    line.slots.give_back()
    await resumed
    assert line.free == 0
    assert not line.slots.take()


async def test_a_slot_for_which_no_attempt_waits_is_free_for_new_attempts() -> None:
    line = Line(1)
    assert line.slots.take()
    line.slots.give_back()
    assert line.free == 1
    assert line.slots.take()


async def test_an_attempt_cancelled_while_it_waits_takes_no_slot() -> None:
    line = Line(1)
    assert line.slots.take()
    gone, stays = (asyncio.create_task(line.slots.take_in_turn()) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    line.slots.give_back()
    await stays
    assert gone.cancelled()


async def test_a_slot_is_not_lost_when_its_attempt_is_cancelled_at_the_same_moment() -> None:
    line = Line(1)
    assert line.slots.take()
    gone = asyncio.create_task(line.slots.take_in_turn())
    await asyncio.sleep(0)
    line.slots.give_back()
    gone.cancel()
    await asyncio.wait([gone])
    assert gone.cancelled()
    assert line.slots.take()
