"""The model of every attempt, earlier results, and instances that differ: stored, shown and added up."""

import json
from typing import Any

import pytest
from sqlalchemy import update

from broker.protocol.topology import STATUS, TASKS, control_address
from coordinator import batch as batch_processor
from coordinator.queries.handlers import QueryHandlers
from coordinator.queries.reports import closing
from coordinator.storage.schema import attempts
from coordinator.storage.store import Store
from tests.support.batches import BatchHarness, delivery
from tests.support.stored_tasks import LEAD


@pytest.fixture
def harness(store: Store, monkeypatch: pytest.MonkeyPatch) -> BatchHarness:
    """Periods have two tasks."""
    monkeypatch.setattr(closing, "SIZE", 2)
    monkeypatch.setattr(batch_processor, "SIZE", 2)
    return BatchHarness(store)


def hello(harness: BatchHarness, instance: str, model: str) -> list[Any]:
    """Connect an instance of atlas. Returns what is sent to instances because of it."""
    body = {"name": "atlas", "instance": instance, "model": model, "slots": 5}
    return [it for it in harness.process(delivery(STATUS, "atlas.hello", body)) if it.exchange == ""]


def do(
    harness: BatchHarness, task_id: str, instance: str, *, attempt: int = 1, tokens: int = 1, result: Any = "done"
) -> None:
    """Have a task done by that instance."""
    about = {"task_id": task_id, "attempt": attempt, "instance": instance}
    ended = {"outcome": "completed", "result": result, "usage": {"input_tokens": tokens}}
    harness.process(delivery(STATUS, "atlas.claim", about))
    harness.process(delivery(STATUS, "atlas.result", {**about, **ended}), at=harness.at + 1)


def submit(harness: BatchHarness, *ids: str) -> None:
    harness.process(*(delivery(TASKS, "submit", {"id": task_id, "description": "x"}) for task_id in ids))


def ask(harness: BatchHarness, query: str, **fields: Any) -> Any:
    queries = QueryHandlers(harness.store.engine, clock=harness.now, policy="earliest-finish", lease=LEAD)
    kind, body = queries.answer(query, json.dumps(fields).encode())
    assert kind == "query.answer", body
    return json.loads(body)


def tokens_by_model(harness: BatchHarness) -> dict[str | None, int]:
    """Return the rows of the report of costs."""
    report = ask(harness, "report", group_by=["model"], metrics=["input_tokens"])
    return {row["model"]: row["input_tokens"] for row in report["rows"]}


def idle(harness: BatchHarness) -> None:
    """Process empty batches, so that finished tasks are added up."""
    for _ in range(10):
        harness.process()


def test_costs_count_for_the_model_of_the_attempt_in_open_and_closed_periods(harness: BatchHarness) -> None:
    hello(harness, "i1", "small")
    hello(harness, "i2", "large")
    submit(harness, "t1", "t2", "t3", "t4")
    do(harness, "t1", "i1", tokens=1)
    do(harness, "t2", "i2", tokens=10)
    do(harness, "t3", "i2", tokens=100)
    hello(harness, "i3", "huge")
    do(harness, "t4", "i3", tokens=1000)
    assert tokens_by_model(harness) == {"small": 1, "large": 110, "huge": 1000}
    assert [ask(harness, "task", id=f"t{n}")["attempts"][0]["model"] for n in (1, 2, 3, 4)] == [
        "small",
        "large",
        "large",
        "huge",
    ]
    idle(harness)
    assert tokens_by_model(harness) == {"small": 1, "large": 110, "huge": 1000}
    harness.restart()
    hello(harness, "i1", "tiny")
    assert tokens_by_model(harness) == {"small": 1, "large": 110, "huge": 1000}


