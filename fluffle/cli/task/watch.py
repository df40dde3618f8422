"""`fluffle task watch`: what happens to tasks, as it happens."""

from typing import TYPE_CHECKING

import click

from fluffle.cli.main import OK, TASK_FAILED
from fluffle.cli.session import client, json_option, run

if TYPE_CHECKING:
    from broker.protocol.views import TaskView
    from broker.protocol.worker_reports import Progress
    from fluffle.client.events import Event


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--label", "-l", metavar="LABEL", help="Tasks that have this label.")
@json_option
def watch(*, ids: tuple[str, ...], label: str | None, as_json: bool) -> int:
    """Print what happens to tasks, as it happens.

    Also the text that their LLMs write, as it comes. With ids or a label, it ends when all of these tasks are over,
    with exit code 3 when one was not completed. Without, it shows all tasks until Ctrl-C.
    """
    return run(_watch(ids, label, as_json=as_json))


async def _watch(ids: tuple[str, ...], label: str | None, *, as_json: bool) -> int:
    from broker.protocol.worker_reports import Progress
    from fluffle.presentation.output import print_json

    printer = Printer(several=len(ids) != 1)
    failed = False
    async with client() as watching, watching.watch(*ids, label=label, progress=True) as events:
        async for event in events:
            if as_json:
                print_json(event.model_dump_json(exclude_none=True).encode())
            elif isinstance(event, Progress):
                printer.progress(event)
            else:
                printer.event(event)
            if not isinstance(event, Progress):
                failed = failed or event.data.status in ("failed", "cancelled")
    return TASK_FAILED if failed else OK


class Printer:
    """Lines about tasks, and between them the text of each as it streams in.

    With `several` tasks every line begins with the task's id, and text is held back until its line is complete.
    """

    def __init__(self, *, several: bool) -> None:
        self._several = several
        self._begun: dict[str, str] = {}  # by task: the text of a line that is not complete
        self._last: dict[str, str] = {}  # by task: its status when last told

    def event(self, event: "Event") -> None:
        """Something has become of a task."""
        if event.is_overdue:
            from fluffle.presentation.output import clock

            self._end_line(event.subject)
            click.echo(f"{clock(event.time)}  {event.subject}  overdue")
        self.state(event.data)

    def state(self, view: "TaskView") -> None:
        """A task has another status than before."""
        from fluffle.client.handle import reason
        from fluffle.presentation.output import cell, clock, styled

        if self._last.get(view.id) == view.status:
            return
        self._last[view.id] = view.status
        self._end_line(view.id)
        moments = (view.finished_at, view.started_at, view.assigned_at, view.ready_at, view.submitted_at)
        at = next(moment for moment in moments if moment is not None)
        who = f" at {view.llm}" if view.llm else ""
        why = f": {cell(reason(view))}" if view.error else ""
        click.echo(f"{clock(at)}  {view.id}  {styled(view.status)}{who}{why}")
        if view.status.is_final:
            del self._last[view.id]

    def progress(self, progress: "Progress") -> None:
        """An LLM tells how far it is."""
        from fluffle.presentation.output import plain

        if progress.text:
            self._text(progress.task_id, plain(progress.text))
        if progress.note or progress.fraction is not None:
            self._end_line(progress.task_id)
            done = "" if progress.fraction is None else f"{progress.fraction:.0%} "
            click.echo(f"{progress.task_id}  {done}{plain(progress.note or 'done')}")

    def _text(self, task_id: str, text: str) -> None:
        text = self._begun.pop(task_id, "") + text if self._several else text
        *lines, rest = text.split("\n")
        if not self._several:
            click.echo(text, nl=False)
        for line in lines if self._several else ():
            click.echo(f"{task_id}  {line}")
        if rest:
            self._begun[task_id] = rest

    def _end_line(self, task_id: str) -> None:
        if rest := self._begun.pop(task_id, ""):
            click.echo(f"{task_id}  {rest}" if self._several else "")
