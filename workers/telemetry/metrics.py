"""The metrics of a worker for Prometheus, read at each request."""

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, NamedTuple

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from broker.amqp.robust_connection import RobustConnection
from broker.telemetry.counters import Runs
from broker.telemetry.http_server import EventLoopHealth, of_runs, of_the_link


class WorkerSnapshot(NamedTuple):
    """The figures of a worker. Without a connection to RabbitMQ, `link` is None and the figures are 0."""

    link: RobustConnection | None
    slots: int
    in_hand: int = 0
    running: int = 0
    spooled: int = 0


class WorkerMetrics(Collector):
    """Collects the metrics of one instance of an LLM."""

    def __init__(self, llm: str, runs: Runs, look: Callable[[], Coroutine[Any, Any, WorkerSnapshot]]) -> None:
        self._llm = llm
        self._runs = runs
        self._look = look
        self._loop = EventLoopHealth()

    def collect(self) -> Iterable[Metric]:
        """Yield all metrics. Raises TimeoutError when the event loop is stuck."""
        link, *figures = self._loop.ask(self._look)
        yield from of_the_link(*(() if link is None else (link,)))
        for name, meaning, value in zip(("slots", "in_hand", "running", "spooled"), _MEANINGS, figures, strict=True):
            family = GaugeMetricFamily(f"fluffle_worker_{name}", meaning, labels=("llm",))
            family.add_metric((self._llm,), value)
            yield family
        yield from of_runs("fluffle_worker", {self._llm: self._runs})


_MEANINGS = (
    "Tasks that this worker takes at a time",
    "Tasks that it has taken and whose result RabbitMQ does not have",
    "Calls of the LLM that run",
    "Results on disk that RabbitMQ does not have",
)
