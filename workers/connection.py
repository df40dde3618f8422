"""The parts of a worker that live as long as one connection to RabbitMQ."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.amqp.envelope import Delivery
from broker.amqp.robust_connection import RobustConnection, may_declare
from broker.amqp.session import Subscription
from broker.errors import BrokerError
from broker.messaging.chat_client import ChatClient
from broker.protocol.topology import (
    SHARED,
    control_address,
    instance_topology,
    llm_address,
    llm_topology,
    memberships,
    work_queue,
)
from broker.telemetry.counters import Runs
from workers.chat import PREFETCH, ChatResponder
from workers.execution.executor import Executor
from workers.execution.reporter import Reporter
from workers.execution.spool import Spool
from workers.models.protocols import LLM
from workers.options import WorkerOptions
from workers.tools.coordinator_client import CoordinatorClient
from workers.tools.toolbox import ToolServices

if TYPE_CHECKING:
    from workers.telemetry.tracing import WorkerTracing


class WorkerConnection:
    """The connection with everything that publishes and consumes by it. `on_change` is called when work is done."""

    def __init__(
        self,
        link: RobustConnection,
        spool: Spool,
        options: WorkerOptions,
        llm: LLM,
        *,
        has_only_rights_of_an_llm: bool,
        on_change: Callable[[], None],
        runs: Runs | None,
        tracing: "WorkerTracing | None",
    ) -> None:
        name, control = options.name, control_address(options.name, options.instance)
        self.link = link
        self.reporter = Reporter(link, spool, name=name, instance=options.instance)
        self.chat_client = ChatClient(link, control, require_identity=options.require_identity)
        as_llm = name if has_only_rights_of_an_llm else None
        self.coordinator_client = CoordinatorClient(link, control, as_llm=as_llm)
        self.executor = Executor(
            llm,
            self.reporter,
            ToolServices(name, options.tools, self.coordinator_client, self.chat_client),
            slots=options.presence.slots,
            instructions=options.instructions,
            timeout=options.timeout,
            on_change=on_change,
            runs=runs,
            tracing=tracing,
            price=options.price,
        )
        self.responder = ChatResponder(
            llm,
            link,
            self.chat_client,
            self.reporter,
            name=name,
            instructions=options.instructions,
            timeout=options.timeout,
            max_body=options.max_body,
            require_identity=options.require_identity,
            on_change=on_change,
        )
        for result in self.reporter.spooled_results(on_change):
            self.executor.remember((result.task_id, result.attempt))
        self._options = options
        self._messages: Subscription | None = None
        self._work: Subscription | None = None
        self._prefetch = options.presence.slots
        self._consuming: asyncio.Task[None] | None = None
        self._closed = False

    async def consume(self, on_control: Callable[[Delivery], None]) -> None:
        """Begin to take control messages, messages and assignments. Raises BrokerError."""
        name = self._options.name
        await self.link.consume(control_address(name, self._options.instance), on_control, auto_ack=True)
        self._messages = await self.link.consume(llm_address(name), self.responder.take, prefetch=PREFETCH)
        self._work = await self._consume_work(self._prefetch)

    def limit(self, slots: int | None) -> None:
        """Work on at most so many tasks at a time; None: as many as there are slots.

        What waits for a slot goes back to RabbitMQ, and no more assignments arrive than may run. Running attempts go
        on.
        """
        most = self._options.presence.slots
        prefetch = most if slots is None else min(slots, most)
        self.executor.limit(slots)
        if prefetch == self._prefetch or self._closed:
            return
        self._prefetch = prefetch
        if self._work is not None:
            self._work.cancel()
            self._work = None
        self.executor.return_waiting()
        if prefetch and self._consuming is None:
            self._consuming = asyncio.create_task(self._consume_again())

    def take_nothing_new(self) -> None:
        """Finish the running work, and return what waits to RabbitMQ."""
        self._closed = True
        for subscription in (self._work, self._messages):
            if subscription is not None:
                subscription.cancel()
        self.responder.close()
        self.executor.close()

    async def _consume_work(self, prefetch: int) -> Subscription:
        return await self.link.consume(work_queue(self._options.name), self.executor.take, prefetch=prefetch)

    async def _consume_again(self) -> None:
        """Take assignments with the present prefetch."""
        try:
            while self._work is None and self._prefetch and not self._closed:
                prefetch = self._prefetch
                subscription = await self._consume_work(prefetch)
                if prefetch == self._prefetch and not self._closed:
                    self._work = subscription
                else:
                    subscription.cancel()
        except BrokerError:
            self._prefetch = 0  # the connection is lost; after a reconnect, the instance takes assignments again
        finally:
            self._consuming = None


async def declare_queues(link: RobustConnection, options: WorkerOptions) -> bool:
    """Declare the queues of a worker. Returns whether its user has only the rights of an LLM. Raises BrokerError."""
    name, groups = options.name, options.groups
    has_only_rights_of_an_llm = not await may_declare(options.url, SHARED, name=f"fluffle worker {name}")
    if has_only_rights_of_an_llm:  # the queues were declared together with the grant
        await link.declare(memberships(llm_address(name), groups))
    else:
        await link.declare(SHARED)
        await link.declare(llm_topology(name, groups))
    await link.declare(instance_topology(name, options.instance, is_bound=not has_only_rights_of_an_llm))
    return has_only_rights_of_an_llm
