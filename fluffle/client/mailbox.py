"""What is in the mailbox of a person, and what comes into it."""

import asyncio
import logging
from collections.abc import AsyncGenerator

from broker.amqp.envelope import Delivery
from broker.amqp.queue_browser import Browser
from broker.amqp.robust_connection import RobustConnection
from broker.amqp10.messages import UNTRANSLATABLE
from broker.errors import BrokerError
from broker.protocol.topology import mailbox

_AT_ONCE = 100  # messages that are under way

_log = logging.getLogger(__name__)


async def waiting(url: str, address: str, *, name: str, keep: bool) -> AsyncGenerator[Delivery, None]:
    """The messages that wait in the mailbox. Those that are not acked by the time of the next stay in it.

    Messages that RabbitMQ cannot deliver are logged and, unless `keep`, put among the rejected. Raises BrokerError, at
    the end too when RabbitMQ may not have heard what was acked.
    """
    async with Browser(url, address, name=name) as browser:
        await browser.declare(mailbox(address))
        for delivery in await browser.look():
            if why := delivery.headers.get(UNTRANSLATABLE):
                told = "passed over" if keep else "put among the rejected"
                _log.warning("a message to %s was %s: RabbitMQ cannot deliver it: %s", address, told, why)
                if not keep:
                    delivery.reject()
            else:
                yield delivery
        try:
            await browser.confirmed()
        except BrokerError as error:
            raise BrokerError(f"the connection was lost, and these messages may come again: {error}") from error


async def arriving(url: str, address: str, *, name: str) -> AsyncGenerator[Delivery, None]:
    """The messages that wait in the mailbox, and those that come, for ever. Raises BrokerError at the start."""
    arrived: asyncio.Queue[Delivery] = asyncio.Queue()
    async with RobustConnection(url, name=name) as link:
        await link.declare(mailbox(address))
        await link.consume(address, arrived.put_nowait, prefetch=_AT_ONCE)
        while True:
            yield await arrived.get()
