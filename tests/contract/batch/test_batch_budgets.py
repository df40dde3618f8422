"""Budgets through batches, on both databases: accounts, waiting tasks, restarts, and what people see."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from broker.amqp.envelope import Delivery, Outgoing
from broker.protocol.spending import BudgetList
from broker.protocol.topology import EVENTS, STATUS, TASKS
from broker.timestamps import seconds
from coordinator.queries.handlers import QueryHandlers
from coordinator.storage.engine import open_engine
from tests.support.batches import BatchHarness, answers, assigned, assignments, claim, delivery, events, result, submit

PRICE = {"input": 2.0, "output": 8.0}


def hello(llm: str = "atlas", *, price: dict[str, float] | None = PRICE, slots: int = 5) -> Delivery:
    return delivery(STATUS, f"{llm}.hello", {"name": llm, "instance": "i1", "slots": slots, "price": price})


def manage(name: str, **fields: Any) -> Delivery:
    return delivery(TASKS, "manage_budget", {"budget": name, **fields}, reply_to="ana", correlation_id=name)


def progress(task_id: str, usd: float) -> Delivery:
    body = {"task_id": task_id, "attempt": 1, "instance": "i1", "usage": {"cost_usd": usd, "input_tokens": 100}}
    return delivery(STATUS, "atlas.progress", body)


def paid_result(task_id: str, usd: float, attempt: int = 1) -> Delivery:
    return result(task_id, attempt, usage={"cost_usd": usd, "input_tokens": 100, "output_tokens": 20})


@pytest.fixture
def queries(harness: BatchHarness, database: str) -> Iterator[QueryHandlers]:
    handlers = QueryHandlers(
        open_engine(database, read_only=True), clock=harness.now, policy="earliest-finish", lease=seconds(10)
    )
    yield handlers
    handlers.close()


def ask(queries: QueryHandlers, kind: str, **fields: Any) -> dict[str, Any]:
    answer_type, body = queries.answer(kind, json.dumps(fields).encode())
    assert answer_type == "query.answer", body
    shown: dict[str, Any] = json.loads(body)
    return shown


def budgets(queries: QueryHandlers, name: str | None = None) -> list[dict[str, Any]]:
    shown = ask(queries, "budgets", **({"name": name} if name else {}))
    BudgetList.model_validate(shown)
    listed: list[dict[str, Any]] = shown["budgets"]
    return listed


def data_of(messages: list[Outgoing], kind: str) -> list[dict[str, Any]]:
    bodies = [json.loads(message.body) for message in messages if message.exchange == EVENTS]
    return [body["data"] for body in bodies if body["type"] == f"fluffle.{kind}"]


def test_an_assignment_carries_what_it_may_use(harness: BatchHarness) -> None:
    harness.process(hello(), manage("team", usd=1.0, tokens=5000))
    [assignment] = assignments(harness.process(submit("a")))
    assert assignment["budget"] == {"usd": 1.0, "tokens": 5000}
    [without] = assignments(harness.process(manage("team", drop=True), submit("b")))
    assert "budget" not in without


def test_an_assignment_that_is_sent_again_carries_it_too(harness: BatchHarness) -> None:
    harness.process(hello(), manage("team", usd=1.0))
    harness.commit(submit("a"))
    [again] = assignments(harness.restart())
    assert again["budget"] == {"usd": 1.0}


def test_what_is_spent_reserved_and_left_is_the_same_in_the_answer_and_in_the_query(
    harness: BatchHarness, queries: QueryHandlers
) -> None:
    harness.process(hello(), manage("team", usd=1.0, per="day"), manage("each", tokens=10_000, by="label"))
    harness.process(submit("a", labels=["x"]), submit("b", labels=["x", "y"]))
    harness.process(claim("a"), claim("b"), progress("b", 0.25))
    harness.process(paid_result("a", 0.125))
    [answer] = [it for it in harness.process(manage("team", on_empty="ask")) if it.type == "budget.accepted"]
    [team] = budgets(queries, "team")
    assert json.loads(answer.body)["budgets"] == [team]
    assert (team["spent_usd"], team["spent_tokens"], team["spent_runs"], team["on_empty"]) == (0.375, 220, 1, "ask")
    assert (team["since"], team["until"]) == ("2027-01-15T00:00:00.000000Z", "2027-01-16T00:00:00.000000Z")
    each = [view for view in budgets(queries) if view["name"] == "each"]
    assert [(view["value"], view["spent_tokens"]) for view in each] == [("x", 220), ("y", 100)]
    harness.restart()
    assert budgets(queries, "team") == [team]


def test_waiting_tasks_tell_what_they_wait_for_and_go_on_when_room_is_given_back(
    harness: BatchHarness, queries: QueryHandlers
) -> None:
    harness.process(hello(), manage("team", usd=0.0185))
    assert assigned(harness.process(*(submit(task) for task in "abcd"))) == ["a", "b"]
    assert [harness.status(task) for task in "cd"] == ["blocked", "blocked"]
    waits = ask(queries, "task", id="c")["waits"]
    assert waits.startswith("for the budget team until 2027-02-01 00:00:00 UTC: $0 of $0.0185 used, $0.009 needed")
    assert [task.get("waits") for task in ask(queries, "tasks")["tasks"]] == [waits, waits, None, None]
    harness.restart()
    harness.process(hello(), claim("a"), claim("b"))
    harness.process(paid_result("a", 0.0001), at=1)
    assert assigned(harness.process(at=2)) == ["c", "d"]
    assert assigned(harness.process(at=3)) == []


def test_a_raise_wakes_all_that_wait(harness: BatchHarness) -> None:
    harness.process(hello(slots=20), manage("team", runs=1))
    harness.process(*(submit(f"t{n}") for n in range(12)))
    messages = harness.process(manage("team", raise_runs=11), at=1)
    assert ("budget.accepted", "team") in answers(messages)
    assert len(assigned(harness.process(at=2))) == 11


def test_the_events_of_a_budget_tell_name_cause_and_figures(harness: BatchHarness) -> None:
    harness.process(hello(), manage("team", usd=1.0, by="submitter"), submit("a"))
    harness.process(claim("a"))
    messages = harness.process(progress("a", 0.85))
    assert "budget.warning.team" in events(messages)
    [data] = data_of(messages, "budget.warning")
    assert (data["name"], data["value"], data["why"], data["spent_usd"]) == ("team", "anonymous", "warning", 0.85)
    messages = harness.process(progress("a", 1.0))
    assert "budget.empty.team" in events(messages)
    [order] = [json.loads(it.body) for it in messages if b'"stop"' in it.body]
    assert (order["task_id"], order["reason"]) == ("a", "the budget team of anonymous is used up")


def test_a_task_shows_what_its_tree_has_spent(harness: BatchHarness, queries: QueryHandlers) -> None:
    harness.process(hello(), submit("root", budget={"usd": 1.0}), submit("part", parent_id="root"))
    harness.process(claim("root"), claim("part"))
    harness.process(paid_result("part", 0.25))
    shown = ask(queries, "task", id="root")["budget"]
    assert shown == {"usd": 1.0, "on_empty": "fail", "spent_usd": 0.25, "spent_tokens": 120}
    [view] = budgets(queries, "task:root")
    assert (view["name"], view["spent_usd"]) == ("task:root", 0.25)
    assert budgets(queries) == []


def test_a_redelivered_result_is_charged_once(harness: BatchHarness, queries: QueryHandlers) -> None:
    harness.process(hello(), manage("team", usd=1.0), submit("a"))
    harness.process(claim("a"), paid_result("a", 0.25), paid_result("a", 0.25))
    harness.restart()
    harness.process(paid_result("a", 0.25))
    [view] = budgets(queries)
    assert (view["spent_usd"], view["spent_runs"], view["reserved_usd"]) == (0.25, 1, 0.0)


def test_a_late_result_after_a_restart_corrects_what_was_charged(harness: BatchHarness, queries: QueryHandlers) -> None:
    harness.process(hello(), manage("team", usd=1.0, per="hour"), submit("a"))
    harness.process(claim("a"), progress("a", 0.125))
    harness.process(delivery(STATUS, "atlas.goodbye", {"name": "atlas", "instance": "i1"}))
    harness.process(at=4000)
    harness.restart()
    harness.process(paid_result("a", 0.5))
    harness.process()
    with harness.store.engine.connect() as connection:
        rows = connection.exec_driver_sql("select spent_nanos, spent_runs, is_open from budget_accounts").all()
    assert [tuple(row) for row in rows] == [(500_000_000, 1, 0)]


def test_stopped_spending_survives_a_restart(harness: BatchHarness, queries: QueryHandlers) -> None:
    harness.process(hello(), delivery(TASKS, "spending", {"stopped": True, "reason": "the bill"}))
    harness.restart()
    assert assigned(harness.process(hello(), submit("a"))) == []
    assert ask(queries, "task", id="a")["waits"] == "all spending is stopped: the bill"
    assert ask(queries, "budgets")["stopped"] == "the bill"
    assert assigned(harness.process(delivery(TASKS, "spending", {"stopped": False}))) == ["a"]
    assert "stopped" not in ask(queries, "budgets")


def test_a_dry_run_tells_what_a_task_would_wait_for(harness: BatchHarness, queries: QueryHandlers) -> None:
    harness.process(hello(), manage("team", runs=1), submit("a"))
    shown = ask(queries, "placement", description="x")
    assert shown["status"] == "blocked"
    assert shown["why"].startswith("waits for the budget team")


@pytest.mark.parametrize(
    ("name", "message"),
    [("tema", "there is no budget tema; did you mean team?"), ("task:a", "the task a has no budget")],
)
def test_an_unknown_budget_is_no_answer(harness: BatchHarness, queries: QueryHandlers, name: str, message: str) -> None:
    harness.process(hello(), manage("team", usd=1.0), submit("a"))
    answer_type, body = queries.answer("budgets", json.dumps({"name": name}).encode())
    assert answer_type == "query.rejected"
    assert json.loads(body)["errors"][0] == {"path": "name", "message": message}
