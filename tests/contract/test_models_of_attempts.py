"""The model of every attempt, earlier results, and instances that differ: as they are stored, told and added up."""

import json
from typing import Any

import pytest
from sqlalchemy import update

from broker.protocol.topology import STATUS, TASKS, control_address
from coordinator import batch as bookkeeper
from coordinator.queries.handlers import QueryHandlers
from coordinator.queries.reports import closing
from coordinator.storage.schema import attempts
from coordinator.storage.store import Store
from tests.support.batches import LEASE, Desk, delivery


@pytest.fixture
def desk(store: Store, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Periods have two tasks."""
    monkeypatch.setattr(closing, "SIZE", 2)
    monkeypatch.setattr(bookkeeper, "SIZE", 2)
    return Desk(store)


def hello(desk: Desk, instance: str, model: str) -> list[Any]:
    """An instance of atlas comes; what is sent to instances because of it."""
    body = {"name": "atlas", "instance": instance, "model": model, "slots": 5}
    return [it for it in desk.process(delivery(STATUS, "atlas.hello", body)) if it.exchange == ""]


def do(desk: Desk, task_id: str, instance: str, *, attempt: int = 1, tokens: int = 1, result: Any = "done") -> None:
    """Have a task done by that instance."""
    about = {"task_id": task_id, "attempt": attempt, "instance": instance}
    ended = {"outcome": "completed", "result": result, "usage": {"input_tokens": tokens}}
    desk.process(delivery(STATUS, "atlas.claim", about))
    desk.process(delivery(STATUS, "atlas.result", {**about, **ended}), at=desk.at + 1)


def submit(desk: Desk, *ids: str) -> None:
    desk.process(*(delivery(TASKS, "submit", {"id": task_id, "description": "x"}) for task_id in ids))


def ask(desk: Desk, query: str, **fields: Any) -> Any:
    queries = QueryHandlers(desk.store.engine, clock=desk.now, policy="earliest-finish", lease=int(LEASE))
    kind, body = queries.answer(query, json.dumps(fields).encode())
    assert kind == "query.answer", body
    return json.loads(body)


def tokens_by_model(desk: Desk) -> dict[str | None, int]:
    """What the report of costs tells."""
    report = ask(desk, "report", group_by=["model"], metrics=["input_tokens"])
    return {row["model"]: row["input_tokens"] for row in report["rows"]}


def idle(desk: Desk) -> None:
    """Nothing arrives for a while: what has ended is added up."""
    for _ in range(10):
        desk.process()


def test_costs_go_to_the_model_that_caused_them_before_and_after_they_are_added_up(desk: Desk) -> None:
    hello(desk, "i1", "small")
    hello(desk, "i2", "large")
    submit(desk, "t1", "t2", "t3", "t4")
    do(desk, "t1", "i1", tokens=1)
    do(desk, "t2", "i2", tokens=10)
    do(desk, "t3", "i2", tokens=100)
    hello(desk, "i3", "huge")
    do(desk, "t4", "i3", tokens=1000)
    assert tokens_by_model(desk) == {"small": 1, "large": 110, "huge": 1000}
    assert [ask(desk, "task", id=f"t{n}")["attempts"][0]["model"] for n in (1, 2, 3, 4)] == [
        "small",
        "large",
        "large",
        "huge",
    ]
    idle(desk)
    assert tokens_by_model(desk) == {"small": 1, "large": 110, "huge": 1000}
    desk.restart()
    hello(desk, "i1", "tiny")
    assert tokens_by_model(desk) == {"small": 1, "large": 110, "huge": 1000}


def test_an_attempt_of_an_earlier_version_counts_for_the_model_that_its_llm_has(desk: Desk) -> None:
    hello(desk, "i1", "small")
    submit(desk, "t1", "t2", "t3")
    do(desk, "t1", "i1", tokens=1)
    do(desk, "t2", "i1", tokens=10)
    with desk.store.engine.begin() as connection:
        connection.execute(update(attempts).values(model=None))
    do(desk, "t3", "i1", tokens=100)
    hello(desk, "i2", "large")
    before = tokens_by_model(desk)
    assert before == {"small": 100, "large": 11}
    idle(desk)
    assert tokens_by_model(desk) == before


def test_a_retry_keeps_the_earlier_result_with_its_attempt(desk: Desk) -> None:
    hello(desk, "i1", "small")
    submit(desk, "t1")
    do(desk, "t1", "i1", result={"first": "\0"})
    desk.process(delivery(TASKS, "retry", {"id": "t1"}))
    assert "result" not in ask(desk, "task", id="t1")
    do(desk, "t1", "i1", attempt=2, result="second")
    shown = ask(desk, "task", id="t1")
    assert shown["result"] == "second"
    assert [attempt.get("result") for attempt in shown["attempts"]] == [{"first": "\0"}, None]
    [listed] = ask(desk, "tasks")["tasks"]
    assert not any("result" in attempt for attempt in listed["attempts"])
    desk.process(delivery(TASKS, "retry", {"id": "t1"}))
    kept = [attempt.get("result") for attempt in ask(desk, "task", id="t1")["attempts"]]
    assert kept[:2] == [{"first": "\0"}, "second"]


def test_workers_of_one_name_that_differ_are_told_and_known_after_a_restart(desk: Desk) -> None:
    assert hello(desk, "i1", "small") == []
    notices = hello(desk, "i2", "large")
    assert {notice.routing_key for notice in notices} == {control_address("atlas", it) for it in ("i1", "i2")}
    for notice in notices:
        body = json.loads(notice.body)
        assert (body["type"], body["task_id"], body["attempt"]) == ("notice", "-", 1)
        assert body["text"].startswith("another worker of this name, i")
    desk.restart()
    assert hello(desk, "i1", "small") == hello(desk, "i2", "large") == []
    [atlas] = ask(desk, "llms")["llms"]
    assert [(it["id"], it["model"]) for it in atlas["by_instance"]] == [("i1", "small"), ("i2", "large")]


def test_a_notice_that_was_not_published_is_published_after_a_restart(desk: Desk) -> None:
    hello(desk, "i1", "small")
    body = {"name": "atlas", "instance": "i2", "model": "large", "slots": 5}
    unpublished = [it.body for it in desk.commit(delivery(STATUS, "atlas.hello", body)).messages if it.exchange == ""]
    assert len(unpublished) == 2
    assert [it.body for it in desk.restart() if it.exchange == ""] == unpublished


def test_the_text_of_a_running_attempt_that_stops_coming_is_told(desk: Desk) -> None:
    hello(desk, "i1", "small")
    submit(desk, "t1")
    about = {"task_id": "t1", "attempt": 1, "instance": "i1"}
    desk.process(delivery(STATUS, "atlas.claim", about))
    queries = QueryHandlers(
        desk.store.engine,
        clock=desk.now,
        policy="earliest-finish",
        lease=int(LEASE),
        quiet_since=desk.books.quiet_since,
    )

    def quiet() -> tuple[Any, Any]:
        task = json.loads(queries.answer("task", b'{"id": "t1"}')[1])
        [llm] = json.loads(queries.answer("llms", b"{}")[1])["llms"]
        return task["attempts"][-1].get("quiet_since"), llm.get("quiet")

    assert quiet() == (None, None)
    desk.at = 90
    since = ask(desk, "task", id="t1")["started_at"]
    assert quiet() == (since, {"t1": since})
    beat = {"name": "atlas", "instance": "i1", "slots": 5, "model": "small", "tasks": [{"task_id": "t1", "attempt": 1}]}
    desk.process(
        delivery(STATUS, "atlas.beat", beat), delivery(STATUS, "atlas.progress", {**about, "text": "Hello"}), at=9
    )
    assert quiet() == (None, None)
