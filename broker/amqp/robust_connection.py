"""A connection to RabbitMQ that survives failures.

A `RobustConnection` has two sessions, one that publishes and one that consumes, because RabbitMQ under a memory or disk
alarm reads nothing from a connection that publishes, not even acknowledgements. After a failure a session opens again
with its channel, declarations and consumers, and unconfirmed messages are published again. So each message arrives at
least once, or its future has the error.
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
from broker.amqp.session import Session, Subscription, error_of_message
from broker.amqp10.client import expel
from broker.backoff import Backoff
from broker.errors import AccessRefused, BrokerError, ConnectionClosed, MessageTooLarge
from broker.protocol.topology import MESSAGES, Binding, Topology

_log = logging.getLogger(__name__)

PROBE = Outgoing("", "fluffle.probe", b"", persistent=False, mandatory=False)
"""A message for no queue: RabbitMQ confirms the message, or reports an alarm under which it accepts no messages.

RabbitMQ reports alarms only to connections that publish, and only when they publish.
"""

_FIRST_PAUSE_SECONDS = 0.1  # before the first attempt to connect again


class RobustConnection:
    """A connection to RabbitMQ that publishes with confirms, declares, consumes, and reconnects by itself.

    `async with RobustConnection(url, name="…") as connection:` connects (or raises BrokerUnreachable or AccessRefused)
    and closes. `on_state(connected)` is called when the connection is lost and when it is complete again. A connection
    without traffic for `heartbeat` seconds is lost. `longest_pause`: the most seconds between attempts to connect.
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
        self._backoff = Backoff(_FIRST_PAUSE_SECONDS, longest_pause)
        self._window = window
        self._max_body = max_body
        self._on_state = on_state
        self._confirms = PublisherConfirms()
        self._queued: list[PendingPublish] = []  # accepted while the connection was lost
        self._room = asyncio.Event()
        self._up = asyncio.Event()
        self._closing = False
        self._quarantines: dict[str, Quarantine] = {}  # by queue
        self._quarantining = False  # the consuming session opens again, without the quarantined queues
        self.reconnects = 0  # the number of times that a session was opened again
        self.failed_deliveries: Counter[str] = (
            Counter()
        )  # deliveries for which RabbitMQ closed the connection, by queue
        self._keepers: list[asyncio.Task[None]] = []

    @property
    def where(self) -> str:
        """Host and port, for log lines and error messages."""
        return str(self._publisher.where)

    @property
    def connected(self) -> bool:
        """Whether all sessions are connected, with all their declarations and consumers."""
        quarantined = all(quarantine.connected for quarantine in self._quarantines.values())
        return self._publisher.whole and self._consumer.whole and quarantined

    @property
    def blocked(self) -> str | None:
        """The reason why RabbitMQ accepts no messages now, such as `low on disk`; None while no alarm is known.

        RabbitMQ reports an alarm only after a message was published.
        """
        return self._publisher.blocked

    @property
    def obstacle(self) -> str | None:
        """The reason why publishing is impossible now, as a sentence; None when it is possible."""
        if not self.connected:
            return f"no connection to RabbitMQ at {self.where}"
        return f"RabbitMQ at {self.where} accepts no messages: {self.blocked}" if self.blocked else None

    @property
    def can_publish(self) -> bool:
        """Whether the publishing session is connected."""
        return self._publisher.whole

    async def until_connected(self) -> None:
        """Wait until all sessions are connected. Raises ConnectionClosed."""
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
        self._keepers = [asyncio.create_task(self._keep(session)) for session in (self._publisher, self._consumer)]
        self._up.set()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        self._room.set()
        self._up.set()
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        quarantined = [quarantine.close() for quarantine in self._quarantines.values()]
        await asyncio.gather(self._publisher.close(), self._consumer.close(), *quarantined)
        left = [*self._confirms.waiting.values(), *self._queued]
        self._confirms, self._queued = PublisherConfirms(), []
        for pending in left:
            pending.end(ConnectionClosed())

    async def _keep(self, session: Session) -> None:
        """Open a session again whenever it is lost, until the connection is closed."""
        pauses = self._backoff.pauses()
        while True:
            opened_at = time.monotonic()
            await session.lost.wait()
            session.whole, session.channel = False, None
            session.rename_queues()
            self._report(False)
            reason = str(session.error)
            _log.warning("lost the connection to RabbitMQ at %s: %s", session.where, reason)
            if session is self._consumer and session.failed_to_deliver:
                self._quarantining, pauses = True, self._backoff.pauses()
                self._quarantine_shared()
            if time.monotonic() - opened_at > self._longest_pause:
                pauses = self._backoff.pauses()
            while True:
                await asyncio.sleep(next(pauses))
                try:
                    await session.open()
                    break
                except BrokerError as error:
                    if str(error) != reason:
                        reason = str(error)
                        _log.warning("cannot connect again to RabbitMQ at %s: %s", session.where, reason)
                    session.error = error
                    session.rename_queues()
            _log.info("connected again to RabbitMQ at %s", session.where)
            self._quarantining = self._quarantining and session is not self._consumer
            self.reconnects += 1
            self._report(True)

    def _report(self, connected: bool) -> None:
        """Report that a session is lost, or connected again."""
        if not connected:
            self._up.clear()
            self._on_state(False)
        elif self.connected:
            self._up.set()
            self._on_state(True)

    def _quarantine_shared(self) -> None:
        """Give each shared queue a separate connection: RabbitMQ cannot deliver a message of one of them."""
        for subscription in self._consumer.release_shared():
            queue = subscription.consumer.queue
            if queue not in self._quarantines:
                session = Session(self._url, f"{self._name} (consume {queue})", _nothing, heartbeat=self._heartbeat)
                self._quarantines[queue] = Quarantine(
                    queue,
                    session,
                    on_state=self._report,
                    on_failure=partial(self._on_failed_delivery, queue),
                    expel=partial(expel, self._url, queue),
                )
            self._quarantines[queue].admit(subscription)

    def _on_failed_delivery(self, queue: str) -> None:
        self.failed_deliveries[queue] += 1
        self.reconnects += 1

    def _on_blocked(self, reason: str | None) -> None:
        if reason is None:
            _log.warning("RabbitMQ at %s accepts messages again", self.where)
        else:
            _log.warning("RabbitMQ at %s accepts no messages: %s; published messages wait", self.where, reason)

    # -- publishing ------------------------------------------------------------------------------------------------

    async def publish(self, message: Outgoing) -> None:
        """Publish and wait for RabbitMQ's confirm.

        Raises Unroutable, PublishRefused, MessageTooLarge, ConnectionClosed.
        """
        await self.room()
        await self.publish_soon(message)

    async def room(self) -> None:
        """Wait until fewer messages than the window are unconfirmed."""
        while not self.has_room and not self._closing:
            self._room.clear()
            await self._room.wait()

    @property
    def has_room(self) -> bool:
        """Whether fewer messages than the window are unconfirmed."""
        return self.unconfirmed < self._window

    @property
    def unconfirmed(self) -> int:
        """The number of unconfirmed messages."""
        return len(self._confirms.waiting) + len(self._queued)

    def publish_soon(self, message: Outgoing) -> asyncio.Future[None]:
        """Publish without waiting. The future ends with RabbitMQ's confirm, or with an error of `publish`."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._take(PendingPublish.of_future(message, done))
        return done

    def send(self, message: Outgoing, answered: OnPublished) -> None:
        """Publish without waiting or a future, for many messages: `answered` gets the message and None or an error.

        The call may come before this method returns, and must not block.
        """
        self._take(PendingPublish(message, answered))

    def forget_unconfirmed(self) -> None:
        """Do not publish unconfirmed messages again after a reconnect; they end with ConnectionClosed then."""
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
            # On fluffle.messages `reply_to` is an address, to which the queue is bound under any name.
            message = replace(message, reply_to=renamed[message.reply_to])
        try:
            self._publisher.publish(message)
        except Exception as error:  # of many classes: a value does not fit its field
            failure = BrokerError(f"the message cannot be encoded for AMQP: {type(error).__name__}: {error}")
            failure.__cause__ = error
            pending.end(failure)
        else:
            self._confirms.expect(pending)

    def _publish_again(self) -> None:
        """Publish the unconfirmed messages of the old channel again, in order: their fate is unknown.

        The message for which RabbitMQ closed the old channel ends with an error: it would close the new one, too.
        """
        unknown = [*self._confirms.waiting.values(), *self._queued]
        self._confirms, self._queued = PublisherConfirms(), []
        self._publisher.confirm(partial(self._on_confirms, self._confirms), self._confirms.mark_returned)
        refusal, self._publisher.refusal = self._publisher.refusal, None
        for pending in unknown:
            if refusal is not None and (error := error_of_message(pending.message, refusal)):
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
        """Remove a binding that this connection has not declared. Raises BrokerError."""
        await self._consumer.unbind(binding)

    async def delete(self, *, queues: Iterable[str] = (), exchanges: Iterable[str] = ()) -> None:
        """Delete queues with their messages, and exchanges, if they exist. Raises BrokerError."""
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
        if self._quarantining or self._consumer.failed_to_deliver:
            self._up.clear()
            await self.until_connected()
        if queue in self._quarantines:
            return await self._quarantines[queue].consume(consumer)
        return await self._consumer.consume(consumer)

    async def depth(self, queue: str) -> int | None:
        """Return how many messages wait in a queue; None for a missing queue. Raises AccessRefused, BrokerError."""
        state = await self._consumer.queue_state(queue)
        return None if state is None else state.messages

    async def has_consumers(self, queue: str) -> bool:
        """Return whether a queue has consumers. Raises AccessRefused, BrokerError."""
        return await self.consumers(queue) > 0

    async def consumers(self, queue: str) -> int:
        """Return the number of consumers of a queue. Raises AccessRefused, BrokerError."""
        state = await self._consumer.queue_state(queue)
        return 0 if state is None else state.consumers


def _nothing() -> None:
    """Do nothing when a session is connected: it publishes nothing."""


async def may_declare(url: str, topology: Topology, *, name: str) -> bool:
    """Make declarations. Returns False if the URL's user may not make them. Raises BrokerError for other failures.

    A separate connection makes them, because RabbitMQ closes the channel when it refuses one.
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
