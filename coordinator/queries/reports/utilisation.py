"""How much of the slots that LLMs offered was used: over time, by the coordinator's clock."""

from itertools import pairwise
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, case, func, select

from broker.protocol.report_catalog import Report
from broker.protocol.status import Status
from broker.timestamps import Instant
from coordinator.queries.reports import sums
from coordinator.queries.reports.facts import Span, within
from coordinator.storage import schema

Key = tuple[Any, ...]

_tasks, _attempts, _slots, _sums = schema.tasks, schema.attempts, schema.llm_slots, schema.attempt_sums
_RUNNING = (Status.IN_PROGRESS.value, Status.INPUT_REQUIRED.value)


def utilisation(connection: Connection, report: Report, span: Span) -> dict[Key, dict[str, int | None]]:
    """By LLM, or for all together: `offered`, the slots that there were times how long, and `used`, the length of the
    attempts, those that run included. Both in microseconds within the span; without `since`, from the first slot on.
    """
    offered = _offered(connection, span)
    used: dict[str, int] = {}
    for statement in _used(connection, span):
        for llm, micros in connection.execute(statement):
            used[llm] = used.get(llm, 0) + int(micros)
    found: dict[Key, dict[str, int | None]] = {}
    wanted = report.where.get("llm")
    for llm in sorted(offered.keys() | used.keys()):
        if wanted is None or llm in wanted:
            parts = found.setdefault((llm,) if report.group_by else (), {"offered": 0, "used": 0})
            parts["offered"] = (parts["offered"] or 0) + offered.get(llm, 0)
            parts["used"] = (parts["used"] or 0) + used.get(llm, 0)
    return found


def _offered(connection: Connection, span: Span) -> dict[str, int]:
    """Slots times microseconds, by LLM."""
    changes: dict[str, list[tuple[Instant, int]]] = {}
    for llm, at, slots in connection.execute(select(_slots).order_by(_slots.c.llm, _slots.c.at)):
        changes.setdefault(llm, []).append((at, slots))
    ends = _end(span)
    offered = {}
    for llm, steps in changes.items():
        lengths = ((_overlap(at, after, span), slots) for (at, slots), (after, _) in pairwise([*steps, (ends, 0)]))
        offered[llm] = sum(length * slots for length, slots in lengths)
    return offered


def _overlap(start: Instant, end: Instant, span: Span) -> int:
    """How long both last."""
    return max(0, min(end, _end(span)) - (start if span.since is None else max(start, span.since)))


def _used(connection: Connection, span: Span) -> list[Select[Any]]:
    """By LLM, microseconds of attempts: of those that have ended, in closed periods or not, and of those that run."""

    def lies_within(period: Row[Any]) -> bool:
        begins_within = period.first_started is None or span.since is None or period.first_started >= span.since
        return bool(begins_within and period.until <= _end(span))

    closed = sums.closed(connection, lies_within)
    ended, running = _attempts.c, _tasks.c
    length = select(_sums.c.llm, func.sum(_sums.c.length)).where(_sums.c.length.is_not(None)).group_by(_sums.c.llm)
    runs = running.status.in_(_RUNNING) & schema.is_in_hand
    return [
        *(length.where(within(_sums.c.period, its)) for its in closed.summed),
        *(
            _lengths(ended.llm, ended.started_at, ended.finished_at, span).where(within(ended.finished_at, its))
            for its in closed.single
        ),
        _lengths(running.llm, running.started_at, None, span).where(runs),
    ]


def _lengths(
    llm: ColumnElement[Any], start: ColumnElement[Any], end: ColumnElement[Any] | None, span: Span
) -> Select[Any]:
    ends: Any = _end(span)
    last = ends if end is None else case((end < ends, end), else_=ends)
    first = start if span.since is None else case((start > span.since, start), else_=span.since)
    return select(llm, func.sum(last - first)).where(start.is_not(None), first < last).group_by(llm)


def _end(span: Span) -> Instant:
    return span.now if span.until is None else min(span.until, span.now)
