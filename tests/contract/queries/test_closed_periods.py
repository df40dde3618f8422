"""Closed periods: finished tasks are added up once, and again after a change."""

import json
from typing import Any

import pytest
from sqlalchemy import Engine, select

from broker.errors import NotTheLeader
from broker.protocol.report_catalog import PREDEFINED
from broker.protocol.topology import STATUS, TASKS
from broker.timestamps import to_iso
from coordinator import batch as batch_processor
from coordinator.queries.handlers import QueryHandlers
from coordinator.queries.reports import closing
from coordinator.storage.schema import durations, periods, task_sums
from coordinator.storage.store import Store
from tests.support.batches import BatchHarness, claim, delivery, failure, hello, result, submit
from tests.support.core_driver import T0
from tests.support.stored_tasks import LEAD, NOW


@pytest.fixture
def harness(store: Store, monkeypatch: pytest.MonkeyPatch) -> BatchHarness:
    """Periods have two tasks."""
    monkeypatch.setattr(closing, "SIZE", 2)
    monkeypatch.setattr(batch_processor, "SIZE", 2)
    harness = BatchHarness(store)
    harness.process(hello())
    return harness


def do(harness: BatchHarness, *ids: str) -> None:
    """Have tasks done, one a second."""
    for task_id in ids:
        harness.process(submit(task_id, due=to_iso(T0)))
        harness.process(claim(task_id))
        harness.process(result(task_id, duration=len(task_id) / 7), at=harness.at + 1)


def idle(harness: BatchHarness) -> None:
    """Nothing arrives for a while."""
    for _ in range(10):
        harness.process()


def closed(engine: Engine) -> list[tuple[float, float]]:
    """From and to of every closed period, in seconds after the start."""
    with engine.connect() as connection:
        rows = connection.execute(select(periods.c.start, periods.c.until).order_by(periods.c.start))
        return [(max(0, start - T0) / 1e6, (until - T0) / 1e6) for start, until in rows]


def reports(harness: BatchHarness, **span: Any) -> list[Any]:
    """Every predefined report."""
    queries = QueryHandlers(harness.store.engine, clock=harness.now, policy="earliest-finish", lease=LEAD)
    answers = [queries.answer("report", json.dumps({"name": name, **span}).encode()) for name in PREDEFINED]
    return [json.loads(body) | {"generated_at": None} for kind, body in answers if kind == "query.answer"]


def test_finished_tasks_are_added_up_while_no_messages_arrive(harness: BatchHarness, engine: Engine) -> None:
    do(harness, "a", "bb", "ccc", "dddd", "eeeee")
    before, later = reports(harness), reports(harness, since=to_iso(T0 + 2_500_000))
    assert closed(engine) == []
    idle(harness)
    assert closed(engine) == [(0, 3), (3, 5)]
    assert reports(harness) == before
    assert reports(harness, since=to_iso(T0 + 2_500_000)) == later
    with engine.connect() as connection:
        assert connection.execute(select(task_sums.c.tasks)).scalars().all() == [2, 2]
    do(harness, "ffffff")
    assert reports(harness)[0]["values"]["total_tasks"] == 6


def test_reports_use_the_sums_of_closed_periods(harness: BatchHarness, engine: Engine) -> None:
    do(harness, "a", "bb", "ccc", "dddd", "eeeee")
    idle(harness)
    with engine.begin() as connection:  # so that it shows where figures come from
        connection.execute(task_sums.update().values(tasks=1000))
        connection.execute(durations.update().values(micros=(77_000_000).to_bytes(8, "little") * 3))
    summary, _, timing, *_ = reports(harness)
    assert summary["values"]["total_tasks"] == 2001
    assert timing["rows"][0]["run_time_p50"] == 77
    [later] = [it for it in reports(harness, since=to_iso(T0 + 3_500_000)) if it["name"] == "summary"]
    assert later["values"]["total_tasks"] == 1  # of a period that is only partly in the span, none


def test_a_retried_task_opens_its_period_which_is_closed_again(harness: BatchHarness, engine: Engine) -> None:
    harness.process(submit("bad"))
    harness.process(claim("bad"))
    harness.process(failure("bad"), at=1)
    do(harness, "b", "c", "d", "e")
    idle(harness)
    assert closed(engine) == [(0, 3), (3, 5)]
    harness.process(delivery(TASKS, "retry", {"id": "bad"}), at=9)
    assert closed(engine) == [(3, 5)]
    assert reports(harness)[0]["values"]["by_status"] == {"assigned": 1, "completed": 4}
    idle(harness)
    assert closed(engine) == [(0, 3), (3, 5)]
    harness.process(claim("bad", 2), result("bad", 2))
    assert reports(harness)[0]["values"]["by_status"] == {"completed": 5}
    assert reports(harness)[1]["rows"][0]["attempts"] == 6


def test_a_late_result_opens_the_period_in_which_its_attempt_was_lost(harness: BatchHarness, engine: Engine) -> None:
    harness.process(submit("late"), at=0)
    harness.process(claim("late"))
    harness.process(delivery(STATUS, "atlas.goodbye", {"name": "atlas", "instance": "i1"}), at=1)
    harness.process(hello("boreas"))
    for task_id in ("a", "b", "c"):
        harness.process(submit(task_id, assignee="boreas"))
        harness.process(claim(task_id, llm="boreas"))
        harness.process(result(task_id, llm="boreas"), at=harness.at + 1)
    idle(harness)
    assert closed(engine) == [(0, 4)]
    harness.process(result("late"))
    assert closed(engine) == []
    assert {row["llm"]: row["attempts_lost"] for row in reports(harness)[1]["rows"]}["atlas"] == 0


def test_a_clock_that_is_set_back_opens_the_period_that_it_is_in(harness: BatchHarness, engine: Engine) -> None:
    do(harness, "a", "b", "c", "d", "e")
    idle(harness)
    assert closed(engine) == [(0, 3), (3, 5)]
    harness.at = 2.0
    do(harness, "again")
    assert (0, 3) not in closed(engine)
    assert reports(harness)[0]["values"]["completed_tasks"] == 6


def test_tasks_that_ended_together_stay_together(harness: BatchHarness, engine: Engine) -> None:
    many = [f"t{number}" for number in range(5)]
    harness.process(*(submit(task_id, skills=["none"]) for task_id in many))
    harness.process(*(delivery(TASKS, "cancel", {"id": task_id}) for task_id in many), at=1)
    do(harness, "after")
    harness.restart()  # which looks whether there is something to close
    idle(harness)
    assert closed(engine) == [(0, 1), (1, 1.000001)]
    assert reports(harness)[0]["values"]["cancelled_tasks"] == 5


def test_only_the_leader_closes_periods(harness: BatchHarness, engine: Engine) -> None:
    do(harness, "a", "b", "c")
    other = Store(engine)
    assert other.take_lead("another", NOW, LEAD, over=harness.store.leader())
    with pytest.raises(NotTheLeader):
        closing.close_period(harness.store, NOW, LEAD)
    other.close()
