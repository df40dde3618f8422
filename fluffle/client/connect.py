"""Opening a link to a broker that may never have been used by Fluffle."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from broker.amqp.robust_connection import RobustConnection
from broker.protocol.topology import COORDINATOR, SHARED


@asynccontextmanager
async def open_link(
    url: str, *, name: str, on_state: Callable[[bool], None] = lambda connected: None
) -> AsyncIterator[RobustConnection]:
    """A link to a broker where Fluffle's exchanges and queues are declared; by us, if nobody has done it before.

    They are not just declared again, because not everybody may do that. Raises BrokerUnreachable and AccessRefused.
    """
    async with RobustConnection(url, name=name, on_state=on_state) as link:
        if await link.depth(COORDINATOR) is None:
            await link.declare(SHARED)
        yield link
