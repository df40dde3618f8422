"""The choice of the deliveries for the next batch."""

from collections.abc import Iterable

import pytest

from broker.amqp.ack_batcher import AckBatcher
from broker.amqp.envelope import Delivery, Properties
from broker.protocol.topology import ECHO, STATUS, TASKS
from coordinator.inbound.buffer import InboxBuffer


class Channel(AckBatcher):
    """The channel of the deliveries."""

    def __init__(self) -> None:
        self.is_there = True
        self.settled: list[tuple[str, int]] = []

    @property
    def is_open(self) -> bool:
        return self.is_there

    def ack(self, tag: int) -> None:
        self.settled.append(("ack", tag))

    def reject(self, tag: int, *, requeue: bool) -> None:
        self.settled.append(("requeue" if requeue else "reject", tag))


HERE = Channel()


def message(key: str, attempt: str | None = None, *, by: AckBatcher = HERE, tag: int = 0) -> Delivery:
    """Return a delivery with that routing key and correlation id."""
    exchange = STATUS if "." in key else TASKS
    return Delivery(exchange, key, b"", False, Properties(correlation_id=attempt), tag, by)


def claim_and(*others: Delivery) -> list[str]:
    """Return the batch when these follow a claim by atlas for the first attempt at task a."""
    return keys(inbox(message("atlas.claim", "a/1"), *others).batch())


def inbox(*deliveries: Delivery, limit: int = 100) -> InboxBuffer:
    made = InboxBuffer(limit)
    for delivery in deliveries:
        made.add(delivery)
    return made


def keys(deliveries: Iterable[Delivery]) -> list[str]:
    return [f"{it.routing_key} {it.properties.correlation_id or ''}".strip() for it in deliveries]


def test_a_claim_does_not_wait_past_a_later_echo() -> None:
    assert claim_and(message(ECHO)) == ["atlas.claim a/1", ECHO]


def test_an_empty_buffer_has_an_empty_batch() -> None:
    assert inbox().batch() == []


def test_a_batch_has_at_most_the_limit_of_deliveries() -> None:
    made = inbox(*(message("submit") for _ in range(5)), limit=3)
    batch = made.batch()
    assert len(batch) == 3
    made.done(batch)
    assert len(made) == len(made.batch()) == 2


def test_a_batch_that_is_not_done_is_chosen_again() -> None:
    made = inbox(message("atlas.claim", "a/1"), message("submit", "1"))
    assert keys(made.batch()) == ["submit 1"]
    made.add(message("submit", "2"))
    assert keys(made.batch()) == ["submit 1", "submit 2"]


def test_a_claim_and_its_result_are_in_one_batch() -> None:
    made = inbox(message("atlas.claim", "a/1"), message("atlas.claim", "b/1"), message("atlas.result", "a/1"))
    assert keys(made.batch()) == ["atlas.claim a/1", "atlas.result a/1"]


def test_a_claim_waits_for_its_result_until_the_next_batch() -> None:
    made = inbox(message("atlas.claim", "a/1"), message("submit"))
    made.done(made.batch())
    made.add(message("atlas.claim", "b/1"))
    made.add(message("atlas.result", "a/1"))
    batch = made.batch()
    assert keys(batch) == ["atlas.claim a/1", "atlas.result a/1"]
    made.done(batch)
    made.add(message("submit"))
    assert keys(made.batch()) == ["atlas.claim b/1", "submit"]  # the result of b has not come


def test_deliveries_behind_a_waiting_claim_are_acknowledged_after_it() -> None:
    made = inbox(message("submit", "1"), message("atlas.claim", "a/1"), message("submit", "2"))
    assert keys(made.done(made.batch())) == ["submit 1"]
    made.add(message("bolt.claim", "b/1"))
    made.add(message("submit", "3"))
    assert keys(made.done(made.batch())) == ["submit 2", "atlas.claim a/1"]
    assert keys(made.done(made.batch())) == ["submit 3", "bolt.claim b/1"]


def test_leaving_acknowledges_what_is_done_and_requeues_the_rest() -> None:
    channel = Channel()
    keys_ = ("submit", "atlas.claim", "submit")
    made = inbox(*(message(key, "a/1", by=channel, tag=tag) for tag, key in enumerate(keys_, 1)))
    made.done(made.batch())
    made.add(message("update", by=channel, tag=4))
    made.leave()
    assert channel.settled == [("ack", 3), ("requeue", 2), ("requeue", 4)]
    assert len(made) == 0
    assert made.batch() == []


