"""Listening to what the coordinator and the workers tell everybody."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from broker.access.roles import is_genuine
from broker.amqp.envelope import Delivery
from broker.amqp.robust_connection import RobustConnection
from broker.errors import DecodeError
from broker.ids import uuid7
from broker.protocol.primitives import decode
from broker.protocol.status import FINAL, Status
from broker.protocol.topology import EVENTS, STATUS, WATCHERS, Binding, Queue, Topology
from broker.protocol.views import TaskView, View
from broker.protocol.worker_reports import Progress

TASK_EVENTS = tuple(Binding(EVENTS, f"task.{what}.*", "") for what in (*Status, "overdue"))
ENDINGS = tuple(Binding(EVENTS, f"task.{status}.*", "") for status in FINAL)
OVERDUE = "fluffle.task.overdue"
PROGRESS = Binding(STATUS, "#.progress", "")

_PREFETCH = 1000

_log = logging.getLogger(__name__)


class Event(View):
    """A fact about a task: a CloudEvent 1.0.

    `type` is `fluffle.task.<status>`, or `fluffle.task.overdue` once its due date has passed; `subject` is the task's
    id, `data` the task as it stood then.
    """

    id: str
    type: str
    subject: str
    time: datetime
    data: TaskView

    @property
    def is_overdue(self) -> bool:
        """Whether it tells that the due date has passed, and not that the task has changed."""
        return self.type == OVERDUE


class Gap:
    """Stands in a subscription where something may have been missed, because RabbitMQ was away."""


MISSED = Gap()
Arrivals = asyncio.Queue[Delivery | Gap]


@asynccontextmanager
async def subscription(
    url: str, name: str, sources: Sequence[Binding], *, require_identity: bool
) -> AsyncIterator[Arrivals]:
    """What comes by `sources` (bindings whose queue is made here) from now on, as a queue.

    A delivery that was dealt with must be acked: no more than a thousand are under way. It has a link of its own,
    so that closing it leaves no queue behind. With `require_identity`, status messages that are not from the LLM that
    they name are dropped.
    """
    arrived: Arrivals = asyncio.Queue()

    def on_delivery(delivery: Delivery) -> None:
        if require_identity and delivery.exchange != EVENTS and not is_genuine(delivery):
            _log.warning("dropped a message for %s from the user %s", delivery.routing_key, delivery.properties.user_id)
            delivery.ack()
        else:
            arrived.put_nowait(delivery)

    def on_state(connected: bool) -> None:
        if connected:
            arrived.put_nowait(MISSED)

    queue = f"{WATCHERS}.{uuid7()}"
    bindings = tuple(Binding(source.exchange, source.routing_key, queue) for source in sources)
    async with RobustConnection(url, name=name, on_state=on_state) as link:
        await link.declare(Topology(queues=(Queue(queue, exclusive=True),), bindings=bindings))
        await link.consume(queue, on_delivery, prefetch=_PREFETCH)
        yield arrived


class EventReader:
    """What a subscription tells, one after the other. Progress of a task counts only from the LLM that has it."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._llms: dict[str, str | None] = {}  # task -> who has it, of those that are known and not over

    def note(self, view: TaskView) -> None:
        """This is how a task stands."""
        if view.status.is_final:
            self._llms.pop(view.id, None)
        else:
            self._llms[view.id] = view.llm

    async def next(self) -> Event | Progress | None:
        """The next thing; None where something may have been missed."""
        while True:
            arrival = await self._arrivals.get()
            if isinstance(arrival, Gap):
                return None
            arrival.ack()
            kind: type[Event | Progress] = Event if arrival.exchange == EVENTS else Progress
            try:
                told = decode(kind, arrival.body, limit=len(arrival.body))
            except DecodeError as error:
                _log.warning("ignored a message of %s that cannot be read: %s", arrival.exchange, error)
                continue
            if isinstance(told, Event):
                self.note(told.data)
            elif self._llms.get(told.task_id) != sender(arrival.routing_key):
                _log.warning("ignored what %s wrote to task %s of another", arrival.routing_key, told.task_id)
                continue
            return told


def sender(routing_key: str) -> str:
    """The LLM that a status message names as its sender. See is_genuine."""
    return routing_key.rpartition(".")[0]


def standing(view: TaskView) -> Event:
    """How a task stands now, as an event."""
    now = datetime.now(UTC)
    return Event(id=uuid7(), type=f"fluffle.task.{view.status}", subject=view.id, time=now, data=view)
