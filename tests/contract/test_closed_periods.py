"""What has ended is added up once, and anew when it is no longer as it was."""

import json
from typing import Any

import pytest
from sqlalchemy import Engine, select

from broker.errors import NotTheLeader
from broker.protocol.report_catalog import PREDEFINED
from broker.protocol.topology import STATUS, TASKS
from broker.timestamps import to_iso
from coordinator import batch as bookkeeper
from coordinator.queries.handlers import QueryHandlers
from coordinator.queries.reports import closing
from coordinator.storage.schema import durations, periods, task_sums
from coordinator.storage.store import Store
from tests.contract.test_bookkeeper import claim, failure, hello, result, submit
from tests.support.batches import LEASE, Desk, delivery
from tests.support.core_driver import T0
from tests.support.stored_tasks import LEAD, NOW


@pytest.fixture
def desk(store: Store, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Periods have two tasks."""
    monkeypatch.setattr(closing, "SIZE", 2)
    monkeypatch.setattr(bookkeeper, "SIZE", 2)
    desk = Desk(store)
    desk.process(hello())
    return desk


def do(desk: Desk, *ids: str) -> None:
    """Have tasks done, one a second."""
    for task_id in ids:
        desk.process(submit(task_id, due=to_iso(T0)))
        desk.process(claim(task_id))
        desk.process(result(task_id, duration=len(task_id) / 7), at=desk.at + 1)


def idle(desk: Desk) -> None:
    """Nothing arrives for a while."""
    for _ in range(10):
        desk.process()


def closed(engine: Engine) -> list[tuple[float, float]]:
    """From and to of every closed period, in seconds after the start."""
    with engine.connect() as connection:
        rows = connection.execute(select(periods.c.start, periods.c.until).order_by(periods.c.start))
        return [(max(0, start - T0) / 1e6, (until - T0) / 1e6) for start, until in rows]


def told(desk: Desk, **span: Any) -> list[Any]:
    """Every predefined report."""
    queries = QueryHandlers(desk.store.engine, clock=desk.now, policy="earliest-finish", lease=int(LEASE))
    answers = [queries.answer("report", json.dumps({"name": name, **span}).encode()) for name in PREDEFINED]
    return [json.loads(body) | {"generated_at": None} for kind, body in answers if kind == "query.answer"]


def test_what_has_ended_is_added_up_when_nothing_arrives(desk: Desk, engine: Engine) -> None:
    do(desk, "a", "bb", "ccc", "dddd", "eeeee")
    before, later = told(desk), told(desk, since=to_iso(T0 + 2_500_000))
    assert closed(engine) == []
    idle(desk)
    assert closed(engine) == [(0, 3), (3, 5)]
    assert told(desk) == before
    assert told(desk, since=to_iso(T0 + 2_500_000)) == later
    with engine.connect() as connection:
        assert connection.execute(select(task_sums.c.tasks)).scalars().all() == [2, 2]
    do(desk, "ffffff")
    assert told(desk)[0]["values"]["total_tasks"] == 6


def test_reports_take_the_sums_of_closed_periods_for_what_was_done(desk: Desk, engine: Engine) -> None:
    do(desk, "a", "bb", "ccc", "dddd", "eeeee")
    idle(desk)
    with engine.begin() as connection:  # so that it shows where figures come from
        connection.execute(task_sums.update().values(tasks=1000))
        connection.execute(durations.update().values(micros=(77_000_000).to_bytes(8, "little") * 3))
    summary, _, timing, *_ = told(desk)
    assert summary["values"]["total_tasks"] == 2001
    assert timing["rows"][0]["run_time_p50"] == 77
    [later] = [it for it in told(desk, since=to_iso(T0 + 3_500_000)) if it["name"] == "summary"]
    assert later["values"]["total_tasks"] == 1  # of a period that is only partly in the span, none


def test_a_retried_task_opens_its_period_until_that_is_closed_anew(desk: Desk, engine: Engine) -> None:
    desk.process(submit("bad"))
    desk.process(claim("bad"))
    desk.process(failure("bad"), at=1)
    do(desk, "b", "c", "d", "e")
    idle(desk)
    assert closed(engine) == [(0, 3), (3, 5)]
    desk.process(delivery(TASKS, "retry", {"id": "bad"}), at=9)
    assert closed(engine) == [(3, 5)]
    assert told(desk)[0]["values"]["by_status"] == {"assigned": 1, "completed": 4}
    idle(desk)
    assert closed(engine) == [(0, 3), (3, 5)]
    desk.process(claim("bad", 2), result("bad", 2))
    assert told(desk)[0]["values"]["by_status"] == {"completed": 5}
    assert told(desk)[1]["rows"][0]["attempts"] == 6


def test_a_late_result_opens_the_period_in_which_its_attempt_was_lost(desk: Desk, engine: Engine) -> None:
    desk.process(submit("late"), at=0)
    desk.process(claim("late"))
    desk.process(delivery(STATUS, "atlas.goodbye", {"name": "atlas", "instance": "i1"}), at=1)
    desk.process(hello("boreas"))
    for task_id in ("a", "b", "c"):
        desk.process(submit(task_id, assignee="boreas"))
        desk.process(claim(task_id, llm="boreas"))
        desk.process(result(task_id, llm="boreas"), at=desk.at + 1)
    idle(desk)
    assert closed(engine) == [(0, 4)]
    desk.process(result("late"))
    assert closed(engine) == []
    assert {row["llm"]: row["attempts_lost"] for row in told(desk)[1]["rows"]}["atlas"] == 0


def test_a_clock_that_is_set_back_opens_the_period_that_it_is_in(desk: Desk, engine: Engine) -> None:
    do(desk, "a", "b", "c", "d", "e")
    idle(desk)
    assert closed(engine) == [(0, 3), (3, 5)]
    desk.at = 2.0
    do(desk, "again")
    assert (0, 3) not in closed(engine)
    assert told(desk)[0]["values"]["completed_tasks"] == 6


def test_tasks_that_ended_together_stay_together(desk: Desk, engine: Engine) -> None:
    many = [f"t{number}" for number in range(5)]
    desk.process(*(submit(task_id, skills=["none"]) for task_id in many))
    desk.process(*(delivery(TASKS, "cancel", {"id": task_id}) for task_id in many), at=1)
    do(desk, "after")
    desk.restart()  # which looks whether there is something to close
    idle(desk)
    assert closed(engine) == [(0, 1), (1, 1.000001)]
    assert told(desk)[0]["values"]["cancelled_tasks"] == 5


def test_only_the_leader_closes_periods(desk: Desk, engine: Engine) -> None:
    do(desk, "a", "b", "c")
    other = Store(engine)
    assert other.take_lead("another", NOW, LEAD, over=desk.store.leader())
    with pytest.raises(NotTheLeader):
        desk.store.close_period(NOW, LEAD)
    other.close()