def test_an_empty_batch_changes_nothing() -> None:
    made = inbox(message("submit"), message("atlas.claim", "a/1"))
    made.done(made.batch())
    assert made.done([]) == []
    made.add(message("submit"))
    assert keys(made.batch()) == ["atlas.claim a/1", "submit"]


def test_claims_alone_make_a_batch() -> None:
    made = inbox(message("atlas.claim", "a/1"), message("bolt.claim", "b/1"))
    assert made.only_claims
    batch = made.batch()
    assert keys(batch) == ["atlas.claim a/1", "bolt.claim b/1"]
    made.done(batch)
    assert len(made) == 0


def test_a_claim_does_not_wait_before_another_report_of_its_llm() -> None:
    made = inbox(
        *(
            message("atlas.claim", "a/1"),
            message("bolt.claim", "b/1"),
            message("atlas.wait", "a/1"),
            message("atlas.claim", "c/1"),
        )
    )
    assert keys(made.batch()) == ["atlas.claim a/1", "atlas.wait a/1"]


def test_a_claim_does_not_wait_before_another_result_of_its_task() -> None:
    assert claim_and(message("atlas.result", "a/2")) == ["atlas.claim a/1", "atlas.result a/2"]


def test_a_claim_does_not_wait_before_a_result_without_a_correlation_id() -> None:
    assert claim_and(message("atlas.result"), message("bolt.claim", "b/1")) == ["atlas.claim a/1", "atlas.result"]


@pytest.mark.parametrize("wish", ["assign", "cancel", "update", "answer", "retry"])
def test_a_claim_does_not_wait_before_a_request_about_a_task(wish: str) -> None:
    assert claim_and(message(wish), message("submit")) == ["atlas.claim a/1", wish, "submit"]


def test_a_claim_waits_before_messages_of_others() -> None:
    assert claim_and(message("bolt.beat"), message("bolt.result", "c/1")) == ["bolt.beat", "bolt.result c/1"]


def test_late_acknowledgements_can_be_taken_at_once() -> None:
    made = inbox(message("submit", "1"), message("atlas.claim", "a/1"), message("submit", "2"))
    made.done(made.batch())
    assert keys(made.late()) == ["submit 2"]
    assert made.late() == []
    assert keys(made.done(made.batch())) == ["atlas.claim a/1"]


def test_a_claim_without_a_correlation_id_does_not_wait() -> None:
    assert keys(inbox(message("atlas.claim"), message("submit")).batch()) == ["atlas.claim", "submit"]


def test_waiting_claims_count_towards_the_limit() -> None:
    made = inbox(*(message("atlas.claim", f"{n}/1") for n in range(3)), *(message("submit") for _ in range(3)), limit=3)
    first = made.batch()
    assert keys(first) == ["atlas.claim 0/1", "atlas.claim 1/1", "atlas.claim 2/1"]
    made.done(first)
    assert keys(made.batch()) == ["submit"] * 3


def test_deliveries_of_a_closed_channel_are_dropped() -> None:
    gone = Channel()
    made = inbox(message("atlas.claim", "a/1", by=gone), message("submit", by=gone))
    made.done(made.batch())
    gone.is_there = False
    made.add(message("atlas.claim", "a/1"))
    made.add(message("submit"))
    assert keys(made.batch()) == ["submit"]
    made.done(made.batch())
    assert keys(made.batch()) == ["atlas.claim a/1"]


def test_a_delivery_set_aside_is_acknowledged_only_after_its_second_batch() -> None:
    made = inbox(message("submit", "1"), message("atlas.result", "a/1"), message("submit", "2"))
    batch = made.batch()
    aside = batch[1]
    assert keys(made.done(batch, {aside})) == ["submit 1", "submit 2"]
    assert len(made) == 0
    made.add(aside)
    assert keys(made.done(made.batch())) == ["atlas.result a/1"]


def test_a_delivery_set_aside_behind_a_waiting_claim_is_not_acknowledged_with_it() -> None:
    made = inbox(message("atlas.claim", "a/1"), message("bolt.result", "b/1"), message("submit"))
    batch = made.batch()
    assert keys(batch) == ["bolt.result b/1", "submit"]
    assert made.done(batch, {batch[0]}) == []
    assert keys(made.done(made.batch())) == ["submit", "atlas.claim a/1"]
