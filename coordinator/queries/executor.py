"""The threads that answer queries: apart from the batch thread, and reports apart from other queries."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from coordinator.queries.handlers import QueryHandlers
from coordinator.telemetry.snapshot import Backlog

REPORT = "report"
NICENESS = 10  # of the report thread: batches go first


class QueryExecutor:
    """One thread for reports, which may take seconds, and one for all other queries; each has its own connection."""

    def __init__(self, make: Callable[[], QueryHandlers]) -> None:
        self._queries, self._reports = make(), make()
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="queries")
        self._reporting = ThreadPoolExecutor(1, thread_name_prefix="reports", initializer=_lower_priority)

    async def answer(self, routing_key: str, body: bytes) -> tuple[str, bytes]:
        """Return the type and the body of the answer. Raises StoreUnavailable."""
        is_report = routing_key == REPORT
        thread, queries = (self._reporting, self._reports) if is_report else (self._reading, self._queries)
        return await asyncio.get_running_loop().run_in_executor(thread, queries.answer, routing_key, body)

    async def backlog(self) -> Backlog:
        """Return how many tasks are live. Raises StoreUnavailable."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, self._queries.backlog)

    def close(self) -> None:
        """Finish the queries being answered and close the connections."""
        for thread, queries in ((self._reading, self._queries), (self._reporting, self._reports)):
            thread.shutdown()
            queries.close()


def _lower_priority() -> None:
    """Lower the priority of this thread, on Linux only."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
