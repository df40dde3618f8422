"""The description of reports, and what is wrong with one."""

import pytest

from broker.protocol.report_catalog import DIMENSIONS, METRICS, PREDEFINED, Filters, Of, Report, problems_of
from coordinator.queries.reports.figures import FORMULAS


def wrong(report: Report) -> list[tuple[str, str]]:
    """The problems of a report."""
    return [(problem.path, problem.message) for problem in problems_of(report)]


def test_every_metric_has_a_formula() -> None:
    assert FORMULAS.keys() == METRICS.keys()


@pytest.mark.parametrize("name", PREDEFINED)
def test_predefined_reports_can_be_told(name: str) -> None:
    assert wrong(PREDEFINED[name]) == []


def test_a_name_that_is_not_there_is_refused_with_what_may_have_been_meant() -> None:
    report = Report(("lm", "day"), ("utilization",), {"state": ("x",)})
    assert wrong(report) == [
        ("group_by.0", "there is no dimension 'lm'; did you mean llm?"),
        ("metrics.0", "there is no metric 'utilization'; did you mean utilisation?"),
        ("where", "there is no dimension 'state'; did you mean status?"),
    ]


def test_a_name_like_nothing_is_refused_with_all_that_there_are() -> None:
    [(_, told)] = wrong(Report(("zzz",)))
    assert told == f"there is no dimension 'zzz'; there are: {', '.join(DIMENSIONS)}"


@pytest.mark.parametrize(
    ("where", "path", "told"),
    [
        ({"status": ("complete",)}, "where.status", "there is no status 'complete'; did you mean completed?"),
        ({"priority": (10,)}, "where.priority", "is a number from 0 to 9"),
        ({"priority": (True,)}, "where.priority", "is a number from 0 to 9"),
        ({"priority": ("4",)}, "where.priority", "is a number from 0 to 9"),
        ({"overdue": ("yes",)}, "where.overdue", "is true or false"),
        ({"llm": ("a\0",)}, "where.llm", "is a text without NUL"),
        ({"llm": (1,)}, "where.llm", "is a text without NUL"),
        ({"llm": ()}, "where.llm", "has to have 1 to 100 values"),
        ({"day": ("2026-12-01",)}, "where.day", "a span of time is given by since and until"),
    ],
)
def test_a_filter_that_nothing_can_fit_is_refused(where: Filters, path: str, told: str) -> None:
    assert wrong(Report(where=where)) == [(path, told)]


def test_a_dimension_has_to_belong_to_what_is_counted() -> None:
    assert wrong(Report(("outcome",), ("tasks",))) == [
        ("metrics", "'tasks' is about tasks, which have no dimension 'outcome'")
    ]
    assert [path for path, _ in wrong(Report(("day",), ("utilisation",)))] == ["metrics"]
    assert wrong(Report(("llm",), ("tasks", "attempts", "utilisation"))) == []


def test_the_order_has_to_be_by_something_that_is_told() -> None:
    assert wrong(Report(("llm",), ("tasks",), sort="day")) == [
        ("sort", "'day' is neither a dimension nor a metric of this report")
    ]


def test_every_dimension_is_of_something_that_has_metrics() -> None:
    assert all(dimension.of for dimension in DIMENSIONS.values())
    assert {metric.of for metric in METRICS.values()} == set(Of)
