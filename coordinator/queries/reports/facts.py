"""The tasks and ended attempts that reports count, as SQL for both SQLite and PostgreSQL.

Every figure is made of parts (counts, sums, maxima). Parts are whole numbers, so that they are exact and can be added
up over several statements.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, Table, case, exists, func, literal_column, null, or_, select

from broker.protocol.report_catalog import BANDS, MEASURES, Moment, Report, Value
from broker.protocol.status import FINAL, Outcome, Status
from broker.timestamps import EPOCH, Instant
from coordinator.storage import schema
from coordinator.storage.usage_columns import COUNTS, WITHOUT_COST

Column = ColumnElement[Any]

HOUR = 3_600_000_000  # microseconds
DAY = 24 * HOUR
EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday, the fourth day of its week

_tasks, _attempts, _llms = schema.tasks, schema.attempts, schema.llms
_OPEN = tuple(status.value for status in Status if status not in FINAL)
_MARKS = {"label": schema.labels.c.label, "skill": schema.skills.c.skill}  # dimensions with several values a task


def model_in(table: Table) -> Column:
    """Return the model of the instance that had the task; if unknown, the present model of the LLM."""
    return func.coalesce(table.c.model, _llms.c.model)


@dataclass(frozen=True, slots=True)
class Span:
    """The time [since, until) of a report, in microseconds; None: no bound. `now` is the time of the query."""

    since: Instant | None
    until: Instant | None
    now: Instant


Range = tuple[Instant, Instant | None]  # [from, before); before None: no end
ALWAYS: Sequence[Range] = ((EPOCH, None),)


@dataclass(frozen=True, slots=True)
class Fact:
    """A table to count in, for a report. `slices` are conditions that divide it, each with its own index."""

    report: Report
    table: FromClause
    slices: Sequence[Column]
    dimensions: Mapping[str, Column]
    parts: Mapping[str, Column]
    bounds: Sequence[Column] = ()  # conditions of the span
    measures: Mapping[str, Column] = field(default_factory=dict)  # durations, which have percentiles
    seq: Column = field(default_factory=null)  # of the task
    of_task: frozenset[str] = frozenset()  # dimensions that need a join with the tasks

    def selects(self, columns: Sequence[Column], *, group: bool) -> list[Select[Any]]:
        """Return a statement for each slice: the keys `k0`, `k1` … of the report's dimensions, then these columns."""
        if not self.slices:  # the report may have dimensions that this fact lacks
            return []
        keys = [self.dimensions[name].label(f"k{n}") for n, name in enumerate(self.report.group_by)]
        filters = [self._filter(name, values) for name, values in self.report.where.items()]
        wanted = select(*keys, *columns).select_from(self._source()).where(*filters, *self.bounds)
        if group and keys:
            wanted = wanted.group_by(*(key.name for key in keys))
        return [wanted.where(part) for part in self.slices]

    def _source(self) -> FromClause:
        source = self.table
        used = {*self.report.group_by, *self.report.where}
        if used & self.of_task:
            source = source.join(_tasks, _tasks.c.seq == self.seq)
        if "model" in used:
            source = source.outerjoin(_llms, _llms.c.name == self.dimensions["llm"])
        for name in _MARKS.keys() & set(self.report.group_by):
            marks = _MARKS[name].table
            source = source.outerjoin(marks, marks.c.task_seq == self.seq)
        return source

    def _filter(self, name: str, values: Sequence[Value]) -> Column:
        """Return the condition for any of the values. In a grouped dimension it applies to each value of a task."""
        if name not in _MARKS or name in self.report.group_by:
            return _any_of(self.dimensions[name], values)
        mark = _MARKS[name]
        theirs = exists().where(mark.table.c.task_seq == self.seq)
        known = [value for value in values if value is not None]
        found = theirs.where(mark.in_(known))
        return found | ~theirs if None in values else found


def tasks(report: Report, span: Span, ended: Sequence[Range] = ALWAYS) -> Fact:
    """Return the open tasks, and those that ended in these ranges, which are read from the index `tasks_over`."""
    columns = _tasks.c
    late = columns.due_order < func.coalesce(columns.finished_at, span.now)
    measures = _measures(span.now)
    is_done = (columns.status == Status.COMPLETED.value) & columns.llm.is_not(None)
    of_status = {status: func.count().filter(columns.status == status.value) for status in FINAL}
    moment = columns.finished_at if report.moment is Moment.FINISHED else columns.submitted_at
    return Fact(
        report=report,
        table=_tasks,
        seq=columns.seq,
        bounds=_bounds(moment, span),
        slices=_slices(report, ended),
        dimensions={
            "status": columns.status.concat(""),  # keeps SQLite from the index tasks_by_status
            "llm": columns.llm,
            "error": columns.error_type,
            "model": model_in(_tasks),
            **_task_dimensions(late),
            **_MARKS,
            **times(moment),
        },
        parts={
            "tasks": func.count(),
            "completed": of_status[Status.COMPLETED],
            "failed": of_status[Status.FAILED],
            "cancelled": of_status[Status.CANCELLED],
            "open": func.count().filter(columns.finished_at.is_(None)),
            "done": func.count().filter(is_done),
            "accepted": func.count().filter(is_done & (func.coalesce(columns.accepted, 1) == literal_column("1"))),
            "late": func.count().filter(late),
            "first": func.min(moment),
            **{f"{name}_count": func.count(measure) for name, measure in measures.items()},
            **{f"{name}_total": func.sum(measure) for name, measure in measures.items()},
            **{f"{name}_max": func.max(measure) for name, measure in measures.items()},
        },
        measures=measures,
    )


