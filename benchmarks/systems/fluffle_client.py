"""The client of Fluffle."""

import asyncio
from typing import Self

from benchmarks.systems.measure import main
from broker.protocol.task_requests import Submission
from fluffle.client.client import Client
from fluffle.client.handle import TaskHandle


class FluffleClient:
    """Submits without waiting in between and takes the results as they arrive."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._client = Client(name="benchmark")
        self._submitted = 0

    def __enter__(self) -> Self:
        self._runner.run(self._client.__aenter__())
        return self

    def __exit__(self, *reason: object) -> None:
        self._runner.run(self._client.__aexit__(*reason))
        self._runner.close()

    def run(self, count: int) -> None:
        """Submit `count` tasks and wait for every result. Raises TaskFailed, TimeoutError."""
        self._submitted += count
        self._runner.run(self._run(count))

    async def _run(self, count: int) -> None:
        submissions = (Submission(description="noop", inputs=number) for number in range(count))
        handles = [handle async for handle in self._client.submit_many(submissions)]
        async with asyncio.timeout(60 + count / 20):
            returned = [await handle.result() for handle in handles if isinstance(handle, TaskHandle)]
        assert returned == list(range(count))

    def check_database(self) -> None:
        """Raises AssertionError unless the coordinator has recorded every task as completed."""
        values = self._runner.run(self._client.report("summary")).values
        assert values["total_tasks"] == values["completed_tasks"] == self._submitted, values


if __name__ == "__main__":
    with FluffleClient() as client:
        main(client, "fluffle")
        client.check_database()
