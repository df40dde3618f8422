"""Which deliveries make the coordinator's next batch."""

from collections.abc import Iterable

import pytest

from broker.amqp.ack_batcher import AckBatcher
from broker.amqp.envelope import Delivery, Properties
from broker.protocol.topology import ECHO, STATUS, TASKS
from coordinator.inbound.buffer import InboxBuffer


class Channel(AckBatcher):
    """Where deliveries come from."""

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


def told(key: str, attempt: str | None = None, *, by: AckBatcher = HERE, tag: int = 0) -> Delivery:
    """A message with that routing key, about that attempt."""
    exchange = STATUS if "." in key else TASKS
    return Delivery(exchange, key, b"", False, Properties(correlation_id=attempt), tag, by)


def claim_and(*others: Delivery) -> list[str]:
    """The batch when these come after a claim of atlas for the first attempt of a."""
    return keys(inbox(told("atlas.claim", "a/1"), *others).batch())


def inbox(*deliveries: Delivery, limit: int = 100) -> InboxBuffer:
    made = InboxBuffer(limit)
    for delivery in deliveries:
        made.add(delivery)
    return made


def keys(deliveries: Iterable[Delivery]) -> list[str]:
    return [f"{it.routing_key} {it.properties.correlation_id or ''}".strip() for it in deliveries]


def test_a_claim_does_not_wait_past_an_echo_that_came_after_it() -> None:
    assert claim_and(told(ECHO)) == ["atlas.claim a/1", ECHO]


def test_nothing_makes_no_batch() -> None:
    assert inbox().batch() == []


def test_a_batch_is_what_has_come_up_to_the_bound() -> None:
    made = inbox(*(told("submit") for _ in range(5)), limit=3)
    batch = made.batch()
    assert len(batch) == 3
    made.done(batch)
    assert len(made) == len(made.batch()) == 2


def test_what_is_not_done_is_chosen_again() -> None:
    made = inbox(told("atlas.claim", "a/1"), told("submit", "1"))
    assert keys(made.batch()) == ["submit 1"]
    made.add(told("submit", "2"))
    assert keys(made.batch()) == ["submit 1", "submit 2"]


def test_a_claim_goes_with_its_result() -> None:
    made = inbox(told("atlas.claim", "a/1"), told("atlas.claim", "b/1"), told("atlas.result", "a/1"))
    assert keys(made.batch()) == ["atlas.claim a/1", "atlas.result a/1"]


def test_a_claim_waits_for_its_result_until_the_next_batch() -> None:
    made = inbox(told("atlas.claim", "a/1"), told("submit"))
    made.done(made.batch())
    made.add(told("atlas.claim", "b/1"))
    made.add(told("atlas.result", "a/1"))
    batch = made.batch()
    assert keys(batch) == ["atlas.claim a/1", "atlas.result a/1"]
    made.done(batch)
    made.add(told("submit"))
    assert keys(made.batch()) == ["atlas.claim b/1", "submit"]  # the result of b has not come


def test_what_came_after_a_claim_that_waits_is_acknowledged_after_it() -> None:
    made = inbox(told("submit", "1"), told("atlas.claim", "a/1"), told("submit", "2"))
    assert keys(made.done(made.batch())) == ["submit 1"]
    made.add(told("bolt.claim", "b/1"))
    made.add(told("submit", "3"))
    assert keys(made.done(made.batch())) == ["submit 2", "atlas.claim a/1"]
    assert keys(made.done(made.batch())) == ["submit 3", "bolt.claim b/1"]


def test_who_leaves_acknowledges_what_is_done_and_gives_the_rest_back() -> None:
    channel = Channel()
    keys_ = ("submit", "atlas.claim", "submit")
    made = inbox(*(told(key, "a/1", by=channel, tag=tag) for tag, key in enumerate(keys_, 1)))
    made.done(made.batch())
    made.add(told("update", by=channel, tag=4))
    made.leave()
    assert channel.settled == [("ack", 3), ("requeue", 2), ("requeue", 4)]
    assert len(made) == 0
    assert made.batch() == []


def test_a_moment_in_which_nothing_comes_changes_nothing() -> None:
    made = inbox(told("submit"), told("atlas.claim", "a/1"))
    made.done(made.batch())
    assert made.done([]) == []
    made.add(told("submit"))
    assert keys(made.batch()) == ["atlas.claim a/1", "submit"]


