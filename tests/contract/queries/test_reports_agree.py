"""Reports by SQL agree with a naive count over the events, for random histories."""

import json
from typing import cast

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from broker.protocol.queries import ReportQuery
from broker.protocol.report_catalog import DIMENSIONS, Report, problems_of
from broker.protocol.views import ReportView
from coordinator import batch as batch_processor
from coordinator.queries.handlers import QueryHandlers
from coordinator.queries.reports import closing, percentiles, ranking
from coordinator.storage.engine import open_engine
from coordinator.storage.schema import metadata
from coordinator.storage.store import Store
from tests.support.core_driver import T0
from tests.support.random_histories import VALUES, lived, queries
from tests.support.report_reference import Log, micros
from tests.support.stored_tasks import LEAD
from tests.support.thoroughness import examples


@pytest.mark.parametrize(
    ("size", "many"), [(1, 10**9), (3, 1), (10**9, 1)], ids=["closed one by one", "closed three by three", "all open"]
)
def test_reports_agree_with_a_recount_of_the_events(
    size: int, many: int, engine: Engine, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Periods have `size` tasks, and up to `size` others are read. From `many` values on, a sample of four is used."""
    monkeypatch.setattr(closing, "SIZE", size)
    monkeypatch.setattr(batch_processor, "SIZE", size)
    monkeypatch.setattr(ranking, "MAX_SINGLE", size)
    monkeypatch.setattr(ranking, "MIN_SAMPLED", many)
    monkeypatch.setattr(percentiles, "SAMPLE_SIZE", 4)

    reader = open_engine(database, read_only=True)

    @settings(
        max_examples=examples(30), deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
    )
    @given(st.data())
    def agree(data: st.DataObject) -> None:
        with engine.begin() as connection:
            for table in metadata.sorted_tables:
                connection.execute(table.delete())
        store = Store(engine)
        assert store.take_lead("leader", T0, LEAD)
        world = lived(store, cast(st.DrawFn, data.draw))
        now = world.harness.now()
        store.close()
        answering = QueryHandlers(reader, clock=world.harness.now, policy="earliest-finish", lease=LEAD)
        log = Log(world.events)
        log.tasks.update(world.harness.views())  # a stopped worker may tell its usage after the last event
        for _ in range(6):
            query = data.draw(queries(now))
            kind, body = answering.answer("report", json.dumps(query).encode())
            assert kind == "query.answer", body
            view = ReportView.model_validate_json(body)
            recounted = log.rows(
                group_by=view.group_by,
                metrics=view.metrics,
                where=view.where,
                moment=view.moment,
                since=micros(query.get("since")),
                until=micros(query.get("until")),
                now=now,
            )
            rows = sorted(view.rows, key=lambda row: [(row[name] is None, row[name] or 0) for name in view.group_by])
            assert rows == recounted, query

    agree()
    reader.dispose()


def test_every_generated_report_query_is_valid(engine: Engine) -> None:
    for name in VALUES:
        assert not problems_of(Report((name,), ("attempts",), {name: tuple(VALUES[name])}))
    assert VALUES.keys() == {name for name, dimension in DIMENSIONS.items() if dimension.kind != "time"}
    assert ReportQuery().name is None
