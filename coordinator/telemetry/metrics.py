"""The metrics of a coordinator for Prometheus, collected when they are requested."""

from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from broker.amqp.robust_connection import RobustConnection
from broker.protocol.status import Outcome
from broker.telemetry.http_server import EventLoopHealth, histogram, of_runs, of_the_link
from coordinator.telemetry.counters import Counters
from coordinator.telemetry.snapshot import LLMSnapshot, Snapshot


class CoordinatorMetrics(Collector):
    """Collects metrics. Those of all tasks and LLMs come from the leader; a standby has only its own."""

    def __init__(
        self,
        counters: Counters,
        connections: tuple[RobustConnection, RobustConnection],
        snapshot: Callable[[], Coroutine[Any, Any, Snapshot]],
    ) -> None:
        self._counters = counters
        self._connections = connections
        self._snapshot = snapshot
        self._loop = EventLoopHealth()

    def collect(self) -> Iterable[Metric]:
        """Yield every metric. Raises TimeoutError when the event loop is stuck."""
        snapshot = self._loop.ask(self._snapshot)
        leading = snapshot.state == "leading"
        yield GaugeMetricFamily("fluffle_leading", "1 for the coordinator that leads", leading)
        yield from of_the_link(*self._connections)
        yield GaugeMetricFamily("fluffle_inbox_messages", "Messages that wait for their batch", snapshot.inbox)
        yield from self._counts()
        if leading:
            yield from _backlog(snapshot)
        if snapshot.llms is not None:
            yield from _llms(snapshot.llms.by_name)
            yield _limits(snapshot.llms.closed_limits)
            yield from of_runs("fluffle", snapshot.llms.runs)

    def _counts(self) -> Iterable[Metric]:
        counters = self._counters
        yield histogram("fluffle_batch_messages", "Messages of a batch", counters.batches)
        yield histogram("fluffle_commit_seconds", "How long the commit of a batch took", counters.commits)
        yield histogram("fluffle_wait_seconds", "How long tasks were ready before they were assigned", counters.waits)
        yield CounterMetricFamily("fluffle_tasks_submitted", "Tasks that were accepted", counters.submitted)
        yield CounterMetricFamily("fluffle_messages_refused", "Messages that were rejected", counters.refused)
        yield CounterMetricFamily(
            "fluffle_fields_ignored", "Unknown or invalid fields in reports of workers", counters.ignored
        )
        ended = CounterMetricFamily("fluffle_tasks_ended", "Tasks that have ended", labels=("outcome",))
        for outcome in (Outcome.COMPLETED, Outcome.FAILED, Outcome.CANCELLED):
            ended.add_metric((outcome.value,), counters.ended[outcome])
        yield ended


def _backlog(snapshot: Snapshot) -> Iterable[Metric]:
    if snapshot.backlog is not None:
        live = GaugeMetricFamily("fluffle_tasks", "Tasks that have not ended", labels=("status",))
        for status, count in snapshot.backlog.live.items():
            live.add_metric((status,), count)
        yield live
        yield GaugeMetricFamily(
            "fluffle_oldest_pending_seconds",
            "Age of the oldest task that waits for an LLM; 0 when none waits",
            snapshot.backlog.oldest or 0,
        )
    queues = GaugeMetricFamily("fluffle_queue_messages", "Messages of a queue of RabbitMQ", labels=("queue",))
    for queue, count in snapshot.queues.items():
        queues.add_metric((queue,), count)
    yield queues


def _limits(limits: Mapping[str, bool]) -> Metric:
    closed = GaugeMetricFamily("fluffle_limit_closed", "1 while a rate limit is closed or paused", labels=("limit",))
    for name, is_closed in limits.items():
        closed.add_metric((name,), is_closed)
    return closed


def _llms(llms: Mapping[str, LLMSnapshot]) -> Iterable[Metric]:
    families = (
        GaugeMetricFamily("fluffle_llm_slots", "Tasks that an LLM may run at a time", labels=("llm",)),
        GaugeMetricFamily("fluffle_llm_in_hand", "Tasks that are assigned to or run by an LLM", labels=("llm",)),
        GaugeMetricFamily("fluffle_llm_parked", "Tasks of an LLM that wait without taking a slot", labels=("llm",)),
        GaugeMetricFamily("fluffle_llm_instances", "Workers of an LLM", labels=("llm",)),
        GaugeMetricFamily(
            "fluffle_llm_available", "1 if an LLM gets tasks, 0 if it is sick or limited", labels=("llm",)
        ),
        GaugeMetricFamily("fluffle_llm_open_circuits", "Workers that get only probes", labels=("llm",)),
    )
    for name, llm in llms.items():
        for family, value in zip(families, llm, strict=True):
            family.add_metric((name,), value)
    yield from families
