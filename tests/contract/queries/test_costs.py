"""The report of costs: divided by model, unknown where it is unknown, and for each accepted task."""

import json
from typing import Any

import pytest
from alembic import command
from sqlalchemy import MetaData, update

from broker.protocol.topology import STATUS, TASKS
from coordinator import batch as batch_processor
from coordinator.queries.handlers import QueryHandlers
from coordinator.queries.reports import closing
from coordinator.storage.engine import open_engine
from coordinator.storage.schema import attempt_sums, periods, task_sums
from coordinator.storage.store import Store
from coordinator.storage.upgrade import alembic_config, upgrade
from tests.support.batches import BatchHarness, claim, delivery, goodbye, result, submit
from tests.support.core_driver import T0
from tests.support.stored_tasks import LEAD


@pytest.fixture
def harness(store: Store, monkeypatch: pytest.MonkeyPatch) -> BatchHarness:
    """Periods have one task. `atlas` answers with the model `big`."""
    monkeypatch.setattr(closing, "SIZE", 1)
    monkeypatch.setattr(batch_processor, "SIZE", 1)
    harness = BatchHarness(store)
    harness.process(presence("atlas", "big"))
    return harness


def presence(llm: str, model: str) -> Any:
    return delivery(STATUS, f"{llm}.hello", {"name": llm, "instance": "i1", "slots": 5, "model": model})


def do(harness: BatchHarness, task_id: str, llm: str = "atlas", **fields: Any) -> None:
    """Have a task done that is assigned."""
    harness.process(claim(task_id, llm=llm))
    harness.process(result(task_id, llm=llm, **fields), at=harness.at + 1)


def idle(harness: BatchHarness) -> None:
    """Process empty batches, so that finished tasks are added up."""
    for _ in range(10):
        harness.process()


def report(harness: BatchHarness, name: str | None = "cost", **query: Any) -> list[dict[str, Any]]:
    queries = QueryHandlers(harness.store.engine, clock=harness.now, policy="earliest-finish", lease=LEAD)
    kind, body = queries.answer("report", json.dumps({"name": name, **query}).encode())
    assert kind == "query.answer", body
    rows: list[dict[str, Any]] = json.loads(body)["rows"]
    return rows


def count_closed(harness: BatchHarness) -> int:
    with harness.store.engine.connect() as connection:
        return len(connection.execute(periods.select()).all())


def test_the_usage_of_an_attempt_is_divided_among_its_models(harness: BatchHarness) -> None:
    models = {
        "small": {"input_tokens": 100, "output_tokens": 10, "cost_usd": 0.5, "requests": 1},
        "big": {"input_tokens": 200, "output_tokens": 20, "cost_usd": 1.0, "requests": 2},
    }
    harness.process(submit("t"), submit("next"))
    do(harness, "t", model="small", usage={"models": models})
    do(harness, "next")

    def by_model() -> list[tuple[Any, ...]]:
        rows = report(harness, group_by=["model"])
        return [
            tuple(row[name] for name in ("model", "attempts", "requests", "input_tokens", "cost_usd")) for row in rows
        ]

    divided = [("big", 1, 2, 200, 1.0), ("small", 1, 1, 100, 0.5)]
    assert (count_closed(harness), by_model()) == (0, divided)
    idle(harness)
    assert (count_closed(harness), by_model()) == (1, divided)
    [whole] = report(harness, group_by=["llm"])
    assert (whole["requests"], whole["input_tokens"], whole["cost_usd"]) == (3, 300, 1.5)
    assert [row["output_tokens"] for row in report(harness, where={"model": ["small"]})] == [10]


def test_a_cost_that_is_unknown_is_counted_and_never_zero(harness: BatchHarness) -> None:
    harness.process(submit("a"), submit("b"), submit("c"), submit("d"))
    do(harness, "a", usage={"input_tokens": 5})
    do(harness, "b")  # used nothing

    def costs() -> tuple[Any, ...]:
        [row] = report(harness)
        return row["attempts"], row["cost_usd"], row["unknown_cost"], row["cost_per_completed"]

    assert costs() == (2, None, 1, None)
    do(harness, "c", usage={"input_tokens": 5, "cost_usd": 0.3})
    assert costs() == (3, 0.3, 1, 0.1)
    partly = {"big": {"cost_usd": 0.1}, "free": {"input_tokens": 7}}
    do(harness, "d", usage={"models": partly})
    expected = (4, 0.4, 2, 0.1)
    [whole] = report(harness, group_by=["llm"])
    assert (whole["attempts"], whole["cost_usd"], whole["unknown_cost"], whole["cost_per_completed"]) == expected
    idle(harness)
    [closed] = report(harness, group_by=["llm"])
    assert closed == whole
    [free] = [row for row in report(harness, group_by=["model"]) if row["model"] == "free"]
    assert (free["attempts"], free["input_tokens"], free["cost_usd"]) == (0, 7, None)


