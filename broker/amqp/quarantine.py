"""Quarantine of a queue with a message that RabbitMQ cannot deliver.

RabbitMQ cannot translate every message of an AMQP 1.0 client to AMQP 0-9-1. It closes the connection then, and delivers
all unsettled messages of the connection again, with a higher delivery count. So the queue gets a separate connection
and is consumed one message at a time: only deliveries of the bad message fail, until RabbitMQ reaches the delivery
limit and makes it a dead letter. After that the window doubles whenever all its messages were settled.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from broker.amqp.channel import Consumer
from broker.amqp.session import Session, Subscription
from broker.backoff import Backoff
from broker.errors import BrokerError
from broker.protocol.topology import DELIVERY_LIMIT

MAX_FAILURES = DELIVERY_LIMIT + 5
"""The failed deliveries after which the queue seems to have no delivery limit."""

_RECONNECT = Backoff(initial=0.02, maximum=5.0)
_QUIET_SECONDS = 1.0  # a connection that lasts longer ends the series of failures

_log = logging.getLogger(__name__)


class Window:
    """The number of messages taken at a time: one after a failure, then two, four, …, at most `most`.

    A delivery of a good message fails only when a bad one is in the same window. For that to happen often, the
    distances between bad messages would have to double: at most a dozen can hit the same good message.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.size = 1
        self._settled = 0

    def fail(self) -> None:
        """Record a failed delivery."""
        self.size, self._settled = 1, 0

    def settle(self) -> bool:
        """Record a settled message. Returns whether the window has grown."""
        self._settled += 1
        if self._settled < self.size or self.size == self.most:
            return False
        self.size, self._settled = min(2 * self.size, self.most), 0
        return True


class Quarantine:
    """Consumes one queue on a separate connection.

    `on_state(connected)` is called when the connection is lost and when it is back, but not for failed deliveries,
    for which `on_failure` is called. `expel` makes the first message of a queue without a delivery limit a dead letter;
    it returns the name of the message, None when the message was a good one, and raises BrokerError.
    """

    def __init__(
        self,
        queue: str,
        session: Session,
        *,
        on_state: Callable[[bool], None],
        on_failure: Callable[[], None],
        expel: Callable[[], Awaitable[str | None]],
    ) -> None:
        self._queue = queue
        self._session = session
        session.on_settled = self._on_settled
        self._on_state = on_state
        self._on_failure = on_failure
        self._expel = expel
        self._window = Window(1)
        self._failures = 0  # since a connection last lasted
        self._failures_of_first = 0  # failures since a message was expelled
        self._widening: asyncio.Task[None] | None = None
        self._widen_lock = asyncio.Lock()  # of changes of the window
        self._keeper: asyncio.Task[None] | None = None
        self.connected = True  # True also between failed deliveries

    def admit(self, subscription: Subscription) -> None:
        """Take over a subscription."""
        consumer = subscription.consumer
        self._window.most = max(self._window.most, consumer.prefetch)
        consumer.prefetch = self._window.size
        self._session.take_over(subscription)
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())

    async def consume(self, consumer: Consumer) -> Subscription:
        """Consume the queue again, after the last subscription was cancelled."""
        subscription = Subscription(self._session, consumer)
        self.admit(subscription)
        if self._session.whole:
            await self._widen()
        return subscription

    async def close(self) -> None:
        """End the connection."""
        tasks = [task for task in (self._keeper, self._widening) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()

    async def _keep(self) -> None:
        session, failures = self._session, 1
        while True:
            try:
                await session.open()
                self._report(True)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_QUIET_SECONDS):
                        await session.lost.wait()
                if not session.lost.is_set():
                    failures = 1
                    self._end_failures()
                    await session.lost.wait()
            except BrokerError as error:
                session.error = error
            session.whole, session.channel = False, None
            if session.failed_to_deliver:
                self._fail()
                failures = 1 + self._failures_of_first // MAX_FAILURES
            else:
                self._report(False)
                failures += 1
            await asyncio.sleep(_RECONNECT.pause(failures))
            if self._failures > MAX_FAILURES:
                await self._expel_first()

    def _fail(self) -> None:
        if not self._failures:
            _log.warning(
                "RabbitMQ at %s closed the connection (INTERNAL_ERROR): it cannot deliver a message of the queue %s. "
                "The messages of this queue are taken one by one",
                self._session.where,
                self._queue,
            )
        self._failures += 1
        self._failures_of_first += 1
        self._window.fail()
        self._session.prefetch(1)
        self._on_failure()

    def _end_failures(self) -> None:
        if self._failures:
            _log.warning(
                "deliveries of the queue %s go on after %d failures of RabbitMQ at %s. `fluffle rejected list` shows a "
                "message that RabbitMQ gave up",
                self._queue,
                self._failures,
                self._session.where,
            )
            self._failures = self._failures_of_first = 0

    async def _expel_first(self) -> None:
        try:
            expelled = await self._expel()
        except Exception as error:  # of any class: deliveries are tried again
            _log.error("cannot remove the first message of the queue %s either: %s", self._queue, error)
            return
        if expelled is not None:
            self._failures_of_first = 0
            _log.warning("removed the message %s from the queue %s", expelled, self._queue)

    def _report(self, connected: bool) -> None:
        if connected != self.connected:
            self.connected = connected
            self._on_state(connected)

    def _on_settled(self) -> None:
        if self._window.settle() and (self._widening is None or self._widening.done()):
            self._widening = asyncio.create_task(self._widen())

    async def _widen(self) -> None:
        async with self._widen_lock:
            with suppress(BrokerError):  # the keeper reconnects
                size = 0
                while size != self._window.size and self._session.whole:
                    size = self._window.size
                    await self._session.consume_again(size)
