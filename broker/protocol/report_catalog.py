"""The dimensions, metrics and predefined reports, as data.

The SQL, the command-line options, the checks of a query, the client, the page and docs/reports.md are made from these
tables or compared with them. A name outside of these tables never reaches the database.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from typing import Literal

from broker.errors import Problem
from broker.protocol.status import Outcome, Status

Value = str | int | bool | None  # of a dimension; None: the task has no value
Filters = Mapping[str, tuple[Value, ...]]  # by dimension: a task matches with any of the values

MOST_DIMENSIONS = 4  # of a report
MOST_ROWS = 10_000  # in an answer
MOST_GROUPS = 50_000  # that the database computes for one report
MOST_VALUES = 100  # of a dimension in a filter


class Of(StrEnum):
    """What a metric counts: tasks, attempts that have ended, or the slots of LLMs over time."""

    TASKS = "tasks"
    ATTEMPTS = "attempts"
    SLOTS = "slots"


class Unit(StrEnum):
    """The unit of a metric."""

    COUNT = "count"
    SECONDS = "s"
    SHARE = "share"  # 0 to 1
    TOKENS = "tokens"
    DOLLARS = "USD"
    PER_HOUR = "1/h"
    TOKENS_PER_SECOND = "tokens/s"


class Moment(StrEnum):
    """The time to which `since`, `until` and the dimensions of time refer."""

    SUBMITTED = "submitted"  # of the task
    FINISHED = "finished"  # of the task or the attempt; unfinished ones are left out


@dataclass(frozen=True, slots=True)
class Dimension:
    """A property to group and filter by. `values`: all possible values, if these are known."""

    name: str
    title: str
    meaning: str
    kind: Literal["text", "number", "yes or no", "time"] = "text"
    of: frozenset[Of] = frozenset({Of.TASKS, Of.ATTEMPTS})
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure that a report computes for each group."""

    name: str
    title: str
    unit: Unit
    of: Of
    meaning: str
    also: Of | None = None  # what it is divided by

    @property
    def kinds(self) -> tuple[Of, ...]:
        """All that it counts."""
        return (self.of,) if self.also is None else (self.of, self.also)


@dataclass(frozen=True, slots=True)
class Report:
    """The definition of a report. `sort`: a dimension, or a metric (largest first); None: in order of the groups."""

    group_by: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("tasks",)
    where: Filters = field(default_factory=dict)
    moment: Moment = Moment.SUBMITTED
    sort: str | None = None
    limit: int = 1000
    meaning: str = ""


BANDS = {"low": (0, 3), "normal": (4, 6), "high": (7, 9)}  # priorities, from and to

DIMENSIONS = {
    dimension.name: dimension
    for dimension in (
        Dimension("status", "Status", "the status of the task now", values=tuple(status.value for status in Status)),
        Dimension("llm", "LLM", "who has the task or had it last; of an attempt: who made it", of=frozenset(Of)),
        Dimension(
            "model", "Model", "the model that answered, else that of the worker, else the one that this LLM has now"
        ),
        Dimension("assignee", "Assignee", "the LLM that the task was assigned to by hand"),
        Dimension("skill", "Skill", "a required skill; a task with several is counted under each"),
        Dimension("label", "Label", "a label; a task with several is counted under each"),
        Dimension("priority", "Priority", "0 to 9", "number"),
        Dimension("priority_band", "Priority band", "low (0-3), normal (4-6), high (7-9)", values=tuple(BANDS)),
        Dimension("submitted_by", "Submitted by", "the RabbitMQ user who submitted the task"),
        Dimension("conversation", "Conversation", "the conversation that the task belongs to"),
        Dimension("error", "Error", "the type of the error that the task failed with; of an attempt: its own"),
        Dimension(
            "overdue",
            "Overdue",
            "whether the due date passed before the task was over",
            "yes or no",
            values=("yes", "no"),
        ),
        Dimension(
            "outcome",
            "Outcome",
            "how the attempt ended",
            of=frozenset({Of.ATTEMPTS}),
            values=tuple(outcome.value for outcome in Outcome),
        ),
        Dimension("hour", "Hour", "the hour of the moment, UTC, such as 2026-12-01T09:00Z", "time"),
        Dimension("day", "Day", "its day, UTC, such as 2026-12-01", "time"),
        Dimension("week", "Week", "the Monday of its week, UTC", "time"),
        Dimension("hour_of_day", "Hour of day", "0 to 23, UTC", "time"),
        Dimension("weekday", "Weekday", "1 (Monday) to 7 (Sunday), UTC", "time"),
    )
}

