"""Subscriptions to the events of the coordinator and the progress of the workers."""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Protocol

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
from fluffle.client.requests import CONCURRENT_QUERIES, batched

TASK_EVENTS = tuple(Binding(EVENTS, f"task.{what}.*", "") for what in (*Status, "overdue"))
ENDINGS = tuple(Binding(EVENTS, f"task.{status}.*", "") for status in FINAL)
OVERDUE = "fluffle.task.overdue"
PROGRESS = Binding(STATUS, "#.progress", "")

_LIVE = [status for status in Status if status not in FINAL]
_PREFETCH = 1000

_log = logging.getLogger(__name__)


class Event(View):
    """A change of a task: a CloudEvent 1.0.

    `type` is `fluffle.task.<status>`, or `fluffle.task.overdue` when the due date passes; `subject` is the ID of the
    task, `data` the task after the change.
    """

    id: str
    type: str
    subject: str
    time: datetime
    data: TaskView

    @property
    def is_overdue(self) -> bool:
        """Whether the event reports that the due date has passed, and no change of the status."""
        return self.type == OVERDUE


class Gap:
    """A place in a subscription where messages may be missing, because RabbitMQ was away."""


MISSED = Gap()
Arrivals = asyncio.Queue[Delivery | Gap]


@asynccontextmanager
async def subscription(
    url: str, name: str, sources: Sequence[Binding], *, require_identity: bool
) -> AsyncIterator[Arrivals]:
    """Yield a queue with all messages of `sources` from now on; the queue of these bindings is created here.

    Acknowledge each delivery: at most a thousand are unacknowledged. The subscription has a separate connection, so
    that RabbitMQ deletes its queue when it ends. With `require_identity`, status messages from another user than the
    LLM that they name are dropped.
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
    """Reads a subscription one event at a time. Progress of a task counts only from the LLM that runs it."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._llms: dict[str, str | None] = {}  # the LLM of each known task that is not over

    def note(self, view: TaskView) -> None:
        """Note the state of a task, with its LLM."""
        if view.status.is_final:
            self._llms.pop(view.id, None)
        else:
            self._llms[view.id] = view.llm

    async def next(self) -> Event | Progress | None:
        """Return the next event; None where events may be missing."""
        while True:
            arrival = await self._arrivals.get()
            if isinstance(arrival, Gap):
                return None
            arrival.ack()
            kind: type[Event | Progress] = Event if arrival.exchange == EVENTS else Progress
            try:
                event = decode(kind, arrival.body, limit=len(arrival.body))
            except DecodeError as error:
                _log.warning("ignored a message of %s that cannot be decoded: %s", arrival.exchange, error)
                continue
            if isinstance(event, Event):
                self.note(event.data)
            elif self._llms.get(event.task_id) != sender(arrival.routing_key):
                _log.warning(
                    "ignored progress of %s for task %s, which another LLM runs", arrival.routing_key, event.task_id
                )
                continue
            return event


class TaskQueries(Protocol):
    """The queries that a watch makes: those of the client."""

    async def task(self, task_id: str) -> TaskView:
        """See `Client.task`."""
        ...

    def tasks(self, *, label: Collection[str] = (), status: Collection[Status] = ()) -> AsyncIterator[TaskView]:
        """See `Client.tasks`."""
        ...


class TaskWatch:
    """The events of some tasks, or of all, from a subscription.

    `ids` names tasks, `label` those that have it. With `also_later`, tasks that get the label later are watched too.
    """

    def __init__(
        self, queries: TaskQueries, arrivals: Arrivals, ids: Collection[str], label: str | None, *, also_later: bool
    ) -> None:
        self._queries = queries
        self._reader = EventReader(arrivals)
        self._ids = set(ids)
        self._label = label
        self._later_label = label if also_later else None
        self._live: set[str] = set()

    async def events(self) -> AsyncIterator[Event | Progress]:
        """Find the tasks, and return an iterator over their events. Raises QueryRejected and NoAnswer."""
        if not self._ids and self._label is None:
            return self._all_events()
        named = [view async for view in self._views(self._ids)]
        labelled = [] if self._label is None else [view.id async for view in self._queries.tasks(label=[self._label])]
        others = set(labelled) - self._ids
        self._live = {view.id for view in named} | others
        return self._chosen_events(named, others)

    async def _all_events(self) -> AsyncIterator[Event | Progress]:
        while True:
            if (event := await self._reader.next()) is not None:
                yield event

    async def _chosen_events(
        self, named: Sequence[TaskView], others: Collection[str]
    ) -> AsyncIterator[Event | Progress]:
        live, label = self._live, self._later_label
        has_begun = bool(live)
        for view in named:
            yield self._state(view)
        async for view in self._views(others):  # all of them at once could be too many
            yield self._state(view)
        while live or (label is not None and not has_begun):
            event = await self._reader.next()
            if event is None:
                if label is not None:
                    live |= {view.id async for view in self._queries.tasks(label=[label], status=_LIVE)}
                async for view in self._views(list(live)):
                    has_begun = True
                    yield self._state(view)
            elif isinstance(event, Progress):
                if event.task_id in live:
                    yield event
            elif event.subject in live or (label in event.data.labels and not event.data.status.is_final):
                has_begun = True
                yield event
                (live.discard if event.data.status.is_final else live.add)(event.subject)

    async def _views(self, ids: Iterable[str]) -> AsyncIterator[TaskView]:
        for some in batched(ids, CONCURRENT_QUERIES):
            for view in await asyncio.gather(*(self._queries.task(task_id) for task_id in some)):
                yield view

    def _state(self, view: TaskView) -> Event:
        """Return the state of a task as an event."""
        self._reader.note(view)
        if view.status.is_final:
            self._live.discard(view.id)
        now = datetime.now(UTC)
        return Event(id=uuid7(), type=f"fluffle.task.{view.status}", subject=view.id, time=now, data=view)


def sender(routing_key: str) -> str:
    """Return the LLM that a status message names as its sender. See is_genuine."""
    return routing_key.rpartition(".")[0]
