"""Deliveries in, one transaction, messages out: the batch loop on a real database, without a broker."""

import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

from broker.amqp.envelope import Delivery, Outgoing
from broker.errors import NotTheLeader, StoreUnavailable
from broker.protocol.primitives import MAX_BODY_BYTES
from broker.protocol.status import Status
from broker.protocol.topology import EVENTS, MESSAGES, REJECTED, STATUS, TASKS, WORK
from broker.timestamps import Instant, seconds
from coordinator import batch as batch_processor
from coordinator.batch import BatchProcessor, OutgoingBatch
from coordinator.inbound import decoder as intake
from coordinator.inbound.output_validation import UncheckedAnswer
from coordinator.storage.leader_lease import Watch
from coordinator.storage.store import Store
from coordinator.telemetry.counters import Counters
from tests.support.batches import LEASE, BatchHarness, delivery
from tests.support.core_driver import T0
from tests.support.stored_tasks import LEAD, a_task, stored


@pytest.fixture
def harness(store: Store) -> BatchHarness:
    """Nothing has happened yet."""
    return BatchHarness(store)


def submit(task_id: str | None, **fields: Any) -> Delivery:
    """A submission by ana, who waits for answers."""
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
    """The bodies of the assignments."""
    return [json.loads(message.body) for message in messages if message.exchange == WORK]


def assigned(messages: list[Outgoing]) -> list[str]:
    """Which tasks are assigned, in order."""
    return [body["task_id"] for body in assignments(messages)]


def answers(messages: list[Outgoing]) -> list[tuple[str | None, str | None]]:
    """The answers to ana: type, and what it is about."""
    return [(message.type, message.correlation_id) for message in messages if message.routing_key == "ana"]


def events(messages: list[Outgoing]) -> list[str]:
    """The routing keys of the events."""
    return [message.routing_key for message in messages if message.exchange == EVENTS]


def rejected(messages: list[Outgoing]) -> list[Outgoing]:
    """What is put among the rejected."""
    return [message for message in messages if message.exchange == REJECTED]


# -- the way of a task -----------------------------------------------------------------------------------------------


def test_a_task_goes_its_way(harness: BatchHarness) -> None:
    messages = harness.process(hello(), submit("a", inputs={"n": 1}))
    assert assignments(messages) == [{"task_id": "a", "attempt": 1, "description": "do a", "inputs": {"n": 1}}]
    assert answers(messages) == [("task.accepted", "about a")]
    assert events(harness.process(claim("a"))) == ["task.in_progress.atlas"]
    messages = harness.process(result("a"))
    assert answers(messages) == [("task.completed", "about a")]
    assert events(messages) == ["task.completed.atlas"]
    [answer] = [message for message in messages if message.routing_key == "ana"]
    assert json.loads(answer.body)["result"] == "A"
    [task] = harness.store.load(["a"])
    assert (task.status, task.result, task.duration) == (Status.COMPLETED, "A", 1_500_000)
    assert [attempt.outcome for attempt in task.attempts] == ["completed"]


def test_the_id_may_come_from_the_message_or_is_made(harness: BatchHarness) -> None:
    named = delivery(TASKS, "submit", {"description": "x"}, message_id="m-1")
    harness.process(named, submit(None))
    first, second = harness.views()
    assert first == "m-1"
    assert len(second) == 36


def test_the_priority_may_come_from_the_message(harness: BatchHarness) -> None:
    body = {"description": "x"}
    harness.process(
        delivery(TASKS, "submit", body, priority=7),
        delivery(TASKS, "submit", body, priority=200),
        delivery(TASKS, "submit", {**body, "priority": 2}, priority=7),
        delivery(TASKS, "submit", body),
    )
    assert [shown["priority"] for shown in harness.views().values()] == [7, 9, 2, 4]