STATISTICS = {"mean": "mean", "p50": "median", "p95": "95th percentile", "max": "longest"}
PERCENTILES = {"p50": 50, "p95": 95}
MEASURES = {
    "queue_wait": ("Queue wait", "from ready until an LLM took the task up, in its last attempt"),
    "run_time": ("Run time", "of the last attempt, by the worker's clock"),
    "person_wait": ("Wait for a person", "for answers of people, of tasks that asked and were answered"),
    "turnaround": ("Turnaround", "from submitted to over"),
    "lateness": ("Lateness", "from the due date, once it has passed, until the task was over or until now"),
}


def _of_measure(name: str) -> list[Metric]:
    title, meaning = MEASURES[name]
    return [
        Metric(f"{name}_{key}", f"{title}, {statistic}", Unit.SECONDS, Of.TASKS, f"{statistic}: {meaning}")
        for key, statistic in STATISTICS.items()
    ]


_ALL_METRICS = (
    Metric("tasks", "Tasks", Unit.COUNT, Of.TASKS, "how many tasks"),
    Metric("completed", "Completed", Unit.COUNT, Of.TASKS, "of these, completed"),
    Metric("failed", "Failed", Unit.COUNT, Of.TASKS, "of these, failed"),
    Metric("cancelled", "Cancelled", Unit.COUNT, Of.TASKS, "of these, cancelled"),
    Metric("open", "Open", Unit.COUNT, Of.TASKS, "of these, not over"),
    Metric("late", "Late", Unit.COUNT, Of.TASKS, "of these, not over when their due date passed"),
    Metric("accepted", "Accepted", Unit.COUNT, Of.TASKS, "of these, completed by an LLM and accepted, see below"),
    Metric("completion_rate", "Completion rate", Unit.SHARE, Of.TASKS, "completed of all"),
    Metric("throughput", "Throughput", Unit.PER_HOUR, Of.TASKS, "completed tasks per hour of the span, see below"),
    *_of_measure("queue_wait"),
    *_of_measure("run_time"),
    *_of_measure("person_wait"),
    *_of_measure("turnaround"),
    *_of_measure("lateness"),
    Metric("attempts", "Attempts", Unit.COUNT, Of.ATTEMPTS, "attempts that have ended"),
    Metric("attempts_completed", "Completed attempts", Unit.COUNT, Of.ATTEMPTS, "of these, those with a result"),
    Metric("attempts_failed", "Failed attempts", Unit.COUNT, Of.ATTEMPTS, "of these, those with an error"),
    Metric("attempts_lost", "Lost attempts", Unit.COUNT, Of.ATTEMPTS, "of these, lost or never taken up by the LLM"),
    Metric("busy_time", "Busy", Unit.SECONDS, Of.ATTEMPTS, "the time that they took, by the workers' clocks"),
    Metric("busy_share", "Share of the work", Unit.SHARE, Of.ATTEMPTS, "of the busy time of all groups"),
    Metric("input_tokens", "Input tokens", Unit.TOKENS, Of.ATTEMPTS, "that they used, where known"),
    Metric("output_tokens", "Output tokens", Unit.TOKENS, Of.ATTEMPTS, "that they used, where known"),
    Metric("cached_tokens", "Cached tokens", Unit.TOKENS, Of.ATTEMPTS, "input tokens that were read from a cache"),
    Metric("cache_write_tokens", "Cache writes", Unit.TOKENS, Of.ATTEMPTS, "input tokens that were written to a cache"),
    Metric("reasoning_tokens", "Reasoning tokens", Unit.TOKENS, Of.ATTEMPTS, "output tokens that were not shown"),
    Metric("requests", "Requests", Unit.COUNT, Of.ATTEMPTS, "requests to models, where known"),
    Metric(
        "tokens_per_second",
        "Pace",
        Unit.TOKENS_PER_SECOND,
        Of.ATTEMPTS,
        "output tokens per second of run time, of attempts that reported both, for the model that answered",
    ),
    Metric("utilisation", "Utilisation", Unit.SHARE, Of.SLOTS, "of the time that LLMs offered slots, that of attempts"),
    Metric(
        "cost_usd", "Cost", Unit.DOLLARS, Of.ATTEMPTS, "that they had, where known, in whole billionths of a dollar"
    ),
    Metric(
        "unknown_cost",
        "Of unknown cost",
        Unit.COUNT,
        Of.ATTEMPTS,
        "that used a model at a cost, or a part, that is unknown",
    ),
    Metric(
        "cost_per_completed",
        "Cost per completed task",
        Unit.DOLLARS,
        Of.ATTEMPTS,
        "cost of all attempts, for each task that an LLM completed",
        also=Of.TASKS,
    ),
    Metric(
        "cost_per_accepted",
        "Cost per accepted task",
        Unit.DOLLARS,
        Of.ATTEMPTS,
        "cost of all attempts, for each accepted task, see below",
        also=Of.TASKS,
    ),
)
METRICS = {metric.name: metric for metric in _ALL_METRICS}

