"""What a coordinator shows to those who watch over it: metrics, and whether it can do its work."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from broker.amqp.robust_connection import RobustConnection
from broker.errors import BrokerError, StoreError
from broker.protocol.topology import COORDINATOR, REJECTED
from coordinator.telemetry.counters import Counters
from coordinator.telemetry.snapshot import Backlog, LLMs, Snapshot, State

WATCHED = (COORDINATOR, REJECTED)  # queues
WITHIN = 2.0  # seconds for each answer; what comes later is left out

T = TypeVar("T")


class Health:
    """Looks when it is asked, and costs nothing otherwise."""

    def __init__(
        self,
        counters: Counters,
        *,
        link: RobustConnection,
        query_link: RobustConnection,
        backlog: Callable[[], Awaitable[Backlog]],
        llms: Callable[[], Awaitable[LLMs]],
        state: Callable[[], tuple[State, int]],
    ) -> None:
        """`state` tells the state and how many messages await their batch."""
        self._counters = counters
        self._link = link
        self._links = (link, query_link)
        self._backlog = backlog
        self._llms = llms
        self._state = state

    def served(self, host: str, port: int) -> AbstractAsyncContextManager[None]:
        """Metrics and health are served there during the block; see broker.telemetry.http_server.watched."""
        from broker.telemetry.http_server import watched  # 0.1 s, and not wanted everywhere
        from coordinator.telemetry.metrics import CoordinatorMetrics

        return watched(
            host, port, collector=CoordinatorMetrics(self._counters, self._links, self.standing), problems=self.problems
        )

    async def standing(self) -> Snapshot:
        """How everything stands."""
        state, inbox = self._state()
        if state != "leading":
            return Snapshot(state, inbox)
        backlog, llms, depths = await asyncio.gather(
            _in_time(self._backlog()),
            _in_time(self._llms()),
            asyncio.gather(*(_in_time(self._link.depth(queue)) for queue in WATCHED)),
        )
        queues = {queue: depth for queue, depth in zip(WATCHED, depths, strict=True) if depth is not None}
        return Snapshot(state, inbox, backlog, llms, queues)

    async def problems(self) -> Sequence[str]:
        """Why it cannot do its work, or stand by to do it."""
        found = [link.obstacle for link in self._links if link.obstacle]
        if await _in_time(self._backlog()) is None:
            found.append("the database does not answer")
        state, _ = self._state()
        return [*found, "it neither leads nor stands by yet"] if state == "starting" else found


async def _in_time(told: Awaitable[T]) -> T | None:
    try:
        async with asyncio.timeout(WITHIN):
            return await told
    except (TimeoutError, BrokerError, StoreError):
        return None
