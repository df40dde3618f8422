"""taskiq: the broker of its workers and, run as a program, the client."""

# mypy: disable-error-code="import-not-found, untyped-decorator"
# The library is installed apart from what mypy sees.

import asyncio
import os

from taskiq_aio_pika import AioPikaBroker

from benchmarks.systems.measure import main
from benchmarks.systems.tally import Tally

_AT_ONCE = 500  # submissions that await their confirm

broker = AioPikaBroker(os.environ["BENCHMARK_AMQP_URL"], qos=500)
tally = Tally()


@broker.task(task_name="noop")
async def noop(number: int) -> None:
    """Do nothing but count."""
    tally.add()


class TaskiqClient:
    """Submits with many outstanding confirms; the tally counts completed tasks."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._runner.run(broker.startup())

    def run(self, count: int) -> None:
        """Submit `count` tasks and wait until all have run. Raises TimeoutError."""
        before = tally.count()
        self._runner.run(self._submit(count))
        tally.wait_for(before + count)

    async def _submit(self, count: int) -> None:
        for first in range(0, count, _AT_ONCE):
            await asyncio.gather(*(noop.kiq(number) for number in range(first, min(first + _AT_ONCE, count))))


if __name__ == "__main__":
    main(TaskiqClient(), "taskiq")
