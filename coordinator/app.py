"""The composition root: builds a coordinator from settings. Nothing below it reads settings or the environment."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING

from broker.amqp.robust_connection import RobustConnection
from broker.protocol.primitives import MAX_ANSWER_BYTES
from broker.settings import Settings
from broker.telemetry.open_tracing import tracing_for
from broker.timestamps import Instant, now, seconds
from coordinator.batch import BatchProcessor
from coordinator.inbound.echo import ConnectionMonitor, EchoSender
from coordinator.inbound.inbox import Inbox
from coordinator.inbound.liveness import LivenessProbe, steady
from coordinator.inbound.output_validation import OutputValidator
from coordinator.queries.executor import QueryExecutor
from coordinator.queries.handlers import QueryHandlers
from coordinator.queries.responder import QueryResponder
from coordinator.service import Coordinator
from coordinator.storage.engine import open_engine
from coordinator.storage.store import Store
from coordinator.telemetry.counters import Counters
from coordinator.telemetry.health import Health

if TYPE_CHECKING:
    from broker.telemetry.tracing import Tracing
    from coordinator.telemetry.tracing import CoordinatorTracing

MAX_BODY_BYTES = 512 * 1024 * 1024  # the largest message that RabbitMQ takes: a rejected message is published again
MAX_PREFETCH = 65_535  # AMQP counts with 16 bits
MIN_HEARTBEAT_SECONDS, MAX_HEARTBEAT_SECONDS = 4, 20


def build_coordinator(
    settings: Settings,
    *,
    url: str,
    clock: Callable[[], Instant] = now,
    on_ready: Callable[[str], None] = lambda state: None,
) -> Coordinator:
    """Build a coordinator for RabbitMQ at `url` and the database of the settings; it connects in `run()`.

    `clock` is the wall clock. `on_ready` is called with "leading" or "standing by". Raises ConfigurationError.
    """
    lease, lead = seconds(settings.lease), seconds(settings.leader_lease)
    liveness = LivenessProbe(lease)
    connection_monitor = ConnectionMonitor(liveness)
    connection = RobustConnection(
        url,
        name="fluffle coordinator",
        max_body=MAX_BODY_BYTES,
        heartbeat=round(min(max(2 * settings.leader_lease, MIN_HEARTBEAT_SECONDS), MAX_HEARTBEAT_SECONDS)),
        on_state=connection_monitor.on_state,
    )
    query_connection = RobustConnection(url, name="fluffle coordinator queries", max_body=MAX_BODY_BYTES)
    store = Store(open_engine(settings.database))
    counters = None if settings.metrics_port is None else Counters()
    tracing = tracing_for("fluffle-coordinator", wanted=settings.traces)
    inbox = Inbox(settings.batch, liveness)
    validator = OutputValidator(inbox.add)
    batches = BatchProcessor(
        store,
        clock=clock,
        lease=lease,
        lead=lead,
        max_body=settings.max_body,
        policy=settings.policy,
        suggest_skills=settings.suggest_skills,
        require_identity=settings.require_identity,
        learn_quality=settings.learn_quality,
        answers=validator,
        counters=counters,
        tracing=_coordinator_tracing(tracing),
        steady=steady,
        liveness=liveness,
    )
    executor = QueryExecutor(
        lambda: QueryHandlers(
            open_engine(settings.database, read_only=True),
            clock=clock,
            policy=settings.policy,
            suggest_skills=settings.suggest_skills,
            trusts_labels=not settings.require_identity,
            lease=lease,
            quiet_since=batches.quiet_since,
            max_answer=max(MAX_ANSWER_BYTES, 2 * settings.max_body),
        )
    )

    def monitoring(coordinator: Coordinator) -> AbstractAsyncContextManager[None]:
        if counters is None or settings.metrics_port is None:
            return nullcontext()
        health = Health(
            counters,
            connection=connection,
            query_connection=query_connection,
            backlog=executor.backlog,
            llms=coordinator.llms,
            state=lambda: coordinator.state,
        )
        return health.served(settings.metrics_host, settings.metrics_port)

    return Coordinator(
        store=store,
        connection=connection,
        connection_monitor=connection_monitor,
        inbox=inbox,
        validator=validator,
        batches=batches,
        echoes=EchoSender(connection, liveness),
        responder=QueryResponder(query_connection, executor, require_identity=settings.require_identity),
        clock=clock,
        lead=lead,
        prefetch=min(3 * settings.batch, MAX_PREFETCH),  # one batch to be acknowledged, one in work, and the next
        monitoring=monitoring,
        tracing=tracing,
        on_ready=on_ready,
    )


def _coordinator_tracing(tracing: "Tracing | None") -> "CoordinatorTracing | None":
    if tracing is None:
        return None
    from coordinator.telemetry.tracing import CoordinatorTracing  # imports OpenTelemetry, which is optional

    return CoordinatorTracing(tracing)
