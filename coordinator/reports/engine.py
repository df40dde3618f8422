"""Reports out of the books: from a report's description to its rows."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from broker.errors import Problem, QueryRejected
from broker.instants import to_datetime
from broker.reporting import METRICS, MOST_GROUPS, PERCENTILES, Of, Report, Value
from coordinator.reports import facts
from coordinator.reports.facts import DAY, EPOCH_WEEKDAY, HOUR, Fact, Span
from coordinator.reports.figures import FORMULAS, Figure, Group, length_of, parts_of
from coordinator.reports.percentiles import VALUE, percentiles

Key = tuple[Any, ...]
Row = dict[str, Value | Figure]


@dataclass(frozen=True, slots=True)
class Told:
    """What a report tells: its rows, sorted, and the sums over all of its groups."""

    rows: list[Row]
    total: Group


_FACTS = {Of.TASKS: facts.tasks, Of.ATTEMPTS: facts.attempts}


def tell(connection: Connection, report: Report, span: Span) -> Told:
    """What a report without problems tells. Raises QueryRejected when there are too many groups."""
    groups: dict[Key, dict[str, int | None]] = {} if report.group_by else {(): {}}
    for of, make in _FACTS.items():
        if wanted := parts_of(report, of):
            _add(connection, make(report, span.now), report, span, wanted, groups)
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
    return Told(rows, Group(total, total, None))


def _add(
    connection: Connection,
    fact: Fact,
    report: Report,
    span: Span,
    wanted: list[str],
    groups: dict[Key, dict[str, int | None]],
) -> None:
    """Put the parts of every group to those that are there."""
    summed = [part for part in wanted if part in fact.parts]
    width = len(report.group_by)
    for statement in fact.selects(report, span, [fact.parts[part] for part in summed], group=True):
        for row in connection.execute(statement.limit(MOST_GROUPS + 1)):
            parts = groups.setdefault(tuple(row[:width]), {})
            for name, value in zip(summed, row[width:], strict=True):
                parts[name] = _together(name, parts.get(name), None if value is None else int(value))
            if len(groups) > MOST_GROUPS:
                told = f"more than {MOST_GROUPS:,} groups: take a coarser dimension, or a filter"
                raise QueryRejected([Problem("group_by", told)])
    ranked: dict[str, list[str]] = {}
    for part in wanted:
        if part not in fact.parts:
            measure, _, percent = part.rpartition("_")
            ranked.setdefault(measure, []).append(percent)
    measures = facts.task_measures(span.now)
    for measure, names in ranked.items():
        values = fact.selects(report, span, [measures[measure].label(VALUE)], group=False)
        for key, found in percentiles(connection, values, [PERCENTILES[name] for name in names]).items():
            groups[key] |= {f"{measure}_{name}": found[PERCENTILES[name]] for name in names}


def _together(name: str, one: int | None, other: int | None) -> int | None:
    """A part of one set and of another, as that of both."""
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
    """A dimension's value, as it is told, from what the database groups by."""
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
    """Ascending, what has no value last."""
    return tuple((value is None, value if value is not None else 0) for value in key)


def _number(value: Any) -> float:
    return float("-inf") if value is None else value