def test_dependent_tasks_go_their_way_in_one_batch(harness: BatchHarness) -> None:
    harness.process(hello(), submit("a"))
    messages = harness.process(
        submit("c", depends_on=["b", "a"]), submit("b", depends_on=["a"]), claim("a"), result("a"), claim("a")
    )
    [assignment] = assignments(messages)
    assert assignment["task_id"] == "b"
    assert assignment["context"] == [{"id": "a", "description": "do a", "status": "completed", "result": "A"}]
    [assignment] = assignments(harness.process(claim("b"), result("b")))
    assert [dependency["id"] for dependency in assignment["context"]] == ["b", "a"]
    harness.process(result("c"))
    assert {shown["status"] for shown in harness.views().values()} == {"completed"}


@pytest.mark.parametrize("order", ["dependent first", "dependency first"])
def test_a_dependency_may_end_in_the_batch_in_which_its_dependent_comes(harness: BatchHarness, order: str) -> None:
    harness.process(hello(), submit("a"))
    batch = [submit("b", depends_on=["a"]), result("a")]
    messages = harness.process(*(batch if order == "dependent first" else reversed(batch)))
    assert assigned(messages) == ["b"]
    assert harness.store.waiting_for(["a"]) == {}
    harness.restart()
    assert assigned(harness.process(claim("b"), result("a"), result("b"))) == []
    assert harness.status("b") == "completed"


@pytest.mark.parametrize("order", ["dependent first", "dependency first"])
def test_dependent_and_dependency_may_come_in_one_batch(harness: BatchHarness, order: str) -> None:
    batch = [hello(), submit("b", depends_on=["a"]), submit("a")]
    assert assigned(harness.process(*(batch if order == "dependent first" else reversed(batch)))) == ["a"]
    assert assigned(harness.process(result("a"))) == ["b"]


@pytest.mark.parametrize("batches", ["one", "two", "with a restart"])
def test_a_failure_goes_down_the_whole_tree(harness: BatchHarness, batches: str) -> None:
    tree = [submit(f"t{n}", depends_on=[f"t{(n - 1) // 2}"] if n else []) for n in range(63)]
    others = [submit("stays", depends_on=["t0"], on_dependency_failure="run"), submit("alone")]
    harness.process(hello(), *tree[:1])
    if batches == "one":
        messages = harness.process(*tree[1:], *others, failure("t0"))
    else:
        harness.process(*tree[1:], *others)
        if batches == "with a restart":
            harness.restart()
        messages = harness.process(failure("t0"))
    statuses = {task_id: shown["status"] for task_id, shown in harness.views().items()}
    assert {task_id: status for task_id, status in statuses.items() if status != "failed"} == {
        "stays": "assigned",
        "alone": "assigned",
    }
    assert [kind for kind, _ in answers(messages)].count("task.failed") == 63
    assert harness.store.waiting_for(list(statuses)) == {}


def test_no_standby_takes_over_while_a_long_row_of_tasks_fails(harness: BatchHarness, engine: Engine) -> None:
    standby, watch = Store(engine), Watch(LEAD)

    def now() -> Instant:
        """Time goes by with every look at the clock, and a standby looks at the lease each time."""
        harness.at += 0.1
        lease = standby.leader()
        assert lease
        assert not watch.has_run_out(lease, seconds(harness.at))
        return Instant(T0 + seconds(harness.at))

    row = [submit(f"t{n}", depends_on=[f"t{n - 1}"]) for n in range(1, 100)]
    harness.process(submit("t0"), *row)
    harness.books = BatchProcessor(harness.store, clock=now, lease=seconds(LEASE), lead=LEAD, max_body=1_000_000)
    harness.books.rebuild()
    harness.process(delivery(TASKS, "cancel", {"id": "t0"}))
    assert harness.at * 1_000_000 > LEAD
    assert {shown["status"] for shown in harness.views().values()} == {"cancelled", "failed"}


