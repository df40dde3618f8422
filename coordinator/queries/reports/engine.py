"""The report engine: from a report's definition to its rows."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection

from broker.errors import Problem, QueryRejected
from broker.protocol.report_catalog import MEASURES, METRICS, MOST_GROUPS, PERCENTILES, Of, Report, Value
from broker.protocol.status import Status
from broker.timestamps import to_datetime
from coordinator.queries.reports import facts, sums
from coordinator.queries.reports.divided_usage import by_model
from coordinator.queries.reports.facts import DAY, EPOCH_WEEKDAY, HOUR, Column, Fact, Span
from coordinator.queries.reports.figures import FORMULAS, Figure, Group, length_of, parts_of
from coordinator.queries.reports.ranking import Groups, Key, rank
from coordinator.queries.reports.utilisation import utilisation

Row = dict[str, Value | Figure]


@dataclass(frozen=True, slots=True)
class ReportResult:
    """The sorted rows of a report, and the sums over all of its groups."""

    rows: list[Row]
    total: Group


def run_report(connection: Connection, report: Report, span: Span) -> ReportResult:
    """Run a valid report. Raises QueryRejected when there are too many groups."""
    groups: Groups = {} if report.group_by else {(): {}}
    for of in (Of.TASKS, Of.ATTEMPTS):
        if wanted := parts_of(report, of):
            _count(connection, _counted(connection, of, report, span), wanted, groups)
    if ranked := [name for name in MEASURES if any(f"{name}_{short}" in report.metrics for short in PERCENTILES)]:
        rank(connection, report, span, ranked, groups)
    if parts_of(report, Of.SLOTS):
        for key, parts in utilisation(connection, report, span).items():
            groups.setdefault(key, {}).update(parts)
    total = _added(groups.values())
    rows: list[Row] = []
    for key, parts in sorted(groups.items(), key=lambda group: _in_order(group[0])):
        group = Group(parts, total, length_of(report, key, span, total.get("first")))
        named = {name: _shown(name, value) for name, value in zip(report.group_by, key, strict=True)}
        rows.append({**named, **{name: FORMULAS[name].make(group) for name in report.metrics}})
    if report.sort in METRICS:
        rows.sort(key=lambda row: -(_number(row[report.sort or ""])))
    elif report.sort:
        rows.sort(key=lambda row: _in_order((row[report.sort or ""],)))
    return ReportResult(rows, Group(total, total, None))


def _counted(connection: Connection, of: Of, report: Report, span: Span) -> list[Fact]:
    """Return the sums of the closed periods that apply, and the single tasks or attempts of all other time."""
    summed, single = (sums.tasks, facts.tasks) if of is Of.TASKS else (sums.attempts, facts.attempts)
    closed = sums.closed_for(connection, summed(report, ()), span)
    counted = [summed(report, closed.summed), single(report, span, closed.single)]
    if of is Of.ATTEMPTS:
        return [*counted, *by_model(counted[1])]
    if any(METRICS[name].of is Of.TASKS for name in report.metrics):
        return counted
    return [replace(fact, bounds=[*fact.bounds, *_done_by_an_llm(fact)]) for fact in counted]


def _done_by_an_llm(fact: Fact) -> list[Column]:
    """Return the conditions of the tasks that have a cost per task, which are a part of attempts' metrics only."""
    return [fact.dimensions["status"] == Status.COMPLETED.value, fact.dimensions["llm"].is_not(None)]


def _count(connection: Connection, counted: Iterable[Fact], wanted: Iterable[str], groups: Groups) -> None:
    """Add the counts, sums and maxima of every group to the parts of the groups."""
    for fact in counted:
        width = len(fact.report.group_by)
        names = [name for name in wanted if name in fact.parts]
        if not names:
            continue
        for statement in fact.selects([fact.parts[name] for name in names], group=True):
            for row in connection.execute(statement.limit(MOST_GROUPS + 1)):
                parts = groups.setdefault(tuple(row[:width]), {})
                for name, value in zip(names, row[width:], strict=True):
                    parts[name] = _together(name, parts.get(name), None if value is None else int(value))
                if len(groups) > MOST_GROUPS:
                    message = f"makes more than {MOST_GROUPS:,} groups: use a coarser dimension, or a filter"
                    raise QueryRejected([Problem("group_by", message)])


def _together(name: str, one: int | None, other: int | None) -> int | None:
    """Return the part of two sets together, from the part of each."""
    if one is None or other is None:
        return other if one is None else one
    if name == "first":
        return min(one, other)
    return max(one, other) if name.endswith("_max") else one + other


def _added(groups: Iterable[dict[str, int | None]]) -> dict[str, int | None]:
    total: dict[str, int | None] = {}
    for parts in groups:
        for name, value in parts.items():
            total[name] = _together(name, total.get(name), value)
    return total


def _shown(dimension: str, value: Any) -> Value:
    """A dimension's value for the answer, from the value that the database groups by."""
    match dimension:
        case "overdue":
            return bool(value)
        case "hour":
            return f"{to_datetime(value * HOUR):%Y-%m-%dT%H:%MZ}"
        case "day":
            return f"{to_datetime(value * DAY):%Y-%m-%d}"
        case "week":
            return f"{to_datetime((value * 7 - EPOCH_WEEKDAY) * DAY):%Y-%m-%d}"
        case "weekday":
            return int(value) + 1
        case _:
            known: Value = value
            return known


def _in_order(key: Key) -> tuple[Any, ...]:
    """Return a sort key: ascending, missing values last."""
    return tuple((value is None, value if value is not None else 0) for value in key)


def _number(value: Any) -> float:
    return float("-inf") if value is None else value
