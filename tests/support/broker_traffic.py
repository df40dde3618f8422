"""Traffic for tests of the connection: a consumer that collects deliveries, queues, and published messages."""

import asyncio
from collections.abc import Callable

import pika

from broker.amqp.envelope import Delivery, Outgoing
from broker.amqp.robust_connection import RobustConnection
from broker.protocol.topology import (
    Queue,
    Topology,
)

WITHIN = 20.0  # seconds


class Inbox:
    """Collects deliveries, acknowledged unless told otherwise."""

    def __init__(self, *, settle: Callable[[Delivery], None] = Delivery.ack) -> None:
        self._settle = settle
        self._arrived: asyncio.Queue[Delivery] = asyncio.Queue()

    def __call__(self, delivery: Delivery) -> None:
        self._settle(delivery)
        self._arrived.put_nowait(delivery)

    async def next(self) -> Delivery:
        return await asyncio.wait_for(self._arrived.get(), WITHIN)

    async def bodies(self, count: int) -> list[bytes]:
        return [(await self.next()).body for _ in range(count)]


def declared(queue: str, arguments: dict[str, str | int] | None = None) -> Topology:
    return Topology(queues=(Queue(queue, {"x-queue-type": "quorum"} | (arguments or {})),))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def publish_until_an_error(link: RobustConnection, queue: str) -> None:
    async with asyncio.timeout(WITHIN):
        while True:  # a quorum queue takes a few more than its limit
            await link.publish(Outgoing("", queue, b"x"))


def published_raw(url: str, queue: str, properties: pika.BasicProperties) -> None:
    """Publish with pika alone, as any client might."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        connection.channel().basic_publish("", queue, b"hostile", properties)
