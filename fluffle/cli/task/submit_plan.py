"""`fluffle task submit plan.toml`: tasks that depend on each other, from a file with templates."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from broker.protocol.messages import Status
from fluffle.cli.main import OK, TASK_FAILED
from fluffle.cli.session import client
from fluffle.cli.task.submit_many import bar
from fluffle.client.handle import TaskHandle, reason
from fluffle.plans.plan import PlannedTask, planned
from fluffle.plans.submission import submit
from fluffle.presentation.output import complain, print_json, print_table
from fluffle.presentation.task_text import print_end, print_outcome, print_result, print_view, say_known

if TYPE_CHECKING:
    from broker.protocol.views import TaskView


async def submit_plan(
    path: str,
    variables: dict[str, str],
    defaults: dict[str, Any],
    *,
    run: str | None,
    wait: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Submit the tasks of a plan; `defaults` are fields for tasks without them. Returns the exit code."""
    run, tasks = await planned(Path(path), run, variables, defaults)
    if dry_run:
        _show(tasks, as_json=as_json)
        return OK
    async with client() as submitting:
        handles = await submit(submitting, tasks)
        say_known(*handles.values())
        if not wait:
            for name, handle in handles.items():
                print_view(handle.view) if as_json else click.echo(f"{handle.id}\t{name}")
            return OK
        try:
            return await _wait(tasks, handles, as_json=as_json)
        except asyncio.CancelledError:
            click.echo(f"The tasks go on. To wait for them again: the same command with --id {run}", err=True)
            raise


def _show(tasks: list[PlannedTask], *, as_json: bool) -> None:
    """What would be submitted."""
    if as_json:
        print_json([task.submission.model_dump(mode="json", exclude_unset=True) for task in tasks])
        return
    print_table(
        ("ID", "LLM", "DEPENDS ON", "DESCRIPTION"),
        [(task.submission.id, _whose(task), task.depends_on, task.submission.description) for task in tasks],
    )


def _whose(task: PlannedTask) -> str:
    """Who is to do it: an LLM, several, or whoever has the skills."""
    spec = task.submission
    several = f"{spec.mode} of {', '.join(spec.assignees)}" if spec.mode else ""
    author = spec.assignee or several or ", ".join(spec.skills) or "any"
    return f"{author}; reviewed by {spec.reviewer}" if spec.reviewer else author


async def _wait(tasks: list[PlannedTask], handles: dict[str, TaskHandle], *, as_json: bool) -> int:
    """Tell of the ends: as they come as JSON, else the results of the tasks that no other one builds on."""
    ends: dict[str, TaskView] = {}
    with bar("finished", len(handles)) as advance:
        for end in asyncio.as_completed([handle.end() for handle in handles.values()]):
            view = await end
            ends[view.id] = view
            if as_json:
                print_end(view, as_json=True)
            elif view.status is not Status.COMPLETED:
                complain(f"{view.id} {view.status}: {reason(view)}" if view.error else f"{view.id} {view.status}")
            advance()
    built_on = {above for task in tasks for above in task.depends_on}
    last = {name: ends[handle.id] for name, handle in handles.items() if name not in built_on}
    good = {name: view for name, view in last.items() if view.status is Status.COMPLETED}
    if good and not as_json:
        if len(last) == 1:
            print_outcome(*good.values())
        else:
            print_result({name: view.result for name, view in good.items()})
    return OK if all(view.status is Status.COMPLETED for view in ends.values()) else TASK_FAILED
