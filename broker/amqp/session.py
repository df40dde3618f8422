"""One half of a link: a connection with one channel, set up anew after every failure."""

import asyncio
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from broker.amqp.ack_batcher import AckBatcher
from broker.amqp.channel import Channel, Connection, Consumer, OnConfirms, OnReturn, QueueState, Refusal
from broker.amqp.envelope import Outgoing
from broker.amqp.pika_connection import connect, failed_to_deliver, parameters, refusal_of, translated, was_wanted
from broker.amqp.url import split_url, user_of
from broker.errors import AccessRefused, BrokerError, BrokerUnreachable, MessageTooLarge, Unroutable
from broker.futures import fail, resolve
from broker.protocol.topology import Binding, Topology

T = TypeVar("T")

_CLOSE_WITHIN = 3.0  # seconds


@dataclass(eq=False, slots=True)
class Subscription:
    """A running consumer of a link. `cancel()` ends it; it is set up again after every reconnect until then."""

    half: "Session"  # it may move to another
    consumer: Consumer

    def cancel(self) -> None:
        """Take no more deliveries. Those taken and not settled stay unsettled until their channel closes."""
        self.half.cancel(self)


@dataclass(frozen=True, slots=True)
class _Where:
    """A URL for people: without the password."""

    url: str

    def __str__(self) -> str:
        parts = split_url(self.url)
        return f"{parts.hostname}:{parts.port or (5671 if parts.scheme == 'amqps' else 5672)}"


