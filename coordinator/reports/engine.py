"""Reports out of the books: from a report's description to its rows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select

from broker.errors import Problem, QueryRejected
from broker.instants import to_datetime
from broker.reporting import METRICS, MOST_GROUPS, PERCENTILES, Of, Report, Value
from coordinator.reports import facts
from coordinator.reports.facts import DAY, EPOCH_WEEKDAY, HOUR, Column, Fact, Span
from coordinator.reports.figures import FORMULAS, Figure, Group, length_of, parts_of
from coordinator.reports.percentiles import MANY, OfMany, by_group
from coordinator.reports.utilisation import utilisation

Key = tuple[Any, ...]
Row = dict[str, Value | Figure]
Groups = dict[Key, dict[str, int | None]]


@dataclass(frozen=True, slots=True)
class Told:
    """What a report tells: its rows, sorted, and the sums over all of its groups."""

    rows: list[Row]
    total: Group


_FACTS = {Of.TASKS: facts.tasks, Of.ATTEMPTS: facts.attempts}


def tell(connection: Connection, report: Report, span: Span) -> Told:
    """What a report without problems tells. Raises QueryRejected when there are too many groups."""
    groups: Groups = {} if report.group_by else {(): {}}
    for of, make in _FACTS.items():
        if wanted := parts_of(report, of):
            fact = make(report, span.now)
            counting = _Counting(connection, fact, report, span, groups)
            counting.add_up([name for name in wanted if name in fact.parts])
            ranked = {name.rpartition("_")[0] for name in wanted if name not in fact.parts}
            counting.rank({name: measure for name, measure in fact.measures.items() if name in ranked})
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
    return Told(rows, Group(total, total, None))


class _Counting:
    """One fact of one report."""

    def __init__(self, connection: Connection, fact: Fact, report: Report, span: Span, groups: Groups) -> None:
        """What is counted goes to the parts that the groups have already."""
        self._connection = connection
        self._fact = fact
        self._report = report
        self._span = span
        self._groups = groups

    def add_up(self, names: Sequence[str]) -> None:
        """Counts, sums and maxima, of every group."""
        width = len(self._report.group_by)
        columns = [self._fact.parts[name] for name in names]
        for statement in self._fact.selects(self._report, self._span, columns, group=True):
            for row in self._connection.execute(statement.limit(MOST_GROUPS + 1)):
                parts = self._groups.setdefault(tuple(row[:width]), {})
                for name, value in zip(names, row[width:], strict=True):
                    parts[name] = _together(name, parts.get(name), None if value is None else int(value))
                if len(self._groups) > MOST_GROUPS:
                    told = f"more than {MOST_GROUPS:,} groups: take a coarser dimension, or a filter"
                    raise QueryRejected([Problem("group_by", told)])

    def rank(self, measures: Mapping[str, Column]) -> None:
        """Percentiles of these durations, of every group. How many there are is known by now."""
        percents = tuple(PERCENTILES.values())
        counts = {name: sum(parts.get(f"{name}_count") or 0 for parts in self._groups.values()) for name in measures}
        many = {name: measure for name, measure in measures.items() if counts[name] >= MANY}
        found: dict[str, dict[int, int]] = {}
        if many and not self._report.group_by:
            found = OfMany(self._connection, self._ungrouped, many, self._fact.seq).values(counts, percents)
        for name, measure in measures.items():
            if len(found.get(name, ())) == len(percents):
                ranked = {(): found[name]}
            else:
                ranked = by_group(self._connection, self._ungrouped([measure]), percents) if counts[name] else {}
            for key, values in ranked.items():
                self._groups[key] |= {f"{name}_{short}": values[percent] for short, percent in PERCENTILES.items()}

    def _ungrouped(self, columns: Sequence[Column]) -> list[Select[Any]]:
        return self._fact.selects(self._report, self._span, columns, group=False)


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
