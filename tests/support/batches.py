"""Batches without RabbitMQ: deliveries in, one transaction, messages out."""

import json
from typing import Any, cast

from sqlalchemy import text

from broker.amqp.ack_batcher import AckBatcher
from broker.amqp.envelope import Delivery, Outgoing, Properties
from broker.protocol.topology import EVENTS, REJECTED, STATUS, TASKS, WORK
from broker.timestamps import Instant, Micros, seconds
from coordinator.batch import BatchProcessor, OutgoingBatch
from coordinator.core.tasks.task import view
from coordinator.inbound.liveness import LivenessProbe
from coordinator.storage.store import Store
from tests.support.core_driver import T0
from tests.support.stored_tasks import LEAD

LEASE = 10.0  # seconds
NO_CHANNEL = cast(AckBatcher, None)  # a batch does not settle its deliveries


class BatchHarness:
    """A batch processor with a clock that the test sets, and the messages that it would publish."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.at = 0.0
        self.ahead = 0.0  # seconds by which the wall clock was set
        self.processor = self._new()
        self.unsent = self.processor.rebuild()

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
        """Restart with this probe: no LLM loses a task before an echo has arrived."""
        self.processor = self._new(liveness=liveness)
        self.processor.rebuild()

    def process(self, *batch: Delivery, at: float | None = None) -> list[Outgoing]:
        """Process a batch and confirm its messages, which are returned."""
        post = self.commit(*batch, at=at)
        self.processor.confirmed(post.rows)
        return post.messages

    def commit(self, *batch: Delivery, at: float | None = None) -> OutgoingBatch:
        """Process a batch, without publishing."""
        self.at = self.at if at is None else at
        return self.processor.process(list(batch))

    def restart(self) -> list[Outgoing]:
        """Start another process on the database. Returns the messages that it finds unsent."""
        self.processor = self._new()
        self.unsent = self.processor.rebuild()
        return self.unsent.messages

    def views(self) -> dict[str, dict[str, Any]]:
        """Return the views of all stored tasks by id."""
        with self.store.engine.connect() as connection:
            ids = list(connection.execute(text("select id from tasks")).scalars())
        return {task.id: view(task) for task in sorted(self.store.load(ids), key=lambda task: task.seq)}

    def status(self, task_id: str) -> str:
        """Return the stored status of a task."""
        [task] = self.store.load([task_id])
        return task.status.value


def delivery(exchange: str, routing_key: str, body: bytes | dict[str, Any], **properties: Any) -> Delivery:
    """Return a delivered message."""
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Delivery(exchange, routing_key, encoded, False, Properties(**properties), 0, NO_CHANNEL)


def submit(task_id: str | None, **fields: Any) -> Delivery:
    """Return a submission by ana, who waits for answers."""
    body = {"description": f"do {task_id}", **({"id": task_id} if task_id else {}), **fields}
    return delivery(TASKS, "submit", body, reply_to="ana", correlation_id=f"about {task_id}")


def hello(llm: str = "atlas", *, slots: int = 10, instance: str = "i1") -> Delivery:
    return delivery(STATUS, f"{llm}.hello", {"name": llm, "instance": instance, "slots": slots})


def goodbye(llm: str = "atlas", *, instance: str = "i1") -> Delivery:
    return delivery(STATUS, f"{llm}.goodbye", {"name": llm, "instance": instance})


def claim(task_id: str, attempt: int = 1, *, llm: str = "atlas") -> Delivery:
    return delivery(STATUS, f"{llm}.claim", {"task_id": task_id, "attempt": attempt, "instance": "i1"})


def result(task_id: str, attempt: int = 1, *, llm: str = "atlas", **fields: Any) -> Delivery:
    body = {"task_id": task_id, "attempt": attempt, "instance": "i1", "outcome": "completed", "result": task_id.upper()}
    return delivery(STATUS, f"{llm}.result", {**body, "duration": 1.5, **fields})


def failure(task_id: str, attempt: int = 1) -> Delivery:
    return result(task_id, attempt, outcome="failed", result=None, error={"type": "broken", "retryable": False})


def assignments(messages: list[Outgoing]) -> list[dict[str, Any]]:
    """Return the bodies of the assignments."""
    return [json.loads(message.body) for message in messages if message.exchange == WORK]


def assigned(messages: list[Outgoing]) -> list[str]:
    """Return the ids of the assigned tasks, in order."""
    return [body["task_id"] for body in assignments(messages)]


def answers(messages: list[Outgoing]) -> list[tuple[str | None, str | None]]:
    """Return the answers to ana: type and correlation id."""
    return [(message.type, message.correlation_id) for message in messages if message.routing_key == "ana"]


def events(messages: list[Outgoing]) -> list[str]:
    """Return the routing keys of the events."""
    return [message.routing_key for message in messages if message.exchange == EVENTS]


def rejected(messages: list[Outgoing]) -> list[Outgoing]:
    """Return the dead letters."""
    return [message for message in messages if message.exchange == REJECTED]