def test_many_tasks_may_wait_for_one(harness: BatchHarness) -> None:
    harness.process(hello(slots=2000), submit("a"))
    harness.process(*(submit(f"t{n}", depends_on=["a"]) for n in range(1201)))
    assert len(assigned(harness.process(result("a")))) == 1201


@pytest.mark.parametrize("batches", ["one", "two"])
def test_a_circle_is_refused_and_kept_among_the_rejected(harness: BatchHarness, batches: str) -> None:
    stored_, first, last = (
        submit("stored", depends_on=["last"]),
        submit("first", depends_on=["stored"]),
        submit("last", depends_on=["first"]),
    )
    harness.process(stored_)
    if batches == "two":
        harness.process(first)
        harness.restart()
    messages = harness.process(*([first, last] if batches == "one" else [last]))
    assert ("task.rejected", "about last") in answers(messages)
    [kept] = rejected(messages)
    assert kept.body == last.body
    assert "a cycle: last -> first -> stored -> last" in (kept.headers or {})["x-fluffle-errors"]
    assert set(harness.views()) == {"stored", "first"}


def test_a_task_wakes_when_its_time_has_come_also_after_a_restart(harness: BatchHarness) -> None:
    harness.process(hello(), submit("a", not_before="2027-01-15T08:00:05Z"))
    assert harness.process(at=4.9) == []
    harness.restart()
    assert assigned(harness.process(at=5)) == ["a"]


def test_a_silent_worker_loses_its_task_also_after_a_restart(harness: BatchHarness) -> None:
    harness.process(hello(), submit("a"))
    harness.process(claim("a"))
    harness.at = 5
    harness.restart()
    assert harness.process(at=14.9) == []
    assert "task.pending.none" in events(harness.process(at=15))
    assert assigned(harness.process(hello(), at=16)) == ["a"]


# -- nothing is lost, nothing is done twice --------------------------------------------------------------------------


def a_busy_batch() -> list[list[Delivery]]:
    """Batches with a bit of everything, each to be delivered twice."""
    return [
        [hello(), submit("a"), submit("b", depends_on=["a"]), submit("c", depends_on=["b"]), submit("d")],
        [claim("a"), claim("d"), result("a"), submit("e", labels=["red"])],
        [claim("b"), failure("b"), claim("e"), result("d"), delivery(TASKS, "cancel", {"id": "e"})],
        [result("e"), delivery(TASKS, "cancel", {"id": "never"}), submit("f", depends_on=["f"])],
    ]


def test_a_batch_that_is_delivered_again_changes_nothing(harness: BatchHarness) -> None:
    for batch in a_busy_batch():
        harness.commit(*batch)
        before = harness.views()
        harness.restart()
        messages = harness.process(*batch)
        assert harness.views() == before
        assert assigned(messages) == []


def test_what_was_committed_and_not_published_is_found_again(harness: BatchHarness) -> None:
    for batch in a_busy_batch():
        post = harness.commit(*batch)
        again = harness.restart()
        assert [(m.exchange, m.routing_key, m.type) for m in again] == [
            (m.exchange, m.routing_key, m.type) for m in post.messages
        ]
        assert harness.unsent.rows == post.rows
        harness.books.confirmed(harness.unsent.rows)
        harness.process()
    assert harness.restart() == []


def test_an_assignment_is_published_again_until_it_is_claimed(harness: BatchHarness) -> None:
    harness.commit(hello(), submit("a"))
    assert assigned(harness.restart()) == ["a"]
    harness.process(claim("a"))
    assert assigned(harness.restart()) == []


def test_an_answer_that_is_published_again_tells_the_latest(harness: BatchHarness) -> None:
    harness.commit(hello(), submit("a"))
    harness.commit(result("a"))
    messages = harness.restart()
    assert answers(messages) == [("task.accepted", "about a"), ("task.completed", "about a")]
    assert {json.loads(message.body)["status"] for message in messages if message.routing_key == "ana"} == {"completed"}


