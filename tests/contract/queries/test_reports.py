"""Reports on both databases."""

import pytest
from sqlalchemy import Engine

from broker.protocol.report_catalog import DIMENSIONS, METRICS, PREDEFINED, Moment, Of, Report, problems_of
from coordinator.core.state import StateChanges
from coordinator.queries.reports.engine import run_report
from coordinator.queries.reports.facts import Span
from coordinator.storage.store import Store
from tests.support.core_driver import T0
from tests.support.random_tasks import many_tasks
from tests.support.stored_tasks import NOW, commit, stored

ALWAYS = Span(None, None, NOW)


@pytest.mark.parametrize("dimension", DIMENSIONS)
@pytest.mark.parametrize("moment", Moment)
def test_every_metric_can_be_grouped_by_every_dimension(
    store: Store, engine: Engine, dimension: str, moment: Moment
) -> None:
    stored(store, *many_tasks(50))
    commit(store, StateChanges(slots={"atlas": (T0, 2)}))
    for of in [*((of,) for of in Of), (Of.ATTEMPTS, Of.TASKS)]:
        metrics = tuple(name for name, metric in METRICS.items() if metric.kinds == of)
        report = Report((dimension,), metrics, moment=moment)
        if metrics and not problems_of(report):
            with engine.begin() as connection:
                rows = run_report(connection, report, ALWAYS).rows
            assert rows
            assert {frozenset(row) for row in rows} == {frozenset((dimension, *metrics))}


@pytest.mark.parametrize("name", PREDEFINED)
def test_every_predefined_report_runs(store: Store, engine: Engine, name: str) -> None:
    stored(store, *many_tasks(50))
    assert not problems_of(PREDEFINED[name])
    with engine.begin() as connection:
        run_report(connection, PREDEFINED[name], ALWAYS)
