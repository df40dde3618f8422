"""The connection to RabbitMQ, which survives failures.

A `RobustConnection` holds two connections, one that publishes and one that consumes, because a broker under a memory
or disk alarm stops reading a connection that publishes, acknowledgements included. Each is rebuilt whole after a
failure: channel, declarations, consumers; whatever was published but not confirmed is published again. So everything
sent arrives at least once, or its future says why not.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Self

from broker.amqp.channel import Consumer
from broker.amqp.confirms import OnPublished, PendingPublish, PublisherConfirms
from broker.amqp.envelope import Delivery, Outgoing
from broker.amqp.quarantine import Quarantine
from broker.amqp.session import Session, Subscription, fault_of
from broker.amqp10.client import expel
from broker.errors import AccessRefused, BrokerError, ConnectionClosed, MessageTooLarge
from broker.protocol.topology import MESSAGES, Binding, Topology

_log = logging.getLogger(__name__)

PROBE = Outgoing("", "fluffle.probe", b"", persistent=False, mandatory=False)
"""A message for no queue: RabbitMQ confirms it when it takes messages, and reports its alarm when it does not.

Only a connection that publishes is told of an alarm, and only when it publishes.
"""

_RETRY_FIRST = 0.1  # seconds before the first attempt to connect again; then it is twice as long every time


class RobustConnection:
    """A lasting link to RabbitMQ: publish with confirms, declare, consume; reconnects by itself.

    `async with Link(url, name="…") as link:` connects (BrokerUnreachable and AccessRefused are raised then) and
    closes. `on_state(connected)` is called when the link is lost and when it is whole again. A link on which nothing
    comes for `heartbeat` seconds is lost. `longest_pause` is the most seconds between two attempts to connect.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        window: int = 5_000,
        max_body: int = 16 * 1024 * 1024,
        heartbeat: int = 20,
        longest_pause: float = 5.0,
        on_state: Callable[[bool], None] = lambda connected: None,
    ) -> None:
        self._url, self._name, self._heartbeat = url, name, heartbeat
        self._publisher = Session(
            url, f"{name} (publish)", self._publish_again, heartbeat=heartbeat, on_blocked=self._on_blocked
        )
        self._consumer = Session(url, f"{name} (consume)", _nothing, heartbeat=heartbeat)
        self._longest_pause = longest_pause
        self._window = window
        self._max_body = max_body
        self._on_state = on_state
        self._confirms = PublisherConfirms()
        self._queued: list[PendingPublish] = []  # accepted while the connection was away
        self._room = asyncio.Event()
        self._up = asyncio.Event()
        self._closing = False
        self._apart: dict[str, Quarantine] = {}  # by queue
        self._separating = False  # the consuming connection is opened again, without the queues that go apart
        self.reconnects = 0  # how often a connection was lost and opened again
        self.failed_deliveries: Counter[str] = Counter()  # for which RabbitMQ closed the connection, by queue
        self._keepers: list[asyncio.Task[None]] = []

    @property
    def where(self) -> str:
        """Host and port, for people."""
        return str(self._publisher.where)

    @property
    def connected(self) -> bool:
        """Whether all connections are up, with all their declarations and consumers."""
        apart = all(quarantine.connected for quarantine in self._apart.values())
        return self._publisher.whole and self._consumer.whole and apart

    @property
    def blocked(self) -> str | None:
        """Why RabbitMQ takes no messages at the moment, such as `low on disk`; None as far as it is known to take them.

        It is known once something was published.
        """
        return self._publisher.blocked

    @property
    def obstacle(self) -> str | None:
        """Why nothing can be published at the moment, as a sentence; None when nothing is in the way."""
        if not self.connected:
            return f"no connection to RabbitMQ at {self.where}"
        return f"RabbitMQ at {self.where} takes no messages: {self.blocked}" if self.blocked else None

    @property
    def can_publish(self) -> bool:
        """Whether the connection that publishes is up."""
        return self._publisher.whole

    async def until_connected(self) -> None:
        """Wait while RabbitMQ is away. Raises ConnectionClosed."""
        await self._up.wait()
        if self._closing:
            raise ConnectionClosed()

    async def __aenter__(self) -> Self:
        await self._publisher.open()
        try:
            await self._consumer.open()
        except BaseException:
            await self._publisher.close()
            raise
        self._keepers = [asyncio.create_task(self._keep(half)) for half in (self._publisher, self._consumer)]
        self._up.set()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        self._room.set()
        self._up.set()
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        apart = [quarantine.close() for quarantine in self._apart.values()]
        await asyncio.gather(self._publisher.close(), self._consumer.close(), *apart)
        left = [*self._confirms.waiting.values(), *self._queued]
        self._confirms, self._queued = PublisherConfirms(), []
        for pending in left:
            pending.end(ConnectionClosed())

    async def _keep(self, half: Session) -> None:
        """Open this connection again whenever it is lost, until the link closes."""
        pause = _RETRY_FIRST
        while True:
            opened_at = time.monotonic()
            await half.lost.wait()
            half.whole, half.channel = False, None
            half.name_afresh()
            self._tell(False)
            told = str(half.error)
            _log.warning("lost the connection to RabbitMQ at %s: %s", half.where, told)
            if half is self._consumer and half.failed_to_deliver:
                self._separating, pause = True, _RETRY_FIRST
                self._separate()
            if time.monotonic() - opened_at > self._longest_pause:
                pause = _RETRY_FIRST
            while True:
                await asyncio.sleep(pause)
                pause = min(pause * 2, self._longest_pause)
                try:
                    await half.open()
                    break
                except BrokerError as error:
                    if str(error) != told:
                        told = str(error)
                        _log.warning("cannot connect again to RabbitMQ at %s: %s", half.where, told)
                    half.error = error
                    half.name_afresh()
            _log.info("connected again to RabbitMQ at %s", half.where)
            self._separating = self._separating and half is not self._consumer
            self.reconnects += 1
            self._tell(True)

    def _tell(self, connected: bool) -> None:
        """One of the connections is lost, or is there again."""
        if not connected:
            self._up.clear()
            self._on_state(False)
        elif self.connected:
            self._up.set()
            self._on_state(True)

    def _separate(self) -> None:
        """RabbitMQ cannot deliver a message of one of these queues: each gets a connection to itself."""
        for subscription in self._consumer.let_go_of_shared():
            queue = subscription.consumer.queue
            if queue not in self._apart:
                half = Session(self._url, f"{self._name} (consume {queue})", _nothing, heartbeat=self._heartbeat)
                self._apart[queue] = Quarantine(
                    queue,
                    half,
                    on_state=self._tell,
                    on_failure=partial(self._on_failed_delivery, queue),
                    expel=partial(expel, self._url, queue),
                )
            self._apart[queue].admit(subscription)

    def _on_failed_delivery(self, queue: str) -> None:
        self.failed_deliveries[queue] += 1
        self.reconnects += 1

    def _on_blocked(self, reason: str | None) -> None:
        if reason is None:
            _log.warning("RabbitMQ at %s takes messages again", self.where)
        else:
            _log.warning("RabbitMQ at %s takes no messages: %s; what is published waits", self.where, reason)

    # -- publishing ------------------------------------------------------------------------------------------------

    async def publish(self, message: Outgoing) -> None:
        """Publish and wait until the broker has it. A refused message raises PublishRefused.

        Raises Unroutable, PublishRefused, MessageTooLarge, ConnectionClosed.
        """
        await self.room()
        await self.publish_soon(message)

    async def room(self) -> None:
        """Wait until fewer messages than the window await their confirm."""
        while not self.has_room and not self._closing:
            self._room.clear()
            await self._room.wait()

    @property
    def has_room(self) -> bool:
        """Whether fewer messages than the window await their confirm."""
        return self.unconfirmed < self._window

    @property
    def unconfirmed(self) -> int:
        """How many messages await their confirm."""
        return len(self._confirms.waiting) + len(self._queued)

    def publish_soon(self, message: Outgoing) -> asyncio.Future[None]:
        """Publish without waiting. The future ends when the broker has the message; see `publish` for its errors."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._take(PendingPublish.of_future(message, done))
        return done

    def send(self, message: Outgoing, answered: OnPublished) -> None:
        """Publish without waiting, for many messages: `answered` is called with it and None or the error of `publish`.

        That may be at once, and it must not block.
        """
        self._take(PendingPublish(message, answered))

    def forget_unconfirmed(self) -> None:
        """What RabbitMQ may not have is not published again: after a reconnect, whoever waits gets ConnectionClosed."""
        for pending in (*self._confirms.waiting.values(), *self._queued):
            pending.wanted = False

    def _take(self, pending: PendingPublish) -> None:
        size, limit = len(pending.message.body), self._max_body
        if size > limit:
            pending.end(MessageTooLarge(f"the message has {size:,} bytes; the limit is {limit:,}", limit=limit))
        elif self._closing:
            pending.end(ConnectionClosed())
        elif self._ready_to_publish:
            self._send(pending)
        else:
            self._queued.append(pending)

    @property
    def _ready_to_publish(self) -> bool:
        channel = self._publisher.channel
        return channel is not None and channel.is_open and not self._publisher.lost.is_set()

    def _send(self, pending: PendingPublish) -> None:
        pending.returned = False
        message = pending.message
        if message.reply_to in (renamed := self._consumer.renamed) and message.exchange != MESSAGES:
            # On fluffle.messages it is an address, to which a queue of any name is bound.
            message = replace(message, reply_to=renamed[message.reply_to])
        try:
            self._publisher.publish(message)
        except Exception as error:  # pika has many ways to say that a value does not fit into its field
            failure = BrokerError(f"AMQP cannot carry the message: {type(error).__name__}: {error}")
            failure.__cause__ = error
            pending.end(failure)
        else:
            self._confirms.expect(pending)

    def _publish_again(self) -> None:
        """A new channel: whatever the old one left unconfirmed is unknown, so it is published again, in order.

        Not so what the broker closed the old channel for: it would close this one too.
        """
        unknown = [*self._confirms.waiting.values(), *self._queued]
        self._confirms, self._queued = PublisherConfirms(), []
        self._publisher.confirm(partial(self._on_confirms, self._confirms), self._confirms.mark_returned)
        refusal, self._publisher.refusal = self._publisher.refusal, None
        for pending in unknown:
            if refusal is not None and (error := fault_of(pending.message, refusal)):
                pending.end(error)
            elif pending.wanted:
                self._send(pending)
            else:
                pending.end(ConnectionClosed())

    def _on_confirms(self, confirms: PublisherConfirms, tags: list[tuple[int, int]], refused: bool) -> None:
        confirms.end(tags, refused=refused)
        if self.has_room:
            self._room.set()

    # -- declaring and consuming -----------------------------------------------------------------------------------

    async def declare(self, topology: Topology) -> None:
        """Declare exchanges, queues and bindings, now and after every reconnect. Raises BrokerError."""
        await self._consumer.declare(topology)

    async def unbind(self, binding: Binding) -> None:
        """Take a binding away; it must not be one that this link has declared. Raises BrokerError."""
        await self._consumer.unbind(binding)

    async def delete(self, *, queues: Iterable[str] = (), exchanges: Iterable[str] = ()) -> None:
        """Delete queues, with what is in them, and exchanges, as far as they exist. Raises BrokerError."""
        for queue in queues:
            await self._consumer.delete_queue(queue)
        for exchange in exchanges:
            await self._consumer.delete_exchange(exchange)

    async def consume(
        self,
        queue: str,
        on_delivery: Callable[[Delivery], object],
        *,
        prefetch: int = 1,
        auto_ack: bool = False,
    ) -> Subscription:
        """Call `on_delivery` for every message of the queue, with at most `prefetch` of them unsettled.

        The callback must not block and must not raise. Raises BrokerError when the queue cannot be consumed.
        """
        consumer = Consumer(queue, on_delivery, prefetch, auto_ack)
        if not auto_ack:
            self.failed_deliveries[queue] += 0
        if self._separating or self._consumer.failed_to_deliver:
            self._up.clear()
            await self.until_connected()
        if queue in self._apart:
            return await self._apart[queue].consume(consumer)
        return await self._consumer.consume(consumer)

    async def depth(self, queue: str) -> int | None:
        """How many messages wait in a queue; None when there is no such queue. Raises AccessRefused, BrokerError."""
        state = await self._consumer.queue_state(queue)
        return None if state is None else state.messages

    async def has_consumers(self, queue: str) -> bool:
        """Whether somebody consumes a queue. Raises AccessRefused, BrokerError."""
        return await self.consumers(queue) > 0

    async def consumers(self, queue: str) -> int:
        """How many consumers a queue has. Raises AccessRefused, BrokerError."""
        state = await self._consumer.queue_state(queue)
        return 0 if state is None else state.consumers


def _nothing() -> None:
    """When it is connected: nothing is published on it."""


async def may_declare(url: str, topology: Topology, *, name: str) -> bool:
    """Whether the URL's user may make these declarations, which are made then. Raises BrokerError for another reason.

    Tried by a connection of its own, because RabbitMQ closes the channel that asks for too much.
    """
    trial = Session(url, f"{name} (trial)", _nothing)
    await trial.open()
    try:
        await trial.declare(topology)
    except AccessRefused:
        return False
    finally:
        await trial.close()
    return True
