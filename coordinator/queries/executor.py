"""The threads that answer queries: beside the batch loop, and reports beside everything else."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from coordinator.queries.handlers import QueryHandlers
from coordinator.telemetry.snapshot import Backlog

REPORT = "report"
NICENESS = 10  # of reports: work goes first


class QueryExecutor:
    """One thread for reports, which may take seconds, and one for all other queries; each has its own connection."""

    def __init__(self, make: Callable[[], QueryHandlers]) -> None:
        self._queries, self._reports = make(), make()
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="queries")
        self._reporting = ThreadPoolExecutor(1, thread_name_prefix="reports", initializer=_step_back)

    async def answer(self, routing_key: str, body: bytes) -> tuple[str, bytes]:
        """The type and the body of the answer. Raises StoreUnavailable."""
        is_report = routing_key == REPORT
        thread, queries = (self._reporting, self._reports) if is_report else (self._reading, self._queries)
        return await asyncio.get_running_loop().run_in_executor(thread, queries.answer, routing_key, body)

    async def backlog(self) -> Backlog:
        """How many tasks are live. Raises StoreUnavailable."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, self._queries.backlog)

    def close(self) -> None:
        """Finish what is being answered and give the connections back."""
        for thread, queries in ((self._reading, self._queries), (self._reporting, self._reports)):
            thread.shutdown()
            queries.close()


def _step_back() -> None:
    """Let other threads go first, where the system has a priority for each."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
