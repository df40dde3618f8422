"""What is answered to a query for a report."""

from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from broker.errors import Problem, QueryRejected
from broker.instants import Instant, from_datetime, to_iso
from broker.reporting import DIMENSIONS, METRICS, PREDEFINED, Moment, Report, problems_of, unknown
from broker.views import ReportFields, ReportQuery
from coordinator.reports.engine import tell
from coordinator.reports.facts import Span
from coordinator.reports.summary import summary

SUMMARY, CUSTOM = "summary", "custom"


def report_view(connection: Connection, query: ReportQuery, now: Instant) -> dict[str, Any]:
    """The fields of views.ReportView. Raises QueryRejected with everything that is wrong with the query."""
    name = query.name or (CUSTOM if query.group_by or query.metrics else SUMMARY)
    report = _with_fields(_named(name), query)
    if problems := problems_of(report):
        raise QueryRejected(problems)
    since = None if query.since is None else from_datetime(query.since)
    until = None if query.until is None else from_datetime(query.until)
    span = Span(since, until, now)
    is_summary = name == SUMMARY and query.group_by is None and query.metrics is None
    rows = tell(connection, report, span).rows
    return {
        "name": name,
        "generated_at": to_iso(now),
        "since": to_iso(since),
        "until": to_iso(until),
        "group_by": report.group_by,
        "metrics": report.metrics,
        "where": report.where,
        "moment": report.moment.value,
        "columns": [
            *({"name": name, "title": DIMENSIONS[name].title} for name in report.group_by),
            *({"name": name, "title": METRICS[name].title, "unit": METRICS[name].unit} for name in report.metrics),
        ],
        "rows": rows[: report.limit],
        "left_out": max(0, len(rows) - report.limit),
        "values": summary(connection, report, span, rows) if is_summary else {},
    }


def _named(name: str) -> Report:
    if name == CUSTOM:
        return Report()
    if name in PREDEFINED:
        return PREDEFINED[name]
    raise QueryRejected([Problem("name", unknown("report", name, [*PREDEFINED, CUSTOM]))])


def _with_fields(report: Report, fields: ReportFields) -> Report:
    """The report with these fields in place of its own; filters come to those that it has."""
    given: dict[str, Any] = {name: value for name in ("sort", "limit") if (value := getattr(fields, name)) is not None}
    if fields.group_by is not None:
        given["group_by"] = tuple(dict.fromkeys(fields.group_by))
    if fields.metrics is not None:
        given["metrics"] = tuple(dict.fromkeys(fields.metrics))
    if fields.moment is not None:
        given["moment"] = Moment(fields.moment)
    if fields.where:
        given["where"] = {**report.where, **{name: tuple(values) for name, values in fields.where.items()}}
    told = replace(report, **given)
    if told.sort not in (None, fields.sort, *told.group_by, *told.metrics):
        return replace(told, sort=None)  # that of the report itself, by what it no longer tells
    return told