def test_claims_make_a_batch_when_nothing_else_is_there() -> None:
    made = inbox(told("atlas.claim", "a/1"), told("bolt.claim", "b/1"))
    assert made.only_claims
    batch = made.batch()
    assert keys(batch) == ["atlas.claim a/1", "bolt.claim b/1"]
    made.done(batch)
    assert len(made) == 0


def test_a_claim_does_not_wait_where_its_llm_has_something_to_say_that_may_be_about_the_attempt() -> None:
    made = inbox(
        *(told("atlas.claim", "a/1"), told("bolt.claim", "b/1"), told("atlas.wait", "a/1"), told("atlas.claim", "c/1"))
    )
    assert keys(made.batch()) == ["atlas.claim a/1", "atlas.wait a/1"]


def test_a_claim_does_not_wait_behind_another_result_of_its_task() -> None:
    assert claim_and(told("atlas.result", "a/2")) == ["atlas.claim a/1", "atlas.result a/2"]


def test_a_claim_does_not_wait_behind_a_result_that_does_not_tell_its_attempt() -> None:
    assert claim_and(told("atlas.result"), told("bolt.claim", "b/1")) == ["atlas.claim a/1", "atlas.result"]


@pytest.mark.parametrize("wish", ["assign", "cancel", "update", "answer", "retry"])
def test_a_claim_does_not_wait_behind_what_somebody_wants_of_a_task(wish: str) -> None:
    assert claim_and(told(wish), told("submit")) == ["atlas.claim a/1", wish, "submit"]


def test_a_claim_waits_behind_what_others_say() -> None:
    assert claim_and(told("bolt.beat"), told("bolt.result", "c/1")) == ["bolt.beat", "bolt.result c/1"]


def test_what_would_be_acknowledged_later_can_be_taken_at_once() -> None:
    made = inbox(told("submit", "1"), told("atlas.claim", "a/1"), told("submit", "2"))
    made.done(made.batch())
    assert keys(made.late()) == ["submit 2"]
    assert made.late() == []
    assert keys(made.done(made.batch())) == ["atlas.claim a/1"]


def test_a_claim_that_does_not_tell_its_attempt_does_not_wait() -> None:
    assert keys(inbox(told("atlas.claim"), told("submit")).batch()) == ["atlas.claim", "submit"]


def test_the_bound_counts_what_waits_too() -> None:
    made = inbox(*(told("atlas.claim", f"{n}/1") for n in range(3)), *(told("submit") for _ in range(3)), limit=3)
    first = made.batch()
    assert keys(first) == ["atlas.claim 0/1", "atlas.claim 1/1", "atlas.claim 2/1"]
    made.done(first)
    assert keys(made.batch()) == ["submit"] * 3


def test_what_came_by_a_channel_that_has_gone_comes_again_by_another() -> None:
    gone = Channel()
    made = inbox(told("atlas.claim", "a/1", by=gone), told("submit", by=gone))
    made.done(made.batch())
    gone.is_there = False
    made.add(told("atlas.claim", "a/1"))
    made.add(told("submit"))
    assert keys(made.batch()) == ["submit"]
    made.done(made.batch())
    assert keys(made.batch()) == ["atlas.claim a/1"]


def test_what_is_set_aside_is_not_acknowledged_before_it_has_come_again_and_is_done() -> None:
    made = inbox(told("submit", "1"), told("atlas.result", "a/1"), told("submit", "2"))
    batch = made.batch()
    aside = batch[1]
    assert keys(made.done(batch, {aside})) == ["submit 1", "submit 2"]
    assert len(made) == 0
    made.add(aside)
    assert keys(made.done(made.batch())) == ["atlas.result a/1"]


def test_what_is_set_aside_behind_a_claim_that_waits_is_not_acknowledged_with_it() -> None:
    made = inbox(told("atlas.claim", "a/1"), told("bolt.result", "b/1"), told("submit"))
    batch = made.batch()
    assert keys(batch) == ["bolt.result b/1", "submit"]
    assert made.done(batch, {batch[0]}) == []
    assert keys(made.done(made.batch())) == ["submit", "atlas.claim a/1"]
