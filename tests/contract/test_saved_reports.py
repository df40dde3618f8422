"""Reports under names, from the request to the answer."""

import json
from typing import Any

import pytest

from broker.protocol.topology import TASKS
from broker.protocol.views import ReportList, ReportView
from coordinator.queries.handlers import QueryHandlers
from coordinator.storage.engine import open_engine
from coordinator.storage.store import Store
from tests.contract.test_bookkeeper import answers, hello, result, submit
from tests.support.batches import Desk, delivery
from tests.support.stored_tasks import LEAD


@pytest.fixture
def desk(store: Store) -> Desk:
    """Nothing has happened yet."""
    return Desk(store)


def save(desk: Desk, name: str, report: dict[str, Any] | None) -> list[tuple[str | None, str | None]]:
    """What is answered to whoever keeps a report."""
    body = {"name": name, "report": report}
    return answers(
        desk.process(delivery(TASKS, "save_report", body, reply_to="ana", correlation_id="c", user_id="ana"))
    )


def ask(desk: Desk, database: str, key: str, **query: Any) -> tuple[str, bytes]:
    queries = QueryHandlers(open_engine(database, read_only=True), clock=desk.now, policy="earliest-finish", lease=LEAD)
    try:
        return queries.answer(key, json.dumps(query).encode())
    finally:
        queries.close()


def test_a_saved_report_is_told_by_its_name_and_changed_by_what_is_given(desk: Desk, database: str) -> None:
    desk.process(hello(), submit("t"))
    desk.process(result("t"))
    report = {"group_by": ["llm"], "metrics": ["completed"], "where": {"status": ["completed"]}}
    assert save(desk, "mine", report) == [("report.accepted", "c")]
    told, body = ask(desk, database, "report", name="mine", metrics=["tasks"], where={"llm": ["atlas"]})
    assert told == "query.answer"
    view = ReportView.model_validate_json(body)
    assert (view.name, view.rows) == ("mine", [{"llm": "atlas", "tasks": 1}])
    assert view.where == {"status": ["completed"], "llm": ["atlas"]}


def test_saved_reports_are_listed_after_the_predefined_ones(desk: Desk, database: str) -> None:
    save(desk, "mine", {"metrics": ["failed"], "sort": "failed", "limit": 5})
    save(desk, "mine", {"metrics": ["completed"]})
    _, body = ask(desk, database, "reports")
    first, *_, last = ReportList.model_validate_json(body).reports
    assert (first.name, last.name, last.metrics, last.saved_by) == ("summary", "mine", ["completed"], "ana")


def test_a_report_that_is_dropped_is_not_there(desk: Desk, database: str) -> None:
    save(desk, "mine", {"metrics": ["failed"]})
    assert save(desk, "mine", None) == [("report.accepted", "c")]
    told, body = ask(desk, database, "report", name="mine")
    assert told == "query.rejected"
    assert b"there is no report 'mine'" in body


@pytest.mark.parametrize("report", [{"metrics": ["nonsense"]}, {"group_by": ["outcome"]}, {"limit": 0}, {"name": "x"}])
def test_a_report_that_cannot_be_told_is_not_kept(desk: Desk, report: dict[str, Any]) -> None:
    assert save(desk, "mine", report) == [("task.rejected", "c")]


@pytest.mark.parametrize("name", ["summary", "custom"])
def test_predefined_reports_stay_as_they_are(desk: Desk, name: str) -> None:
    assert save(desk, name, {"metrics": ["tasks"]}) == [("task.rejected", "c")]
