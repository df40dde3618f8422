"""`fluffle task submit --json-lines`: many tasks at once."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from pydantic import ValidationError

from broker.errors import DecodeError, TaskRejected
from broker.messages import Status, Submission
from broker.wire import decode, problems
from fluffle.cli.main import ERROR, OK, TASK_FAILED
from fluffle.cli.outcomes import print_end, print_view
from fluffle.cli.output import complain, console, on_terminal, say
from fluffle.cli.session import client
from fluffle.handle import TaskHandle

Line = tuple[int, bytes]  # with its number, counted from 1


async def submit_lines(path: str, defaults: dict[str, Any], *, wait: bool, as_json: bool) -> int:
    """Submit one task for each line of JSON; `defaults` are fields for lines without them. Returns the exit code."""
    with click.open_file(path, "rb") as file:
        lines = [(number, line) for number, line in enumerate(file, 1) if line.strip()]
    if not _all_good(lines, defaults):
        complain("nothing was submitted")
        return ERROR
    rejected = 0
    handles: list[TaskHandle] = []
    async with client() as submitting:
        with bar("submitted", len(lines)) as advance:
            numbers = (number for number, _ in lines)
            async for fate in submitting.submit_many(_submission(line, defaults) for _, line in lines):
                number = next(numbers)
                if isinstance(fate, TaskRejected):
                    complain(f"line {number}: {fate}")
                    rejected += 1
                elif wait:
                    handles.append(fate)
                elif as_json:
                    print_view(fate.view)
                else:
                    say(fate.id)
                advance()
        good = await _wait(handles, as_json=as_json)
    if rejected:
        return ERROR
    return OK if good else TASK_FAILED


async def _wait(handles: list[TaskHandle], *, as_json: bool) -> bool:
    """Tell of each task when it ends. Returns whether all were completed."""
    good = True
    with bar("finished", len(handles)) as advance:
        for end in asyncio.as_completed([handle.end() for handle in handles]):
            view = await end
            print_end(view, as_json=as_json)
            good = good and view.status is Status.COMPLETED
            advance()
    return good


def _all_good(lines: list[Line], defaults: dict[str, Any]) -> bool:
    """Whether every line is a task, with a word about each that is not. Raises TaskRejected for the defaults."""
    try:
        Submission(description="-", **defaults)
    except ValidationError as error:
        raise TaskRejected(problems(error)) from error
    good = True
    for number, line in lines:
        try:
            decode(Submission, line)
        except DecodeError as error:
            complain(f"line {number}: {error}")
            good = False
    return good


def _submission(line: bytes, defaults: dict[str, Any]) -> Submission:
    submission = decode(Submission, line)
    lacking = {name: value for name, value in defaults.items() if name not in submission.model_fields_set}
    return submission.model_copy(update=lacking)


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[], object]]:
    """A progress bar on standard error, where that is a terminal. Gives the function that moves it on by one."""
    if not sys.stderr.isatty() or not total:
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (what, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Lines printed meanwhile go above the bar, but not those that are redirected elsewhere.
    with Progress(*columns, console=console(stderr=True), redirect_stdout=on_terminal(), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)
