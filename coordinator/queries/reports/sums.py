"""The sums of closed periods, which reports use in place of single tasks and attempts.

The sums of a period apply if everything that ended in it is in the report's span, and if the report uses only the
dimensions of the sums. Everything else is counted one by one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, FromClause, Row, func, literal_column, select

from broker.protocol.report_catalog import MEASURES, Moment, Report
from broker.protocol.status import Outcome, Status
from broker.timestamps import EPOCH
from coordinator.queries.reports.facts import ALWAYS, HOUR, Column, Fact, Range, Span, model_in, times, within
from coordinator.storage import schema
from coordinator.storage.usage_columns import COUNTS

_tasks, _attempts, _durations = schema.task_sums, schema.attempt_sums, schema.durations


@dataclass(frozen=True, slots=True)
class ClosedPeriods:
    """Ranges of end times: those of periods whose sums apply, and all others."""

    summed: Sequence[Range]
    single: Sequence[Range]


def closed(connection: Connection, counts: Callable[[Row[Any]], bool]) -> ClosedPeriods:
    """Return the periods for which `counts` is true of their rows, and the ranges beside them."""
    summed: list[Range] = []
    for period in connection.execute(select(schema.periods).order_by(schema.periods.c.start)):
        if counts(period):
            joins = summed and summed[-1][1] == period.start
            summed.append((summed.pop()[0] if joins else period.start, period.until))
    single: list[Range] = []
    at = EPOCH
    for start, until in summed:
        if at < start:
            single.append((at, start))
        at = until or at
    return ClosedPeriods(summed, [*single, (at, None)])


def closed_for(connection: Connection, fact: Fact, span: Span) -> ClosedPeriods:
    """Return the periods whose sums apply to the report of a fact made of sums."""
    report = fact.report
    if not {*report.group_by, *report.where} <= fact.dimensions.keys():
        return ClosedPeriods((), ALWAYS)
    if report.moment is Moment.FINISHED:
        return closed(connection, lambda period: _in(span, period.start, period.until - 1))
    return closed(connection, lambda period: _in(span, period.first_submitted, period.last_submitted))


def _in(span: Span, first: int | None, last: int | None) -> bool:
    """Return whether both moments are in the span; True if there are none."""
    if first is None or last is None:
        return True
    return (span.since is None or first >= span.since) and (span.until is None or last < span.until)


def durations(report: Report, ended: Sequence[Range]) -> Fact:
    """Return the stored durations of tasks that ended in these ranges, by status and overdue only."""
    columns = _durations.c
    return _fact(report, _durations, ended, {"status": columns.status, "overdue": columns.overdue}, {})


def tasks(report: Report, ended: Sequence[Range]) -> Fact:
    """Return the sums of the tasks that ended in these ranges."""
    columns = _tasks.c
    is_finished = report.moment is Moment.FINISHED

    def count(*conditions: Column) -> Column:
        return func.sum(columns.tasks).filter(*conditions)

    return _fact(
        report,
        _tasks,
        ended,
        {
            "status": columns.status,
            "llm": columns.llm,
            "overdue": columns.overdue,
            "model": model_in(_tasks),
            **(times(columns.hour * HOUR) if is_finished else {}),
        },
        {
            "tasks": count(),
            "completed": count(columns.status == Status.COMPLETED.value),
            "failed": count(columns.status == Status.FAILED.value),
            "cancelled": count(columns.status == Status.CANCELLED.value),
            "open": literal_column("0"),
            "done": func.sum(columns.done),
            "accepted": func.sum(columns.accepted),
            "late": count(columns.overdue == literal_column("1")),
            "first": func.min(columns.first_finished if is_finished else columns.first_submitted),
            **{f"{name}_count": func.sum(columns[f"{name}_count"]) for name in MEASURES},
            **{f"{name}_total": func.sum(columns[f"{name}_total"]) for name in MEASURES},
            **{f"{name}_max": func.max(columns[f"{name}_max"]) for name in MEASURES},
        },
    )


def attempts(report: Report, ended: Sequence[Range]) -> Fact:
    """Return the sums of the attempts that ended in these ranges."""
    columns = _attempts.c

    def count(*outcomes: Outcome) -> Column:
        return func.sum(columns.attempts).filter(columns.outcome.in_([outcome.value for outcome in outcomes]))

    return _fact(
        report,
        _attempts,
        ended,
        {
            "llm": columns.llm,
            "outcome": columns.outcome,
            "error": columns.error_type,
            "model": model_in(_attempts),
            **(times(columns.hour * HOUR) if report.moment is Moment.FINISHED else {}),
        },
        {
            "attempts": func.sum(columns.attempts),
            "attempts_completed": count(Outcome.COMPLETED),
            "attempts_failed": count(Outcome.FAILED),
            "attempts_lost": count(Outcome.LOST, Outcome.UNCLAIMED),
            "busy": func.sum(columns.duration),
            **{name: func.sum(columns[name]) for name in (*COUNTS, "unknown_cost", "paced_tokens", "paced_time")},
            "cost": func.sum(columns.cost_nanos),
        },
    )


def _fact(
    report: Report,
    table: FromClause,
    ended: Sequence[Range],
    dimensions: Mapping[str, Column],
    parts: Mapping[str, Column],
) -> Fact:
    return Fact(report, table, [within(table.c.period, its) for its in ended], dimensions, parts)