def test_the_outbox_is_empty_once_all_is_confirmed(harness: BatchHarness) -> None:
    harness.process(hello(), submit("a"))
    post = harness.commit(result("a"))
    assert [row for row, _ in harness.store.unsent()] == list(post.rows)
    harness.books.confirmed(post.rows)
    harness.books.settle()
    assert harness.store.unsent() == []


def test_an_assignment_that_found_no_queue_is_left_to_its_lease(harness: BatchHarness) -> None:
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


def test_an_assignment_that_found_no_queue_is_nothing_new_when_its_task_is_elsewhere_or_over(
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


def test_a_batch_in_another_ones_term_is_not_recorded(harness: BatchHarness, engine: Engine) -> None:
    harness.process(hello(), submit("a"))
    other = Store(engine)
    assert other.take_lead("other", Instant(T0 + 2 * LEAD), LEAD, over=other.leader())
    with pytest.raises(NotTheLeader):
        harness.process(submit("b"), result("a"))
    assert {task_id: shown["status"] for task_id, shown in harness.views().items()} == {"a": "assigned"}


def test_a_batch_that_could_not_be_stored_is_processed_again(
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
    harness.books.rebuild()
    assert assigned(harness.process(*batch)) == ["b"]
    assert harness.status("a") == "completed"


# -- bad input -------------------------------------------------------------------------------------------------------

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


def test_bad_submissions_are_refused_and_kept_and_disturb_nothing(harness: BatchHarness) -> None:
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
def test_other_bad_messages_are_refused_too(harness: BatchHarness, message: Delivery, path: str) -> None:
    messages = harness.process(message, submit("good"))
    [kept] = rejected(messages)
    assert path in [wrong["path"] for wrong in json.loads((kept.headers or {})["x-fluffle-errors"])]
    assert set(harness.views()) == {"good"}


def test_a_message_that_is_wrong_in_every_way_is_kept_with_headers_that_fit_into_a_frame(harness: BatchHarness) -> None:
    skills = {f"{n} \u0001é" + "x" * 300: n for n in range(2000)}
    messages = harness.process(
        delivery(STATUS, "é" * 100 + ".hello", {"name": "atlas", "instance": "i1", "skills": skills}),
        delivery(STATUS, "atlas.hello", {"name": "atlas", "instance": "i1", "skills": skills}),
    )
    for kept in rejected(messages):
        headers = {**(kept.headers or {}), "key": kept.routing_key}
        assert sum(len(str(value).encode()) for value in headers.values()) < 100_000
        assert len(kept.routing_key.encode()) <= 255


def test_a_refused_request_is_answered_and_its_task_stays_accepted(harness: BatchHarness) -> None:
    retry = delivery(TASKS, "retry", {"id": "a"}, reply_to="ana", correlation_id="too early")
    messages = harness.process(submit("a"), retry)
    assert answers(messages) == [("task.accepted", "about a"), ("task.rejected", "too early")]
    assert rejected(messages) == []


def test_each_refused_submission_is_kept_with_its_own_body(harness: BatchHarness) -> None:
    harness.process(submit("x", depends_on=["t"]))
    twice = [submit("t", depends_on=["x"], labels=[label]) for label in ("first", "second")]
    assert [kept.body for kept in rejected(harness.process(*twice, submit("t")))] == [d.body for d in twice]
    assert harness.status("t") == "pending"


@pytest.fixture
def log() -> Iterator[list[Any]]:
    """What is logged."""
    with capture_logs() as entries:
        yield entries


def test_data_that_the_database_refuses_are_refused_and_the_rest_is_done(
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


def test_a_message_that_trips_the_coordinator_is_refused_and_the_rest_is_done(
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
def test_an_error_that_no_message_is_to_blame_for_is_raised(
    harness: BatchHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(harness.store, "commit", away)
    with pytest.raises(ZeroDivisionError):
        harness.process(submit("a"))


# -- a large backlog -------------------------------------------------------------------------------------------------


def test_a_backlog_larger_than_the_window_is_done_in_order(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_processor, "WINDOW", 2000)
    backlog = [
        a_task(n, priority=n % 3 + 3, due=f"2027-02-{1 + n % 28:02}T00:00:00Z" if n % 5 == 0 else None)
        for n in range(1, 20_001)
    ]
    stored(store, *backlog)
    harness = BatchHarness(store)
    harness.process(hello(slots=1500))  # the first that can do them: they come from the database for the next batch
    done = assigned(harness.process())
    for _ in range(2):
        urgent = [submit(f"urgent-{len(done)}", priority=9)]
        done += assigned(harness.process(hello(slots=1500), *(result(task_id) for task_id in done[-1500:]), *urgent))
        assert len(harness.books._machine.board.tasks) <= 1500 + 2 * 2000
    expected = [task.id for task in sorted(backlog, key=lambda task: task.rank)]
    assert [task_id for task_id in done if not task_id.startswith("urgent")] == expected[: len(done) - 2]
    assert [n for n, task_id in enumerate(done) if task_id.startswith("urgent")] == [1500, 3000]


def test_a_burst_beyond_the_window_is_done_to_the_last_task(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_processor, "WINDOW", 2000)
    harness = BatchHarness(store)
    inbox = deque([hello(slots=1000), *(submit(f"t{number}") for number in range(8000))])
    done = 0
    while inbox:
        messages = harness.process(*(inbox.popleft() for _ in range(min(500, len(inbox)))))
        taken = assigned(messages)
        inbox.extendleft(report for task_id in taken for report in (result(task_id), claim(task_id)))
        done += [kind for kind, _ in answers(messages)].count("task.completed")
    assert done == 8000


# -- parts of tasks --------------------------------------------------------------------------------------------------


def test_what_is_part_of_a_task_ends_with_it_down_to_the_last_level(harness: BatchHarness) -> None:
    harness.process(hello(slots=100), submit("a"))
    harness.process(claim("a"), submit("a1", parent_id="a"), submit("a2", parent_id="a", skills=["unheard-of"]))
    harness.process(claim("a1"), submit("a11", parent_id="a1", skills=["unheard-of"]))
    harness.restart()
    messages = harness.process(delivery(TASKS, "cancel", {"id": "a", "reason": "no longer needed"}))
    assert {harness.status(task_id) for task_id in ("a", "a1", "a2", "a11")} == {"cancelled"}
    assert {json.loads(m.body)["task_id"] for m in messages if m.routing_key == "llm.atlas.i1"} == {"a", "a1"}
    last = harness.views()["a11"]["history"][-1]
    assert (last["by"], last["what"]) == (
        "coordinator",
        "cancelled while pending: a1, which it is part of, was cancelled",
    )


def test_a_part_is_refused_with_the_whole_way_in_view(harness: BatchHarness) -> None:
    harness.process(hello(slots=100), submit("t0"))
    for level in range(1, 8):
        assert rejected(harness.process(submit(f"t{level}", parent_id=f"t{level - 1}", skills=["unheard-of"]))) == []
    [kept] = rejected(harness.process(submit("t8", parent_id="t7")))
    assert json.loads(kept.headers["x-fluffle-errors"]) == [
        {"path": "parent_id", "message": "too deep: t7 has 7 tasks above it, and 8 levels are allowed"}
    ]
    assert "t8" not in harness.views()


# -- several LLMs on one task ----------------------------------------------------------------------------------------


def ballot(choice: str) -> dict[str, Any]:
    return {"result": {"choice": choice, "reason": "because"}}


def test_a_vote_is_taken_and_counted_whoever_coordinates(harness: BatchHarness) -> None:
    harness.process(*(hello(name) for name in ("atlas", "boreas", "clio")), submit("base"))
    [first] = [view["llm"] for view in harness.views().values()]
    harness.process(
        submit(
            "v",
            mode="vote",
            assignees=["atlas", "boreas", "clio"],
            vote={"choices": ["yes", "no"], "weights": {"clio": 1.5}},
            depends_on=["base"],
        )
    )
    assert harness.status("v") == "blocked"
    messages = harness.process(claim("base", llm=first), result("base", llm=first))
    assert sorted(assigned(messages)) == ["v.1", "v.2", "v.3"]
    assert {assignment["context"][0]["result"] for assignment in assignments(messages)} == {"BASE"}
    harness.restart()
    harness.process(claim("v.1"), result("v.1", **ballot("yes")))
    harness.restart()
    messages = harness.process(claim("v.3", llm="clio"), result("v.3", llm="clio", **ballot("no")))
    assert harness.status("v") == "in_progress"
    messages = harness.process(claim("v.2", llm="boreas"), result("v.2", llm="boreas", **ballot("no")))
    assert ("task.completed", "about v") in answers(messages)
    shown = harness.views()["v"]
    assert (shown["result"]["choice"], shown["result"]["tally"]) == ("no", {"yes": 1, "no": 2.5})
    assert shown["vote"] == {"choices": ["yes", "no"], "weights": {"clio": 1.5}}


def test_a_group_whose_time_is_over_ends_while_nothing_arrives(harness: BatchHarness) -> None:
    harness.process(hello(), submit("g", mode="all", assignees=["atlas", "boreas"], force=True, timeout=5))
    harness.process(claim("g.1"), result("g.1"))
    harness.restart()
    harness.process(at=4.9)
    assert harness.status("g") == "in_progress"
    harness.process(at=5)
    assert harness.views()["g"]["result"] == {"results": {"atlas": "G.1"}, "failed": {"boreas": "no answer yet"}}


def test_a_group_is_made_again_of_what_a_lost_transaction_had_made(harness: BatchHarness, store: Store) -> None:
    harness.process(hello(), submit("g", reviewer="boreas", assignee="atlas", force=True))
    harness.process(claim("g.1"))
    again = result("g.1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "commit", lambda *_, **__: (_ for _ in ()).throw(StoreUnavailable("gone")))
        with pytest.raises(StoreUnavailable):
            harness.process(again)
    harness.restart()
    harness.process(again)
    assert {task_id: shown["status"] for task_id, shown in harness.views().items()} == {
        "g": "in_progress",
        "g.1": "completed",
        "g.2": "pending",
    }


# -- output schemas ----------------------------------------------------------------------------------------------------

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
DIGITS = {"type": "object", "properties": {"n": {"pattern": "^[0-9]+$"}}}


class Here:
    """A channel that is open."""

    is_open = True


def here(delivery: Delivery) -> Delivery:
    delivery._ack_batcher = Here()  # type: ignore[assignment]
    return delivery


@contextmanager
def being_checked(harness: BatchHarness, post: OutgoingBatch) -> Iterator[None]:
    """What is set aside is being checked until the end of the block; then it has gone with its channel."""
    answers = harness.books._answers
    for it in post.aside:
        assert isinstance(it, UncheckedAnswer)
        answers._open[it.delivery] = it.about
    yield
    answers._open.clear()


def test_an_answer_that_its_schema_refuses_is_a_failed_attempt(harness: BatchHarness) -> None:
    harness.process(hello(), submit("a", output_schema=NUMBER), claim("a"))
    harness.process(claim("a"), result("a", result={"n": "one"}, usage={"input_tokens": 7}))
    [attempt] = harness.views()["a"]["attempts"]
    assert (attempt["outcome"], attempt["error"]["type"]) == ("failed", "output_schema")
    assert attempt["usage"]["input_tokens"] == 7, "it was paid for all the same"
    assert "result" not in harness.views()["a"]
    assert assigned(harness.process(at=5)) == ["a"]
    harness.process(claim("a", 2), result("a", 2, result={"n": 1}))
    assert (harness.status("a"), harness.views()["a"]["result"]) == ("completed", {"n": 1})


def test_an_answer_that_may_take_long_to_check_is_set_aside_with_the_goodbye_behind_it(harness: BatchHarness) -> None:
    harness.process(hello(), submit("a", output_schema=DIGITS), submit("b"), claim("a"), claim("b"))
    harness.process(claim("a"), claim("b"))
    answer, leaving = here(result("a", result={"n": "1"})), here(goodbye())
    post = harness.commit(answer, result("b"), leaving)
    assert [it.delivery for it in post.aside] == [answer, leaving]
    assert (harness.status("a"), harness.status("b")) == ("in_progress", "completed")


def test_an_attempt_whose_answer_is_being_checked_is_not_lost_for_its_worker(harness: BatchHarness) -> None:
    harness.process(hello(), submit("a", output_schema=DIGITS))
    harness.process(claim("a"))
    answer = here(result("a", result={"n": "1"}))
    post = harness.commit(answer)
    with being_checked(harness, post):
        for second in range(0, 60, 5):
            harness.process(at=second)
        assert harness.status("a") == "in_progress"
    harness.process(at=80)
    assert harness.views()["a"]["attempts"][0]["outcome"] == "lost"


@pytest.mark.parametrize(
    ("late", "wants"),
    [
        (lambda: result("never", result={}), []),
        (lambda: result("a", 7, result={}), []),
        (lambda: result("a", llm="bolt", result={}), []),
        (lambda: result("a", outcome="failed", result=None, error={"type": "x"}), []),
        (lambda: result("a", result={}), ["a"]),
    ],
)
def test_only_an_answer_that_would_count_is_checked(
    harness: BatchHarness, late: Callable[[], Delivery], wants: list[str]
) -> None:
    harness.process(hello(), submit("a", output_schema=DIGITS))
    harness.process(claim("a"))
    aside = harness.commit(here(late())).aside
    assert [it.about.task_id for it in aside if isinstance(it, UncheckedAnswer)] == wants


def test_what_is_counted_for_show_does_not_keep_a_result_from_being_recorded(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Mock(side_effect=RuntimeError("nothing is counted today"))
    harness = BatchHarness(store)
    counters = Mock(count=broken)
    tracing = Mock(take_in=broken, committed=broken, assigned=broken)
    monkeypatch.setattr(harness.books, "_counters", counters)
    monkeypatch.setattr(harness.books, "_tracing", tracing)
    monkeypatch.setattr(store, "close_period", broken)
    said = harness.process(hello(), submit("t1"))
    assert assigned(said) == ["t1"]
    said = harness.process(claim("t1"), result("t1"))
    assert harness.views()["t1"]["result"] == "T1"
    assert not [message for message in said if message.exchange == REJECTED]
    assert broken.call_count > 4


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
def test_a_message_without_an_id_and_without_a_mailbox_is_recorded_once(
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


def test_what_is_ignored_in_a_report_is_counted_and_logged_and_the_rest_counts(store: Store) -> None:
    counters = Counters()
    books = BatchProcessor(
        store, clock=lambda: T0, lease=seconds(LEASE), lead=LEAD, max_body=MAX_BODY_BYTES, counters=counters
    )
    books.rebuild()
    report = {"name": "atlas", "instance": "i1", "model": "x" * 500, "pid": 7, "tasks": None}
    with capture_logs() as logs:
        books.process([delivery(STATUS, "atlas.hello", report)])
    assert list(books.llms().standing) == ["atlas"]
    assert counters.ignored == 2
    [line] = [line for line in logs if line["event"] == "ignored a part of a report"]
    assert (line["log_level"], line["routing_key"]) == ("debug", "atlas.hello")
    assert all(word in line["parts"] for word in ("model", "pid"))
