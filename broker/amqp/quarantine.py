"""A queue with a message that RabbitMQ cannot deliver, consumed apart from all others.

What an AMQP 1.0 client has published may hold what RabbitMQ cannot translate to AMQP 0-9-1. RabbitMQ closes the
connection then, and everything that was under way on it is delivered again, and counts as delivered once more. So such
a queue gets a separate connection and is consumed one message at a time: only the bad one is delivered in vain, until
RabbitMQ reaches the delivery limit and makes it a dead letter. Behind it the window opens again, to twice the size
whenever a windowful was settled.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from broker.amqp.channel import Consumer
from broker.amqp.session import Session, Subscription
from broker.errors import BrokerError
from broker.protocol.topology import DELIVERY_LIMIT

PATIENCE = DELIVERY_LIMIT + 5
"""Deliveries that may fail until the queue seems to have no delivery limit."""

_AGAIN, _RETRY_MOST = 0.02, 5.0  # seconds until the next attempt to connect
_QUIET = 1.0  # seconds that a connection has to last

_log = logging.getLogger(__name__)


class Window:
    """How many messages are taken at a time: one after a failure, then two, four, …, at most `most`.

    A good message has to share the window with a bad one to be delivered in vain. For that to happen often, the bad
    ones would have to lie further and further apart: a dozen at most can hit the same good one.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.size = 1
        self._settled = 0

    def fail(self) -> None:
        """A delivery has failed."""
        self.size, self._settled = 1, 0

    def settle(self) -> bool:
        """A message was settled. Returns whether the window is wider now."""
        self._settled += 1
        if self._settled < self.size or self.size == self.most:
            return False
        self.size, self._settled = min(2 * self.size, self.most), 0
        return True


class Quarantine:
    """Consumes one queue on a separate connection.

    `on_state(connected)` is called when RabbitMQ is away and when it is back; a failed delivery is neither.
    `on_failure` is called with each of those. `expel` makes the first message of a queue without delivery limit a dead
    letter; it returns the name of the message, None when that was a good one, and raises BrokerError.
    """

    def __init__(
        self,
        queue: str,
        half: Session,
        *,
        on_state: Callable[[bool], None],
        on_failure: Callable[[], None],
        expel: Callable[[], Awaitable[str | None]],
    ) -> None:
        self._queue = queue
        self._half = half
        half.on_settled = self._on_settled
        self._on_state = on_state
        self._on_failure = on_failure
        self._expel = expel
        self._window = Window(1)
        self._failures = 0  # since the last quiet time
        self._in_vain = 0  # of those, since a message was expelled
        self._widening: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()  # who consumes the queue with another window
        self._keeper: asyncio.Task[None] | None = None
        self.connected = True  # or in the middle of failed deliveries

    def admit(self, subscription: Subscription) -> None:
        """From now on it is consumed here."""
        consumer = subscription.consumer
        self._window.most = max(self._window.most, consumer.prefetch)
        consumer.prefetch = self._window.size
        self._half.take_over(subscription)
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())

    async def consume(self, consumer: Consumer) -> Subscription:
        """Consume the queue once more, after the last subscription was cancelled."""
        subscription = Subscription(self._half, consumer)
        self.admit(subscription)
        if self._half.whole:
            await self._widen()
        return subscription

    async def close(self) -> None:
        """End the connection."""
        tasks = [task for task in (self._keeper, self._widening) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._half.close()

    async def _keep(self) -> None:
        half, pause = self._half, _AGAIN
        while True:
            try:
                await half.open()
                self._tell(True)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_QUIET):
                        await half.lost.wait()
                if not half.lost.is_set():
                    pause = _AGAIN
                    self._go_on()
                    await half.lost.wait()
            except BrokerError as error:
                half.error = error
            half.whole, half.channel = False, None
            if half.failed_to_deliver:
                self._fail()
                pause = min(_AGAIN * 2 ** (self._in_vain // PATIENCE), _RETRY_MOST)
            else:
                self._tell(False)
                pause = min(2 * pause, _RETRY_MOST)
            await asyncio.sleep(pause)
            if self._failures > PATIENCE:
                await self._expel_first()

    def _fail(self) -> None:
        if not self._failures:
            _log.warning(
                "RabbitMQ at %s closed the connection (INTERNAL_ERROR): it cannot deliver a message of the queue %s. "
                "Taking the messages of this queue one by one",
                self._half.where,
                self._queue,
            )
        self._failures += 1
        self._in_vain += 1
        self._window.fail()
        self._half.prefetch(1)
        self._on_failure()

    def _go_on(self) -> None:
        if self._failures:
            _log.warning(
                "deliveries of the queue %s go on: RabbitMQ at %s failed %d times. If it gave up a message, "
                "`fluffle rejected list` shows it",
                self._queue,
                self._half.where,
                self._failures,
            )
            self._failures = self._in_vain = 0

    async def _expel_first(self) -> None:
        try:
            expelled = await self._expel()
        except Exception as error:  # deliveries are tried again, whatever that was
            _log.error("cannot remove the first message of the queue %s either: %s", self._queue, error)
            return
        if expelled is not None:
            self._in_vain = 0
            _log.warning("removed the message %s from the queue %s", expelled, self._queue)

    def _tell(self, connected: bool) -> None:
        if connected != self.connected:
            self.connected = connected
            self._on_state(connected)

    def _on_settled(self) -> None:
        if self._window.settle() and (self._widening is None or self._widening.done()):
            self._widening = asyncio.create_task(self._widen())

    async def _widen(self) -> None:
        async with self._one_at_a_time:
            with suppress(BrokerError):  # the keeper sees to that
                size = 0
                while size != self._window.size and self._half.whole:
                    size = self._window.size
                    await self._half.consume_again(size)
