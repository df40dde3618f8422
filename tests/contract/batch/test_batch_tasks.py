"""The life of a task through batches: submission, dependencies, delays, a silent worker."""

import json

import pytest
from sqlalchemy import Engine

from broker.protocol.status import Status
from broker.protocol.topology import TASKS
from broker.timestamps import Instant, seconds
from coordinator.batch import BatchProcessor
from coordinator.storage.leader_lease import Watch
from coordinator.storage.store import Store
from tests.support.batches import (
    LEASE,
    BatchHarness,
    answers,
    assigned,
    assignments,
    claim,
    delivery,
    events,
    failure,
    hello,
    rejected,
    result,
    submit,
)
from tests.support.core_driver import T0
from tests.support.stored_tasks import LEAD


def test_a_task_is_assigned_claimed_and_completed(harness: BatchHarness) -> None:
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


def test_a_task_id_comes_from_the_message_id_or_is_generated(harness: BatchHarness) -> None:
    named = delivery(TASKS, "submit", {"description": "x"}, message_id="m-1")
    harness.process(named, submit(None))
    first, second = harness.views()
    assert first == "m-1"
    assert len(second) == 36


def test_the_priority_may_come_from_the_message_properties(harness: BatchHarness) -> None:
    body = {"description": "x"}
    harness.process(
        delivery(TASKS, "submit", body, priority=7),
        delivery(TASKS, "submit", body, priority=200),
        delivery(TASKS, "submit", {**body, "priority": 2}, priority=7),
        delivery(TASKS, "submit", body),
    )
    assert [shown["priority"] for shown in harness.views().values()] == [7, 9, 2, 4]


def test_dependent_tasks_are_completed_in_one_batch(harness: BatchHarness) -> None:
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
def test_a_dependency_may_end_in_the_batch_that_submits_its_dependent(harness: BatchHarness, order: str) -> None:
    harness.process(hello(), submit("a"))
    batch = [submit("b", depends_on=["a"]), result("a")]
    messages = harness.process(*(batch if order == "dependent first" else reversed(batch)))
    assert assigned(messages) == ["b"]
    assert harness.store.waiting_for(["a"]) == {}
    harness.restart()
    assert assigned(harness.process(claim("b"), result("a"), result("b"))) == []
    assert harness.status("b") == "completed"


@pytest.mark.parametrize("order", ["dependent first", "dependency first"])
def test_dependent_and_dependency_may_be_submitted_in_one_batch(harness: BatchHarness, order: str) -> None:
    batch = [hello(), submit("b", depends_on=["a"]), submit("a")]
    assert assigned(harness.process(*(batch if order == "dependent first" else reversed(batch)))) == ["a"]
    assert assigned(harness.process(result("a"))) == ["b"]


@pytest.mark.parametrize("batches", ["one", "two", "with a restart"])
def test_a_failed_task_fails_all_its_descendants(harness: BatchHarness, batches: str) -> None:
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


def test_the_lease_is_extended_while_a_long_chain_of_tasks_fails(harness: BatchHarness, engine: Engine) -> None:
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
    harness.processor = BatchProcessor(harness.store, clock=now, lease=seconds(LEASE), lead=LEAD, max_body=1_000_000)
    harness.processor.rebuild()
    harness.process(delivery(TASKS, "cancel", {"id": "t0"}))
    assert harness.at * 1_000_000 > LEAD
    assert {shown["status"] for shown in harness.views().values()} == {"cancelled", "failed"}


def test_many_tasks_may_depend_on_one(harness: BatchHarness) -> None:
    harness.process(hello(slots=2000), submit("a"))
    harness.process(*(submit(f"t{n}", depends_on=["a"]) for n in range(1201)))
    assert len(assigned(harness.process(result("a")))) == 1201


@pytest.mark.parametrize("batches", ["one", "two"])
def test_a_dependency_cycle_is_rejected_and_becomes_a_dead_letter(harness: BatchHarness, batches: str) -> None:
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


def test_a_delayed_task_becomes_ready_at_not_before_even_after_a_restart(harness: BatchHarness) -> None:
    harness.process(hello(), submit("a", not_before="2027-01-15T08:00:05Z"))
    assert harness.process(at=4.9) == []
    harness.restart()
    assert assigned(harness.process(at=5)) == ["a"]


def test_a_silent_worker_loses_its_task_even_after_a_restart(harness: BatchHarness) -> None:
    harness.process(hello(), submit("a"))
    harness.process(claim("a"))
    harness.at = 5
    harness.restart()
    assert harness.process(at=14.9) == []
    assert "task.pending.none" in events(harness.process(at=15))
    assert assigned(harness.process(hello(), at=16)) == ["a"]
