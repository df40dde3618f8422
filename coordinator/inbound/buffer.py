"""The buffer of deliveries that are not done, and the choice of the next batch."""

from collections.abc import Collection, Sequence

from broker.amqp.envelope import Delivery
from broker.protocol.task_requests import Submission
from broker.protocol.topology import MESSAGES, STATUS, TASKS
from coordinator.inbound.liveness import is_echo

_SUBMISSION = TASKS, Submission.routing_key


class InboxBuffer:
    """Deliveries in order of arrival. Each stays until it is `done`.

    The result of a quick attempt arrives soon after its claim. In one batch, the two change the task once and cost half
    as much; the state in between, which lasted no time, is not announced. So if there are other deliveries, a claim
    waits for its result, at most until the next batch. Deliveries behind it are acknowledged with it: one
    frame acknowledges all up to a delivery, and is one entry in the log of a quorum queue.
    """

    def __init__(self, limit: int) -> None:
        """`limit`: the most deliveries of a batch."""
        self._limit = limit
        self._waiting: list[Delivery] = []
        self._seen = 0  # how many of them, at the beginning, the last batch passed over
        self._window = 0  # how many were considered for the last batch
        self._unacknowledged: list[Delivery] = []  # done in the last batch, behind a claim that waits

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def only_claims(self) -> bool:
        """True if all deliveries are claims."""
        return all(map(is_claim, self._waiting))

    def add(self, delivery: Delivery) -> None:
        """Add a delivery that has arrived."""
        self._waiting.append(delivery)

    def batch(self) -> list[Delivery]:
        """Return the next batch, empty without deliveries. Chooses the same again until it is `done`."""
        if any(delivery.is_lost for delivery in self._waiting[: self._limit]):
            self._waiting = [delivery for delivery in self._waiting if not delivery.is_lost]
            self._seen = 0
        window = self._waiting[: self._limit]
        self._window = len(window)
        held = _held(window[self._seen :])
        return [delivery for delivery in window if delivery not in held] or window

    def done(self, batch: Sequence[Delivery], aside: Collection[Delivery] = ()) -> list[Delivery]:
        """Remove the last batch, which is done. Returns the deliveries to acknowledge now.

        Deliveries set `aside` are removed and not acknowledged: they are added again later, or requeued.
        """
        if not batch:
            return []
        gone = set(batch)
        window = self._waiting[: self._window]
        before = next((place for place, delivery in enumerate(window) if delivery not in gone), len(window))
        due, self._unacknowledged = [*self._unacknowledged, *batch[:before]], list(batch[before:])
        if aside:
            due = [delivery for delivery in due if delivery not in aside]
            self._unacknowledged = [delivery for delivery in self._unacknowledged if delivery not in aside]
        self._waiting = [delivery for delivery in self._waiting if delivery not in gone]
        self._seen = self._window - len(batch)
        return due

    def late(self) -> list[Delivery]:
        """Return what would be acknowledged after the next batch. For when that batch may take long."""
        late, self._unacknowledged = self._unacknowledged, []
        return late

    def leave(self) -> None:
        """Acknowledge what is done, and requeue everything else."""
        for delivery in self.late():
            delivery.ack()
        for delivery in self._waiting:
            delivery.requeue()
        self._waiting, self._seen = [], 0


def is_claim(delivery: Delivery) -> bool:
    """Return whether the message is a claim: an instance takes an attempt."""
    return delivery.routing_key.endswith(".claim")


def _held(fresh: Sequence[Delivery]) -> set[Delivery]:
    """Return the claims that may wait for their results.

    A claim may not wait if a later delivery may need the task claimed: a result of the task, another report of the LLM,
    a request about any task, or a delivery through a foreign exchange.
    """
    claims: dict[str, dict[str, list[Delivery]]] = {}  # by LLM and task
    for delivery in fresh:
        if is_echo(delivery):  # an echo must not overtake earlier deliveries
            claims.clear()
        elif delivery.exchange == STATUS:
            llm, _, kind = delivery.routing_key.rpartition(".")
            task_id, _, _ = (delivery.properties.correlation_id or "").rpartition("/")
            if not task_id or kind not in ("claim", "result"):
                claims.pop(llm, None)
            elif kind == "claim":
                claims.setdefault(llm, {}).setdefault(task_id, []).append(delivery)
            elif llm in claims:
                claims[llm].pop(task_id, None)
        elif delivery.exchange != MESSAGES and (delivery.exchange, delivery.routing_key) != _SUBMISSION:
            claims.clear()
    return {claim for tasks in claims.values() for same in tasks.values() for claim in same}
