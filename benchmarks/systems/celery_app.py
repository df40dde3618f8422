"""Celery: the application of its workers and, run as a program, the client."""

# mypy: disable-error-code="import-not-found, untyped-decorator"
# The library is installed apart from what mypy sees.

import os

from celery import Celery
from celery.result import ResultSet

from benchmarks.systems.measure import main

app = Celery("benchmark", broker=os.environ["BENCHMARK_AMQP_URL"], backend="rpc://")
app.conf.update(
    task_acks_late=True,
    task_track_started=True,
    task_default_queue_type="quorum",
    broker_transport_options={"confirm_publish": True},
    worker_prefetch_multiplier=64,
)


@app.task(name="noop")
def noop(number: int) -> int:
    """Do nothing and return what came in."""
    return number


class CeleryClient:
    """Submits with one producer, then takes the results as they arrive."""

    def run(self, count: int) -> None:
        """Submit `count` tasks and wait for every result. Raises what a failed task raised, or TimeoutError."""
        with app.producer_pool.acquire(block=True) as producer:
            results = [noop.apply_async((number,), producer=producer) for number in range(count)]
        returned = ResultSet(results).join_native(timeout=60 + count / 20)
        assert returned == list(range(count))


if __name__ == "__main__":
    main(CeleryClient(), "celery")
