"""`fluffle task`: submit tasks, follow them, steer them, get their results."""

from typing import TYPE_CHECKING

import click

from fluffle.cli.lazy import OrderedGroup
from fluffle.cli.main import ERROR, OK, TASK_FAILED, TIMED_OUT
from fluffle.cli.options import Duration, Names, Whole, flat
from fluffle.cli.session import client, json_option, run
from fluffle.cli.task.show import show
from fluffle.cli.task.steer import answer, assign, cancel, retry, unassign, update
from fluffle.cli.task.submit import submit
from fluffle.cli.task.watch import watch

if TYPE_CHECKING:
    from broker.protocol.views import TaskView

STATUSES = (
    "blocked",
    "pending",
    "assigned",
    "in_progress",
    "input_required",
    "completed",
    "failed",
    "cancelled",
)


@click.group(cls=OrderedGroup)
def task() -> None:
    """Submit tasks, follow them, steer them, get their results."""


task.add_command(submit)


@task.command(name="list")
@click.option(
    "--status", "-s", multiple=True, type=click.Choice(STATUSES), help="In this state. Repeat for any of several."
)
@click.option("--llm", metavar="NAME", help="Assigned to, or done by, this LLM.")
@click.option(
    "--label", "-l", "labels", multiple=True, type=Names(), help="With this label. Repeat for all of several."
)
@click.option("--text", help="With this text in the description.")
@click.option("--within", metavar="ID", help="Part of this task, or of its parts.")
@click.option("--limit", "-n", type=Whole(min=1), default=50, show_default=True, help="At most so many.")
@json_option
def list_(
    *,
    status: tuple[str, ...],
    llm: str | None,
    labels: tuple[list[str], ...],
    text: str | None,
    within: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List tasks, newest first.

    A remark tells what a task waits for, and that its due date has passed: on a terminal before the description, in a
    pipe as a column of its own.
    """
    from broker.protocol.status import Status
    from fluffle.presentation.output import on_terminal, print_json, print_table
    from fluffle.presentation.task_text import remark

    async def fetch() -> "list[TaskView]":
        wanted = [Status(name) for name in status]
        async with client() as asking:
            found = asking.tasks(status=wanted, llm=llm, label=flat(labels), text=text, within=within, limit=limit)
            return [view async for view in found]

    def described(view: "TaskView") -> tuple[str, ...]:
        told = remark(view)
        if not on_terminal():
            return told, view.description
        return (f"[{told}] {view.description}" if told else view.description,)

    tasks = run(fetch())
    if as_json:
        print_json([view.model_dump(mode="json", exclude_none=True) for view in tasks])
        return
    print_table(
        ("ID", "STATUS", "PRIORITY", "LLM", "SUBMITTED", "DESCRIPTION"),
        [(view.id, view.status, view.priority, view.llm, view.submitted_at, *described(view)) for view in tasks],
        spare=("PRIORITY", "SUBMITTED", "LLM"),
        empty="No task fits.",
    )


task.add_command(show)
task.add_command(watch)


@task.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--label", "-l", metavar="LABEL", help="All tasks that have this label.")
@click.option("--timeout", "-t", type=Duration(), metavar="DURATION", help="Give up after this long, with exit code 4.")
@json_option
def wait(*, ids: tuple[str, ...], label: str | None, timeout: float | None, as_json: bool) -> int:
    """Wait until tasks are over.

    Whoever submitted them. A line tells of each when it ends: id, status, the time since its submission, why it
    failed. The exit code is 0 when all were completed, 3 when one failed or was cancelled, 4 when the time ran out.
    """
    import asyncio

    from fluffle.presentation.output import complain
    from fluffle.presentation.task_text import print_end

    if not ids and label is None:
        raise click.UsageError("Give the ids of tasks, or --label.")

    statuses: list[str] = []

    async def ends() -> None:
        async with client() as waiting, asyncio.timeout(timeout):
            async for view in waiting.endings(*ids, label=label):
                print_end(view, as_json=as_json)
                statuses.append(view.status)

    try:
        run(ends())
    except TimeoutError:
        wanted = len(set(ids))
        left = f"{wanted - len(statuses)} of {wanted} tasks are not" if wanted > 1 else "the task is not"
        complain(f"{'not all of the tasks are' if label else left} over after {timeout:g} s")
        return TIMED_OUT
    if not statuses:
        complain(f"no task has the label {label!r}")
        return ERROR
    return OK if set(statuses) == {"completed"} else TASK_FAILED


for steering in (assign, unassign, update, answer, cancel, retry):
    task.add_command(steering)
