"""The coordinator as a process: RabbitMQ on one side, the books on the other.

One loop: take what has arrived, let the bookkeeper commit it as one batch, publish what follows, acknowledge. The
event loop only moves messages; everything else happens in the bookkeeper's thread. Queries have a link and a thread
of their own, so that reading does not wait for writing, and standbys answer them too.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, ExitStack, nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import structlog

from broker.amqp.envelope import Delivery, Outgoing
from broker.amqp.robust_connection import PROBE, RobustConnection
from broker.errors import (
    AccessRefused,
    BrokerError,
    ConfigurationError,
    DecodeError,
    MessageTooLarge,
    NotTheLeader,
    Problem,
    StoreUnavailable,
    Unroutable,
)
from broker.fault_injection import crash_point
from broker.protocol.primitives import MAX_ANSWER_BYTES
from broker.protocol.queries import TaskQuery
from broker.protocol.topology import COORDINATOR, QUERIES, SHARED, UNDELIVERED
from broker.protocol.traceparent import tracing_for
from broker.settings import Settings
from broker.timestamps import Instant, seconds
from coordinator.batch import BatchProcessor, OutgoingBatch
from coordinator.inbound.buffer import InboxBuffer, is_claim
from coordinator.inbound.decoder import must_be_identified
from coordinator.inbound.liveness import LivenessProbe, is_echo, steady
from coordinator.inbound.output_validation import OutputValidator
from coordinator.outbound.publisher import Publisher
from coordinator.outbound.size_limits import fitted_body
from coordinator.queries.executor import QueryExecutor
from coordinator.queries.handlers import QueryHandlers, rejected, too_large
from coordinator.storage.engine import open_engine
from coordinator.storage.leader_lease import OTHER_BOOKS, Lease, Watch, holder, may_be_a_copy
from coordinator.storage.store import Store
from coordinator.storage.upgrade import upgrade
from coordinator.telemetry.counters import Counters
from coordinator.telemetry.health import Health
from coordinator.telemetry.rate_limited_log import RateLimitedLog
from coordinator.telemetry.snapshot import State

if TYPE_CHECKING:
    from broker.telemetry.tracing import Tracing
    from coordinator.telemetry.tracing import CoordinatorTracing

T = TypeVar("T")

PATIENCE = 0.003  # seconds that claims wait for what comes next
LEAST_HEARTBEAT, MOST_HEARTBEAT = 4, 20  # seconds
TICK = 0.25  # seconds; time is looked at this often when nothing arrives
STANDBY_LOOK = 0.5  # seconds between looks at the leader's lease
MOST_PREFETCHED = 65_535  # AMQP counts with 16 bits
LARGEST = 512 * 1024 * 1024  # bytes; what is rejected for its size is published once more, and RabbitMQ takes no more
LAST_CONFIRMS = 5.0  # seconds to wait for RabbitMQ when stopping; what it does not confirm is published next time
LAST_CONSUMER = 5.0  # seconds until RabbitMQ has noticed that a coordinator which ended consumes no more
PROBE_EVERY = 10.0  # seconds between two looks whether RabbitMQ takes messages
AGAIN = 0.5  # seconds before something that was refused or unavailable is tried again

_log = structlog.get_logger("coordinator")


class Coordinator:
    """Leads when nobody else does. `async with` sets it up; `run()` works until `stop()` is called."""

    def __init__(
        self,
        settings: Settings,
        *,
        url: str,
        clock: Callable[[], Instant],
        on_ready: Callable[[str], None] = lambda state: None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._on_ready = on_ready
        self._link = RobustConnection(
            url,
            name="fluffle coordinator",
            max_body=LARGEST,
            heartbeat=round(min(max(2 * settings.leader_lease, LEAST_HEARTBEAT), MOST_HEARTBEAT)),
            on_state=self._on_link_state,
        )
        self._liveness = LivenessProbe(seconds(settings.lease))
        self._asking: asyncio.Task[None] | None = None
        self._link_lost_at: float | None = None
        self._query_link = RobustConnection(url, name="fluffle coordinator queries", max_body=LARGEST)
        self._warnings = RateLimitedLog(_log)
        self._store = Store(open_engine(settings.database))
        self._lead = seconds(settings.leader_lease)
        lease = seconds(settings.lease)
        self._counters = None if settings.metrics_port is None else Counters()
        self._tracing = tracing_for("fluffle-coordinator", wanted=settings.traces)
        self._answers = OutputValidator(self._on_delivery)
        self._books = BatchProcessor(
            self._store,
            clock=clock,
            lease=lease,
            lead=self._lead,
            max_body=settings.max_body,
            policy=settings.policy,
            suggest_skills=settings.suggest_skills,
            require_identity=settings.require_identity,
            learn_quality=settings.learn_quality,
            answers=self._answers,
            counters=self._counters,
            tracing=_tracing(self._tracing),
            steady=steady,
            liveness=self._liveness,
        )
        self._reading = QueryExecutor(
            lambda: QueryHandlers(
                open_engine(settings.database, read_only=True),
                clock=clock,
                policy=settings.policy,
                suggest_skills=settings.suggest_skills,
                lease=lease,
                quiet_since=self._books.quiet_since,
                max_answer=max(MAX_ANSWER_BYTES, 2 * settings.max_body),
            )
        )
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="books")
        self._inbox = InboxBuffer(settings.batch)
        self._arrived = asyncio.Event()
        self._no_claim = asyncio.Event()
        self._stopping = asyncio.Event()
        self._answering: set[asyncio.Task[None]] = set()
        self._publisher = Publisher(self._link, self._books.confirmed, self._books.too_large)
        self._state: State = "starting"

    async def run(self) -> None:
        """Work until `stop()`. Raises BrokerError when RabbitMQ cannot be reached at the start, ConfigurationError."""
        await self._write(upgrade, self._store.engine)
        async with self._link, self._query_link, self._watched():
            await self._link.declare(SHARED)
            queries = await self._query_link.consume(QUERIES, self._on_query, prefetch=100)
            probing = asyncio.create_task(self._probe())
            while not self._stopping.is_set():
                try:
                    if await self._take_lead():
                        await self._serve()
                        await self._write(self._store.give_up_lead)
                except NotTheLeader:
                    _log.warning("another coordinator has taken over: standing by")
                except StoreUnavailable as error:
                    _log.warning("waiting for the database", error=str(error))
                    await self._pause(AGAIN)
                except AccessRefused:
                    raise
                except BrokerError as error:
                    _log.warning("waiting for RabbitMQ", error=str(error))
                    await self._pause(AGAIN)
            probing.cancel()
            queries.cancel()
            if self._answering:
                await asyncio.wait(self._answering, timeout=LAST_CONFIRMS)
        self._answers.close()
        self._writing.shutdown()
        self._reading.close()
        self._store.close()
        if self._tracing is not None:
            self._tracing.close()

    def stop(self) -> None:
        """Finish the batch and the queries in hand, give up the lead and return from `run`."""
        self._stopping.set()
        self._arrived.set()

    # -- leading ---------------------------------------------------------------------------------------------------

    async def _take_lead(self) -> bool:
        """Wait until this one leads; False when it is to stop before that."""
        me, told, watch = holder(), False, Watch(self._lead)
        while not self._stopping.is_set():
            if not self._link.connected:
                await self._pause(AGAIN)
                continue
            lease = await self._write(self._store.leader)
            self._state = "standing by"
            over = lease if lease and watch.has_run_out(lease, seconds(time.monotonic())) else None
            if over == lease:
                await self._refuse_other_books(lease)
            if await self._write(self._store.take_lead, me, self._clock(), self._lead, over):
                return True
            if not told:
                self._on_ready("standing by")
                told = True
            await self._pause(STANDBY_LOOK)
        return False

    async def _refuse_other_books(self, lease: Lease | None) -> None:
        """Raises ConfigurationError when a coordinator leads on this RabbitMQ that this database knows nothing of."""
        engine, until = self._store.engine, time.monotonic() + LAST_CONSUMER
        while may_be_a_copy(lease, shared=engine.dialect.name != "sqlite") and not self._stopping.is_set():
            if not await self._link.has_consumers(COORDINATOR):
                return
            if time.monotonic() > until:
                database = engine.url.render_as_string(hide_password=True)
                raise ConfigurationError(OTHER_BOOKS.format(where=self._link.where, database=database))
            await self._pause(TICK)
            if await self._write(self._store.leader) != lease:
                return  # it is the one that leads now

    async def _serve(self) -> None:
        self._publisher.publish(await self._write(self._books.rebuild))
        most = min(3 * self._settings.batch, MOST_PREFETCHED)  # a batch not acknowledged yet, one in hand, and the next
        with ExitStack() as leaving:
            leaving.callback(self._give_back)
            for queue in (COORDINATOR, UNDELIVERED):
                inbox = await self._link.consume(queue, self._on_delivery, prefetch=most)
                leaving.callback(inbox.cancel)
            self._state = "leading"
            self._on_ready("leading")
            batch: list[Delivery] = []
            committing: asyncio.Future[OutgoingBatch] | None = None
            while committing or not self._stopping.is_set():
                if committing is None:
                    if self._is_cut_off():
                        _log.warning("RabbitMQ cannot be reached for a lease: giving up the lead")
                        return
                    batch = await self._next_batch()
                    committing = self._begin(batch)
                try:
                    post = await committing
                except StoreUnavailable as error:  # however long: meanwhile nothing is acknowledged
                    _log.warning("waiting for the database", error=str(error))
                    committing = None
                    _acknowledge(self._inbox.late())
                    self._publisher.publish(await self._rebuilt())
                    continue
                crash_point("after-commit")
                self._ask_in_doubt()
                self._answers.set_aside(post.aside)
                self._answers.done(batch)
                done, batch = self._inbox.done(batch, {it.delivery for it in post.aside}), self._next_at_once()
                committing = self._begin(batch) if batch else None  # it is published while the next is committed
                self._publisher.publish(post)
                _acknowledge(done if self._link.has_room else [*done, *self._inbox.late()])
                await self._room()
            await self._publisher.idle(LAST_CONFIRMS)
            await self._write(self._books.settle)

    def _give_back(self) -> None:
        """What was taken in and not done is for whoever leads now, and so is what RabbitMQ may not have."""
        self._state = "standing by"
        self._answers.leave()
        self._inbox.leave()
        self._link.forget_unconfirmed()

    def _begin(self, batch: list[Delivery]) -> asyncio.Future[OutgoingBatch]:
        return asyncio.get_running_loop().run_in_executor(self._writing, self._books.process, batch)

    async def _next_batch(self) -> list[Delivery]:
        """What has arrived, up to the bound; empty when only time has passed."""
        if not self._inbox:
            self._arrived.clear()
            try:
                async with asyncio.timeout(TICK):
                    await self._arrived.wait()
            except TimeoutError:
                return []
        if self._inbox.only_claims:  # quick work is done by now: its result belongs into the same batch
            self._no_claim.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await self._no_claim.wait()
        return self._inbox.batch()

    def _next_at_once(self) -> list[Delivery]:
        """The next batch, if there is one that need not wait for anything."""
        if self._stopping.is_set() or not self._link.has_room or self._inbox.only_claims:
            return []
        return self._inbox.batch()

    async def _rebuilt(self) -> OutgoingBatch:
        while True:
            await self._pause(AGAIN)
            try:
                return await self._write(self._books.rebuild)
            except StoreUnavailable:
                if self._stopping.is_set():
                    raise

    def _on_link_state(self, connected: bool) -> None:
        if connected:
            self._liveness.was_away()
        self._link_lost_at = None if connected else self._link_lost_at or time.monotonic()

    def _ask_in_doubt(self) -> None:
        """Publish an echo before an LLM loses anything, see hearing."""
        wanted = self._books.in_doubt and self._link.connected and self._liveness.is_time_to_ask(steady())
        if wanted and self._asking is None:
            self._asking = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        """Not while somebody else takes beats from the inbox: a coordinator that led before, or a dead connection."""
        echo = self._liveness.ask(steady())
        try:
            alone = await self._link.consumers(COORDINATOR) == 1
        except BrokerError:  # the link will tell
            self._liveness.refused(echo.correlation_id)
        else:
            if alone:
                self._link.send(echo, self._on_echo_published)
            else:
                self._liveness.withdraw(echo.correlation_id)
        finally:
            self._asking = None

    def _on_echo_published(self, echo: Outgoing, error: BrokerError | None) -> None:
        if error is None:
            self._liveness.answered(echo.correlation_id, steady())
        else:
            self._liveness.refused(echo.correlation_id)

    def _is_cut_off(self) -> bool:
        """Whether this one hears nothing for so long that another one should lead."""
        lost_at = self._link_lost_at
        return lost_at is not None and seconds(time.monotonic() - lost_at) >= self._lead

    def _on_delivery(self, delivery: Delivery) -> None:
        if is_echo(delivery):
            self._liveness.answered(delivery.properties.correlation_id, steady())
        self._inbox.add(delivery)
        self._arrived.set()
        if not is_claim(delivery):
            self._no_claim.set()

    # -- queries ---------------------------------------------------------------------------------------------------

    def _on_query(self, delivery: Delivery) -> None:
        task = asyncio.create_task(self._answer(delivery))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, delivery: Delivery) -> None:
        reply_to, correlation_id = delivery.properties.reply_to, delivery.properties.correlation_id
        try:
            if reply_to and self._may_answer(delivery):
                kind, body = await self._reading.answer(_query(delivery), delivery.body)
                answer = Outgoing("", reply_to, body, type=kind, correlation_id=correlation_id, persistent=False)
                await self._publish_answer(answer, delivery.routing_key)
        except StoreUnavailable as error:
            _log.warning("a query has to wait for the database", error=str(error))
            await self._pause(AGAIN)
            delivery.requeue()
        else:
            delivery.ack()

    async def _publish_answer(self, answer: Outgoing, query: str) -> None:
        """Publish the answer to a query; of a task that is too large for RabbitMQ, what fits; else the reason."""
        try:
            await self._query_link.publish(answer)
        except Unroutable:  # who asked has gone
            _log.debug("nobody waits for the answer to a query", query=query, reply_to=answer.routing_key)
        except MessageTooLarge as error:
            self._warnings.warning("the answer to a query is too large", query=query, error=str(error))
            if answer.type == "query.answer":
                fits = fitted_body(answer.body, error.limit) if query == TaskQuery.routing_key and error.limit else None
                why = rejected([Problem("", too_large(len(answer.body), error.limit))])
                kind, body = why if fits is None else ("query.answer", fits)
                await self._publish_answer(replace(answer, type=kind, body=body), query)
        except BrokerError as error:
            self._warnings.warning("the answer to a query cannot be published", query=query, error=str(error))

    def _may_answer(self, delivery: Delivery) -> bool:
        """Whether who asks is known, where that is required, and wants the answer at a place of its own."""
        if not self._settings.require_identity:
            return True
        properties = delivery.properties
        try:
            must_be_identified(delivery)
        except DecodeError as error:
            self._warnings.warning(
                "refused a query", user=properties.user_id, reply_to=properties.reply_to, error=str(error)
            )
            return False
        return True

    def _watched(self) -> AbstractAsyncContextManager[None]:
        """Metrics and health are served meanwhile, where that is wanted."""
        host, port = self._settings.metrics_host, self._settings.metrics_port
        if self._counters is None or port is None:
            return nullcontext()
        return Health(
            self._counters,
            link=self._link,
            query_link=self._query_link,
            reading=self._reading,
            llms=lambda: self._write(self._books.llms),
            state=lambda: (self._state, len(self._inbox)),
        ).served(host, port)

    async def _probe(self) -> None:
        """Learn that RabbitMQ takes no messages also while there is nothing to publish; the link logs it."""
        while True:
            with suppress(BrokerError):
                await self._link.publish(PROBE)  # waits while it takes none
            await self._pause(PROBE_EVERY)

    # -- helpers ---------------------------------------------------------------------------------------------------

    async def _write(self, call: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writing, call, *args)

    async def _room(self) -> None:
        """Wait until RabbitMQ has confirmed enough to publish more, but not past `stop()`."""
        if self._link.has_room:
            return
        either = [asyncio.ensure_future(self._link.room()), asyncio.ensure_future(self._stopping.wait())]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        for waiting in either:
            waiting.cancel()

    async def _pause(self, duration: float) -> None:
        """Wait, but not past `stop()`."""
        try:
            async with asyncio.timeout(duration):
                await self._stopping.wait()
        except TimeoutError:
            pass


def _query(delivery: Delivery) -> str:
    """Which query it is: its type says so where it came straight to the queue."""
    return delivery.routing_key if delivery.exchange else delivery.properties.type or ""


def _acknowledge(done: Iterable[Delivery]) -> None:
    for delivery in done:
        delivery.ack()


def _tracing(tracing: "Tracing | None") -> "CoordinatorTracing | None":
    if tracing is None:
        return None
    from coordinator.telemetry.tracing import CoordinatorTracing

    return CoordinatorTracing(tracing)
