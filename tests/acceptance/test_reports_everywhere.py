"""A report has the same numbers in SQL, in the client, on the page, in its CSV, and counted again from the events.

The coordinator is the real one on a real RabbitMQ, except for its clock, which is fixed at the end of a drawn history.
It answers queries as a standby, because the lead is taken.
"""

import asyncio
import csv
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from playwright.sync_api import expect
from sqlalchemy import Engine

from broker.protocol.report_catalog import DIMENSIONS, METRICS, Of
from broker.protocol.views import ReportView
from broker.settings import Settings
from broker.timestamps import Instant
from coordinator.app import build_coordinator
from coordinator.queries.handlers import QueryHandlers
from coordinator.service import Coordinator
from coordinator.storage.engine import open_engine
from coordinator.storage.schema import metadata
from coordinator.storage.store import Store
from coordinator.storage.upgrade import upgrade
from fluffle import SyncClient
from fluffle.presentation.report_text import figure, group
from fluffle.web.pages.reports import CUSTOM, Choice
from tests.support.browser import WITHIN, Visit, addresses, browser, chromium, visit
from tests.support.core_driver import T0
from tests.support.postgres import postgres_or_skip
from tests.support.processes import fluffle
from tests.support.rabbitmq import NodeInfo
from tests.support.random_histories import LABELS, LLMS, lived, queries
from tests.support.report_reference import Log, micros
from tests.support.site import site_on
from tests.support.stored_tasks import LEAD
from tests.support.thoroughness import slow

HISTORIES = 4  # on each database
REPORTS = 4  # of each history for the client, and as many on the page
TILES = {
    "total_tasks": "tasks",
    "completed_tasks": "completed",
    "failed_tasks": "failed",
    "open_tasks": "open",
    "completion_rate": "completion_rate",
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cost_usd": "cost_usd",
}

expect.set_options(timeout=WITHIN)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=slow)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return the URL of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'books.db'}"
        return
    with postgres_or_skip() as server:
        yield server.create("books")


@contextmanager
def standing_by(database: str, url: str, clock: Callable[[], Instant]) -> Iterator[None]:
    """Run a coordinator that answers queries by that clock, and never leads."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    made: list[Coordinator] = []

    async def work() -> None:
        wanted = Settings(database_url=database, leader_lease=600)
        made.append(build_coordinator(wanted, url=url, clock=clock, on_ready=lambda _: ready.set()))
        await made[0].run()

    thread = threading.Thread(target=loop.run_until_complete, args=(work(),))
    thread.start()
    try:
        assert ready.wait(30)
        yield
    finally:
        loop.call_soon_threadsafe(made[0].stop)
        thread.join(30)
        loop.close()


@st.composite
def choices(draw: st.DrawFn) -> Choice:
    """Draw a possible choice on the page."""
    name = draw(st.sampled_from(["summary", "timing", "workload", CUSTOM, CUSTOM, CUSTOM]))
    of = draw(st.sampled_from([{Of.TASKS}, {Of.ATTEMPTS}, {Of.TASKS, Of.ATTEMPTS}]))
    fitting = [name for name, dimension in DIMENSIONS.items() if of <= dimension.of]
    fitting_metrics = [name for name, metric in METRICS.items() if metric.of in of]
    own = name == CUSTOM
    return Choice(
        name=name,
        group_by=tuple(draw(st.lists(st.sampled_from(fitting), min_size=1, max_size=3, unique=True))) if own else (),
        metrics=tuple(draw(st.lists(st.sampled_from(fitting_metrics), min_size=1, max_size=6, unique=True)))
        if own
        else (),
        llm=draw(st.sampled_from(["", "", *LLMS])) if own else "",
        label=draw(st.sampled_from(["", "", *LABELS])) if own else "",
    )


class Everywhere:
    """One database with every way to read a report."""

    def __init__(self, engine: Engine, reader: Engine, client: SyncClient, visitor: Visit) -> None:
        self.now = T0
        self._engine = engine
        self._reader = reader
        self._client = client
        self._visitor = visitor

    def live(self, draw: st.DrawFn) -> Log:
        """Clear the database, let another history happen, and return its events."""
        with self._engine.begin() as connection:
            for table in metadata.sorted_tables:
                if table.name != "leader":
                    connection.execute(table.delete())
        store = Store(self._engine)
        assert store.take_lead("leader", T0, LEAD)
        world = lived(store, draw)
        self.now = world.harness.now()
        log = Log(world.events)
        log.tasks.update(world.harness.views())  # a stopped worker may tell its usage after the last event
        return log

    def recounted(self, log: Log, view: ReportView, query: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the rows of that report, counted from the events."""
        return log.rows(
            group_by=view.group_by,
            metrics=view.metrics,
            where=view.where,
            moment=view.moment,
            since=micros(query.get("since")),
            until=micros(query.get("until")),
            now=self.now,
        )

    def asked(self, query: dict[str, Any]) -> ReportView:
        """Return the report of the client, and check that it equals that of SQL."""
        moments: dict[str, Any] = {
            name: datetime.fromisoformat(query[name]) for name in ("since", "until") if name in query
        }
        view = self._client.report(**{**query, **moments})
        answering = QueryHandlers(self._reader, clock=lambda: self.now, policy="earliest-finish", lease=LEAD)
        _, body = answering.answer("report", json.dumps(query).encode())
        assert view == ReportView.model_validate_json(body), query
        return view

    def table(self, choice: Choice) -> list[list[str]]:
        """Return the rows on the page."""
        page = self._visitor.go("/reports" + choice.query())
        expect(page.locator(".report > *").first).to_be_visible()
        assert not page.get_by_text("Cannot make this report").count()
        rows = page.locator(".report .figures tbody tr")
        return [row.locator("td").all_inner_texts() for row in rows.all()]

    def tiles(self) -> dict[str, str]:
        """Return the values of the summary on the page."""
        tiles = self._visitor.page.locator(".report [data-figure]").all()
        return {str(tile.get_attribute("data-figure")): tile.locator("dd").inner_text() for tile in tiles}

    def csv(self, choice: Choice) -> list[list[str]]:
        """Return the rows of the page's CSV, with the headings."""
        answer = self._visitor.context.request.get(f"{self._visitor.base}/reports.csv{choice.query()}")
        assert answer.ok, answer.text()
        return list(csv.reader(StringIO(answer.text())))


