"""Echoes, outages and clocks that are set, as the batch loop sees them."""

from typing import Any

import pytest

from broker.amqp.pika_connection import Delivery, Outgoing
from broker.protocol.topology import ECHO, STATUS, TASKS
from broker.timestamps import seconds
from coordinator.inbound.hearing import LivenessProbe
from coordinator.storage.store import Store
from tests.support.batches import LEASE, Desk, delivery

HOUR = 3600.0


@pytest.fixture
def hearing() -> LivenessProbe:
    return LivenessProbe(seconds(LEASE))


@pytest.fixture
def desk(store: Store, hearing: LivenessProbe) -> Desk:
    """The LLM atlas runs the task t since the start."""
    desk = Desk(store)
    desk.listen(hearing)
    desk.process(presence(), delivery(TASKS, "submit", {"description": "-", "id": "t"}), at=0)
    desk.process(status("claim", task_id="t", attempt=1))
    return desk


def status(kind: str, **body: Any) -> Delivery:
    return delivery(STATUS, f"atlas.{kind}", {"instance": "i1", **body})


def presence(control: str | None = None) -> Delivery:
    body = {"name": "atlas", "instance": "i1", "tasks": [{"task_id": "t", "attempt": 1}]}
    return delivery(STATUS, "atlas.beat", body, reply_to=control)


def back(echo: Outgoing) -> Delivery:
    return delivery(STATUS, ECHO, echo.body, correlation_id=echo.correlation_id)


def orders(messages: list[Outgoing]) -> list[str]:
    """The queues that orders go to."""
    return [message.routing_key for message in messages if message.exchange == ""]


def test_nobody_loses_a_task_before_an_echo_has_come(desk: Desk, hearing: LivenessProbe) -> None:
    desk.process(at=LEASE)
    assert desk.status("t") == "in_progress"
    assert desk.books.in_doubt
    echo = hearing.ask(desk.steady())
    hearing.answered(echo.correlation_id, desk.steady())
    assert orders(desk.process(back(echo), at=LEASE + 0.1)) == ["llm.atlas.i1"]
    assert desk.status("t") == "pending"
    assert not desk.books.in_doubt


def test_a_beat_before_the_echo_saves_the_task(desk: Desk, hearing: LivenessProbe) -> None:
    desk.process(at=LEASE)
    echo = hearing.ask(desk.steady())
    hearing.answered(echo.correlation_id, desk.steady())
    desk.process(presence(), back(echo), at=LEASE + 0.1)
    assert desk.status("t") == "in_progress"


def test_an_echo_is_not_refused(desk: Desk) -> None:
    forged = delivery(STATUS, ECHO, b"forged", correlation_id="forged")
    assert desk.process(forged) == []


def test_leases_begin_again_when_rabbitmq_was_away(desk: Desk, hearing: LivenessProbe) -> None:
    desk.process(at=LEASE)
    echo = hearing.ask(desk.steady())
    hearing.answered(echo.correlation_id, seconds(3 * LEASE))
    desk.process(back(echo), at=3 * LEASE)
    assert desk.status("t") == "in_progress"
    assert not desk.books.in_doubt


@pytest.mark.parametrize("by", [HOUR, -HOUR])
def test_a_lease_lasts_as_long_when_the_clock_is_set(desk: Desk, hearing: LivenessProbe, by: float) -> None:
    desk.ahead = by
    desk.process(at=LEASE - 0.1)
    assert not desk.books.in_doubt
    desk.process(at=LEASE)
    assert desk.books.in_doubt


@pytest.mark.parametrize("by", [HOUR, -HOUR])
def test_a_pause_lasts_as_long_when_the_clock_is_set(desk: Desk, by: float) -> None:
    error = {"type": "overloaded", "retryable": True}
    desk.process(status("result", task_id="t", attempt=1, outcome="failed", error=error), at=1)
    desk.ahead = by
    desk.process(presence(), at=1.9)
    assert desk.status("t") == "blocked"
    desk.process(presence(), at=2.1)
    assert desk.status("t") == "assigned"


def test_a_pause_of_a_coordinator_with_a_wrong_clock_is_no_longer_than_others(desk: Desk) -> None:
    error = {"type": "overloaded", "retryable": True}
    desk.ahead = 24 * HOUR
    desk.process(status("result", task_id="t", attempt=1, outcome="failed", error=error), at=1)
    desk.ahead = 0.0
    desk.restart()
    desk.process(presence(), at=70)
    assert desk.status("t") == "assigned"


def test_orders_go_to_the_queue_that_a_beat_has_named_also_after_a_restart(desk: Desk) -> None:
    desk.process(presence("llm.atlas.i1.2"))
    cancel = delivery(TASKS, "cancel", {"id": "t"})
    desk.commit(cancel)
    assert orders(desk.restart()) == ["llm.atlas.i1.2"]
