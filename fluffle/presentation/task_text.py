"""The state of a task as text: where it is, what it waits for, how it was cancelled, what it used."""

from broker.protocol.status import Status
from broker.protocol.views import TaskView
from broker.protocol.worker_reports import Usage
from fluffle.presentation.amounts import UNKNOWN, dollars
from fluffle.presentation.output import cell, moment

_MAX_TASKS_NAMED = 3  # dependencies that were not submitted


def where(view: TaskView) -> str:
    """Return which LLM has the task, or what it waits for."""
    return f"at {view.llm}" if view.llm and view.status in (Status.ASSIGNED, Status.IN_PROGRESS) else waiting_for(view)


def remark(view: TaskView) -> str:
    """Return whether the task is overdue and what it waits for."""
    return ", ".join(part for part in ("overdue" if view.overdue else "", waiting_for(view)) if part)


def waiting_for(view: TaskView) -> str:
    """Return what the task waits for, as far as the view says; an empty text when it does not wait."""
    if view.waits and view.status in (Status.PENDING, Status.BLOCKED):
        return f"waiting {view.waits}" if view.waits.startswith("for ") else cell(view.waits)
    if view.status is Status.PENDING:
        skills = f" with {', '.join(view.skills)}" if view.skills else ""
        return f"waiting for {view.assignee or ' or '.join(view.assignees) or f'an LLM{skills}'}"
    if view.status is Status.INPUT_REQUIRED:
        return f"asks: {cell(' | '.join(asked.text for asked in view.questions if asked.answer is None))}"
    if view.status is not Status.BLOCKED:
        return ""
    if view.waiting_on:
        return _waiting_for_tasks(view)
    return (
        "waiting for the next attempt" if view.attempt or not view.not_before else f"starts {moment(view.not_before)}"
    )


def _waiting_for_tasks(view: TaskView) -> str:
    """Return the number of dependencies, and those that were not submitted."""
    number, missing = view.waiting_on, view.not_submitted
    if number == 1 and missing:
        return f"waiting for task {missing[0]}, not submitted"
    text = f"waiting for {number} task{'s' if number > 1 else ''}"
    if not missing:
        return text
    more = f" and {len(missing) - _MAX_TASKS_NAMED} others" if len(missing) > _MAX_TASKS_NAMED else ""
    return f"{text}; not submitted: {', '.join(missing[:_MAX_TASKS_NAMED])}{more}"


def left_out(view: TaskView) -> str:
    """Return the fields that the coordinator left out of its answer because they are too large."""
    return ", ".join(f"{name} ({size:,} bytes)" for name, size in view.left_out.items())


def cancelled_text(view: TaskView) -> str:
    """Return what a cancel ended: a running attempt, an assignment, or waiting."""
    last = view.attempts[-1] if view.attempts else None
    if last is None or last.finished_at != view.finished_at:
        return "was waiting" + (f" after {_counted(len(view.attempts))}" if view.attempts else "")
    if last.started_at is None:
        return f"taken back from {last.llm}; {last.llm} had not yet started attempt {last.attempt}"
    return f"stopped at {last.llm} in attempt {last.attempt}"


def _counted(attempts: int) -> str:
    return f"{attempts} attempt{'' if attempts == 1 else 's'}"


def attempts_text(view: TaskView) -> str:
    """Return the number of attempts and their limit. Attempts that moved to another LLM do not count towards it."""
    moved = sum(attempt.outcome == "moved" for attempt in view.attempts)
    return f"{len(view.attempts)}{f' ({moved} moved)' if moved else ''}, at most {view.max_attempts}"


def usage_text(usage: Usage | None) -> str:
    """Return tokens and cost as text; empty where the LLM reported none."""
    if usage is None:
        return ""
    parts = [
        "" if usage.input_tokens is None else f"{usage.input_tokens:,} tokens in",
        "" if not usage.cached_tokens else f"{usage.cached_tokens:,} of them cached",
        "" if usage.output_tokens is None else f"{usage.output_tokens:,} tokens out",
        "" if not usage.reasoning_tokens else f"{usage.reasoning_tokens:,} of them for reasoning",
        "" if usage.cost_usd is None else dollars(usage.cost_usd),
    ]
    given = [part for part in parts if part]
    return ", ".join([*given, f"cost {UNKNOWN}"] if given and usage.cost_usd is None else given)
