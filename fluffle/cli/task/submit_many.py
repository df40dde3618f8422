"""`fluffle task submit --json-lines`: many tasks at once."""

import asyncio
import sys
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from pydantic import ValidationError

from broker.errors import DecodeError, TaskRejected
from broker.ids import uuid7
from broker.protocol.primitives import decode, problems
from broker.protocol.status import Status
from broker.protocol.task_requests import Submission
from fluffle.cli.main import ERROR, OK, TASK_FAILED
from fluffle.cli.session import client
from fluffle.client.handle import TaskHandle
from fluffle.presentation.output import complain, console, on_terminal, say
from fluffle.presentation.task_text import print_end, print_view

_FEW = 20  # tasks whose ids still make a readable line

Line = tuple[int, bytes]  # with its number, counted from 1


async def submit_lines(path: str, defaults: dict[str, Any], *, wait: bool, as_json: bool) -> int:
    """Submit one task for each line of JSON; `defaults` are fields for lines without them. Returns the exit code."""
    with click.open_file(path, "rb") as file:
        read = ((number, line.removeprefix(BOM_UTF8) if number == 1 else line) for number, line in enumerate(file, 1))
        lines = [(number, line) for number, line in read if line.strip()]
    if not lines:
        complain(f"{'standard input' if path == '-' else path} has no tasks; nothing was submitted")
        return ERROR
    if not _all_good(lines, defaults):
        complain("nothing was submitted")
        return ERROR
    rejected = known_before = 0
    handles: list[TaskHandle] = []
    sent: list[str] = []  # the ids, in the order of the lines
    known = 0  # of so many of them it is known what became of them

    def tell_of_sent() -> None:
        if not wait and not as_json:
            for task_id in sent[known:]:
                say(task_id)
        unknown = f"; of the last {len(sent) - known:,} it is not known" if known < len(sent) else ""
        _tell(f"Broken off. Sent: {len(sent):,} of {len(lines):,} tasks, which go on if they were accepted{unknown}")

    async with client() as submitting:
        with _when_broken_off(tell_of_sent), bar("submitted", len(lines)) as advance:
            numbers = (number for number, _ in lines)
            async for fate in submitting.submit_many(_submissions(lines, defaults, sent)):
                number = next(numbers)
                known += 1
                if isinstance(fate, TaskRejected):
                    complain(f"line {number}: {fate}")
                    rejected += 1
                    advance()
                    continue
                known_before += fate.was_known
                if wait:
                    handles.append(fate)
                elif as_json:
                    print_view(fate.view)
                else:
                    say(fate.id)
                advance()
        if known_before:
            _tell(f"{known_before:,} of {len(lines):,} tasks were already known and stay as they are")
        good = await _wait(handles, as_json=as_json)
    if rejected:
        return ERROR
    return OK if good else TASK_FAILED


async def _wait(handles: list[TaskHandle], *, as_json: bool) -> bool:
    """Tell of each task when it ends. Returns whether all were completed."""
    good = True
    with _when_broken_off(lambda: _tell_of_rest(handles)), bar("finished", len(handles)) as advance:
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
            complain(f"line {number}: {str(error).replace('at line 1 column', 'at column')}")
            good = False
    return good


def _submissions(lines: list[Line], defaults: dict[str, Any], sent: list[str]) -> Iterator[Submission]:
    """The tasks of the lines, with ids; those that were taken are noted in `sent`."""
    for _, line in lines:
        submission = _submission(line, defaults)
        task_id = submission.id or uuid7()
        sent.append(task_id)
        yield submission.model_copy(update={"id": task_id})


def _submission(line: bytes, defaults: dict[str, Any]) -> Submission:
    submission = decode(Submission, line)
    lacking = {name: value for name, value in defaults.items() if name not in submission.model_fields_set}
    return submission.model_copy(update=lacking)


def _tell_of_rest(handles: list[TaskHandle]) -> None:
    """How to come back to the tasks that are not over."""
    left = [handle for handle in handles if not handle.is_over]
    shared = set[str].intersection(*(set(handle.view.labels) for handle in left)) if left else set()
    if shared:
        how = f"To wait for them again: fluffle task wait --label {min(shared)}"
    elif len(left) <= _FEW:
        how = f"To wait for them again: fluffle task wait {' '.join(handle.id for handle in left)}"
    else:
        how = "To see them: fluffle task list"
    if left:
        _tell(f"Broken off. {len(left):,} of {len(handles):,} tasks go on. {how}")


def _tell(text: str) -> None:
    click.echo(text, err=True)


@contextmanager
def _when_broken_off(tell: Callable[[], None]) -> Iterator[None]:
    """Have one who presses Ctrl-C in the body told what has come of it."""
    try:
        yield
    except asyncio.CancelledError:
        tell()
        raise


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
