"""Invalid messages: each is refused and becomes a dead letter, and the rest of the batch is processed."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

from broker.amqp.envelope import Delivery
from broker.protocol.topology import EVENTS, STATUS, TASKS
from coordinator import batch as batch_processor
from coordinator.inbound import decoder as intake
from tests.support.batches import (
    BatchHarness,
    answers,
    assigned,
    delivery,
    events,
    hello,
    rejected,
    result,
    submit,
)

BAD = [
    b"",
    b"\xff\xfe",
    b'{"description": "cut o',
    b"[" * 10_000,
    b'{"description": "x", "inputs": NaN}',
    b'{"description": "x", "inputs": 1e999}',
    b'{"description": 1}',
    b'{"description": "x", "nonsense": 1}',
    b'{"description": ""}',
    b'{"description": "a\\u0000b"}',
    b'{"description": "\\ud800"}',
    b'{"description": "x", "id": "a b"}',
    b'{"description": "x", "priority": 10}',
    b'{"description": "x", "due": "tomorrow"}',
    b'{"description": "x", "due": "0001-01-01T00:00:00+23:59"}',
    b'{"description": "x", "not_before": "9999-12-31T23:59:59-23:59"}',
    b'{"description": "x", "output_schema": {"type": "strnig"}}',
    b'{"id": "a", "description": "x", "depends_on": ["a"]}',
    json.dumps({"description": "x", "skills": [f"{n:x>62}" for n in range(64)]}).encode(),
    b'{"description": "' + b"x" * 1_000_001 + b'"}',
    b"null",
    b"[]",
]


def test_invalid_submissions_become_dead_letters_and_the_others_are_accepted(harness: BatchHarness) -> None:
    bad = [delivery(TASKS, "submit", body, reply_to="ana", message_id=f"bad-{n}") for n, body in enumerate(BAD)]
    messages = harness.process(hello(), submit("before"), *bad, submit("after"))
    assert assigned(messages) == ["before", "after"]
    kept = rejected(messages)
    assert [(message.message_id, message.body) for message in kept] == [(f"bad-{n}", b) for n, b in enumerate(BAD)]
    for message in kept:
        assert message.routing_key == "rejected.fluffle.tasks.submit"
        assert json.loads((message.headers or {})["x-fluffle-errors"])
    assert [kind for kind, _ in answers(messages)].count("task.rejected") == len(BAD)
    assert events(messages).count("task.rejected.none") == len(BAD)


@pytest.mark.parametrize(
    ("message", "path"),
    [
        (delivery(TASKS, "submit", {"description": "x"}, reply_to="a\0b"), "reply_to"),
        (delivery(TASKS, "submit", {"description": "x"}, correlation_id="a\0b"), "correlation_id"),
        (delivery(TASKS, "submit", {"description": "x"}, message_id="a b"), "message_id"),
        (delivery(TASKS, "submit", {"description": "x"}, unreadable=("message_id",)), "message_id"),
        (delivery(TASKS, "submit", {"description": "x"}, content_encoding="gzip"), "content_encoding"),
        (delivery(TASKS, "", {}), ""),
        (delivery(TASKS, "cancel", {"id": ""}), "id"),
        (delivery(TASKS, "update", {"id": "a", "due": "0001-01-01T00:00:00+23:59"}), "due"),
        (delivery(TASKS, "retry", {"id": "a", "changes": {"due": "9999-12-31T23:59:59-23:59"}}), "changes.due"),
        (delivery(STATUS, "atlas.hello", {"name": "boreas", "instance": "i1"}), "name"),
        (
            delivery(STATUS, "atlas.result", {"task_id": "a", "attempt": 1, "instance": "i1", "outcome": "done"}),
            "outcome",
        ),
        (delivery(STATUS, "atlas.nonsense", {}), ""),
        (delivery(STATUS, "x" * 250 + ".claim", {"task_id": "a", "attempt": 1, "instance": "i1"}), ""),
        (delivery(STATUS, "é" * 120 + ".nonsense", {}), ""),
        (delivery(STATUS, "claim", {}), ""),
        (delivery(EVENTS, "odd", {}), ""),
    ],
)
def test_other_invalid_messages_become_dead_letters(harness: BatchHarness, message: Delivery, path: str) -> None:
    messages = harness.process(message, submit("good"))
    [kept] = rejected(messages)
    assert path in [wrong["path"] for wrong in json.loads((kept.headers or {})["x-fluffle-errors"])]
    assert set(harness.views()) == {"good"}


def test_the_headers_of_a_dead_letter_with_many_problems_fit_into_a_frame(harness: BatchHarness) -> None:
    skills = {f"{n} \u0001é" + "x" * 300: n for n in range(2000)}
    messages = harness.process(
        delivery(STATUS, "é" * 100 + ".hello", {"name": "atlas", "instance": "i1", "skills": skills}),
        delivery(STATUS, "atlas.hello", {"name": "atlas", "instance": "i1", "skills": skills}),
    )
    for kept in rejected(messages):
        headers = {**(kept.headers or {}), "key": kept.routing_key}
        assert sum(len(str(value).encode()) for value in headers.values()) < 100_000
        assert len(kept.routing_key.encode()) <= 255


def test_a_refused_request_is_answered_and_does_not_change_its_task(harness: BatchHarness) -> None:
    retry = delivery(TASKS, "retry", {"id": "a"}, reply_to="ana", correlation_id="too early")
    messages = harness.process(submit("a"), retry)
    assert answers(messages) == [("task.accepted", "about a"), ("task.rejected", "too early")]
    assert rejected(messages) == []


def test_each_refused_submission_becomes_a_dead_letter_with_its_own_body(harness: BatchHarness) -> None:
    harness.process(submit("x", depends_on=["t"]))
    twice = [submit("t", depends_on=["x"], labels=[label]) for label in ("first", "second")]
    assert [kept.body for kept in rejected(harness.process(*twice, submit("t")))] == [d.body for d in twice]
    assert harness.status("t") == "pending"


@pytest.fixture
def log() -> Iterator[list[Any]]:
    """The log entries."""
    with capture_logs() as entries:
        yield entries


def test_a_message_that_the_database_refuses_is_rejected_and_the_rest_is_processed(
    harness: BatchHarness, engine: Engine, log: list[Any]
) -> None:
    with engine.begin() as connection:
        connection.execute(text("create unique index only_one on tasks (description)"))
    try:
        batch = [hello(), submit("a"), submit("b", description="do a"), submit("c", depends_on=["a"]), submit("d")]
        messages = harness.process(*batch)
    finally:
        with engine.begin() as connection:
            connection.execute(text("drop index only_one"))
    assert assigned(messages) == ["a", "d"]
    assert ("task.rejected", "about b") in answers(messages)
    [kept] = rejected(messages)
    assert kept.body == batch[2].body
    assert set(harness.views()) == {"a", "c", "d"}
    assert assigned(harness.process(result("a"))) == ["c"]
    assert [(entry["log_level"], entry["event"]) for entry in log][1:] == [("warning", "refused a message")]
    assert log[0]["log_level"] == "error"


def test_a_message_that_raises_an_error_is_rejected_and_the_rest_is_processed(
    harness: BatchHarness, monkeypatch: pytest.MonkeyPatch, log: list[Any]
) -> None:
    def read(message: Delivery, **given: Any) -> Any:
        if b"trip" in message.body:
            raise ZeroDivisionError
        return intake.read(message, **given)

    monkeypatch.setattr(batch_processor, "read", read)
    messages = harness.process(submit("a"), submit("trip"), hello(), submit("b"))
    assert assigned(messages) == ["a", "b"]
    assert ("task.rejected", "about trip") in answers(messages)
    assert len(rejected(messages)) == 1
    assert assigned(harness.restart()) == ["a", "b"]
    assert [entry["log_level"] for entry in log] == ["error", "warning"]


@pytest.mark.usefixtures("log")
def test_an_error_that_no_single_message_causes_is_raised(
    harness: BatchHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(harness.store, "commit", away)
    with pytest.raises(ZeroDivisionError):
        harness.process(submit("a"))
