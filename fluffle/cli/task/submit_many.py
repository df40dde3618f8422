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
from fluffle.cli.exit_codes import ERROR, OK, TASK_FAILED
from fluffle.cli.session import client
from fluffle.cli.task.printing import print_end, print_view
from fluffle.client.handle import TaskHandle
from fluffle.presentation.output import complain, console, on_terminal, say

_MAX_IDS_IN_A_LINE = 20  # more do not fit on a readable line

Line = tuple[int, bytes]  # with its number, counted from 1


async def submit_lines(path: str, defaults: dict[str, Any], *, wait: bool, as_json: bool) -> int:
    """Submit one task for each line of JSON, with `defaults` for missing fields. Returns the exit code."""
    with click.open_file(path, "rb") as file:
        read = ((number, line.removeprefix(BOM_UTF8) if number == 1 else line) for number, line in enumerate(file, 1))
        lines = [(number, line) for number, line in read if line.strip()]
    if not lines:
        complain(f"{'standard input' if path == '-' else path} has no tasks; nothing was submitted")
        return ERROR
    if not _check_lines(lines, defaults):
        complain("nothing was submitted")
        return ERROR
    rejected = already_known = 0
    handles: list[TaskHandle] = []
    sent: list[str] = []  # the ids, in the order of the lines
    answered = 0  # of them, by the coordinator

    def print_sent() -> None:
        if not wait and not as_json:
            for task_id in sent[answered:]:
                say(task_id)
        unknown = f"; no answer yet for the last {len(sent) - answered:,}" if answered < len(sent) else ""
        _print_error(f"Interrupted. Sent: {len(sent):,} of {len(lines):,} tasks; accepted tasks continue{unknown}")

    async with client() as submitting:
        with _on_cancel(print_sent), bar("submitted", len(lines)) as advance:
            numbers = (number for number, _ in lines)
            async for answer in submitting.submit_many(_submissions(lines, defaults, sent)):
                number = next(numbers)
                answered += 1
                if isinstance(answer, TaskRejected):
                    complain(f"line {number}: {answer}")
                    rejected += 1
                    advance()
                    continue
                already_known += answer.was_known
                if wait:
                    handles.append(answer)
                elif as_json:
                    print_view(answer.view)
                else:
                    say(answer.id)
                advance()
        if already_known:
            _print_error(f"{already_known:,} of {len(lines):,} tasks were already known and stay as they are")
        good = await _wait(handles, as_json=as_json)
    if rejected:
        return ERROR
    return OK if good else TASK_FAILED


async def _wait(handles: list[TaskHandle], *, as_json: bool) -> bool:
    """Print each task when it ends. Returns whether all were completed."""
    good = True
    with _on_cancel(lambda: _print_rest(handles)), bar("finished", len(handles)) as advance:
        for end in asyncio.as_completed([handle.end() for handle in handles]):
            view = await end
            print_end(view, as_json=as_json)
            good = good and view.status is Status.COMPLETED
            advance()
    return good


def _check_lines(lines: list[Line], defaults: dict[str, Any]) -> bool:
    """Return whether each line is a task; print an error for each that is not. Raises TaskRejected for the defaults."""
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
    """Yield the tasks of the lines, with ids; add each id to `sent`."""
    for _, line in lines:
        submission = _submission(line, defaults)
        task_id = submission.id or uuid7()
        sent.append(task_id)
        yield submission.model_copy(update={"id": task_id})


def _submission(line: bytes, defaults: dict[str, Any]) -> Submission:
    submission = decode(Submission, line)
    missing = {name: value for name, value in defaults.items() if name not in submission.model_fields_set}
    return submission.model_copy(update=missing)


def _print_rest(handles: list[TaskHandle]) -> None:
    """Print how to wait again for the tasks that have not ended."""
    left = [handle for handle in handles if not handle.is_over]
    shared = set[str].intersection(*(set(handle.view.labels) for handle in left)) if left else set()
    if shared:
        how = f"To wait for them again: fluffle task wait --label {min(shared)}"
    elif len(left) <= _MAX_IDS_IN_A_LINE:
        how = f"To wait for them again: fluffle task wait {' '.join(handle.id for handle in left)}"
    else:
        how = "To see them: fluffle task list"
    if left:
        _print_error(f"Interrupted. {len(left):,} of {len(handles):,} tasks continue. {how}")


def _print_error(text: str) -> None:
    click.echo(text, err=True)


@contextmanager
def _on_cancel(report: Callable[[], None]) -> Iterator[None]:
    """Call `report` if Ctrl-C cancels the block."""
    try:
        yield
    except asyncio.CancelledError:
        report()
        raise


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[], object]]:
    """Show a progress bar on standard error if that is a terminal. Yields the function that advances it by one."""
    if not sys.stderr.isatty() or not total:
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (what, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Lines printed meanwhile appear above the bar, unless standard output is redirected.
    with Progress(*columns, console=console(stderr=True), redirect_stdout=on_terminal(), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)
