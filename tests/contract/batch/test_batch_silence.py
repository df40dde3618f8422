"""Echoes, outages and clocks that are set, as the batch loop sees them."""

from typing import Any

import pytest

from broker.amqp.envelope import Delivery, Outgoing
from broker.protocol.topology import ECHO, STATUS, TASKS
from broker.timestamps import seconds
from coordinator.inbound.liveness import LivenessProbe
from coordinator.storage.store import Store
from tests.support.batches import LEASE, BatchHarness, delivery

HOUR = 3600.0


@pytest.fixture
def hearing() -> LivenessProbe:
    return LivenessProbe(seconds(LEASE))


@pytest.fixture
def harness(store: Store, hearing: LivenessProbe) -> BatchHarness:
    """The LLM atlas runs the task t since the start."""
    harness = BatchHarness(store)
    harness.listen(hearing)
    harness.process(presence(), delivery(TASKS, "submit", {"description": "-", "id": "t"}), at=0)
    harness.process(status("claim", task_id="t", attempt=1))
    return harness


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


def test_no_task_is_taken_from_an_llm_before_an_echo_arrives(harness: BatchHarness, hearing: LivenessProbe) -> None:
    harness.process(at=LEASE)
    assert harness.status("t") == "in_progress"
    assert harness.processor.in_doubt
    echo = hearing.ask(harness.steady())
    hearing.answered(echo.correlation_id, harness.steady())
    assert orders(harness.process(back(echo), at=LEASE + 0.1)) == ["llm.atlas.i1"]
    assert harness.status("t") == "pending"
    assert not harness.processor.in_doubt


def test_a_heartbeat_before_the_echo_keeps_the_task(harness: BatchHarness, hearing: LivenessProbe) -> None:
    harness.process(at=LEASE)
    echo = hearing.ask(harness.steady())
    hearing.answered(echo.correlation_id, harness.steady())
    harness.process(presence(), back(echo), at=LEASE + 0.1)
    assert harness.status("t") == "in_progress"


def test_an_echo_is_not_refused(harness: BatchHarness) -> None:
    forged = delivery(STATUS, ECHO, b"forged", correlation_id="forged")
    assert harness.process(forged) == []


def test_leases_begin_again_when_rabbitmq_was_away(harness: BatchHarness, hearing: LivenessProbe) -> None:
    harness.process(at=LEASE)
    echo = hearing.ask(harness.steady())
    hearing.answered(echo.correlation_id, seconds(3 * LEASE))
    harness.process(back(echo), at=3 * LEASE)
    assert harness.status("t") == "in_progress"
    assert not harness.processor.in_doubt


@pytest.mark.parametrize("by", [HOUR, -HOUR])
def test_setting_the_clock_does_not_change_the_length_of_a_lease(
    harness: BatchHarness, hearing: LivenessProbe, by: float
) -> None:
    harness.ahead = by
    harness.process(at=LEASE - 0.1)
    assert not harness.processor.in_doubt
    harness.process(at=LEASE)
    assert harness.processor.in_doubt


@pytest.mark.parametrize("by", [HOUR, -HOUR])
def test_setting_the_clock_does_not_change_the_length_of_a_pause(harness: BatchHarness, by: float) -> None:
    error = {"type": "timeout", "retryable": True}
    harness.process(status("result", task_id="t", attempt=1, outcome="failed", error=error), at=1)
    harness.ahead = by
    harness.process(presence(), at=1.9)
    assert harness.status("t") == "blocked"
    harness.process(presence(), at=2.1)
    assert harness.status("t") == "assigned"


def test_a_pause_from_a_coordinator_with_a_wrong_clock_is_shortened(harness: BatchHarness) -> None:
    error = {"type": "timeout", "retryable": True}
    harness.ahead = 24 * HOUR
    harness.process(status("result", task_id="t", attempt=1, outcome="failed", error=error), at=1)
    harness.ahead = 0.0
    harness.restart()
    harness.process(presence(), at=70)
    assert harness.status("t") == "assigned"


def test_orders_go_to_the_queue_named_in_a_heartbeat_even_after_a_restart(harness: BatchHarness) -> None:
    harness.process(presence("llm.atlas.i1.2"))
    cancel = delivery(TASKS, "cancel", {"id": "t"})
    harness.commit(cancel)
    assert orders(harness.restart()) == ["llm.atlas.i1.2"]