@pytest.fixture
def everywhere(rabbitmq: NodeInfo, database: str, tmp_path: Path) -> Iterator[Everywhere]:
    """Set up every way to read the reports of one database."""
    chromium()
    engine = open_engine(database)
    upgrade(engine)
    assert Store(engine).take_lead("leader", T0, LEAD)
    reader = open_engine(database, read_only=True)
    places: list[Everywhere] = []
    with (
        site_on(rabbitmq, tmp_path) as site,
        standing_by(database, site.url, lambda: places[0].now if places else T0),
        fluffle("web", "--port", "0", url=site.url, state=tmp_path, until="to look") as web,
        SyncClient(site.url) as client,
        browser() as running,
    ):
        base, _, to_look = addresses(web)
        with visit(running, base, to_look) as visitor:
            places.append(Everywhere(engine, reader, client, visitor))
            yield places[0]
    reader.dispose()
    engine.dispose()


def test_a_report_is_the_same_everywhere(everywhere: Everywhere) -> None:
    @settings(max_examples=HISTORIES, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(st.data())
    def agree(data: st.DataObject) -> None:
        log = everywhere.live(cast(st.DrawFn, data.draw))
        for _ in range(REPORTS):
            query = data.draw(queries(everywhere.now))
            view = everywhere.asked(query)
            assert _in_order(view) == everywhere.recounted(log, view, query), query
        for _ in range(REPORTS):
            choice = data.draw(choices())
            name, fields = choice.asked(datetime.now(UTC))
            view = everywhere.asked({"name": name, **fields} if name else {**fields})
            shown, cells = everywhere.table(choice), everywhere.csv(choice)
            assert _in_order(view) == everywhere.recounted(log, view, {}), choice
            assert cells == [[it.name for it in view.columns], *_as_cells(view)], choice
            if choice.name == "summary":
                _compare_summary(everywhere, log, view, shown)
            else:
                assert shown == _as_shown(view), choice

    agree()


def _in_order(view: ReportView) -> list[dict[str, Any]]:
    """Return the rows in the order of their groups."""
    return sorted(view.rows, key=lambda row: [(row[name] is None, row[name] or 0) for name in view.group_by])


def _as_shown(view: ReportView) -> list[list[str]]:
    return [
        [figure(row[it.name], it.unit) if it.unit else group(row[it.name]) for it in view.columns] for row in view.rows
    ]


def _as_cells(view: ReportView) -> list[list[str]]:
    values = [[row[it.name] for it in view.columns] for row in view.rows]
    return [["" if value is None else str(value) for value in row] for row in values]


def _compare_summary(everywhere: Everywhere, log: Log, view: ReportView, shown: list[list[str]]) -> None:
    """Compare the values of the summary with other reports, with the events, and with the page."""
    one = view.model_copy(update={"group_by": [], "metrics": list(TILES.values())})
    [counted] = everywhere.recounted(log, one, {})
    assert {name: view.values[name] for name in TILES} == {name: counted[metric] for name, metric in TILES.items()}
    tiles = everywhere.tiles()
    for name, metric in TILES.items():
        if name in tiles:
            assert tiles[name] == figure(counted[metric], METRICS[metric].unit), name
    counts = ["attempts", "attempts_completed", "attempts_failed"]
    workload = view.model_copy(update={"group_by": ["llm"], "metrics": counts})
    by_llm = {group(row["llm"]): row for row in everywhere.recounted(log, workload, {}) if row["attempts"]}
    assert [row[:4] for row in shown] == [
        [llm, *(figure(row[metric], None) for metric in counts)] for llm, row in by_llm.items()
    ]
