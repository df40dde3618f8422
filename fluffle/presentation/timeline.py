"""The timeline of a task: what happened to it and when."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from broker.protocol.views import AttemptView, TaskView
from fluffle.presentation.durations import duration
from fluffle.presentation.task_text import usage_text

Entry = tuple[datetime, str]  # time, text


def timeline(view: TaskView) -> list[Entry]:
    """Return the entries of a task, oldest first: its history, its attempts, its submission and its end."""
    entries = [(view.submitted_at, "submitted" + (f" by {view.submitted_by}" if view.submitted_by else ""))]
    entries += [(change.at, change.summary) for change in view.history]
    if view.ready_at:
        entries.append((view.ready_at, "ready"))
    for attempt in view.attempts:
        entries += _of_attempt(attempt)
    if view.finished_at and view.status.is_final:
        entries.append((view.finished_at, str(view.status)))
    return sorted(entries, key=lambda entry: entry[0])


def _of_attempt(attempt: AttemptView) -> Iterator[Entry]:
    name = f"attempt {attempt.attempt}"
    if attempt.assigned_at:
        yield attempt.assigned_at, f"{name} assigned to {attempt.llm}" + (f": {attempt.why}" if attempt.why else "")
    if began := began_at(attempt):
        where = f" at {attempt.instance}" if attempt.instance else ""
        yield began, f"{name} started{where}" + (f" ({attempt.model})" if attempt.model else "")
    if attempt.finished_at:
        length = f" after {duration(attempt.duration)}" if attempt.duration is not None else ""
        used = f", {usage}" if (usage := usage_text(attempt.usage)) else ""
        why = f": {attempt.error.type}: {attempt.error.message}" if attempt.error else ""
        yield attempt.finished_at, f"{name} {attempt.outcome}{length}{used}{why}"


def began_at(attempt: AttemptView) -> datetime | None:
    """Return when an attempt began. For a finished attempt: its end minus its duration by the worker's clock.

    `started_at` is when the coordinator received the claim. For a short attempt this is the time of its result.
    """
    if attempt.finished_at is None or attempt.duration is None or attempt.started_at is None:
        return attempt.started_at
    return min(attempt.started_at, attempt.finished_at - timedelta(seconds=attempt.duration))
