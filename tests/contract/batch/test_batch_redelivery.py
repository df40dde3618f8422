"""Repeated and lost batches: nothing is lost, nothing is done twice."""

import json
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, text

from broker.amqp.envelope import Delivery, Outgoing
from broker.errors import NotTheLeader, StoreUnavailable
from broker.protocol.topology import EVENTS, MESSAGES, REJECTED, TASKS, WORK
from broker.timestamps import Instant
from coordinator.storage.store import Store
from tests.support.batches import (
    LEASE,
    BatchHarness,
    answers,
    assigned,
    claim,
    delivery,
    failure,
    hello,
    result,
    submit,
)
from tests.support.core_driver import T0
from tests.support.stored_tasks import LEAD


def a_busy_batch() -> list[list[Delivery]]:
    """Batches with a bit of everything, each to be delivered twice."""
    return [
        [hello(), submit("a"), submit("b", depends_on=["a"]), submit("c", depends_on=["b"]), submit("d")],
        [claim("a"), claim("d"), result("a"), submit("e", labels=["red"])],
        [claim("b"), failure("b"), claim("e"), result("d"), delivery(TASKS, "cancel", {"id": "e"})],
        [result("e"), delivery(TASKS, "cancel", {"id": "never"}), submit("f", depends_on=["f"])],
    ]


def test_a_redelivered_batch_changes_nothing(harness: BatchHarness) -> None:
    for batch in a_busy_batch():
        harness.commit(*batch)
        before = harness.views()
        harness.restart()
        messages = harness.process(*batch)
        assert harness.views() == before
        assert assigned(messages) == []


def test_committed_messages_that_were_not_published_are_published_after_a_restart(harness: BatchHarness) -> None:
    for batch in a_busy_batch():
        post = harness.commit(*batch)
        again = harness.restart()
        assert [(m.exchange, m.routing_key, m.type) for m in again] == [
            (m.exchange, m.routing_key, m.type) for m in post.messages
        ]
        assert harness.unsent.rows == post.rows
        harness.processor.confirmed(harness.unsent.rows)
        harness.process()
    assert harness.restart() == []


def test_an_assignment_is_published_again_until_it_is_claimed(harness: BatchHarness) -> None:
    harness.commit(hello(), submit("a"))
    assert assigned(harness.restart()) == ["a"]
    harness.process(claim("a"))
    assert assigned(harness.restart()) == []


def test_an_answer_that_is_published_again_shows_the_present_state(harness: BatchHarness) -> None:
    harness.commit(hello(), submit("a"))
    harness.commit(result("a"))
    messages = harness.restart()
    assert answers(messages) == [("task.accepted", "about a"), ("task.completed", "about a")]
    assert {json.loads(message.body)["status"] for message in messages if message.routing_key == "ana"} == {"completed"}


def test_the_outbox_is_empty_once_everything_is_confirmed(harness: BatchHarness) -> None:
    harness.process(hello(), submit("a"))
    post = harness.commit(result("a"))
    assert [row for row, _ in harness.store.unsent()] == list(post.rows)
    harness.processor.confirmed(post.rows)
    harness.processor.settle()
    assert harness.store.unsent() == []


def test_a_returned_assignment_waits_for_the_end_of_its_lease(harness: BatchHarness) -> None:
    [assignment] = [it for it in harness.process(hello(), submit("a")) if it.exchange == WORK]

    def comes_back(message_id: str | None) -> list[Outgoing]:
        returned = delivery(WORK, assignment.routing_key, assignment.body, message_id=message_id)
        return harness.process(returned)

    assert comes_back(assignment.message_id) == []
    assert harness.status("a") == "assigned"
    for foreign in ("a/2", "b/1", "a", None):
        assert {it.exchange for it in comes_back(foreign)} == {REJECTED, EVENTS}
    harness.process(hello(), at=LEASE + 1)
    assert harness.views()["a"]["attempts"][0]["outcome"] == "unclaimed"


def test_a_returned_assignment_is_ignored_when_its_task_is_reassigned_or_final(
    harness: BatchHarness,
) -> None:
    [assignment] = [it for it in harness.process(hello(), submit("a")) if it.exchange == WORK]
    returned = delivery(WORK, assignment.routing_key, assignment.body, message_id=assignment.message_id)
    harness.process(hello(), at=LEASE + 1)
    assert harness.status("a") == "assigned"
    assert harness.process(returned) == []
    harness.process(claim("a", 2), result("a", 2))
    assert harness.status("a") == "completed"
    assert harness.process(returned) == []
    harness.restart()
    assert harness.process(returned) == []


def test_a_former_leader_cannot_store_a_batch(harness: BatchHarness, engine: Engine) -> None:
    harness.process(hello(), submit("a"))
    other = Store(engine)
    assert other.take_lead("other", Instant(T0 + 2 * LEAD), LEAD, over=other.leader())
    with pytest.raises(NotTheLeader):
        harness.process(submit("b"), result("a"))
    assert {task_id: shown["status"] for task_id, shown in harness.views().items()} == {"a": "assigned"}


def test_a_batch_that_could_not_be_stored_can_be_processed_again(
    harness: BatchHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.process(hello(), submit("a"))
    batch = [claim("a"), result("a"), submit("b")]

    def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(harness.store, "commit", away)
        with pytest.raises(StoreUnavailable):
            harness.process(*batch)
    assert harness.status("a") == "assigned"
    harness.processor.rebuild()
    assert assigned(harness.process(*batch)) == ["b"]
    assert harness.status("a") == "completed"


@pytest.mark.parametrize(
    "batches",
    [
        [["coordinator"], ["undelivered"]],
        [["undelivered"], ["coordinator"]],
        [["coordinator", "undelivered"]],
        [["undelivered", "coordinator"]],
    ],
    ids=str,
)
def test_a_chat_message_without_id_or_mailbox_is_stored_once(
    engine: Engine, harness: BatchHarness, batches: list[list[str]]
) -> None:
    def came_by(queue: str) -> Delivery:
        body = {"sender": "user.ana", "content": "hop"}
        return replace(delivery(MESSAGES, "llm.nobody", body, reply_to="answers"), queue=f"fluffle.{queue}")

    sent = [message for batch in batches for message in harness.process(*map(came_by, batch))]
    [refusal] = [message for message in sent if message.type == "message.rejected"]
    assert json.loads(refusal.body)["errors"][0]["path"] == "receiver"
    with engine.connect() as connection:
        assert connection.execute(text("select delivered from messages")).scalars().all() == [False]
