"""The catalogue of reports, and the check of a report definition."""

import pytest

from broker.protocol.report_catalog import DIMENSIONS, METRICS, PREDEFINED, Filters, Of, Report, problems_of
from coordinator.queries.reports.figures import FORMULAS


def wrong(report: Report) -> list[tuple[str, str]]:
    """The problems of a report."""
    return [(problem.path, problem.message) for problem in problems_of(report)]


def test_every_metric_has_a_formula() -> None:
    assert FORMULAS.keys() == METRICS.keys()


@pytest.mark.parametrize("name", PREDEFINED)
def test_predefined_reports_are_valid(name: str) -> None:
    assert wrong(PREDEFINED[name]) == []


def test_an_unknown_name_is_refused_with_a_similar_one() -> None:
    report = Report(("lm", "day"), ("utilization",), {"state": ("x",)})
    assert wrong(report) == [
        ("group_by.0", "there is no dimension 'lm'; did you mean llm?"),
        ("metrics.0", "there is no metric 'utilization'; did you mean utilisation?"),
        ("where", "there is no dimension 'state'; did you mean status?"),
    ]


def test_an_unknown_name_without_a_similar_one_is_refused_with_all_names() -> None:
    [(_, told)] = wrong(Report(("zzz",)))
    assert told == f"there is no dimension 'zzz'; there are: {', '.join(DIMENSIONS)}"


@pytest.mark.parametrize(
    ("where", "path", "told"),
    [
        ({"status": ("complete",)}, "where.status", "there is no status 'complete'; did you mean completed?"),
        ({"priority": (10,)}, "where.priority", "must be a number from 0 to 9"),
        ({"priority": (True,)}, "where.priority", "must be a number from 0 to 9"),
        ({"priority": ("4",)}, "where.priority", "must be a number from 0 to 9"),
        ({"overdue": ("yes",)}, "where.overdue", "must be true or false"),
        ({"llm": ("a\0",)}, "where.llm", "must be text without NUL characters"),
        ({"llm": (1,)}, "where.llm", "must be text without NUL characters"),
        ({"llm": ()}, "where.llm", "must have 1 to 100 values"),
        ({"day": ("2026-12-01",)}, "where.day", "use since and until to filter by time"),
    ],
)
def test_a_filter_that_matches_nothing_is_refused(where: Filters, path: str, told: str) -> None:
    assert wrong(Report(where=where)) == [(path, told)]


def test_a_dimension_must_belong_to_the_metrics() -> None:
    assert wrong(Report(("outcome",), ("tasks",))) == [
        ("metrics", "'tasks' is about tasks, which have no dimension 'outcome'")
    ]
    assert [path for path, _ in wrong(Report(("day",), ("utilisation",)))] == ["metrics"]
    assert wrong(Report(("llm",), ("tasks", "attempts", "utilisation"))) == []


def test_the_order_must_be_by_a_column_of_the_report() -> None:
    assert wrong(Report(("llm",), ("tasks",), sort="day")) == [
        ("sort", "'day' is neither a dimension nor a metric of this report")
    ]


def test_every_dimension_has_metrics() -> None:
    assert all(dimension.of for dimension in DIMENSIONS.values())
    assert {metric.of for metric in METRICS.values()} == set(Of)
