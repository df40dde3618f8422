"""Printing of tasks: their state, their end and their result."""

from collections.abc import Callable
from typing import Any

import click

from broker.protocol.status import Status
from broker.protocol.views import TaskView
from fluffle.client.handle import TaskHandle, reason
from fluffle.presentation.durations import duration
from fluffle.presentation.output import cell, heading, on_terminal, plain, print_json, say, styled
from fluffle.presentation.team_text import is_joined, sections


def print_view(view: TaskView) -> None:
    """Print a task as JSON on one line."""
    print_json(view.model_dump_json(exclude_none=True).encode())


def print_already_known(*handles: TaskHandle) -> None:
    """Print, on standard error, which of these tasks the coordinator had before this submission."""
    known = [handle for handle in handles if handle.was_known]
    if len(known) > 1:
        click.echo(f"{len(known):,} of {len(handles):,} tasks were already known and stay as they are", err=True)
    elif known:
        click.echo(f"task {known[0].id} was already known and stays as it is: {known[0].view.status}", err=True)


def print_state(view: TaskView, remark: Callable[[TaskView], str], *, as_json: bool) -> None:
    """Print a task on one line: its id, its status and a remark."""
    if as_json:
        print_view(view)
    else:
        more = remark(view)
        click.echo(f"{view.id}\t{styled(view.status)}" + (f"\t{more}" if more else ""))


def print_end(view: TaskView, *, as_json: bool) -> None:
    """Print a finished task on one line: its id, its status, the time since its submission, why it failed."""
    if as_json:
        print_view(view)
        return
    took = (view.finished_at - view.submitted_at).total_seconds() if view.finished_at else 0.0
    length = duration(took) if on_terminal() else f"{took:.3f}"
    why = "" if view.status is Status.COMPLETED or view.error is None else f"\t{cell(reason(view))}"
    say(f"{view.id}\t{styled(view.status)}\t{length}{why}")


def print_outcome(view: TaskView) -> None:
    """Print the result of a completed task. On a terminal, a result of several LLMs is printed with headings."""
    if not (on_terminal() and is_joined(view)):
        print_result(view.result)
        return
    for title, content in sections(view.result):
        heading(title)
        click.echo(plain(content))


def print_result(result: Any) -> None:
    """Print a result: text as it is, anything else as JSON."""
    if not isinstance(result, str):
        print_json(result)
    else:
        click.echo(plain(result) if on_terminal() else result)
