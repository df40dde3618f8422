"""What people who have submitted a task are told while nothing has come of it yet: on standard error, on a terminal."""

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
async def shown_while_it_lasts(asking: "Client", task_id: str) -> AsyncIterator[None]:
    """Show how a task stands, as long as the body lasts. One who breaks off is told how to come back to the task."""
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
        click.echo(f"The task goes on. To wait for it again: fluffle task wait {task_id}", err=True)
        raise


async def _show(asking: "Client", task_id: str, spinner: "Spinner") -> None:
    from rich.text import Text

    async with asking.watch(task_id) as events:
        async for event in events:
            assert isinstance(event, Event)  # progress was not asked for
            view = event.data
            told = await waits_for(asking, view) if view.status is Status.PENDING else where(view)
            spinner.update(Text(cell(plain(f"{view.status} {told}"))))  # a Text: an LLM may have written it


async def nobody_is_there(asking: "Client", view: TaskView) -> None:
    """Say so when no LLM that is online can do a task that has just been submitted."""
    if view.status is not Status.PENDING or not sys.stderr.isatty():
        return
    try:
        told = await waits_for(asking, view) or ""
    except FluffleError:
        return  # it is submitted all the same
    if not told.startswith("for a free slot"):
        click.echo(f"It waits: {told}", err=True)
