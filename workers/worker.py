"""A worker: one LLM that takes its assignments from RabbitMQ and reports the results there.

    assignment -> claim, confirmed -> acknowledged -> the LLM is called -> result, spooled -> published -> confirmed

Everything runs on one event loop. An assignment costs one asyncio task, that of the call itself; the rest are
callbacks, so that a worker with many slots and quick answers carries thousands of tasks a second.
"""

import asyncio
import logging
import re
import secrets
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, nullcontext, suppress
from typing import TYPE_CHECKING

from pydantic import RootModel, ValidationError

from broker.amqp.envelope import Delivery
from broker.amqp.robust_connection import RobustConnection, may_declare
from broker.amqp.url import user_of
from broker.chat_client import ChatClient
from broker.errors import AccessRefused, BrokerError, ConfigurationError, DecodeError
from broker.protocol.assignments import Control, Drain, Notice, PersonAnswer, Stop
from broker.protocol.portable_text import on_one_line
from broker.protocol.primitives import decode, problems
from broker.protocol.task_requests import Tool
from broker.protocol.topology import (
    SHARED,
    control_address,
    instance_topology,
    llm_address,
    llm_topology,
    memberships,
    work_queue,
)
from broker.protocol.traceparent import tracing_for
from broker.protocol.worker_reports import Presence, skills_in_text
from broker.settings import Settings
from broker.telemetry.counters import Runs
from workers.chat import PREFETCH, ChatResponder
from workers.execution.attempt import failed
from workers.execution.executor import Executor
from workers.execution.reporter import RETRY_FIRST, RETRY_MOST, Reporter
from workers.execution.spool import Spool
from workers.models.base import LLM
from workers.tools.coordinator_client import CoordinatorClient
from workers.tools.toolbox import ToolServices

if TYPE_CHECKING:
    from workers.telemetry.metrics import WorkerSnapshot
    from workers.telemetry.tracing import WorkerTracing

LEAVE_WITHIN = 10.0
"""Seconds after which a worker that was told to stop leaves in any case."""

LEAST_HEARTBEAT, MOST_HEARTBEAT = 4, 20
"""Seconds. A worker whose connection is dead is to notice while its lease lasts."""

_TELL_EVERY = 30.0  # seconds between two lines in the log while there is no RabbitMQ
_GOODBYE_WITHIN = 3.0  # seconds

_log = logging.getLogger(__name__)


class _ControlMessage(RootModel[Control]):
    """What arrives on the control queue."""


def new_instance_id() -> str:
    """A name for one start of a worker: that of the host, shortened, and eight random digits."""
    host = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().lower())[:24].strip("-")
    return f"{host or 'worker'}-{secrets.token_hex(4)}"


