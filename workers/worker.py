"""A worker: one instance of an LLM that takes assignments from RabbitMQ and reports the results there.

    assignment -> claim, confirmed -> acknowledged -> the LLM is called -> result, spooled -> published -> confirmed

Everything runs on one event loop. An assignment costs one asyncio task, the call itself. The rest are callbacks, so
that a worker with many slots and quick answers can do thousands of tasks per second.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, nullcontext, suppress
from typing import TYPE_CHECKING

from pydantic import RootModel

from broker.amqp.envelope import Delivery
from broker.amqp.robust_connection import RobustConnection
from broker.errors import AccessRefused, BrokerError, DecodeError
from broker.protocol.assignments import Control, Drain, Notice, PersonAnswer, Slots, Stop
from broker.protocol.portable_text import on_one_line
from broker.protocol.primitives import decode
from broker.protocol.worker_reports import skills_in_text
from broker.telemetry.counters import Runs
from workers.connection import WorkerConnection, declare_queues
from workers.execution.attempt import failed
from workers.execution.reporter import RETRY
from workers.execution.spool import Spool
from workers.models.protocols import LLM
from workers.options import WorkerOptions

if TYPE_CHECKING:
    from workers.telemetry.metrics import WorkerSnapshot
    from workers.telemetry.tracing import WorkerTracing

STOP_TIMEOUT_SECONDS = 10.0
"""After this time, a stopped worker leaves in any case."""

MIN_HEARTBEAT_SECONDS, MAX_HEARTBEAT_SECONDS = 4, 20
"""Limits for the heartbeat of AMQP. A worker should notice a dead connection before its lease ends."""

_LOG_INTERVAL_SECONDS = 30.0  # between two lines in the log while RabbitMQ is away
_GOODBYE_TIMEOUT_SECONDS = 3.0

_log = logging.getLogger(__name__)


class _ControlMessage(RootModel[Control]):
    """A message of the control queue."""


class Worker:
    """One instance of an LLM. `await run()` works until the worker is drained, stopped or cancelled.

    `ready` is set when the worker has said hello and takes assignments. `build_worker` creates workers.
    """

    def __init__(self, options: WorkerOptions, llm: LLM, *, tracing: "WorkerTracing | None" = None) -> None:
        self.instance = options.instance
        self.ready = asyncio.Event()
        self._options = options
        self._name = options.name
        self._presence = options.presence
        self._llm = llm
        self._tracing = tracing
        self._runs = None if options.metrics_address is None else Runs()
        self._connecting: asyncio.Task[None] | None = None
        self._connection: WorkerConnection | None = None
        self._last_presence: asyncio.Future[None] | None = None
        self._draining = False
        self._stopping = False
        self._left = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether the worker is connected to RabbitMQ at the moment."""
        return self._connection is not None and self._connection.link.connected

    async def run(self) -> None:
        """Work until drained or stopped. Waits for RabbitMQ while it is away, also at the start.

        Raises AccessRefused when RabbitMQ refuses the user at the start, and ConfigurationError when the folder of the
        spool cannot be used.
        """
        async with AsyncExitStack() as stack:
            if self._tracing is not None:
                stack.push_async_callback(asyncio.to_thread, self._tracing.close)
            if self._draining:
                return
            await stack.enter_async_context(self._watched())
            spool = await stack.enter_async_context(aclosing(Spool(self._options.spool_dir, self.instance)))
            self._connecting = asyncio.create_task(self._connect(spool, stack))
            try:
                await self._connecting
            except asyncio.CancelledError:
                if self._draining:
                    return
                raise
            assert self._connection is not None
            beating = asyncio.create_task(self._beat(self._connection))
            try:
                await self._left.wait()
                await self._say_goodbye(self._connection)
            finally:
                beating.cancel()
                await asyncio.gather(self._connection.executor.abandon(), self._connection.responder.abandon())

    def drain(self) -> None:
        """Take no more tasks, finish the running ones, and leave. A worker that does not run yet never begins."""
        if self._draining:
            return
        self._draining = True
        if self._connecting is None:
            return
        if self._connecting.cancel() or self._connection is None:
            _log.warning("%s: leaving; it was not connected to RabbitMQ yet", self._name)
            return
        held = len(self._connection.executor.held_tasks)
        running = f", {_counted(held, 'task')} to finish; a second signal stops them" if held else ""
        _log.warning("%s: draining%s", self._name, running)
        self._connection.take_nothing_new()
        self._show_presence("beat", self._connection)
        self._leave_if_done()

    def stop(self) -> None:
        """Leave now. The running tasks are cancelled and reported as failed, so that another worker does them."""
        if self._stopping:
            return
        self._stopping = True
        self.drain()
        if self.ready.is_set() and self._connection is not None:
            executor = self._connection.executor
            _log.warning("%s: stopping, %s cancelled", self._name, _counted(executor.running, "running task"))
            executor.give_up_all(failed("worker_stopped", "the worker was stopped"))
            asyncio.get_running_loop().call_later(STOP_TIMEOUT_SECONDS, self._left.set)
            self._leave_if_done()

    # -- arriving and leaving --------------------------------------------------------------------------------------

    async def _connect(self, spool: Spool, stack: AsyncExitStack) -> None:
        """Connect and start to consume, however long RabbitMQ is away. The stack closes the connection."""
        pauses, next_log_at = RETRY.pauses(), 0.0
        interval = self._options.heartbeat_interval
        while True:
            try:
                async with AsyncExitStack() as opening:
                    link = RobustConnection(
                        self._options.url,
                        name=f"fluffle worker {self._name}",
                        max_body=self._options.max_body,
                        heartbeat=round(min(max(interval, MIN_HEARTBEAT_SECONDS), MAX_HEARTBEAT_SECONDS)),
                        longest_pause=min(interval, RETRY.maximum),
                        on_state=self._on_link_state,
                    )
                    await opening.enter_async_context(link)
                    await self._start(link, spool)
                    stack.push_async_exit(opening.pop_all())
                return
            except AccessRefused:
                raise
            except BrokerError as error:
                self._connection = None
                if time.monotonic() >= next_log_at:
                    _log.warning("%s: waiting for RabbitMQ: %s", self._name, error)
                    next_log_at = time.monotonic() + _LOG_INTERVAL_SECONDS
                await asyncio.sleep(next(pauses))

    async def _start(self, link: RobustConnection, spool: Spool) -> None:
        has_only_rights_of_an_llm = await declare_queues(link, self._options)
        connection = self._connection = WorkerConnection(
            link,
            spool,
            self._options,
            self._llm,
            has_only_rights_of_an_llm=has_only_rights_of_an_llm,
            on_change=self._leave_if_done,
            runs=self._runs,
            tracing=self._tracing,
        )
        self._show_presence("hello", connection)
        await connection.consume(self._on_control)
        self.ready.set()
        _log.info(self._introduction(link))

    def _introduction(self, link: RobustConnection) -> str:
        it = self._presence
        slots, skills = _counted(it.slots, "slot"), skills_in_text(it.skills) or "none"
        return f"{it.name}: ready, {slots}, model {it.model}, skills {skills}, RabbitMQ {link.where}"

    def _leave_if_done(self) -> None:
        if self._draining and (connection := self._connection) is not None:
            executor = connection.executor
            is_reported = executor.empty and not connection.reporter.unconfirmed_results
            is_on_disk = self._stopping and not executor.running and not connection.link.connected
            if (is_reported and (connection.responder.idle or self._stopping)) or is_on_disk:
                self._left.set()

    async def _say_goodbye(self, connection: WorkerConnection) -> None:
        if connection.executor.empty and connection.link.connected:
            with suppress(BrokerError, TimeoutError):
                async with asyncio.timeout(_GOODBYE_TIMEOUT_SECONDS):
                    await connection.reporter.goodbye()
        _log.info("%s: left", self._name)

    # -- metrics and health ----------------------------------------------------------------------------------------

    def _watched(self) -> AbstractAsyncContextManager[None]:
        """Serve metrics and health while the worker runs, if they are turned on. Only then, import their libraries."""
        if self._runs is None or self._options.metrics_address is None:
            return nullcontext()
        from broker.telemetry.http_server import watched
        from workers.telemetry.metrics import WorkerMetrics

        host, port = self._options.metrics_address
        metrics = WorkerMetrics(self._name, self._runs, self._snapshot)
        return watched(host, port, collector=metrics, problems=self._problems)

    async def _snapshot(self) -> "WorkerSnapshot":
        from workers.telemetry.metrics import WorkerSnapshot

        slots, connection = self._presence.slots, self._connection
        if not self.ready.is_set() or connection is None:
            return WorkerSnapshot(None, slots)
        executor, unconfirmed = connection.executor, connection.reporter.unconfirmed_results
        return WorkerSnapshot(connection.link, slots, len(executor.held_tasks), executor.running, unconfirmed)

    async def _problems(self) -> Sequence[str]:
        """Return why the worker takes no tasks at the moment."""
        if not self.ready.is_set() or self._connection is None:
            return ["no connection to RabbitMQ"]
        if obstacle := self._connection.link.obstacle:
            return [obstacle]
        return ["it is leaving"] if self._draining else []

    # -- while it works --------------------------------------------------------------------------------------------

    def _on_control(self, delivery: Delivery) -> None:
        connection = self._connection
        if connection is None or connection.coordinator_client.take(delivery):
            return
        if delivery.properties.correlation_id is not None:  # a control message replies to nothing
            connection.chat_client.take(delivery)
            return
        if delivery.properties.type == "task.rejected":
            _log.warning("%s: the coordinator refuses a report: %r", self._name, delivery.body)
            return
        try:
            order = decode(_ControlMessage, delivery.body).root
        except DecodeError as error:
            _log.warning("%s: ignored a control message that cannot be decoded: %s", self._name, error)
            return
        match order:
            case Stop():
                connection.executor.stop(order)
            case Drain():
                self.drain()
            case Slots():
                self._limit(order, connection)
            case PersonAnswer():
                connection.executor.answered(order)
            case Notice():
                _log.warning("%s: %s", self._name, on_one_line(order.text, 2000))

    def _limit(self, order: Slots, connection: WorkerConnection) -> None:
        how_many = "all slots" if order.slots is None else _counted(order.slots, "slot")
        why = f": {on_one_line(order.reason, 500)}" if order.reason else ""
        _log.info("%s: the coordinator allows %s%s", self._name, how_many, why)
        connection.limit(order.slots)

    async def _beat(self, connection: WorkerConnection) -> None:
        while True:
            await asyncio.sleep(self._options.heartbeat_interval)
            is_sent = self._last_presence is None or self._last_presence.done()
            if is_sent and connection.link.can_publish:  # a queue of old reports would be of no use
                self._show_presence("beat", connection)

    def _on_link_state(self, connected: bool) -> None:
        connection = self._connection
        if connected and self.ready.is_set() and connection is not None:
            self._show_presence("hello", connection)
            connection.limit(None)  # the coordinator repeats a limit that is still in force
            connection.executor.ask_again()
            connection.coordinator_client.send_again()
        elif self._stopping:
            self._leave_if_done()

    def _show_presence(self, what: str, connection: WorkerConnection) -> None:
        update = {"draining": self._draining, "tasks": connection.executor.held_tasks}
        self._last_presence = connection.reporter.presence(what, self._presence.model_copy(update=update))


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
