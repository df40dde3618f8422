"""A coordinator's books without RabbitMQ: deliveries in, one transaction, messages out."""

import json
from typing import Any, cast

from sqlalchemy import text

from broker.amqp.envelope import Delivery, Outgoing, Properties, Settler
from broker.timestamps import Instant, Micros, seconds
from coordinator.batch import BatchProcessor, OutgoingBatch
from coordinator.core.tasks.task import view
from coordinator.inbound.liveness import LivenessProbe
from coordinator.storage.store import Store
from tests.support.core_driver import T0
from tests.support.stored_tasks import LEAD

LEASE = 10.0  # seconds


class BatchHarness:
    """A bookkeeper with a clock that is set by hand, and the messages that it wants published."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.at = 0.0
        self.ahead = 0.0  # seconds by which somebody has set the clock
        self.books = self._new()
        self.unsent = self.books.rebuild()

    def _new(self, *, liveness: LivenessProbe | None = None) -> BatchProcessor:
        return BatchProcessor(
            self.store,
            clock=self.now,
            lease=seconds(LEASE),
            lead=LEAD,
            max_body=1_000_000,
            steady=self.steady,
            liveness=liveness,
        )

    def now(self) -> Instant:
        return Instant(T0 + seconds(self.at + self.ahead))

    def steady(self) -> Micros:
        return seconds(self.at)

    def listen(self, liveness: LivenessProbe) -> None:
        """From now on nobody is judged before an echo has come."""
        self.books = self._new(liveness=liveness)
        self.books.rebuild()

    def process(self, *batch: Delivery, at: float | None = None) -> list[Outgoing]:
        """Process a batch, publish its messages and have them confirmed."""
        post = self.commit(*batch, at=at)
        self.books.confirmed(post.rows)
        return post.messages

    def commit(self, *batch: Delivery, at: float | None = None) -> OutgoingBatch:
        """Process a batch, without publishing."""
        self.at = self.at if at is None else at
        return self.books.process(list(batch))

    def restart(self) -> list[Outgoing]:
        """Another process takes over; the messages that it finds unsent."""
        self.books = self._new()
        self.unsent = self.books.rebuild()
        return self.unsent.messages

    def views(self) -> dict[str, dict[str, Any]]:
        """Every task as it is stored."""
        with self.store.engine.connect() as connection:
            ids = list(connection.execute(text("select id from tasks")).scalars())
        return {task.id: view(task) for task in sorted(self.store.load(ids), key=lambda task: task.seq)}

    def status(self, task_id: str) -> str:
        """The status of a task as it is stored."""
        [task] = self.store.load([task_id])
        return task.status.value


def delivery(exchange: str, routing_key: str, body: bytes | dict[str, Any], **properties: Any) -> Delivery:
    """A message as it arrives."""
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Delivery(exchange, routing_key, encoded, False, Properties(**properties), 0, cast(Settler, None))
