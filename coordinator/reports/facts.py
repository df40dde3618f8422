"""What there is to count, as SQL that SQLite and PostgreSQL take alike: tasks, and attempts that have ended.

Every figure is made of parts (counts, sums, maxima) that are whole numbers, so that they are exact, and can be added
up over several statements.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, case, exists, func, select

from broker.instants import Instant
from broker.messages import FINAL, Status
from broker.reporting import BANDS, MEASURES, Moment, Report, Value
from coordinator import schema

Column = ColumnElement[Any]

HOUR = 3_600_000_000  # microseconds
DAY = 24 * HOUR
EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday, the fourth day of its week

_tasks, _attempts, _llms = schema.tasks, schema.attempts, schema.llms
_OPEN = tuple(status.value for status in Status if status not in FINAL)
_MARKS = {"label": schema.labels.c.label, "skill": schema.skills.c.skill}  # dimensions of which a task has several


@dataclass(frozen=True, slots=True)
class Span:
    """The microseconds [since, until), where they are bounded, seen from `now`."""

    since: Instant | None
    until: Instant | None
    now: Instant


@dataclass(frozen=True, slots=True)
class Fact:
    """A table to count in. `slices` are conditions that part it, each served by an index of its own."""

    table: FromClause
    seq: Column  # of the task
    moment: Column
    slices: Sequence[Column]
    dimensions: Mapping[str, Column]
    parts: Mapping[str, Column]
    measures: Mapping[str, Column] = field(default_factory=dict)  # of which there are percentiles
    of_task: frozenset[str] = frozenset()  # dimensions that need a join with the tasks

    def selects(self, report: Report, span: Span, columns: Sequence[Column], *, group: bool) -> list[Select[Any]]:
        """The keys `k0`, `k1` … of the report's dimensions, then these columns: one statement for each slice."""
        keys = [self.dimensions[name].label(f"k{n}") for n, name in enumerate(report.group_by)]
        wanted = select(*keys, *columns).select_from(self._source(report)).where(*self._conditions(report, span))
        if group and keys:
            wanted = wanted.group_by(*(key.name for key in keys))
        return [wanted.where(part) for part in self.slices]

    def _source(self, report: Report) -> FromClause:
        source = self.table
        used = {*report.group_by, *report.where}
        if used & self.of_task:
            source = source.join(_tasks, _tasks.c.seq == self.seq)
        if "model" in used:
            source = source.outerjoin(_llms, _llms.c.name == self.dimensions["llm"])
        for name in _MARKS.keys() & set(report.group_by):
            marks = _MARKS[name].table
            source = source.outerjoin(marks, marks.c.task_seq == self.seq)
        return source

    def _conditions(self, report: Report, span: Span) -> list[Column]:
        found = [self._filter(name, values, report) for name, values in report.where.items()]
        if span.since is not None:
            found.append(self.moment >= span.since)
        if span.until is not None:
            found.append(self.moment < span.until)
        return found

    def _filter(self, name: str, values: Sequence[Value], report: Report) -> Column:
        """Any of the values. Of a grouped dimension only the groups that fit remain, also of a task with several."""
        if name not in _MARKS or name in report.group_by:
            return _any_of(self.dimensions[name], values)
        mark = _MARKS[name]
        theirs = exists().where(mark.table.c.task_seq == self.seq)
        known = [value for value in values if value is not None]
        found = theirs.where(mark.in_(known))
        return found | ~theirs if None in values else found


def tasks(report: Report, now: Instant) -> Fact:
    """The tasks. Those that are over are read from the index `tasks_over`."""
    columns = _tasks.c
    late = columns.due_order < func.coalesce(columns.finished_at, now)
    measures = _measures(now)
    of_status = {status: func.count().filter(columns.status == status.value) for status in FINAL}
    moment = columns.finished_at if report.moment is Moment.FINISHED else columns.submitted_at
    return Fact(
        table=_tasks,
        seq=columns.seq,
        moment=moment,
        slices=_slices(report),
        dimensions={
            "status": columns.status,
            "llm": columns.llm,
            "error": columns.error_type,
            **_task_dimensions(late),
            **_of_others(),
            **_times(moment),
        },
        parts={
            "tasks": func.count(),
            "completed": of_status[Status.COMPLETED],
            "failed": of_status[Status.FAILED],
            "cancelled": of_status[Status.CANCELLED],
            "open": func.count().filter(columns.finished_at.is_(None)),
            "late": func.count().filter(late),
            "first": func.min(moment),
            **{f"{name}_count": func.count(measure) for name, measure in measures.items()},
            **{f"{name}_total": func.sum(measure) for name, measure in measures.items()},
            **{f"{name}_max": func.max(measure) for name, measure in measures.items()},
        },
        measures=measures,
    )


def _measures(now: Instant) -> dict[str, Column]:
    """The durations of a task in microseconds; NULL where there is none."""
    columns = _tasks.c
    over = func.coalesce(columns.finished_at, now)
    measures: dict[str, Column] = {
        # A task that was taken from its LLM is ready again, later than it was started.
        "queue_wait": case((columns.started_at >= columns.ready_at, columns.started_at - columns.ready_at)),
        "run_time": columns.duration,
        "person_wait": case((columns.person_wait > 0, columns.person_wait)),
        "turnaround": columns.finished_at - columns.submitted_at,
        "lateness": case((columns.due_order < over, over - columns.due_order)),
    }
    assert measures.keys() == MEASURES.keys()
    return measures


def attempts(report: Report, now: Instant) -> Fact:
    """The attempts that have ended, from the index `attempts_by_llm` as long as nothing else of the task is asked."""
    columns = _attempts.c
    late = _tasks.c.due_order < func.coalesce(_tasks.c.finished_at, now)
    of_task = {"status": _tasks.c.status, **_task_dimensions(late)}
    moment = columns.finished_at if report.moment is Moment.FINISHED else columns.submitted_at

    def ended(*outcomes: str) -> Column:
        return func.count().filter(columns.outcome.in_(outcomes))

    return Fact(
        table=_attempts,
        seq=columns.task_seq,
        moment=moment,
        slices=(_attempts.c.llm.is_not(None),),
        dimensions={
            "llm": columns.llm,
            "outcome": columns.outcome,
            "error": columns.error_type,
            **of_task,
            **_of_others(),
            **_times(moment),
        },
        parts={
            "attempts": func.count(),
            "attempts_completed": ended("completed"),
            "attempts_failed": ended("failed"),
            "attempts_lost": ended("lost", "unclaimed"),
            "busy": func.sum(columns.duration),
            "input_tokens": func.sum(columns.input_tokens),
            "output_tokens": func.sum(columns.output_tokens),
            "cost": func.sum(columns.cost_nanos),
        },
        of_task=frozenset(of_task),
    )


def _slices(report: Report) -> list[Column]:
    """Which tasks can count at all: those that are over, those that are not."""
    statuses = set(report.where.get("status", (*Status,)))
    slices: list[Column] = []
    if statuses & FINAL:
        slices.append(schema.is_over)
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


def _of_others() -> dict[str, Column]:
    return {"model": _llms.c.model, **_MARKS}


def _times(moment: Column) -> dict[str, Column]:
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
