"""Percentiles of a report's groups: from the stored lists of closed periods, and from the tasks of open ones."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from broker.protocol.report_catalog import PERCENTILES, Report
from coordinator.queries.reports import facts, sums
from coordinator.queries.reports.facts import Span
from coordinator.queries.reports.percentiles import (
    MIN_SAMPLED,
    SampledPercentiles,
    by_group,
    place_of,
    unpacked,
    value_at,
)
from coordinator.storage.schema import durations

Key = tuple[Any, ...]
Groups = dict[Key, dict[str, int | None]]
Ranked = dict[str, dict[Key, dict[int, int]]]  # measure -> group -> percent -> value

MAX_SINGLE = 200_000  # tasks outside of closed periods, up to which the lists are used

_PERCENTS = tuple(PERCENTILES.values())


def rank(connection: Connection, report: Report, span: Span, measures: Sequence[str], groups: Groups) -> None:
    """Add the percentiles of these durations to the groups, which hold the counts already."""
    counts = {name: sum(parts.get(f"{name}_count") or 0 for parts in groups.values()) for name in measures}
    counts = {name: count for name, count in counts.items() if count}
    ranked = _by_lists(connection, report, span, counts)
    if ranked is None:
        ranked = _one_by_one(connection, report, span, counts)
    for name, by_key in ranked.items():
        for key, values in by_key.items():
            groups[key] |= {f"{name}_{short}": values[percent] for short, percent in PERCENTILES.items()}


def _by_lists(connection: Connection, report: Report, span: Span, counts: Mapping[str, int]) -> Ranked | None:
    """Return None when no lists fit the report, or more than MAX_SINGLE tasks are in none of them."""
    closed = sums.closed_for(connection, sums.durations(report, ()), span)
    lists: dict[str, dict[Key, list[Sequence[int]]]] = {name: {} for name in counts}
    for statement in sums.durations(report, closed.summed).selects(
        [durations.c.measure, durations.c.micros], group=False
    ):
        for *keys, name, micros in connection.execute(statement.where(durations.c.measure.in_(counts))):
            lists[name].setdefault(tuple(keys), []).append(unpacked(micros))
    listed = {name: sum(len(its) for of_key in by_key.values() for its in of_key) for name, by_key in lists.items()}
    if not any(listed.values()) or any(counts[name] - listed[name] > MAX_SINGLE for name in counts):
        return None
    single = facts.tasks(report, span, closed.single)
    width = len(report.group_by)
    single_values: dict[str, dict[Key, list[int]]] = {name: {} for name in counts}
    for statement in single.selects([single.measures[name] for name in counts], group=False):
        for row in connection.execute(statement):
            for name, value in zip(counts, row[width:], strict=True):
                if value is not None:
                    single_values[name].setdefault(tuple(row[:width]), []).append(value)
    for name, by_key in single_values.items():
        for key, values in by_key.items():
            lists[name].setdefault(key, []).append(sorted(values))
    return {name: {key: _of_lists(its) for key, its in by_key.items()} for name, by_key in lists.items()}


def _of_lists(lists: Sequence[Sequence[int]]) -> dict[int, int]:
    count = sum(map(len, lists))
    return {percent: value_at(place_of(count, percent), lists) for percent in _PERCENTS}


def _one_by_one(connection: Connection, report: Report, span: Span, counts: Mapping[str, int]) -> Ranked:
    fact = facts.tasks(report, span)
    many = {name: fact.measures[name] for name in counts if counts[name] >= MIN_SAMPLED and not report.group_by}
    found = SampledPercentiles(connection, fact, many).values(counts, _PERCENTS) if many else {}
    ranked: Ranked = {name: {(): values} for name, values in found.items() if len(values) == len(_PERCENTS)}
    for name in counts.keys() - ranked.keys():
        ranked[name] = by_group(connection, fact.selects([fact.measures[name]], group=False), _PERCENTS)
    return ranked
