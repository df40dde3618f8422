"""Read the messages of a queue, and settle some of them.

A browser does not reconnect: its user must know which outcomes have reached RabbitMQ.
"""

import asyncio
from contextlib import AsyncExitStack
from typing import Self

from broker.amqp.channel import Consumer
from broker.amqp.envelope import Delivery
from broker.amqp.session import Session
from broker.amqp10.client import Receiver
from broker.amqp10.messages import UNTRANSLATABLE
from broker.errors import BrokerError
from broker.protocol.topology import Topology

MOST = 60_000  # messages of one browser: AMQP counts unacknowledged messages with 16 bits

_SILENCE_SECONDS = 2.0  # when no message arrives for so long, another program has the rest
_POLL_SECONDS = 0.02


class Unreadable(BrokerError):
    """A queue holds a message that RabbitMQ cannot deliver"""


class Browser:
    """Holds messages of a queue unsettled while it is open; the unsettled ones return to the queue when it closes.

    Messages that RabbitMQ cannot deliver by AMQP 0-9-1 are read by AMQP 1.0; their header UNTRANSLATABLE has the
    reason. Raises BrokerUnreachable, AccessRefused, and BrokerError when the connection is lost.
    """

    def __init__(self, url: str, queue: str, *, name: str) -> None:
        self._url = url
        self._queue = queue
        self._session = Session(url, name, lambda: None)
        self._receivers: list[Receiver] = []
        self._opened = AsyncExitStack()
        self.waiting = 0  # messages in the queue when `look` began

    async def __aenter__(self) -> Self:
        await self._session.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._opened.aclose()
        await self._session.close()

    async def declare(self, topology: Topology) -> None:
        """Declare exchanges, queues and bindings. Raises BrokerError."""
        await self._session.declare(topology)

    async def look(self, limit: int = MOST) -> list[Delivery]:
        """Return the oldest messages of the queue, at most `limit`; none for a missing queue. Call it once.

        The list is shorter than `waiting` and `limit` when another program holds some of the messages. Raises
        Unreadable when RabbitMQ cannot deliver a message and does not speak AMQP 1.0.
        """
        self.waiting = await self._depth()
        count = min(self.waiting, limit, MOST)
        if not count:
            return []
        if (found := await self._read(count)) is not None:
            return found
        bad, good = await self._take(count)
        if not bad:  # one message is undeliverable, but it is unknown which
            return _marked(good)
        for delivery in good:
            delivery.requeue()
        if not good:
            return bad
        await self._until_there(len(good))
        found = await self._read(len(good))
        if found is None:
            more, unknown = await self._take(len(good))
            found = _marked(more + unknown)
        return found + bad

    async def confirmed(self) -> None:
        """Wait until RabbitMQ has the outcomes of the settled messages. Raises BrokerError if it may not have them."""
        if self._session.lost.is_set() or self._session.ack_batcher is None:
            raise self._session.error or BrokerError("the connection to RabbitMQ was lost")
        self._session.ack_batcher.send_acks()
        await self._session.synchronize(self._queue)
        for receiver in self._receivers:
            await receiver.confirmed()

    async def purge(self) -> int:
        """Delete all messages that no program holds. Returns their number."""
        return await self._session.purge_queue(self._queue)

    async def _depth(self) -> int:
        state = await self._session.queue_state(self._queue)
        return 0 if state is None else state.messages

    async def _read(self, count: int) -> list[Delivery] | None:
        """Read the first messages by AMQP 0-9-1. Returns None, connected again, when one of them is undeliverable."""
        arrived: asyncio.Queue[Delivery | None] = asyncio.Queue()
        subscription = await self._session.consume(Consumer(self._queue, arrived.put_nowait, count, auto_ack=False))
        lost = asyncio.create_task(self._session.lost.wait())
        lost.add_done_callback(lambda _: arrived.put_nowait(None))
        found: list[Delivery] = []
        try:
            while len(found) < count:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    delivery = await arrived.get()
                if delivery is None:
                    break
                found.append(delivery)
        except TimeoutError:
            pass
        finally:
            lost.cancel()
        if not self._session.lost.is_set():
            return found
        if not self._session.failed_to_deliver:
            raise self._session.error or BrokerError("the connection to RabbitMQ was lost")
        subscription.cancel()
        await self._session.open()
        await self._until_there(count)
        return None

    async def _take(self, count: int) -> tuple[list[Delivery], list[Delivery]]:
        """Read the first messages by AMQP 1.0. Returns the undeliverable ones and the others."""
        try:
            receiver = await self._opened.enter_async_context(Receiver(self._url, self._queue))
        except BrokerError as error:
            why = f"RabbitMQ cannot deliver a message of the queue {self._queue} by AMQP 0-9-1"
            raise Unreadable(f"{why}, and it cannot be read by AMQP 1.0: {error}") from error
        self._receivers.append(receiver)
        taken = await receiver.take(count)
        bad = [delivery for delivery in taken if UNTRANSLATABLE in delivery.headers]
        return bad, [delivery for delivery in taken if UNTRANSLATABLE not in delivery.headers]

    async def _until_there(self, count: int) -> None:
        """Wait until the queue has its unsettled messages back, for a limited time: other programs may take them."""
        for _ in range(round(_SILENCE_SECONDS / _POLL_SECONDS)):
            if await self._depth() >= count:
                return
            await asyncio.sleep(_POLL_SECONDS)


def _marked(deliveries: list[Delivery]) -> list[Delivery]:
    for delivery in deliveries:
        delivery.headers.setdefault(UNTRANSLATABLE, "RabbitMQ does not say why")
    return deliveries