def _measures(now: Instant) -> dict[str, Column]:
    """Return the durations of a task in microseconds, NULL without one."""
    columns = _tasks.c
    over = func.coalesce(columns.finished_at, now)
    measures: dict[str, Column] = {
        # A task that was taken from its LLM is ready again: then ready_at is later than started_at.
        "queue_wait": case((columns.started_at >= columns.ready_at, columns.started_at - columns.ready_at)),
        "run_time": columns.duration,
        "person_wait": case((columns.person_wait > 0, columns.person_wait)),
        "turnaround": columns.finished_at - columns.submitted_at,
        "lateness": case((columns.due_order < over, over - columns.due_order)),
    }
    assert measures.keys() == MEASURES.keys()
    return measures


def attempts(report: Report, span: Span, ended: Sequence[Range] = ALWAYS) -> Fact:
    """Return the attempts that ended in these ranges, from the index `attempts_over` if no task column is needed."""
    columns = _attempts.c
    late = _tasks.c.due_order < func.coalesce(_tasks.c.finished_at, span.now)
    of_task = {"status": _tasks.c.status, **_task_dimensions(late)}
    moment = columns.finished_at if report.moment is Moment.FINISHED else columns.submitted_at

    def count(*outcomes: Outcome) -> Column:
        return func.count().filter(columns.outcome.in_([outcome.value for outcome in outcomes]))

    return Fact(
        report=report,
        table=_attempts,
        seq=columns.task_seq,
        bounds=_bounds(moment, span),
        slices=[within(columns.finished_at, its) for its in ended],
        dimensions={
            "llm": columns.llm,
            "outcome": columns.outcome,
            "error": columns.error_type,
            "model": model_in(_attempts),
            **of_task,
            **_MARKS,
            **times(moment),
        },
        parts={
            "attempts": func.count(),
            "attempts_completed": count(Outcome.COMPLETED),
            "attempts_failed": count(Outcome.FAILED),
            "attempts_lost": count(Outcome.LOST, Outcome.UNCLAIMED),
            "busy": func.sum(columns.duration),
            **{name: func.sum(columns[name]) for name in COUNTS},
            "cost": func.sum(columns.cost_nanos),
            "unknown_cost": func.count().filter(_has_unknown_cost()),
            "paced_tokens": func.sum(case((columns.duration.is_not(None), columns.output_tokens))),
            "paced_time": func.sum(case((columns.output_tokens.is_not(None), columns.duration))),
        },
        of_task=frozenset(of_task),
    )


def _has_unknown_cost() -> Column:
    """Return the condition that an attempt used a model, and that the cost of that, or of a part of it, is unknown."""
    columns = _attempts.c
    used = [columns[name] > literal_column("0") for name in ("input_tokens", "output_tokens", "requests")]
    return (columns.cost_nanos.is_(None) & or_(*used)) | columns.models.like(WITHOUT_COST)


def _bounds(moment: Column, span: Span) -> list[Column]:
    bounds = [] if span.since is None else [moment >= span.since]
    return bounds if span.until is None else [*bounds, moment < span.until]


def within(moment: Column, its: Range) -> Column:
    """Return the condition that a moment is in a range."""
    since, until = its
    return moment >= since if until is None else (moment >= since) & (moment < until)


def _slices(report: Report, ended: Sequence[Range]) -> list[Column]:
    """Return the conditions of the tasks that can count: finished ones by range, then open ones."""
    statuses = set(report.where.get("status", (*Status,)))
    slices: list[Column] = []
    if statuses & FINAL:
        slices += [schema.is_over & within(_tasks.c.finished_at, its) for its in ended]
    if statuses - FINAL and report.moment is Moment.SUBMITTED:
        slices.append(_tasks.c.status.in_(_OPEN))
    return slices


def _task_dimensions(late: Column) -> dict[str, Column]:
    columns = _tasks.c
    bands = [(columns.priority <= top, name) for name, (_, top) in BANDS.items()]
    return {
        "assignee": columns.assignee,
        "priority": columns.priority,
        "priority_band": case(*bands),
        "submitted_by": columns.submitted_by,
        "conversation": columns.conversation_id,
        "overdue": case((late, 1), else_=0),
    }


def times(moment: Column) -> dict[str, Column]:
    """Return the dimensions of time."""
    days = moment // DAY
    return {
        "hour": moment // HOUR,
        "day": days,
        "week": (days + EPOCH_WEEKDAY) // 7,
        "hour_of_day": (moment // HOUR) % 24,
        "weekday": (days + EPOCH_WEEKDAY) % 7,
    }


def _any_of(column: Column, values: Sequence[Value]) -> Column:
    known = [int(value) if isinstance(value, bool) else value for value in values if value is not None]
    found = column.in_(known)
    return found | column.is_(None) if None in values else found
