"""How a task stands and how it ended, as the commands tell it."""

from typing import Any

import click

from broker.messages import Status, TaskView
from fluffle.cli.output import cell, duration, on_terminal, plain, print_json, styled
from fluffle.handle import reason


def print_view(view: TaskView) -> None:
    """A task as JSON on one line."""
    print_json(view.model_dump_json(exclude_none=True).encode())


def print_state(view: TaskView, *, as_json: bool) -> None:
    """A task and its status on one line."""
    if as_json:
        print_view(view)
    else:
        click.echo(f"{view.id}\t{styled(view.status)}")


def print_end(view: TaskView, *, as_json: bool) -> None:
    """A task that is over on one line: its status, the time from submission to end, why it failed."""
    if as_json:
        print_view(view)
        return
    took = (view.finished_at - view.submitted_at).total_seconds() if view.finished_at else 0.0
    length = duration(took) if on_terminal() else f"{took:.3f}"
    why = "" if view.status is Status.COMPLETED or view.error is None else f"\t{cell(reason(view))}"
    click.echo(f"{view.id}\t{styled(view.status)}\t{length}{why}")


def print_result(result: Any) -> None:
    """A result: text as it is, anything else as JSON."""
    if not isinstance(result, str):
        print_json(result)
    else:
        click.echo(plain(result) if on_terminal() else result)