def test_an_attempt_without_a_model_counts_for_the_present_model_of_its_llm(harness: BatchHarness) -> None:
    hello(harness, "i1", "small")
    submit(harness, "t1", "t2", "t3")
    do(harness, "t1", "i1", tokens=1)
    do(harness, "t2", "i1", tokens=10)
    with harness.store.engine.begin() as connection:
        connection.execute(update(attempts).values(model=None))
    do(harness, "t3", "i1", tokens=100)
    hello(harness, "i2", "large")
    before = tokens_by_model(harness)
    assert before == {"small": 100, "large": 11}
    idle(harness)
    assert tokens_by_model(harness) == before


def test_a_retry_keeps_the_earlier_result_with_its_attempt(harness: BatchHarness) -> None:
    hello(harness, "i1", "small")
    submit(harness, "t1")
    do(harness, "t1", "i1", result={"first": "\0"})
    harness.process(delivery(TASKS, "retry", {"id": "t1"}))
    assert "result" not in ask(harness, "task", id="t1")
    do(harness, "t1", "i1", attempt=2, result="second")
    shown = ask(harness, "task", id="t1")
    assert shown["result"] == "second"
    assert [attempt.get("result") for attempt in shown["attempts"]] == [{"first": "\0"}, None]
    [listed] = ask(harness, "tasks")["tasks"]
    assert not any("result" in attempt for attempt in listed["attempts"])
    harness.process(delivery(TASKS, "retry", {"id": "t1"}))
    kept = [attempt.get("result") for attempt in ask(harness, "task", id="t1")["attempts"]]
    assert kept[:2] == [{"first": "\0"}, "second"]


def test_workers_of_one_name_that_differ_are_notified_even_after_a_restart(harness: BatchHarness) -> None:
    assert hello(harness, "i1", "small") == []
    notices = hello(harness, "i2", "large")
    assert {notice.routing_key for notice in notices} == {control_address("atlas", it) for it in ("i1", "i2")}
    for notice in notices:
        body = json.loads(notice.body)
        assert (body["type"], body["task_id"], body["attempt"]) == ("notice", "-", 1)
        assert body["text"].startswith("another worker of this name, i")
    harness.restart()
    assert hello(harness, "i1", "small") == hello(harness, "i2", "large") == []
    [atlas] = ask(harness, "llms")["llms"]
    assert [(it["id"], it["model"]) for it in atlas["by_instance"]] == [("i1", "small"), ("i2", "large")]


def test_a_notice_that_was_not_published_is_published_after_a_restart(harness: BatchHarness) -> None:
    hello(harness, "i1", "small")
    body = {"name": "atlas", "instance": "i2", "model": "large", "slots": 5}
    unpublished = [
        it.body for it in harness.commit(delivery(STATUS, "atlas.hello", body)).messages if it.exchange == ""
    ]
    assert len(unpublished) == 2
    assert [it.body for it in harness.restart() if it.exchange == ""] == unpublished


def test_a_running_attempt_without_new_text_is_shown_as_quiet(harness: BatchHarness) -> None:
    hello(harness, "i1", "small")
    submit(harness, "t1")
    about = {"task_id": "t1", "attempt": 1, "instance": "i1"}
    harness.process(delivery(STATUS, "atlas.claim", about))
    queries = QueryHandlers(
        harness.store.engine,
        clock=harness.now,
        policy="earliest-finish",
        lease=LEAD,
        quiet_since=harness.processor.quiet_since,
    )

    def quiet() -> tuple[Any, Any]:
        task = json.loads(queries.answer("task", b'{"id": "t1"}')[1])
        [llm] = json.loads(queries.answer("llms", b"{}")[1])["llms"]
        return task["attempts"][-1].get("quiet_since"), llm.get("quiet")

    assert quiet() == (None, None)
    harness.at = 90
    since = ask(harness, "task", id="t1")["started_at"]
    assert quiet() == (since, {"t1": since})
    beat = {"name": "atlas", "instance": "i1", "slots": 5, "model": "small", "tasks": [{"task_id": "t1", "attempt": 1}]}
    harness.process(
        delivery(STATUS, "atlas.beat", beat), delivery(STATUS, "atlas.progress", {**about, "text": "Hello"}), at=9
    )
    assert quiet() == (None, None)
