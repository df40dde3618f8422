"""The mailbox of a person: the messages that wait in it, and the messages that arrive."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from broker.amqp.envelope import Delivery
from broker.amqp.queue_browser import Browser
from broker.amqp.robust_connection import RobustConnection
from broker.amqp10.messages import UNTRANSLATABLE
from broker.bounded_set import BoundedSet
from broker.errors import BrokerError, DecodeError
from broker.messaging.chat_client import is_unnamed, read_message
from broker.protocol.chat import Message, RepeatedTexts
from broker.protocol.topology import mailbox

_PREFETCH = 100

_log = logging.getLogger(__name__)


class Inbox:
    """Yields the messages of a mailbox, each once, also when RabbitMQ delivers a message twice."""

    def __init__(self) -> None:
        self._taken = BoundedSet[str]()  # messages that were yielded and acknowledged
        self._repeats = RepeatedTexts()

    async def messages(
        self,
        url: str,
        address: str,
        *,
        name: str,
        wait: bool,
        keep: bool,
        max_body: int,
        require_identity: bool,
    ) -> AsyncGenerator[Message, None]:
        """Yield the waiting messages and, with `wait`, those that arrive. See `Client.inbox`."""
        seen = BoundedSet[str]()
        deliveries = arriving(url, address, name=name) if wait else waiting(url, address, name=name, keep=keep)
        async with aclosing(deliveries):
            async for delivery in deliveries:
                message = _decoded(delivery, max_body, require_identity=require_identity)
                if message is not None and is_unnamed(delivery, message):
                    if delivery.is_lost:
                        continue  # RabbitMQ delivers it again
                    message = message.model_copy(update={"id": self._repeats.next(message.id)})
                if (
                    message is None
                    or message.sender == address
                    or message.id in self._taken
                    or not seen.add(message.id)
                ):
                    delivery.ack()
                    continue
                yield message
                if wait or not keep:
                    self._taken.add(message.id)
                    delivery.ack()


async def waiting(url: str, address: str, *, name: str, keep: bool) -> AsyncGenerator[Delivery, None]:
    """Yield the messages that wait in the mailbox. A message that is not acknowledged before the next one stays there.

    Messages that RabbitMQ cannot deliver are logged and, unless `keep`, moved to the rejected messages. Raises
    BrokerError, also at the end, when RabbitMQ may not have received all acknowledgements.
    """
    async with Browser(url, address, name=name) as browser:
        await browser.declare(mailbox(address))
        for delivery in await browser.look():
            if why := delivery.headers.get(UNTRANSLATABLE):
                handling = "skipped" if keep else "moved to the rejected messages"
                _log.warning("a message to %s was %s: RabbitMQ cannot deliver it: %s", address, handling, why)
                if not keep:
                    delivery.reject()
            else:
                yield delivery
        try:
            await browser.confirmed()
        except BrokerError as error:
            raise BrokerError(f"the connection was lost, and these messages may arrive again: {error}") from error


async def arriving(url: str, address: str, *, name: str) -> AsyncGenerator[Delivery, None]:
    """Yield the messages that wait in the mailbox, then those that arrive, without end. Raises BrokerError first."""
    arrived: asyncio.Queue[Delivery] = asyncio.Queue()
    async with RobustConnection(url, name=name) as link:
        await link.declare(mailbox(address))
        await link.consume(address, arrived.put_nowait, prefetch=_PREFETCH)
        while True:
            yield await arrived.get()


def _decoded(delivery: Delivery, limit: int, *, require_identity: bool) -> Message | None:
    try:
        return read_message(delivery, limit=limit, require_identity=require_identity)
    except DecodeError as error:
        _log.warning("dropped a message that cannot be decoded: %s", error)
        return None
