"""How a task stands and how it ended, as the commands tell it."""

from collections.abc import Callable
from typing import Any

import click

from broker.protocol.status import Status
from broker.protocol.views import TaskView
from fluffle.client.handle import TaskHandle, reason
from fluffle.presentation.output import cell, duration, heading, moment, on_terminal, plain, print_json, say, styled
from fluffle.presentation.team_text import is_joined, sections

_NAMED = 3  # tasks that nobody has submitted, of those that a task waits for


def print_view(view: TaskView) -> None:
    """A task as JSON on one line."""
    print_json(view.model_dump_json(exclude_none=True).encode())


def say_known(*handles: TaskHandle) -> None:
    """Tell, on standard error, which of these tasks were there before they were submitted here."""
    known = [handle for handle in handles if handle.was_known]
    if len(known) > 1:
        click.echo(f"{len(known):,} of {len(handles):,} tasks were already known and stay as they are", err=True)
    elif known:
        click.echo(f"task {known[0].id} was already known and stays as it is: {known[0].view.status}", err=True)


def print_state(view: TaskView, told: Callable[[TaskView], str], *, as_json: bool) -> None:
    """A task and its status on one line, and what is `told` of it."""
    if as_json:
        print_view(view)
    else:
        more = told(view)
        click.echo(f"{view.id}\t{styled(view.status)}" + (f"\t{more}" if more else ""))


def where(view: TaskView) -> str:
    """Who has a task, or what it waits for."""
    return f"at {view.llm}" if view.llm and view.status in (Status.ASSIGNED, Status.IN_PROGRESS) else waiting_for(view)


def remark(view: TaskView) -> str:
    """That a task is overdue, and what it waits for."""
    return ", ".join(part for part in ("overdue" if view.overdue else "", waiting_for(view)) if part)


def waiting_for(view: TaskView) -> str:
    """What a task waits for, as far as it tells itself; nothing when it does not wait."""
    if view.status is Status.PENDING:
        skills = f" with {', '.join(view.skills)}" if view.skills else ""
        return f"waiting for {view.assignee or ' or '.join(view.assignees) or f'an LLM{skills}'}"
    if view.status is Status.INPUT_REQUIRED:
        return f"asks: {cell(' | '.join(asked.text for asked in view.questions if asked.answer is None))}"
    if view.status is not Status.BLOCKED:
        return ""
    if view.waiting_on:
        return _waiting_for_tasks(view)
    return "waiting to be tried again" if view.attempt or not view.not_before else f"starts {moment(view.not_before)}"


def _waiting_for_tasks(view: TaskView) -> str:
    """How many tasks it waits for, and which of them nobody has submitted."""
    number, missing = view.waiting_on, view.not_submitted
    if number == 1 and missing:
        return f"waiting for task {missing[0]}, not submitted"
    told = f"waiting for {number} task{'s' if number > 1 else ''}"
    if not missing:
        return told
    more = f" and {len(missing) - _NAMED} others" if len(missing) > _NAMED else ""
    return f"{told}; nobody has submitted {', '.join(missing[:_NAMED])}{more}"


def left_out(view: TaskView) -> str:
    """What of a task is left out because it is too large."""
    return ", ".join(f"{name} ({size:,} bytes)" for name, size in view.left_out.items())


def what_was_cancelled(view: TaskView) -> str:
    """What the cancelling of a task has ended: the call of an LLM, or mere waiting."""
    last = view.attempts[-1] if view.attempts else None
    if last is None or last.finished_at != view.finished_at:
        return "was waiting" + (f" after {_attempts(len(view.attempts))}" if view.attempts else "")
    if last.started_at is None:
        return f"taken back from {last.llm} before word came that attempt {last.attempt} began"
    return f"stopped at {last.llm} in attempt {last.attempt}"


def _attempts(number: int) -> str:
    return f"{number} attempt{'' if number == 1 else 's'}"


def print_end(view: TaskView, *, as_json: bool) -> None:
    """A task that is over on one line: its status, the time from submission to end, why it failed."""
    if as_json:
        print_view(view)
        return
    took = (view.finished_at - view.submitted_at).total_seconds() if view.finished_at else 0.0
    length = duration(took) if on_terminal() else f"{took:.3f}"
    why = "" if view.status is Status.COMPLETED or view.error is None else f"\t{cell(reason(view))}"
    say(f"{view.id}\t{styled(view.status)}\t{length}{why}")


def print_outcome(view: TaskView) -> None:
    """The result of a completed task; that of several LLMs on a terminal with headings, for people."""
    if not (on_terminal() and is_joined(view)):
        print_result(view.result)
        return
    for title, content in sections(view.result):
        heading(title)
        click.echo(plain(content))


def print_result(result: Any) -> None:
    """A result: text as it is, anything else as JSON."""
    if not isinstance(result, str):
        print_json(result)
    else:
        click.echo(plain(result) if on_terminal() else result)
