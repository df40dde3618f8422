"""The inbox of the batch loop: deliveries as they arrive, and the next batch of them."""

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress

from broker.amqp.envelope import Delivery
from coordinator.inbound.buffer import InboxBuffer, is_claim
from coordinator.inbound.liveness import LivenessProbe, is_echo, steady

TICK_SECONDS = 0.25  # without deliveries, an empty batch is due this often, to check the time
CLAIM_WAIT_SECONDS = 0.003  # how long a batch of nothing but claims waits for the next message


class Inbox:
    """An InboxBuffer with the waiting for what arrives. For the event loop."""

    def __init__(self, batch_size: int, liveness: LivenessProbe) -> None:
        self._buffer = InboxBuffer(batch_size)
        self._liveness = liveness
        self._arrived = asyncio.Event()
        self._arrived_other = asyncio.Event()  # something other than a claim

    def __len__(self) -> int:
        return len(self._buffer)

    def add(self, delivery: Delivery) -> None:
        """Take in a delivery."""
        if is_echo(delivery):
            self._liveness.answered(delivery.properties.correlation_id, steady())
        self._buffer.add(delivery)
        self._arrived.set()
        if not is_claim(delivery):
            self._arrived_other.set()

    def wake(self) -> None:
        """End the wait of `next_batch`."""
        self._arrived.set()

    async def next_batch(self) -> list[Delivery]:
        """Wait for deliveries and return the next batch; empty when none has arrived within a tick."""
        if not self._buffer:
            self._arrived.clear()
            try:
                async with asyncio.timeout(TICK_SECONDS):
                    await self._arrived.wait()
            except TimeoutError:
                return []
        if self._buffer.only_claims:  # a quick attempt has its result soon: both belong into one batch
            self._arrived_other.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(CLAIM_WAIT_SECONDS):
                    await self._arrived_other.wait()
        return self._buffer.batch()

    def batch_at_once(self) -> list[Delivery]:
        """Return the next batch if it need not wait for anything, else an empty one."""
        return [] if self._buffer.only_claims else self._buffer.batch()

    def done(self, batch: Sequence[Delivery], aside: Collection[Delivery]) -> list[Delivery]:
        """See InboxBuffer.done."""
        return self._buffer.done(batch, aside)

    def late(self) -> list[Delivery]:
        """See InboxBuffer.late."""
        return self._buffer.late()

    def leave(self) -> None:
        """See InboxBuffer.leave."""
        self._buffer.leave()
