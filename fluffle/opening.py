"""Opening a link to a broker that may never have been used by Fluffle."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from broker.connection import Link
from broker.errors import AccessRefused, BrokerError
from broker.topology import COORDINATOR, SHARED


@asynccontextmanager
async def open_link(
    url: str, *, name: str, on_state: Callable[[bool], None] = lambda connected: None
) -> AsyncIterator[Link]:
    """A link to a broker where Fluffle's exchanges and queues are declared; by us, if nobody has done it before.

    They are not just declared again, because not everybody may do that. Raises BrokerUnreachable and AccessRefused.
    """
    async with AsyncExitStack() as opened:
        link = await opened.enter_async_context(Link(url, name=name, on_state=on_state))
        if not await _is_prepared(link):
            await opened.aclose()
            async with Link(url, name=name) as first:
                await first.declare(SHARED)
            link = await opened.enter_async_context(Link(url, name=name, on_state=on_state))
        yield link


async def _is_prepared(link: Link) -> bool:
    try:
        await link.depth(COORDINATOR)
    except AccessRefused:
        raise
    except BrokerError:
        return False
    return True