_COMPLETED: Filters = {"status": ("completed",)}
_NOT_DONE: Filters = {"outcome": ("failed", "lost", "unclaimed")}

PREDEFINED = {
    "summary": Report(
        ("status",), ("tasks",), meaning="how much was done, how long it took, who did it; has extra figures"
    ),
    "workload": Report(
        ("llm",),
        (
            "attempts",
            "attempts_completed",
            "attempts_failed",
            "attempts_lost",
            "busy_time",
            "busy_share",
            "utilisation",
        ),
        moment=Moment.FINISHED,
        meaning="what each LLM has done",
    ),
    "timing": Report(
        metrics=tuple(
            f"{measure}_{key}" for measure in ("queue_wait", "run_time", "person_wait") for key in STATISTICS
        ),
        where=_COMPLETED,
        meaning="how long completed tasks waited and ran",
    ),
    "overdue": Report(
        ("status",),
        ("tasks", "lateness_mean", "lateness_p50", "lateness_p95", "lateness_max"),
        where={"overdue": (True,)},
        meaning="tasks that had not ended at their due date, and how late they are",
    ),
    "failures": Report(
        ("error", "llm"),
        ("attempts", "busy_time", "cost_usd"),
        where=_NOT_DONE,
        moment=Moment.FINISHED,
        sort="attempts",
        meaning="what went wrong, where, how often, and what it cost",
    ),
    "cost": Report(
        ("model", "llm"),
        (
            "attempts",
            "requests",
            "input_tokens",
            "cached_tokens",
            "output_tokens",
            "cost_usd",
            "unknown_cost",
            "cost_per_completed",
            "cost_per_accepted",
        ),
        moment=Moment.FINISHED,
        meaning="what the attempts used, by model and LLM",
    ),
    "throughput": Report(
        ("day",),
        ("completed", "failed", "cancelled", "throughput", "turnaround_mean"),
        moment=Moment.FINISHED,
        meaning="how much was finished, day by day",
    ),
}


def problems_of(report: Report) -> list[Problem]:
    """Return the problems of a report definition, each with its path; an empty list for a valid one."""
    found = [
        Problem(f"{path}.{place}", unknown(kind, name, known))
        for path, kind, names, known in (
            ("group_by", "dimension", report.group_by, DIMENSIONS),
            ("metrics", "metric", report.metrics, METRICS),
        )
        for place, name in enumerate(names)
        if name not in known
    ]
    found += [
        Problem("where", unknown("dimension", name, DIMENSIONS)) for name in report.where if name not in DIMENSIONS
    ]
    if not report.metrics:
        found.append(Problem("metrics", "needs at least one metric"))
    if report.sort is not None and report.sort not in (*report.group_by, *report.metrics):
        found.append(Problem("sort", f"{report.sort!r} is neither a dimension nor a metric of this report"))
    for name, values in report.where.items():
        if name in DIMENSIONS:
            found += _wrong_filter(DIMENSIONS[name], values)
    return found or _wrong_together(report)


def unknown(kind: str, name: str, known: Sequence[str] | Mapping[str, object]) -> str:
    """Return the error message for an unknown name, with similar names."""
    meant = get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(meant)}?" if meant else f"there are: {', '.join(known)}"
    return f"there is no {kind} {name!r}; {hint}"


def _wrong_filter(dimension: Dimension, values: Sequence[Value]) -> list[Problem]:
    path = f"where.{dimension.name}"
    if dimension.kind == "time":
        return [Problem(path, "use since and until to filter by time")]
    if not 0 < len(values) <= MOST_VALUES:
        return [Problem(path, f"must have 1 to {MOST_VALUES} values")]
    return [Problem(path, wrong) for value in values if (wrong := _wrong_value(dimension, value))]


def _wrong_value(dimension: Dimension, value: Value) -> str | None:
    match dimension.kind:
        case "yes or no":
            return None if isinstance(value, bool) else "must be true or false"
        case "number":
            fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 9
            return None if fits else "must be a number from 0 to 9"
        case _ if value is None:
            return None
        case _ if not isinstance(value, str) or "\0" in value:
            return "must be text without NUL characters"
        case _ if dimension.values and value not in dimension.values:
            return unknown(dimension.name.replace("_", " "), value, dimension.values)
        case _:
            return None


def _wrong_together(report: Report) -> list[Problem]:
    """Return the problems of metrics that lack a dimension of the report."""
    used = dict.fromkeys((*report.group_by, *report.where))
    return [
        Problem("metrics", f"{name!r} is about {kind}, which have no dimension {dimension!r}")
        for name in report.metrics
        for kind in METRICS[name].kinds
        for dimension in used
        if kind not in DIMENSIONS[dimension].of
    ]
