"""A fake coordinator: a test assigns tasks by hand and receives all reports of workers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pika
from pika.exceptions import NackError

from broker.amqp.envelope import Delivery, Outgoing
from broker.amqp.robust_connection import RobustConnection
from broker.protocol.assignments import Assignment, Drain, Stop
from broker.protocol.chat import MessageProgress
from broker.protocol.primitives import WireModel, decode
from broker.protocol.topology import COORDINATOR, REJECTED, SHARED, STATUS, WORK, llm_address, work_queue
from broker.protocol.worker_reports import Claim, Goodbye, Presence, Progress, Result

WITHIN = 20.0
"""Seconds that a test waits for something before it fails."""

KINDS: dict[str, type[WireModel]] = {
    "hello": Presence,
    "beat": Presence,
    "goodbye": Goodbye,
    "claim": Claim,
    "progress": Progress,
    "message_progress": MessageProgress,
    "result": Result,
}


class StandIn:
    """A fake coordinator. `heard` holds all reports in order, as pairs of kind and message."""

    def __init__(self, url: str, link: RobustConnection, llm: str) -> None:
        self.heard: list[tuple[str, Any]] = []
        self._parameters = pika.URLParameters(url)
        self._link = link
        self._llm = llm
        self._control: dict[str, str] = {}  # queues, by instance
        self._news = asyncio.Event()

    def _hear(self, delivery: Delivery) -> None:
        delivery.ack()
        name, _, kind = delivery.routing_key.rpartition(".")
        if name == self._llm:
            if kind == "progress" and b'"message_id"' in delivery.body:
                kind = "message_progress"
            message: Any = decode(KINDS[kind], delivery.body)
            if delivery.properties.reply_to:
                self._control[message.instance] = delivery.properties.reply_to
            self.heard.append((kind, message))
            self._news.set()

    def all(self, kind: str, **fields: Any) -> list[Any]:
        """Return the messages of a kind with these values in these fields."""
        return [
            message
            for heard, message in self.heard
            if heard == kind and all(getattr(message, field) == value for field, value in fields.items())
        ]

    async def next(self, kind: str, **fields: Any) -> Any:
        """Wait for the first message of a kind with these values in these fields, and return it."""
        await self.until(lambda: bool(self.all(kind, **fields)))
        return self.all(kind, **fields)[0]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the received messages make the condition true."""
        async with asyncio.timeout(WITHIN):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def assign(self, task_id: str, description: str = "", *, attempt: int = 1, **fields: Any) -> None:
        assignment = Assignment(task_id=task_id, attempt=attempt, description=description, **fields)
        await self.assign_raw(assignment.encode())

    async def assign_raw(self, body: bytes) -> None:
        await self._link.publish(Outgoing(WORK, llm_address(self._llm), body))

    async def stop(self, instance: str, task_id: str, attempt: int = 1) -> None:
        await self.control(instance, Stop(task_id=task_id, attempt=attempt).encode())

    async def drain(self, instance: str) -> None:
        await self.control(instance, Drain().encode())

    async def control(self, instance: str, body: bytes) -> None:
        await self._link.publish(Outgoing("", self._control[instance], body))

    @asynccontextmanager
    async def deaf(self) -> AsyncIterator[None]:
        """Receive nothing during the block, and let RabbitMQ refuse the reports of workers: the inbox is full."""
        self._inbox.cancel()
        await asyncio.to_thread(self._replace_inbox_by_a_full_one)
        yield
        await asyncio.to_thread(self._delete_inbox)
        await self.listen()

    async def listen(self) -> None:
        """Receive reports from now on."""
        await self._link.declare(SHARED)
        self._inbox = await self._link.consume(COORDINATOR, self._hear, prefetch=1000)

    def _replace_inbox_by_a_full_one(self) -> None:
        self._delete_inbox()
        with pika.BlockingConnection(self._parameters) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            arguments = {"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish"}
            channel.queue_declare(COORDINATOR, durable=True, arguments=arguments)
            channel.queue_bind(COORDINATOR, STATUS, "#")
            with suppress(NackError):
                while True:
                    channel.basic_publish("", COORDINATOR, b"full")

    def _delete_inbox(self) -> None:
        with pika.BlockingConnection(self._parameters) as connection:
            connection.channel().queue_delete(COORDINATOR)

    async def delivered(self) -> None:
        """Wait until RabbitMQ has delivered all assignments, so that later messages arrive after them."""
        async with asyncio.timeout(WITHIN):
            while await self.depth(work_queue(self._llm)):  # noqa: ASYNC110 - RabbitMQ has no event for it
                await asyncio.sleep(0.01)

    async def depth(self, queue: str) -> int | None:
        return await self._link.depth(queue)

    async def consumers(self, queue: str) -> int:
        return await self._link.consumers(queue)


@asynccontextmanager
async def stand_in(url: str, llm: str) -> AsyncIterator[StandIn]:
    """Run a fake coordinator for one LLM, and discard earlier messages on the broker."""
    parameters = pika.URLParameters(url)
    with pika.BlockingConnection(parameters) as connection:
        for queue in (COORDINATOR, REJECTED):
            connection.channel().queue_delete(queue)
    async with RobustConnection(url, name="stand-in") as link:
        it = StandIn(url, link, llm)
        await it.listen()
        yield it
    with pika.BlockingConnection(parameters) as connection:
        connection.channel().queue_delete(work_queue(llm))
