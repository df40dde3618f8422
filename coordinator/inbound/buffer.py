"""What has come for the coordinator and is not done yet, and what of it makes the next batch."""

from collections.abc import Collection, Sequence

from broker.amqp.envelope import Delivery
from broker.protocol.task_requests import Submission
from broker.protocol.topology import MESSAGES, STATUS, TASKS
from coordinator.inbound.liveness import is_echo

_SUBMISSION = TASKS, Submission.routing_key


class InboxBuffer:
    """Deliveries in the order in which they came. Each waits until it is `done`.

    A quick attempt has its result here soon after its claim. Together they change the task once, and its state in
    between, which lasted no time, is not told; apart they cost as much again. So where other work is at hand, a claim
    waits for its result, but not longer than until the next batch. What came after it is acknowledged then, too: all up
    to one delivery are one frame, and one entry in the log of a quorum queue.
    """

    def __init__(self, limit: int) -> None:
        """`limit`: how many deliveries make a batch at most."""
        self._limit = limit
        self._waiting: list[Delivery] = []
        self._seen = 0  # of those, the first ones, that waited already when the last batch was made
        self._window = 0  # how many were looked at for it
        self._unacknowledged: list[Delivery] = []  # done with the last batch, behind a claim that waits

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def only_claims(self) -> bool:
        """Whether nothing but claims is there."""
        return all(map(is_claim, self._waiting))

    def add(self, delivery: Delivery) -> None:
        """It has come."""
        self._waiting.append(delivery)

    def batch(self) -> list[Delivery]:
        """What to do next, empty when nothing is there. The same is chosen again unless it is `done`."""
        if any(delivery.is_lost for delivery in self._waiting[: self._limit]):
            self._waiting = [delivery for delivery in self._waiting if not delivery.is_lost]
            self._seen = 0
        window = self._waiting[: self._limit]
        self._window = len(window)
        held = _held(window[self._seen :])
        return [delivery for delivery in window if delivery not in held] or window

    def done(self, batch: Sequence[Delivery], aside: Collection[Delivery] = ()) -> list[Delivery]:
        """The last batch is done with. Returns what is to be acknowledged now.

        What was set `aside` is out of here, and not acknowledged: it is added once more, or given back.
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
        """What is done with and would be acknowledged after the next batch, for when that may take long."""
        late, self._unacknowledged = self._unacknowledged, []
        return late

    def leave(self) -> None:
        """Nothing more is done here: acknowledge what is, and give the rest back."""
        for delivery in self.late():
            delivery.ack()
        for delivery in self._waiting:
            delivery.requeue()
        self._waiting, self._seen = [], 0


def is_claim(delivery: Delivery) -> bool:
    """Whether it tells that an instance takes an attempt."""
    return delivery.routing_key.endswith(".claim")


def _held(fresh: Sequence[Delivery]) -> set[Delivery]:
    """Which of these are claims that may wait for their results.

    Not so where something behind them may be about the same task and has to find it claimed: any result of the task,
    what else its LLM says, or what somebody wants of a task; and whatever came by an exchange that does not say.
    """
    claims: dict[str, dict[str, list[Delivery]]] = {}  # by LLM and task
    for delivery in fresh:
        if is_echo(delivery):  # what came before has to be handled before
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
