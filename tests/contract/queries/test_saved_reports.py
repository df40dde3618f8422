"""Saved reports, from the request to the answer."""

import json
from typing import Any

import pytest

from broker.protocol.topology import TASKS
from broker.protocol.views import ReportList, ReportView
from coordinator.queries.handlers import QueryHandlers
from coordinator.storage.engine import open_engine
from coordinator.storage.store import Store
from tests.support.batches import BatchHarness, answers, delivery, hello, result, submit
from tests.support.stored_tasks import LEAD


@pytest.fixture
def harness(store: Store) -> BatchHarness:
    """A batch processor on an empty database."""
    return BatchHarness(store)


def save(harness: BatchHarness, name: str, report: dict[str, Any] | None) -> list[tuple[str | None, str | None]]:
    """Return the answers to a request that saves a report."""
    body = {"name": name, "report": report}
    return answers(
        harness.process(delivery(TASKS, "save_report", body, reply_to="ana", correlation_id="c", user_id="ana"))
    )


def ask(harness: BatchHarness, database: str, key: str, **query: Any) -> tuple[str, bytes]:
    queries = QueryHandlers(
        open_engine(database, read_only=True), clock=harness.now, policy="earliest-finish", lease=LEAD
    )
    try:
        return queries.answer(key, json.dumps(query).encode())
    finally:
        queries.close()


def test_a_saved_report_runs_by_its_name_with_the_given_changes(harness: BatchHarness, database: str) -> None:
    harness.process(hello(), submit("t"))
    harness.process(result("t"))
    report = {"group_by": ["llm"], "metrics": ["completed"], "where": {"status": ["completed"]}}
    assert save(harness, "mine", report) == [("report.accepted", "c")]
    kind, body = ask(harness, database, "report", name="mine", metrics=["tasks"], where={"llm": ["atlas"]})
    assert kind == "query.answer"
    view = ReportView.model_validate_json(body)
    assert (view.name, view.rows) == ("mine", [{"llm": "atlas", "tasks": 1}])
    assert view.where == {"status": ["completed"], "llm": ["atlas"]}


def test_saved_reports_are_listed_after_the_predefined_ones(harness: BatchHarness, database: str) -> None:
    save(harness, "mine", {"metrics": ["failed"], "sort": "failed", "limit": 5})
    save(harness, "mine", {"metrics": ["completed"]})
    _, body = ask(harness, database, "reports")
    first, *_, last = ReportList.model_validate_json(body).reports
    assert (first.name, last.name, last.metrics, last.saved_by) == ("summary", "mine", ["completed"], "ana")


def test_a_deleted_report_is_unknown(harness: BatchHarness, database: str) -> None:
    save(harness, "mine", {"metrics": ["failed"]})
    assert save(harness, "mine", None) == [("report.accepted", "c")]
    kind, body = ask(harness, database, "report", name="mine")
    assert kind == "query.rejected"
    assert b"there is no report 'mine'" in body


@pytest.mark.parametrize("report", [{"metrics": ["nonsense"]}, {"group_by": ["outcome"]}, {"limit": 0}, {"name": "x"}])
def test_an_invalid_report_is_not_saved(harness: BatchHarness, report: dict[str, Any]) -> None:
    assert save(harness, "mine", report) == [("task.rejected", "c")]


@pytest.mark.parametrize("name", ["summary", "custom"])
def test_predefined_reports_cannot_be_changed(harness: BatchHarness, name: str) -> None:
    assert save(harness, name, {"metrics": ["tasks"]}) == [("task.rejected", "c")]
