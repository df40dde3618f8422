"""The metrics of a coordinator for Prometheus, read at the moment when they are asked for."""

from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from broker.amqp.robust_connection import RobustConnection
from broker.telemetry.http_server import EventLoopHealth, histogram, of_runs, of_the_link
from coordinator.telemetry.counters import Counters
from coordinator.telemetry.snapshot import LLMSnapshot, Snapshot


class CoordinatorMetrics(Collector):
    """Figures of all tasks and LLMs come from the coordinator that leads; a standby tells of itself only."""

    def __init__(
        self,
        counters: Counters,
        links: tuple[RobustConnection, RobustConnection],
        look: Callable[[], Coroutine[Any, Any, Snapshot]],
    ) -> None:
        self._counters = counters
        self._links = links
        self._look = look
        self._loop = EventLoopHealth()

    def collect(self) -> Iterable[Metric]:
        """Everything. Raises TimeoutError when the event loop is stuck."""
        standing = self._loop.ask(self._look)
        leading = standing.state == "leading"
        yield GaugeMetricFamily("fluffle_leading", "1 for the coordinator that leads", leading)
        yield from of_the_link(*self._links)
        yield GaugeMetricFamily("fluffle_inbox_messages", "Messages that await their batch", standing.inbox)
        yield from self._counts()
        if leading:
            yield from _books(standing)
        if standing.llms is not None:
            yield from _llms(standing.llms.standing)
            yield from of_runs("fluffle", standing.llms.runs)

    def _counts(self) -> Iterable[Metric]:
        counters = self._counters
        yield histogram("fluffle_batch_messages", "Messages of a batch", counters.batches)
        yield histogram("fluffle_commit_seconds", "How long the commit of a batch took", counters.commits)
        yield histogram("fluffle_wait_seconds", "How long tasks were ready before they were assigned", counters.waits)
        yield CounterMetricFamily("fluffle_tasks_submitted", "Tasks that were accepted", counters.submitted)
        yield CounterMetricFamily("fluffle_messages_refused", "Messages put among the rejected", counters.refused)
        yield CounterMetricFamily(
            "fluffle_fields_ignored", "Fields of workers' reports that are unknown or make no sense", counters.ignored
        )
        ended = CounterMetricFamily("fluffle_tasks_ended", "Tasks that are over", labels=("outcome",))
        for outcome in ("completed", "failed", "cancelled"):
            ended.add_metric((outcome,), counters.ended[outcome])
        yield ended


def _books(standing: Snapshot) -> Iterable[Metric]:
    if standing.backlog is not None:
        live = GaugeMetricFamily("fluffle_tasks", "Tasks that are not over", labels=("status",))
        for status, count in standing.backlog.live.items():
            live.add_metric((status,), count)
        yield live
        yield GaugeMetricFamily(
            "fluffle_oldest_pending_seconds",
            "Since when the oldest task that waits for an LLM exists; 0 when none waits",
            standing.backlog.oldest or 0,
        )
    queues = GaugeMetricFamily("fluffle_queue_messages", "Messages of a queue of RabbitMQ", labels=("queue",))
    for queue, count in standing.queues.items():
        queues.add_metric((queue,), count)
    yield queues


def _llms(llms: Mapping[str, LLMSnapshot]) -> Iterable[Metric]:
    families = (
        GaugeMetricFamily("fluffle_llm_slots", "Tasks that an LLM may have at a time", labels=("llm",)),
        GaugeMetricFamily("fluffle_llm_in_hand", "Tasks that an LLM has", labels=("llm",)),
        GaugeMetricFamily("fluffle_llm_parked", "Tasks in hand that wait and take no slot", labels=("llm",)),
        GaugeMetricFamily("fluffle_llm_instances", "Workers of an LLM", labels=("llm",)),
    )
    for name, standing in llms.items():
        for family, value in zip(families, standing, strict=True):
            family.add_metric((name,), value)
    yield from families
