"""The formula of each metric: its parts, and how they are combined."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from broker.protocol.report_catalog import MEASURES, METRICS, Of, Report
from coordinator.queries.reports.facts import DAY, EPOCH_WEEKDAY, HOUR, Span
from coordinator.storage.usage_columns import COUNTS, NANOS

Figure = int | float | None
Parts = Mapping[str, int | None]

MICROS = 1_000_000

_COST = ("cost", "unknown_cost")
_BUCKETS = {"hour": HOUR, "day": DAY, "week": 7 * DAY}


@dataclass(frozen=True, slots=True)
class Group:
    """What a figure may depend on: the parts of its group, those of all groups, and the group's length in time."""

    parts: Parts
    total: Parts
    length: int | None  # microseconds


@dataclass(frozen=True, slots=True)
class Formula:
    """The parts of a metric, and the function that combines them."""

    parts: tuple[str, ...]
    make: Callable[[Group], Figure]


def _count(part: str) -> Formula:
    return Formula((part,), lambda group: group.parts.get(part) or 0)


def _ratio(above: str, below: str, scale: int = 1) -> Formula:
    def make(group: Group) -> Figure:
        bottom = group.parts.get(below)
        return (group.parts.get(above) or 0) / (bottom * scale) if bottom else None

    return Formula((above, below), make)


def _seconds(part: str, *others: str) -> Formula:
    def make(group: Group) -> Figure:
        value = group.parts.get(part)
        return None if value is None else value / MICROS

    return Formula((part, *others), make)


def _if_known(part: str) -> Callable[[Group], Figure]:
    return lambda group: group.parts.get(part)


def _accepted(group: Group) -> Figure:
    """Return the number of accepted tasks: 0 of no tasks, unknown of those of an earlier version."""
    return group.parts.get("accepted") if group.parts.get("tasks") else 0


def _cost(group: Group) -> Figure:
    """Return the known cost in dollars. Where nothing is known to have cost anything, the cost is unknown."""
    cost = group.parts.get("cost")
    return None if cost is None or (not cost and group.parts.get("unknown_cost")) else cost / NANOS


def _cost_per(part: str) -> Formula:
    def make(group: Group) -> Figure:
        cost, count = group.parts.get("cost"), group.parts.get(part)
        return None if _cost(group) is None or cost is None or not count else cost / (count * NANOS)

    return Formula((*_COST, part), make)


def _pace(group: Group) -> Figure:
    time = group.parts.get("paced_time")
    return (group.parts.get("paced_tokens") or 0) * MICROS / time if time else None


def _busy_share(group: Group) -> Figure:
    total = group.total.get("busy")
    return (group.parts.get("busy") or 0) / total if total else None


def _throughput(group: Group) -> Figure:
    return (group.parts.get("completed") or 0) * HOUR / group.length if group.length else None


def _of_measure(name: str) -> dict[str, Formula]:
    return {
        f"{name}_mean": _ratio(f"{name}_total", f"{name}_count", MICROS),
        f"{name}_p50": _seconds(f"{name}_p50", f"{name}_count"),
        f"{name}_p95": _seconds(f"{name}_p95", f"{name}_count"),
        f"{name}_max": _seconds(f"{name}_max"),
    }


FORMULAS = {
    "accepted": Formula(("accepted", "tasks"), _accepted),
    **{name: _count(name) for name in ("tasks", "completed", "failed", "cancelled", "open", "late")},
    "completion_rate": _ratio("completed", "tasks"),
    "throughput": Formula(("completed", "first"), _throughput),
    **{name: formula for measure in MEASURES for name, formula in _of_measure(measure).items()},
    **{name: _count(name) for name in ("attempts", "attempts_completed", "attempts_failed", "attempts_lost")},
    "busy_time": Formula(("busy",), lambda group: (group.parts.get("busy") or 0) / MICROS),
    "utilisation": _ratio("used", "offered"),
    "busy_share": Formula(("busy",), _busy_share),
    **{name: Formula((name,), _if_known(name)) for name in (*COUNTS, "unknown_cost")},
    "tokens_per_second": Formula(("paced_tokens", "paced_time"), _pace),
    "cost_usd": Formula(_COST, _cost),
    "cost_per_completed": _cost_per("done"),
    "cost_per_accepted": _cost_per("accepted"),
}
assert FORMULAS.keys() == METRICS.keys()


def parts_of(report: Report, of: Of) -> list[str]:
    """Return the parts that the report's metrics need, if they are about that kind; some may be of another one."""
    names = [part for name in report.metrics if of in METRICS[name].kinds for part in FORMULAS[name].parts]
    return list(dict.fromkeys(names))


def length_of(report: Report, key: tuple[Any, ...], span: Span, first: int | None) -> int | None:
    """Return the length of a group in microseconds: the part of its hour, day or week in the span and before now.

    Without such a dimension: from `since`, else from the first counted moment, to `until` or now.
    """
    end = span.now if span.until is None else min(span.until, span.now)
    start = span.since if span.since is not None else first
    for name, size in _BUCKETS.items():
        if name in report.group_by:
            number = key[report.group_by.index(name)]
            begins = (number * 7 - EPOCH_WEEKDAY) * DAY if name == "week" else number * size
            start = begins if span.since is None else max(begins, span.since)
            end = min(end, begins + size)
            break
    return None if start is None or end <= start else end - start
