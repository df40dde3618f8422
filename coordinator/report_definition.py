"""A report's definition with the fields of a query or of a saved report applied to it."""

from dataclasses import replace
from typing import Any

from broker.protocol.queries import ReportFields
from broker.protocol.report_catalog import Moment, Report

SUMMARY, CUSTOM = "summary", "custom"


def with_fields(report: Report, fields: ReportFields) -> Report:
    """Return the report with the given fields replaced; filters are added to those of the report."""
    given: dict[str, Any] = {name: value for name in ("sort", "limit") if (value := getattr(fields, name)) is not None}
    if fields.group_by is not None:
        given["group_by"] = tuple(dict.fromkeys(fields.group_by))
    if fields.metrics is not None:
        given["metrics"] = tuple(dict.fromkeys(fields.metrics))
    if fields.moment is not None:
        given["moment"] = Moment(fields.moment)
    if fields.where:
        given["where"] = {**report.where, **{name: tuple(values) for name, values in fields.where.items()}}
    changed = replace(report, **given)
    if changed.sort not in (None, fields.sort, *changed.group_by, *changed.metrics):
        return replace(changed, sort=None)  # the report's own sort column is no longer among its columns
    return changed
