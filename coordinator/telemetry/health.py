"""Metrics and health of a coordinator over HTTP."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from broker.amqp.robust_connection import RobustConnection
from broker.errors import BrokerError, StoreError
from broker.protocol.topology import COORDINATOR, REJECTED
from coordinator.telemetry.counters import Counters
from coordinator.telemetry.snapshot import Backlog, LLMs, Snapshot, State

MONITORED_QUEUES = (COORDINATOR, REJECTED)
ANSWER_TIMEOUT_SECONDS = 2.0  # for each figure; a later one is left out

T = TypeVar("T")


class Health:
    """Collects the state when it is requested, and costs nothing otherwise."""

    def __init__(
        self,
        counters: Counters,
        *,
        connection: RobustConnection,
        query_connection: RobustConnection,
        backlog: Callable[[], Awaitable[Backlog]],
        llms: Callable[[], Awaitable[LLMs]],
        state: Callable[[], tuple[State, int]],
    ) -> None:
        """`state` returns the state and how many messages wait for their batch."""
        self._counters = counters
        self._connection = connection
        self._connections = (connection, query_connection)
        self._backlog = backlog
        self._llms = llms
        self._state = state

    def served(self, host: str, port: int) -> AbstractAsyncContextManager[None]:
        """Serve metrics and health during the block; see broker.telemetry.http_server.watched."""
        from broker.telemetry.http_server import watched  # imported here: it takes 0.1 s and is optional
        from coordinator.telemetry.metrics import CoordinatorMetrics

        return watched(
            host,
            port,
            collector=CoordinatorMetrics(self._counters, self._connections, self.snapshot),
            problems=self.problems,
        )

    async def snapshot(self) -> Snapshot:
        """Return the present state; only its own if this coordinator does not lead."""
        state, inbox = self._state()
        if state != "leading":
            return Snapshot(state, inbox)
        backlog, llms, depths = await asyncio.gather(
            _in_time(self._backlog()),
            _in_time(self._llms()),
            asyncio.gather(*(_in_time(self._connection.depth(queue)) for queue in MONITORED_QUEUES)),
        )
        queues = {queue: depth for queue, depth in zip(MONITORED_QUEUES, depths, strict=True) if depth is not None}
        return Snapshot(state, inbox, backlog, llms, queues)

    async def problems(self) -> Sequence[str]:
        """Return the reasons why this coordinator can neither lead nor stand by."""
        found = [connection.obstacle for connection in self._connections if connection.obstacle]
        if await _in_time(self._backlog()) is None:
            found.append("the database does not answer")
        state, _ = self._state()
        return [*found, "the coordinator is still starting"] if state == "starting" else found


async def _in_time(result: Awaitable[T]) -> T | None:
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
            return await result
    except (TimeoutError, BrokerError, StoreError):
        return None
