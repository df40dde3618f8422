"""The coordinator process: leadership, and the batch loop between RabbitMQ and the database.

The loop takes what has arrived, has it committed as one batch, publishes what follows and acknowledges the deliveries.
The event loop only moves messages; batches run in their own thread. Queries have their own connections and threads, so
that they do not wait for batches, and standbys answer them too.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, ExitStack, suppress
from typing import TYPE_CHECKING, TypeVar

import structlog

from broker.amqp.envelope import Delivery
from broker.amqp.robust_connection import PROBE, RobustConnection
from broker.errors import AccessRefused, BrokerError, ConfigurationError, NotTheLeader, StoreUnavailable
from broker.fault_injection import crash_point
from broker.protocol.topology import COORDINATOR, SHARED, UNDELIVERED
from broker.timestamps import Instant, Micros, seconds
from coordinator.batch import BatchProcessor, OutgoingBatch
from coordinator.inbound.echo import ConnectionMonitor, EchoSender
from coordinator.inbound.inbox import Inbox
from coordinator.inbound.output_validation import OutputValidator
from coordinator.outbound.publisher import Publisher
from coordinator.queries.responder import QueryResponder
from coordinator.storage.leader_lease import OTHER_DATABASE, Lease, Watch, holder, may_be_a_copy
from coordinator.storage.store import Store
from coordinator.storage.upgrade import upgrade
from coordinator.telemetry.snapshot import LLMs, State

if TYPE_CHECKING:
    from broker.telemetry.tracing import Tracing

T = TypeVar("T")

STANDBY_CHECK_SECONDS = 0.5  # between two checks of the leader's lease
CONSUMER_CHECK_SECONDS = 0.25  # between two checks whether another coordinator consumes
LAST_CONFIRMS_SECONDS = 5.0  # wait for confirms when stopping; what is unconfirmed is published at the next start
LAST_CONSUMER_SECONDS = 5.0  # until RabbitMQ has noticed that a dead coordinator no longer consumes
PROBE_SECONDS = 10.0  # between two checks whether RabbitMQ accepts messages
RETRY_SECONDS = 0.5  # before an operation that was refused or unavailable is tried again

_log = structlog.get_logger("coordinator")


class Coordinator:
    """Leads when no other coordinator does. `run()` works until `stop()` is called. Made by `build_coordinator`."""

    def __init__(
        self,
        *,
        store: Store,
        connection: RobustConnection,
        connection_monitor: ConnectionMonitor,
        inbox: Inbox,
        validator: OutputValidator,
        batches: BatchProcessor,
        echoes: EchoSender,
        responder: QueryResponder,
        clock: Callable[[], Instant],
        lead: Micros,
        prefetch: int,
        monitoring: Callable[["Coordinator"], AbstractAsyncContextManager[None]],
        tracing: "Tracing | None" = None,
        on_ready: Callable[[str], None] = lambda state: None,
    ) -> None:
        """`lead` is the length of the leader's lease; `prefetch` the most deliveries that are not acknowledged yet.

        `monitoring` serves metrics during its block. `on_ready` is called with the state once it leads or stands by.
        """
        self._store = store
        self._connection = connection
        self._connection_monitor = connection_monitor
        self._inbox = inbox
        self._validator = validator
        self._batches = batches
        self._echoes = echoes
        self._responder = responder
        self._clock = clock
        self._lead = lead
        self._prefetch = prefetch
        self._monitoring = monitoring
        self._tracing = tracing
        self._on_ready = on_ready
        self._batch_thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._publisher = Publisher(connection, batches.confirmed, batches.too_large)
        self._stopping = asyncio.Event()
        self._state: State = "starting"

    @property
    def state(self) -> tuple[State, int]:
        """The state, and how many messages wait for their batch."""
        return self._state, len(self._inbox)

    async def llms(self) -> LLMs:
        """Return the LLMs that are online or draining, with what was counted of them."""
        return await self._in_batch_thread(self._batches.llms)

    async def run(self) -> None:
        """Work until `stop()`. Raises BrokerError when RabbitMQ cannot be reached at the start, ConfigurationError."""
        await self._in_batch_thread(upgrade, self._store.engine)
        async with self._connection, self._responder.connection, self._monitoring(self):
            await self._connection.declare(SHARED)
            await self._responder.start()
            probing = asyncio.create_task(self._probe())
            while not self._stopping.is_set():
                try:
                    if await self._take_lead():
                        await self._serve()
                        await self._in_batch_thread(self._store.give_up_lead)
                except NotTheLeader:
                    _log.warning("another coordinator has taken over: standing by")
                except StoreUnavailable as error:
                    _log.warning("waiting for the database", error=str(error))
                    await self._pause(RETRY_SECONDS)
                except AccessRefused:
                    raise
                except BrokerError as error:
                    _log.warning("waiting for RabbitMQ", error=str(error))
                    await self._pause(RETRY_SECONDS)
            probing.cancel()
            await self._responder.finish(LAST_CONFIRMS_SECONDS)
        self._validator.close()
        self._batch_thread.shutdown()
        self._responder.close()
        self._store.close()
        if self._tracing is not None:
            self._tracing.close()

    def stop(self) -> None:
        """Finish the current batch and the queries being answered, give up the lead and return from `run`."""
        self._stopping.set()
        self._responder.stop()
        self._inbox.wake()

    # -- leading ---------------------------------------------------------------------------------------------------

    async def _take_lead(self) -> bool:
        """Wait until this coordinator leads. Returns False when it is to stop before that."""
        me, reported, watch = holder(), False, Watch(self._lead)
        while not self._stopping.is_set():
            if not self._connection.connected:
                await self._pause(RETRY_SECONDS)
                continue
            lease = await self._in_batch_thread(self._store.leader)
            self._state = "standing by"
            over = lease if lease and watch.has_run_out(lease, seconds(time.monotonic())) else None
            if over == lease:
                await self._refuse_other_database(lease)
            if await self._in_batch_thread(self._store.take_lead, me, self._clock(), self._lead, over):
                return True
            if not reported:
                self._on_ready("standing by")
                reported = True
            await self._pause(STANDBY_CHECK_SECONDS)
        return False

    async def _refuse_other_database(self, lease: Lease | None) -> None:
        """Raise ConfigurationError when a coordinator with another database leads on this RabbitMQ."""
        engine, until = self._store.engine, time.monotonic() + LAST_CONSUMER_SECONDS
        while may_be_a_copy(lease, shared=engine.dialect.name != "sqlite") and not self._stopping.is_set():
            if not await self._connection.has_consumers(COORDINATOR):
                return
            if time.monotonic() > until:
                database = engine.url.render_as_string(hide_password=True)
                raise ConfigurationError(OTHER_DATABASE.format(where=self._connection.where, database=database))
            await self._pause(CONSUMER_CHECK_SECONDS)
            if await self._in_batch_thread(self._store.leader) != lease:
                return  # that coordinator uses this database: it has just taken the lead

    async def _serve(self) -> None:
        self._publish(await self._in_batch_thread(self._batches.rebuild))
        with ExitStack() as leaving:
            leaving.callback(self._give_back)
            for queue in (COORDINATOR, UNDELIVERED):
                consumer = await self._connection.consume(queue, self._inbox.add, prefetch=self._prefetch)
                leaving.callback(consumer.cancel)
            self._state = "leading"
            self._on_ready("leading")
            batch: list[Delivery] = []
            committing: asyncio.Future[OutgoingBatch] | None = None
            while committing or not self._stopping.is_set():
                if committing is None:
                    if self._connection_monitor.is_lost_for(self._lead):
                        _log.warning("RabbitMQ cannot be reached for a lease: giving up the lead")
                        return
                    batch = await self._inbox.next_batch()
                    committing = self._begin(batch)
                try:
                    outgoing = await committing
                except StoreUnavailable as error:  # however long it takes: nothing is acknowledged until it is stored
                    _log.warning("waiting for the database", error=str(error))
                    committing = None
                    _acknowledge(self._inbox.late())
                    self._publish(await self._rebuilt())
                    continue
                crash_point("after-commit")
                if self._batches.in_doubt:
                    self._echoes.send_if_due()
                self._validator.set_aside(outgoing.aside)
                self._validator.done(batch)
                done, batch = self._inbox.done(batch, {it.delivery for it in outgoing.aside}), self._next_at_once()
                committing = self._begin(batch) if batch else None  # commit the next batch while this one is published
                self._publish(outgoing)
                _acknowledge(done if self._connection.has_room else [*done, *self._inbox.late()])
                await self._room()
            await self._publisher.idle(LAST_CONFIRMS_SECONDS)
            await self._in_batch_thread(self._batches.settle)

    def _give_back(self) -> None:
        """Leave to the next leader what is not done, and what RabbitMQ has not confirmed."""
        self._state = "standing by"
        self._validator.leave()
        self._inbox.leave()
        self._connection.forget_unconfirmed()

    def _begin(self, batch: list[Delivery]) -> asyncio.Future[OutgoingBatch]:
        return asyncio.get_running_loop().run_in_executor(self._batch_thread, self._batches.process, batch)

    def _next_at_once(self) -> list[Delivery]:
        """Return the next batch if there is one that need not wait for anything."""
        return [] if self._stopping.is_set() or not self._connection.has_room else self._inbox.batch_at_once()

    async def _rebuilt(self) -> OutgoingBatch:
        while True:
            await self._pause(RETRY_SECONDS)
            try:
                return await self._in_batch_thread(self._batches.rebuild)
            except StoreUnavailable:
                if self._stopping.is_set():
                    raise

    def _publish(self, outgoing: OutgoingBatch) -> None:
        self._publisher.publish(outgoing.messages, outgoing.rows)

    # -- helpers ---------------------------------------------------------------------------------------------------

    async def _probe(self) -> None:
        """Detect that RabbitMQ accepts no messages while there is nothing to publish; the connection logs it."""
        while True:
            with suppress(BrokerError):
                await self._connection.publish(PROBE)  # waits while RabbitMQ accepts no messages
            await self._pause(PROBE_SECONDS)

    async def _in_batch_thread(self, call: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._batch_thread, call, *args)

    async def _room(self) -> None:
        """Wait until RabbitMQ has confirmed enough to publish more, or until `stop()`."""
        if self._connection.has_room:
            return
        either = [asyncio.ensure_future(self._connection.room()), asyncio.ensure_future(self._stopping.wait())]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        for waiting in either:
            waiting.cancel()

    async def _pause(self, duration: float) -> None:
        """Wait for so many seconds, or until `stop()`."""
        try:
            async with asyncio.timeout(duration):
                await self._stopping.wait()
        except TimeoutError:
            pass


def _acknowledge(done: Iterable[Delivery]) -> None:
    for delivery in done:
        delivery.ack()
