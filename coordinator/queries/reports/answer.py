"""What is answered to a query for a report."""

from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, select

from broker.errors import Problem, QueryRejected
from broker.protocol.queries import ReportFields, ReportQuery
from broker.protocol.report_catalog import DIMENSIONS, METRICS, PREDEFINED, Report, problems_of, unknown
from broker.timestamps import Instant, from_datetime, to_iso
from coordinator.queries.reports.definition import CUSTOM, SUMMARY, with_fields
from coordinator.queries.reports.engine import tell
from coordinator.queries.reports.facts import Span
from coordinator.queries.reports.summary import summary
from coordinator.storage.schema import reports


def report_view(connection: Connection, query: ReportQuery, now: Instant) -> dict[str, Any]:
    """The fields of views.ReportView. Raises QueryRejected with everything that is wrong with the query."""
    name = query.name or (CUSTOM if query.group_by or query.metrics else SUMMARY)
    report = with_fields(_named(connection, name), query)
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
        "sort": report.sort,
        "limit": report.limit,
        "columns": [
            *({"name": name, "title": DIMENSIONS[name].title} for name in report.group_by),
            *({"name": name, "title": METRICS[name].title, "unit": METRICS[name].unit} for name in report.metrics),
        ],
        "rows": rows[: report.limit],
        "left_out": max(0, len(rows) - report.limit),
        "values": summary(connection, report, span, rows) if is_summary else {},
    }


def report_list(connection: Connection) -> dict[str, Any]:
    """The fields of views.ReportList."""
    told = [{"name": name, "meaning": report.meaning, **_fields(report)} for name, report in PREDEFINED.items()]
    for row in connection.execute(select(reports).order_by(reports.c.name)):
        saved = {"name": row.name, "saved_by": row.saved_by, "saved_at": to_iso(row.saved_at)}
        told.append({**saved, **_fields(_report_of(row.definition))})
    return {"reports": told}


def _fields(report: Report) -> dict[str, Any]:
    return {name: value for name, value in asdict(report).items() if name != "meaning"}


def _named(connection: Connection, name: str) -> Report:
    if name == CUSTOM:
        return Report()
    if name in PREDEFINED:
        return PREDEFINED[name]
    saved = {row.name: row.definition for row in connection.execute(select(reports))}
    if name in saved:
        return _report_of(saved[name])
    raise QueryRejected([Problem("name", unknown("report", name, [*PREDEFINED, *saved, CUSTOM]))])


def _report_of(definition: str) -> Report:
    return with_fields(Report(), ReportFields.model_validate_json(definition))