class Worker:
    """One instance of an LLM. `await run()` works until it is drained, stopped or cancelled."""

    def __init__(
        self,
        settings: Settings,
        *,
        url: str,
        name: str,
        llm: LLM,
        slots: int = 1,
        skills: Mapping[str, float] | None = None,
        labels: Sequence[str] = (),
        description: str = "",
        instructions: str | None = None,
        timeout: float | None = None,
        groups: Sequence[str] = (),
        tools: Iterable[Tool] = (),
    ) -> None:
        """`skills` maps tags to levels from 0 to 1; `labels` are tags such as `local`; `tools` are what it may use.

        `groups` are those whose messages it gets.

        `timeout`, in seconds, is for attempts of tasks that have none. `ready` is set when the worker has said hello
        and takes assignments. Raises ConfigurationError when one of the arguments is not possible.
        """
        self.instance = new_instance_id()
        self.ready = asyncio.Event()
        try:
            self._presence = Presence(
                name=name,
                instance=self.instance,
                model=llm.model[:200],
                skills=dict(skills or {}),
                labels=list(labels),
                slots=slots,
                description=description,
            )
        except ValidationError as error:
            raise ConfigurationError("; ".join(map(str, problems(error)))) from error
        user = user_of(url)
        if settings.require_identity and user not in (name, None):
            raise ConfigurationError(
                f"identity is required, and the user of the AMQP URL is {user}, not {name}: nobody would believe its "
                f"reports. `fluffle broker grant llm {name}` makes the user"
            )
        self._settings = settings
        self._url = url
        self._name = name
        self._llm = llm
        self._instructions = instructions
        self._timeout = timeout
        self._tools = frozenset(tools)
        self._groups = tuple(groups)
        self._last_presence: asyncio.Future[None] | None = None
        self._draining = False
        self._stopping = False
        self._left = asyncio.Event()
        self._runs = None if settings.metrics_port is None else Runs()
        self._tracing = tracing_for("fluffle-worker", wanted=settings.traces)

    async def run(self) -> None:
        """Work until drained or stopped. Waits for RabbitMQ while it is away, at the start too.

        Raises AccessRefused when RabbitMQ refuses the user at the start, ConfigurationError when the folder of the
        spool cannot be used.
        """
        async with AsyncExitStack() as stack:
            if self._tracing is not None:
                stack.push_async_callback(asyncio.to_thread, self._tracing.close)
            await stack.enter_async_context(self._watched())
            folder = self._settings.state_dir / "spool" / self._name
            spool = await stack.enter_async_context(aclosing(Spool(folder, self.instance)))
            self._connecting = asyncio.create_task(self._connect(spool, stack))
            try:
                await self._connecting
            except asyncio.CancelledError:
                if self._draining:
                    return
                raise
            beating = asyncio.create_task(self._beat())
            try:
                await self._left.wait()
                await self._say_goodbye()
            finally:
                beating.cancel()
                await asyncio.gather(self._executor.abandon(), self._mailbox.abandon())

    def drain(self) -> None:
        """Take nothing new, finish what is in hand, and leave."""
        if self._draining:
            return
        self._draining = True
        if self._connecting.cancel():
            _log.warning("%s: leaving; there was no RabbitMQ yet", self._name)
        else:
            left = len(self._executor.in_hand)
            what = f", {_counted(left, 'task')} to finish; a second signal stops them" if left else ""
            _log.warning("%s: draining%s", self._name, what)
            self._take_nothing_new()

    def stop(self) -> None:
        """Leave now: cancel what runs, and report it as failed, so that somebody else does it."""
        if self._stopping:
            return
        self._stopping = True
        self.drain()
        if self.ready.is_set():
            _log.warning("%s: stopping, %s cancelled", self._name, _counted(self._executor.running, "running task"))
            self._executor.give_up_all(failed("worker_stopped", "the worker was stopped"))
            asyncio.get_running_loop().call_later(LEAVE_WITHIN, self._left.set)
            self._leave_if_done()

    # -- arriving and leaving --------------------------------------------------------------------------------------

    async def _connect(self, spool: Spool, stack: AsyncExitStack) -> None:
        """Connect and set everything up, however long RabbitMQ is away. The link is closed with the stack."""
        pause, tell_at = RETRY_FIRST, 0.0
        while True:
            try:
                async with AsyncExitStack() as opening:
                    link = RobustConnection(
                        self._url,
                        name=f"fluffle worker {self._name}",
                        max_body=self._settings.max_body,
                        heartbeat=round(min(max(self._settings.beat, LEAST_HEARTBEAT), MOST_HEARTBEAT)),
                        longest_pause=min(self._settings.beat, RETRY_MOST),
                        on_state=self._on_link_state,
                    )
                    self._link = await opening.enter_async_context(link)
                    await self._set_up(spool)
                    stack.push_async_exit(opening.pop_all())
                return
            except AccessRefused:
                raise
            except BrokerError as error:
                if time.monotonic() >= tell_at:
                    _log.warning("%s: waiting for RabbitMQ: %s", self._name, error)
                    tell_at = time.monotonic() + _TELL_EVERY
                await asyncio.sleep(pause)
                pause = min(pause * 2, RETRY_MOST)

    async def _set_up(self, spool: Spool) -> None:
        has_only_rights_of_an_llm = not await may_declare(self._url, SHARED, name=f"fluffle worker {self._name}")
        if has_only_rights_of_an_llm:  # whoever granted them has declared the queues
            await self._link.declare(memberships(llm_address(self._name), self._groups))
        else:
            await self._link.declare(SHARED)
            await self._link.declare(llm_topology(self._name, self._groups))
        own = instance_topology(self._name, self.instance, is_bound=not has_only_rights_of_an_llm)
        await self._link.declare(own)
        self._reporter = Reporter(self._link, spool, name=self._name, instance=self.instance)
        self._chat_client = ChatClient(
            self._link,
            control_address(self._name, self.instance),
            require_identity=self._settings.require_identity,
        )
        self._coordinator_client = CoordinatorClient(
            self._link,
            control_address(self._name, self.instance),
            as_llm=self._name if has_only_rights_of_an_llm else None,
        )
        self._executor = Executor(
            self._llm,
            self._reporter,
            ToolServices(self._name, self._tools, self._coordinator_client, self._chat_client),
            slots=self._presence.slots,
            instructions=self._instructions,
            timeout=self._timeout,
            on_change=self._leave_if_done,
            runs=self._runs,
            tracing=self._worker_tracing(),
        )
        self._mailbox = ChatResponder(
            self._llm,
            self._link,
            self._chat_client,
            self._reporter,
            name=self._name,
            instructions=self._instructions,
            timeout=self._timeout,
            max_body=self._settings.max_body,
            require_identity=self._settings.require_identity,
            on_change=self._leave_if_done,
        )
        for result in self._reporter.spooled_results(self._leave_if_done):
            self._executor.remember((result.task_id, result.attempt))
        self._show_presence("hello")
        await self._link.consume(control_address(self._name, self.instance), self._on_control, auto_ack=True)
        self._messages = await self._link.consume(llm_address(self._name), self._mailbox.take, prefetch=PREFETCH)
        self._assignments = await self._link.consume(
            work_queue(self._name), self._executor.take, prefetch=self._presence.slots
        )
        self.ready.set()
        _log.info(self._introduction())

    def _introduction(self) -> str:
        it = self._presence
        slots, skills = _counted(it.slots, "slot"), skills_in_text(it.skills) or "none"
        return f"{it.name}: ready, {slots}, model {it.model}, skills {skills}, RabbitMQ {self._link.where}"

    def _take_nothing_new(self) -> None:
        self._assignments.cancel()
        self._messages.cancel()
        self._mailbox.close()
        self._executor.close()
        self._show_presence("beat")
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        if self._draining:
            reported = self._executor.empty and not self._reporter.unconfirmed_results
            on_disk = self._stopping and not self._executor.running and not self._link.connected
            if (reported and (self._mailbox.idle or self._stopping)) or on_disk:
                self._left.set()

    async def _say_goodbye(self) -> None:
        if self._executor.empty and self._link.connected:
            with suppress(BrokerError, TimeoutError):
                async with asyncio.timeout(_GOODBYE_WITHIN):
                    await self._reporter.goodbye()
        _log.info("%s: left", self._name)

    # -- for those who watch over it -------------------------------------------------------------------------------

    def _watched(self) -> AbstractAsyncContextManager[None]:
        """Metrics and health are served meanwhile, where that is wanted. Only then are their libraries imported."""
        host, port = self._settings.metrics_host, self._settings.metrics_port
        if self._runs is None or port is None:
            return nullcontext()
        from broker.telemetry.http_server import watched
        from workers.telemetry.metrics import WorkerMetrics

        return watched(
            host, port, collector=WorkerMetrics(self._name, self._runs, self._standing), problems=self._problems
        )

    def _worker_tracing(self) -> "WorkerTracing | None":
        if self._tracing is None:
            return None
        from workers.telemetry.tracing import WorkerTracing

        return WorkerTracing(self._tracing, self._name, self._llm.model)

    async def _standing(self) -> "WorkerSnapshot":
        from workers.telemetry.metrics import WorkerSnapshot

        slots = self._presence.slots
        if not self.ready.is_set():
            return WorkerSnapshot(None, slots)
        in_hand = len(self._executor.in_hand)
        return WorkerSnapshot(self._link, slots, in_hand, self._executor.running, self._reporter.unconfirmed_results)

    async def _problems(self) -> Sequence[str]:
        """Why it takes no work at the moment."""
        if not self.ready.is_set():
            return ["no connection to RabbitMQ"]
        if self._link.obstacle:
            return [self._link.obstacle]
        return ["it is leaving"] if self._draining else []

    # -- what goes on meanwhile ------------------------------------------------------------------------------------

    def _on_control(self, delivery: Delivery) -> None:
        if CoordinatorClient.is_answer(delivery):
            self._coordinator_client.take(delivery)
            return
        if delivery.properties.correlation_id is not None:  # orders answer nothing
            self._chat_client.take(delivery)
            return
        if delivery.properties.type == "task.rejected":
            _log.warning("%s: the coordinator refuses a report: %r", self._name, delivery.body)
            return
        try:
            order = decode(_ControlMessage, delivery.body).root
        except DecodeError as error:
            _log.warning("%s: ignored a control message that cannot be read: %s", self._name, error)
            return
        match order:
            case Stop():
                self._executor.stop(order)
            case Drain():
                self.drain()
            case PersonAnswer():
                self._executor.answered(order)
            case Notice():
                _log.warning("%s: %s", self._name, on_one_line(order.text, 2000))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._settings.beat)
            told = self._last_presence is None or self._last_presence.done()
            if told and self._link.can_publish:  # beats that pile up help nobody
                self._show_presence("beat")

    def _on_link_state(self, connected: bool) -> None:
        if connected and self.ready.is_set():
            self._show_presence("hello")
            self._executor.ask_again()
            self._coordinator_client.send_again()
        elif self._stopping:
            self._leave_if_done()

    def _show_presence(self, what: str) -> None:
        now = self._presence.model_copy(update={"draining": self._draining, "tasks": self._executor.in_hand})
        self._last_presence = self._reporter.presence(what, now)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
