"""Looking at the messages of a queue, and settling those that are chosen.

Nothing is reconnected: whoever looks has to know what RabbitMQ has heard.
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

MOST = 60_000  # messages that can be looked at together: AMQP counts unacknowledged ones with 16 bits

_SILENCE = 2.0  # seconds; when no further message comes, another program is looking at the rest
_POLL = 0.02  # seconds


class Unreadable(BrokerError):
    """A queue holds a message that RabbitMQ cannot deliver"""


class Browser:
    """Has the messages of a queue unsettled as long as it is open; RabbitMQ has the rest back when it closes.

    Messages that RabbitMQ cannot deliver to clients of AMQP 0-9-1 are read by AMQP 1.0; their header UNTRANSLATABLE
    says what is wrong with them. Raises BrokerUnreachable, AccessRefused, and BrokerError when the connection is lost.
    """

    def __init__(self, url: str, queue: str, *, name: str) -> None:
        self._url = url
        self._queue = queue
        self._half = Session(url, name, lambda: None)
        self._receivers: list[Receiver] = []
        self._opened = AsyncExitStack()
        self.waiting = 0  # messages that were there to look at

    async def __aenter__(self) -> Self:
        await self._half.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._opened.aclose()
        await self._half.close()

    async def declare(self, topology: Topology) -> None:
        """Declare exchanges, queues and bindings. Raises BrokerError."""
        await self._half.declare(topology)

    async def look(self, limit: int = MOST) -> list[Delivery]:
        """The oldest messages of the queue, at most `limit`; none when there is no such queue. Only once.

        They are fewer than `waiting` and `limit` where another program has some of them. Raises Unreadable where
        RabbitMQ cannot deliver a message and does not speak AMQP 1.0 either.
        """
        self.waiting = await self._depth()
        count = min(self.waiting, limit, MOST)
        if not count:
            return []
        if (found := await self._read(count)) is not None:
            return found
        bad, good = await self._take(count)
        if not bad:  # and one of them cannot be delivered: nobody knows which
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
        """Wait until RabbitMQ has heard what was settled. Raises BrokerError when it may not have."""
        if self._half.lost.is_set() or self._half.ack_batcher is None:
            raise self._half.error or BrokerError("the connection to RabbitMQ was lost")
        self._half.ack_batcher.send_acks()
        await self._half.synchronize(self._queue)
        for receiver in self._receivers:
            await receiver.confirmed()

    async def purge(self) -> int:
        """Delete all messages that no program has; returns how many those were."""
        return await self._half.purge_queue(self._queue)

    async def _depth(self) -> int:
        state = await self._half.queue_state(self._queue)
        return 0 if state is None else state.messages

    async def _read(self, count: int) -> list[Delivery] | None:
        """The first messages, by AMQP 0-9-1; None when RabbitMQ cannot deliver one of them: connected again then."""
        arrived: asyncio.Queue[Delivery | None] = asyncio.Queue()
        subscription = await self._half.consume(Consumer(self._queue, arrived.put_nowait, count, auto_ack=False))
        lost = asyncio.create_task(self._half.lost.wait())
        lost.add_done_callback(lambda _: arrived.put_nowait(None))
        found: list[Delivery] = []
        try:
            while len(found) < count:
                async with asyncio.timeout(_SILENCE):
                    delivery = await arrived.get()
                if delivery is None:
                    break
                found.append(delivery)
        except TimeoutError:
            pass
        finally:
            lost.cancel()
        if not self._half.lost.is_set():
            return found
        if not self._half.failed_to_deliver:
            raise self._half.error or BrokerError("the connection to RabbitMQ was lost")
        subscription.cancel()
        await self._half.open()
        await self._until_there(count)
        return None

    async def _take(self, count: int) -> tuple[list[Delivery], list[Delivery]]:
        """The first messages, by AMQP 1.0: those that RabbitMQ cannot deliver otherwise, and the others."""
        try:
            receiver = await self._opened.enter_async_context(Receiver(self._url, self._queue))
        except BrokerError as error:
            told = f"RabbitMQ cannot deliver a message of the queue {self._queue} to clients of AMQP 0-9-1"
            raise Unreadable(f"{told}, and it cannot be read by AMQP 1.0: {error}") from error
        self._receivers.append(receiver)
        taken = await receiver.take(count)
        bad = [delivery for delivery in taken if UNTRANSLATABLE in delivery.headers]
        return bad, [delivery for delivery in taken if UNTRANSLATABLE not in delivery.headers]

    async def _until_there(self, count: int) -> None:
        """Wait until RabbitMQ has the messages back that were under way, but not for long: others may take them."""
        for _ in range(round(_SILENCE / _POLL)):
            if await self._depth() >= count:
                return
            await asyncio.sleep(_POLL)


def _marked(deliveries: list[Delivery]) -> list[Delivery]:
    for delivery in deliveries:
        delivery.headers.setdefault(UNTRANSLATABLE, "RabbitMQ does not say why")
    return deliveries