def test_an_accepted_task_is_one_that_its_reviewer_approved_or_that_needs_no_review(harness: BatchHarness) -> None:
    harness.process(presence("judge", "strict"))
    harness.process(submit("reviewed", assignee="atlas", reviewer="judge"), submit("plain", assignee="atlas"))
    cost: dict[str, Any] = {"usage": {"cost_usd": 1.0}}

    def review(part: str, *, approved: bool) -> None:
        do(harness, part, "judge", result={"approved": approved, "remarks": "shorter"}, **cost)

    do(harness, "plain", **cost)
    do(harness, "reviewed.1", **cost)
    idle(harness)

    def counts() -> list[tuple[Any, ...]]:
        metrics = ["cost_per_completed", "cost_per_accepted"]
        costs = report(harness, None, group_by=["llm"], metrics=metrics)
        tasks = {row["llm"]: row["accepted"] for row in report(harness, None, group_by=["llm"], metrics=["accepted"])}
        return [(row["llm"], tasks[row["llm"]], *(row[name] for name in metrics)) for row in costs]

    assert counts() == [("atlas", 1, 1.0, 2.0)]
    review("reviewed.2", approved=False)
    do(harness, "reviewed.3", **cost)
    idle(harness)
    assert counts() == [("atlas", 1, 1.0, 3.0), ("judge", 0, 1.0, None)]
    review("reviewed.4", approved=True)
    accepted = [("atlas", 2, 1.0, 1.5), ("judge", 0, 1.0, None)]
    assert counts() == accepted
    idle(harness)
    assert counts() == accepted
    assert harness.status("reviewed") == "completed"


def test_a_stopped_worker_changes_the_sums_of_a_closed_period(harness: BatchHarness) -> None:
    harness.process(submit("t", max_attempts=1), submit("u"))
    harness.process(claim("t"))
    so_far = {"task_id": "t", "attempt": 1, "instance": "i1", "usage": {"input_tokens": 4, "cost_usd": 0.1}}
    harness.process(delivery(STATUS, "atlas.progress", so_far))
    harness.process(delivery(TASKS, "cancel", {"id": "t"}), at=1)
    do(harness, "u")
    idle(harness)
    assert [row["cost_usd"] for row in report(harness)] == [0.1]
    usage = {"input_tokens": 9, "cost_usd": 0.2}
    harness.process(result("t", outcome="cancelled", result=None, usage=usage))
    assert [row["cost_usd"] for row in report(harness)] == [0.2]
    assert harness.views()["t"]["usage"] == usage


def test_a_lost_attempt_costs_what_was_reported_before_a_restart(harness: BatchHarness) -> None:
    harness.process(submit("t"))
    harness.process(claim("t"))
    so_far = {"task_id": "t", "attempt": 1, "instance": "i1", "usage": {"requests": 1, "cost_usd": 0.1}}
    harness.process(delivery(STATUS, "atlas.progress", so_far))
    harness.restart()
    harness.process(goodbye())
    assert [(row["requests"], row["cost_usd"]) for row in report(harness)] == [(1, 0.1)]


def test_sums_of_an_earlier_version_have_unknown_usage(empty_database: str) -> None:
    engine, config = open_engine(empty_database), alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0005")
    earlier = MetaData()
    earlier.reflect(engine)
    period = {"start": 0, "until": T0, "first_submitted": 5, "last_submitted": 6, "first_started": 5}
    alike = {"period": 0, "llm": "atlas", "model": "big", "hour": 0}
    with engine.begin() as connection:
        connection.execute(earlier.tables["periods"].insert().values(period))
        done = {"status": "completed", "overdue": 0, "tasks": 2, "first_submitted": 5, "first_finished": 6}
        connection.execute(earlier.tables["task_sums"].insert().values(**alike, **done))
        used = {"outcome": "completed", "attempts": 2, "input_tokens": 7, "cost_nanos": 3 * 10**9, "duration": 10**6}
        connection.execute(earlier.tables["attempt_sums"].insert().values(**alike, **used))
    upgrade(engine)
    store = Store(engine)
    assert store.take_lead("leader", T0, LEAD)
    harness = BatchHarness(store)
    [row] = report(harness)
    assert (row["attempts"], row["input_tokens"], row["cost_usd"]) == (2, 7, 3.0)
    unknown = ("requests", "cached_tokens", "unknown_cost", "cost_per_completed", "cost_per_accepted")
    assert {name: row[name] for name in unknown} == dict.fromkeys(unknown)
    [tasks] = report(harness, None, group_by=["llm"], metrics=["completed", "accepted", "tokens_per_second"])
    assert (tasks["completed"], tasks["accepted"], tasks["tokens_per_second"]) == (2, None, None)
    store.close()


def test_the_figures_of_closed_periods_come_from_their_sums(harness: BatchHarness) -> None:
    harness.process(submit("a"), submit("b"))
    do(harness, "a", usage={"reasoning_tokens": 1, "cost_usd": 0.1})
    do(harness, "b", usage={"reasoning_tokens": 2, "cost_usd": 0.1})
    idle(harness)
    with harness.store.engine.begin() as connection:  # so that it shows where figures come from
        connection.execute(update(attempt_sums).values(reasoning_tokens=1000, unknown_cost=500))
        connection.execute(update(task_sums).values(accepted=70, done=70))
    [row] = report(harness, None, group_by=["model"], metrics=["reasoning_tokens", "unknown_cost", "accepted"])
    assert row == {"model": "big", "reasoning_tokens": 1002, "unknown_cost": 500, "accepted": 71}
