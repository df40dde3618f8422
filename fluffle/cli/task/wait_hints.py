"""Hints on a terminal, on standard error, while a submitted task has not ended."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import click

from broker.errors import FluffleError
from broker.protocol.status import Status
from broker.protocol.views import TaskView
from fluffle.cli.task.show import waits_for
from fluffle.client.events import Event
from fluffle.presentation.output import cell, console, plain
from fluffle.presentation.task_text import where

if TYPE_CHECKING:
    from rich.status import Status as Spinner

    from fluffle.client.client import Client


@asynccontextmanager
async def shown_while_waiting(asking: "Client", task_id: str) -> AsyncIterator[None]:
    """Show the state of a task during the block. Ctrl-C prints how to wait for the task again."""
    try:
        if not sys.stderr.isatty():
            yield
            return
        with console(stderr=True).status("submitted") as spinner:
            showing = asyncio.create_task(_show(asking, task_id, spinner))
            try:
                yield
            finally:
                showing.cancel()
                await asyncio.gather(showing, return_exceptions=True)
    except asyncio.CancelledError:
        click.echo(f"The task continues. To wait for it again: fluffle task wait {task_id}", err=True)
        raise


async def _show(asking: "Client", task_id: str, spinner: "Spinner") -> None:
    from rich.text import Text

    async with asking.watch(task_id) as events:
        async for event in events:
            assert isinstance(event, Event)  # the watch did not ask for progress
            view = event.data
            text = await waits_for(asking, view) if view.status is Status.PENDING else where(view)
            spinner.update(Text(cell(plain(f"{view.status} {text}"))))  # a Text: markup from an LLM has no effect


async def print_why_it_waits(asking: "Client", view: TaskView) -> None:
    """Print why a task that was just submitted waits, unless it waits only for a free slot."""
    if view.status is not Status.PENDING or not sys.stderr.isatty():
        return
    try:
        reason = await waits_for(asking, view) or ""
    except FluffleError:
        return  # the task is submitted; the hint is not essential
    if not reason.startswith("for a free slot"):
        click.echo(f"The task waits: {reason}", err=True)