class Session:
    """One connection with one channel: opened, rebuilt after failures, closed."""

    def __init__(
        self,
        url: str,
        name: str,
        on_ready: Callable[[], None],
        *,
        heartbeat: int = 20,
        on_blocked: Callable[[str | None], None] = lambda reason: None,
    ) -> None:
        self.where = _Where(url)
        self._parameters = parameters(url, name=name, heartbeat=heartbeat)
        self._user = user_of(url)
        self._on_ready = on_ready
        self._on_blocked = on_blocked
        self.blocked: str | None = None  # why RabbitMQ reads nothing from this connection
        self._topology: list[Topology] = []
        self._subscriptions: list[Subscription] = []
        self.connection: Connection | None = None
        self.channel: Channel | None = None  # None while it is being rebuilt
        self.ack_batcher: AckBatcher | None = None
        self._numbers = itertools.count(1)  # of consumers
        self._generation = 1  # of the names of exclusive queues
        self.renamed: dict[str, str] = {}  # exclusive queues, by the names that they had on the first connection
        self.whole = False  # connected, with everything declared and consumed
        self.lost = asyncio.Event()
        self.error: BrokerError | None = None  # why the connection was lost or could not be opened
        self.refusal: Refusal | None = None  # why the broker closed the channel
        self.failed_to_deliver = False  # RabbitMQ closed the connection while it delivered
        self.on_settled: Callable[[], None] | None = None

    # -- life ------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect once and set everything up. Raises BrokerUnreachable or AccessRefused."""
        self.lost, self.error, self.failed_to_deliver = asyncio.Event(), None, False
        opened: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        connection: Connection = connect(
            self._parameters,
            user=self._user,
            on_open=lambda: resolve(opened, connection),
            on_open_error=lambda error: fail(opened, translated(error, self.where)),
            on_closed=self._on_connection_closed,
            on_blocked=self._tell_blocked,
        )
        try:
            self.connection = await opened
            self.channel = await self._open_channel()
            self.ack_batcher = AckBatcher(self.channel, self.on_settled)
            for topology in self._topology:
                await self._declare_now(topology)
            for subscription in list(self._subscriptions):
                await self._consume_now(subscription.consumer)
        except BaseException:
            connection.discard()
            raise
        self.whole = True
        self._on_ready()

    async def close(self) -> None:
        """Close the connection and wait until it is closed."""
        if self.connection is not None and self.connection.is_open:
            within = 0 if self.blocked else _CLOSE_WITHIN  # a broker under an alarm does not read that we want to close
            self.connection.close()
            try:
                await asyncio.wait_for(self.lost.wait(), within)
            except TimeoutError:
                self.connection.drop()
                await self.lost.wait()

    def _rebuild(self, error: BrokerError) -> None:
        """Close the connection, so that it is opened anew, because of `error`."""
        self.error = error
        if self.connection is not None and self.connection.is_open:
            self.connection.close(320, "rebuilding")

    def _on_connection_closed(self, connection: Connection, error: BaseException) -> None:
        if connection is self.connection:
            if not was_wanted(error):
                self.error = translated(error, self.where)
                self.failed_to_deliver = failed_to_deliver(error) and bool(self._subscriptions)
            self.blocked = None
            self.lost.set()

    def _tell_blocked(self, reason: str | None) -> None:
        self.blocked = reason
        self._on_blocked(reason)

    def name_afresh(self) -> None:
        """Give exclusive queues new names: RabbitMQ may not know yet that the connection that has the present ones is
        lost. What is published from now on says so.
        """
        self._generation += 1
        exclusive = [queue.name for topology in self._topology for queue in topology.queues if queue.exclusive]
        self.renamed = {name: f"{name}.{self._generation}" for name in exclusive}

    def _called(self, queue: str) -> str:
        return self.renamed.get(queue, queue)

    # -- channel ---------------------------------------------------------------------------------------------------

    async def _open_channel(self) -> Channel:
        assert self.connection is not None
        return await self._or_lost(
            self.connection.open_channel(self._on_channel_closed, lambda: self._rebuild(self._ended_consumer()))
        )

    def _ended_consumer(self) -> BrokerError:
        return BrokerError(f"RabbitMQ at {self.where} ended a subscription: its queue was deleted or moved")

    def _on_channel_closed(self, channel: Channel, error: BaseException) -> None:
        if (refusal := refusal_of(error)) and (channel is self.channel or self.channel is None):
            self.refusal = refusal
            self._rebuild(translated(error, self.where))

    @property
    def _open_one(self) -> Channel:
        """The open channel. Raises BrokerError when there is none."""
        if self.channel is None or not self.channel.is_open:
            raise self.error or BrokerUnreachable()
        return self.channel

    async def _or_lost(self, future: asyncio.Future[T]) -> T:
        """Wait for RabbitMQ's answer. Raises BrokerError when the channel or the connection closes first."""
        lost = asyncio.ensure_future(self.lost.wait())
        either: set[asyncio.Future[Any]] = {future, lost}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost.cancel()
        if future.done():
            return future.result()
        raise self.error or BrokerUnreachable()

    def confirm(self, on_confirms: OnConfirms, on_return: OnReturn) -> None:
        """Ask RabbitMQ to confirm published messages, and to return messages that no queue takes."""
        assert self.channel is not None
        self.channel.confirm(on_confirms, on_return)

    def publish(self, message: Outgoing) -> None:
        """Send a message. Raises whatever pika does when a value does not fit into its field; nothing is sent then."""
        assert self.channel is not None
        self.channel.publish(message)

    async def queue_state(self, queue: str) -> QueueState | None:
        """What is in a queue now, by a channel of its own: RabbitMQ closes the one that asks in vain."""
        if self.connection is None or not self.connection.is_open:
            raise self.error or BrokerUnreachable()
        answered: asyncio.Future[QueueState | None] = asyncio.get_running_loop().create_future()

        def on_state(state: asyncio.Future[QueueState]) -> None:
            resolve(answered, state.result())
            if channel.is_open:
                channel.close()

        def on_closed(error: BaseException) -> None:
            if (refusal := refusal_of(error)) and refusal.code == 404:
                resolve(answered, None)
            else:
                fail(answered, translated(error, self.where))

        channel = await self._or_lost(self.connection.open_channel(lambda _, error: on_closed(error)))
        channel.queue_state(queue).add_done_callback(on_state)
        return await self._or_lost(answered)

    async def synchronize(self, queue: str) -> None:
        """Wait until RabbitMQ has handled everything sent before. The queue must exist. Raises BrokerError."""
        await self._or_lost(self._open_one.queue_state(queue))

    async def purge_queue(self, queue: str) -> int:
        """Delete the messages of a queue that wait for a consumer. Returns their number."""
        return await self._or_lost(self._open_one.purge_queue(queue))

    async def delete_queue(self, queue: str) -> None:
        """Delete a queue with its messages, if it exists."""
        await self._or_lost(self._open_one.delete_queue(queue))

    async def delete_exchange(self, exchange: str) -> None:
        """Delete an exchange, if it exists."""
        await self._or_lost(self._open_one.delete_exchange(exchange))

    # -- declarations and consumers --------------------------------------------------------------------------------

    async def declare(self, topology: Topology) -> None:
        """Declare now, and again after every reconnect."""
        await self._declare_now(topology)
        self._topology.append(topology)

    async def _declare_now(self, topology: Topology) -> None:
        for exchange in topology.exchanges:
            await self._or_lost(self._open_one.declare_exchange(exchange.name, exchange.type, exchange.arguments))
        for relay in topology.relays:
            await self._or_lost(self._open_one.bind_exchange(relay.to, relay.exchange))
        for queue in topology.queues:
            queue_name = self._called(queue.name)
            await self._or_lost(
                self._open_one.declare_queue(queue_name, exclusive=queue.exclusive, arguments=queue.arguments)
            )
        for binding in topology.bindings:
            queue_name = self._called(binding.queue)
            await self._or_lost(self._open_one.bind_queue(queue_name, binding.exchange, binding.routing_key))

    async def unbind(self, binding: Binding) -> None:
        """Take a binding away. One that is not there is no error."""
        queue_name = self._called(binding.queue)
        await self._or_lost(self._open_one.unbind_queue(queue_name, binding.exchange, binding.routing_key))

    async def consume(self, consumer: Consumer) -> Subscription:
        """Consume now, and again after every reconnect until the subscription is cancelled.

        Where RabbitMQ cannot deliver the first message, the connection is lost, and whoever keeps it goes on.
        """
        subscription = self.take_over(Subscription(self, consumer))
        try:
            await self._consume_now(consumer)
        except BrokerError:
            if not self.failed_to_deliver:
                self._subscriptions.remove(subscription)
                raise
        return subscription

    def take_over(self, subscription: Subscription) -> Subscription:
        """From the next connection on it is consumed here, and nowhere else."""
        subscription.half = self
        self._subscriptions.append(subscription)
        return subscription

    def let_go_of_shared(self) -> list[Subscription]:
        """End the subscriptions whose messages are delivered again unless they are settled. Returns these."""
        exclusive = {queue.name for topology in self._topology for queue in topology.queues if queue.exclusive}
        leaving = [it for it in self._subscriptions if not it.consumer.auto_ack and it.consumer.queue not in exclusive]
        self._subscriptions = [it for it in self._subscriptions if it not in leaving]
        return leaving

    def prefetch(self, count: int) -> None:
        """How many messages are under way, from the next time on that the queues are consumed."""
        for subscription in self._subscriptions:
            subscription.consumer.prefetch = count

    async def consume_again(self, prefetch: int) -> None:
        """Consume the same with another prefetch. What was delivered before is still to be settled."""
        self.prefetch(prefetch)
        for subscription in list(self._subscriptions):
            self._stop(subscription.consumer)
            await self._consume_now(subscription.consumer)

    async def _consume_now(self, consumer: Consumer) -> None:
        if not consumer.auto_ack:
            await self._or_lost(self._open_one.set_prefetch(consumer.prefetch))
        channel, consumer.tag = self._open_one, f"consumer {next(self._numbers)}"
        assert self.ack_batcher is not None
        queue = self._called(consumer.queue)
        await self._or_lost(channel.consume(queue, consumer.tag, consumer, self.ack_batcher))
        if consumer.cancelled:
            channel.cancel(consumer.tag)

    def cancel(self, subscription: Subscription) -> None:
        """Consume no more of it."""
        consumer = subscription.consumer
        consumer.cancelled = True
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
            self._stop(consumer)

    def _stop(self, consumer: Consumer) -> None:
        if self.channel is not None and self.channel.is_open and consumer.tag:
            self.channel.cancel(consumer.tag)


def fault_of(message: Outgoing, refusal: Refusal) -> BrokerError | None:
    """What is wrong with a message for which the broker may have closed the channel; None when nothing is."""
    said = refusal.text
    if named := re.search(r"(?:topic '([^']*)' in )?exchange '([^']*)'", said):
        topic, exchange = named.groups()
        if message.exchange == exchange and topic in (None, message.routing_key):
            return AccessRefused(f"RabbitMQ said: {said}") if refusal.code == 403 else Unroutable(said)
    if (limit := re.search(r"max size (\d+)", said)) and len(message.body) > int(limit[1]):
        return MessageTooLarge(f"RabbitMQ said: {said}", limit=int(limit[1]))
    return None
