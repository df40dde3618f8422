"""Reports by their names, and changed by fields that are given."""

from dataclasses import replace
from typing import Any

from broker.protocol.queries import ReportFields
from broker.protocol.report_catalog import Moment, Report

SUMMARY, CUSTOM = "summary", "custom"


def with_fields(report: Report, fields: ReportFields) -> Report:
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
