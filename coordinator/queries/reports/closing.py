"""Closing of periods: finished tasks are added up once, so that reports need not read all of them again.

The sums come from the same facts as the figures of single tasks and attempts. If a closed period changes, because a
task is retried or a clock is set back, storage/periods.py opens it, and it is closed again later.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlalchemy import BigInteger, Connection, Table, case, func, insert, literal, select

from broker.protocol.report_catalog import MEASURES, Moment, Report
from broker.timestamps import EPOCH, Instant, Micros
from coordinator.queries.reports import facts
from coordinator.queries.reports.divided_usage import MOVED, by_model
from coordinator.queries.reports.facts import Column, Fact, Range, Span, within
from coordinator.queries.reports.percentiles import packed
from coordinator.storage import schema
from coordinator.storage.store import Store

SIZE = 10_000  # tasks of a period

_periods, _durations = schema.periods, schema.durations
_tasks, _attempts = schema.tasks.c, schema.attempts.c

_TASKS_BY = Report(("status", "llm", "overdue", "hour", "model"), moment=Moment.FINISHED)
_ATTEMPTS_BY = Report(("llm", "outcome", "error", "hour", "model"), moment=Moment.FINISHED)
_DURATIONS_BY = Report(("status", "overdue"), moment=Moment.FINISHED)
_COLUMNS = {"error": "error_type", "busy": "duration", "cost": "cost_nanos"}  # columns that are named differently


def close_period(store: Store, now: Instant, lease: Micros) -> Instant | None:
    """Close the oldest open period, as the leader. Returns its end, or None when too few tasks have ended since.

    Raises NotTheLeader and StoreUnavailable.
    """
    with store.leading(now, lease) as connection:
        return close_next(connection)


def close_next(connection: Connection) -> Instant | None:
    """Close the oldest open period. Returns its end, or None when too few tasks have ended since."""
    at = EPOCH
    for start, until in connection.execute(select(_periods.c.start, _periods.c.until).order_by(_periods.c.start)):
        if at < start:  # this gap was a closed period before
            return _close(connection, at, _end(connection, (at, start)) or start)
        at = until
    end = _end(connection, (at, None))
    return None if end is None else _close(connection, at, end)


def _end(connection: Connection, its: Range) -> Instant | None:
    """Return the end of a period of SIZE tasks from the start of the range; None when there are fewer."""
    ended = select(_tasks.finished_at).where(schema.is_over & within(_tasks.finished_at, its))
    end = connection.scalar(ended.order_by(_tasks.finished_at).offset(SIZE).limit(1))
    return None if end is None else Instant(max(end, its[0] + 1))  # tasks that ended at one moment stay together


def _close(connection: Connection, start: Instant, until: Instant) -> Instant:
    span = Span(None, None, until)
    tasks = _as_stored(facts.tasks(_TASKS_BY, span, [(start, until)]), _tasks.model)
    sums = [f"{measure}_{part}" for measure in MEASURES for part in ("count", "total", "max")]
    firsts = {"first_submitted": func.min(_tasks.submitted_at), "first_finished": tasks.parts["first"]}
    _add_up(connection, schema.task_sums, start, tasks, ["tasks", "done", "accepted", *sums], firsts)
    attempts = _as_stored(facts.attempts(_ATTEMPTS_BY, span, [(start, until)]), _attempts.model)
    length = _attempts.finished_at - _attempts.started_at
    lengths = {"length": func.sum(case((length > literal(0, BigInteger), length)))}
    whole = ["attempts", "busy", "unknown_cost", "paced_tokens", "paced_time"]
    _add_up(connection, schema.attempt_sums, start, attempts, [*whole, *MOVED], lengths)
    for moved in by_model(attempts):
        _add_up(connection, schema.attempt_sums, start, moved, [*moved.parts], {"attempts": literal(0, BigInteger)})
    _keep_durations(connection, start, facts.tasks(_DURATIONS_BY, span, [(start, until)]))
    first, last = func.min(_tasks.submitted_at), func.max(_tasks.submitted_at)
    moments = [*connection.execute(select(first, last).where(*tasks.slices)).one()]
    first, last = func.min(_attempts.submitted_at), func.max(_attempts.submitted_at)
    started = func.min(_attempts.started_at)
    *more, first_started = connection.execute(select(first, last, started).where(*attempts.slices)).one()
    known = [moment for moment in (*moments, *more) if moment is not None]
    period = {
        "start": start,
        "until": until,
        "first_submitted": min(known, default=None),
        "last_submitted": max(known, default=None),
        "first_started": first_started,
    }
    connection.execute(insert(_periods), period)
    return until


def _as_stored(fact: Fact, model: Column) -> Fact:
    """Return the fact with the stored models only: for a missing one, a report takes the LLM's model at its time."""
    return replace(fact, dimensions={**fact.dimensions, "model": model})


def _add_up(
    connection: Connection,
    table: Table,
    period: Instant,
    fact: Fact,
    parts: Sequence[str],
    others: Mapping[str, Column],
) -> None:
    """Insert a row for every group of the fact's report: these parts, and these other columns."""
    values = {**{name: fact.parts[name] for name in parts}, **others, "period": literal(period, BigInteger)}
    names = [_COLUMNS.get(name, name) for name in (*fact.report.group_by, *values)]
    for statement in fact.selects([*values.values()], group=True):
        connection.execute(insert(table).from_select(names, statement))


def _keep_durations(connection: Connection, period: Instant, fact: Fact) -> None:
    lists: dict[tuple[str, str, int], list[int]] = {}
    for statement in fact.selects([*fact.measures.values()], group=False):
        for status, overdue, *values in connection.execute(statement):
            for measure, value in zip(fact.measures, values, strict=True):
                if value is not None:
                    lists.setdefault((measure, status, overdue), []).append(value)
    rows = [
        {"period": period, "measure": measure, "status": status, "overdue": overdue, "micros": packed(sorted(its))}
        for (measure, status, overdue), its in lists.items()
    ]
    if rows:
        connection.execute(insert(_durations), rows)
