"""`fluffle task submit plan.toml`: tasks that depend on each other, from a file with templates."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from broker.protocol.status import Status
from fluffle.cli.exit_codes import OK, TASK_FAILED
from fluffle.cli.session import client
from fluffle.cli.task.printing import print_already_known, print_end, print_outcome, print_result, print_view
from fluffle.cli.task.submit_many import bar
from fluffle.client.handle import TaskHandle, reason
from fluffle.plans.plan import PlannedTask, planned
from fluffle.plans.submission import submit
from fluffle.presentation.output import complain, print_json, print_table

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
    """Submit the tasks of a plan, with `defaults` for missing fields. Returns the exit code."""
    run, tasks = await planned(Path(path), run, variables, defaults)
    if dry_run:
        _show(tasks, as_json=as_json)
        return OK
    async with client() as submitting:
        handles = await submit(submitting, tasks)
        print_already_known(*handles.values())
        if not wait:
            for name, handle in handles.items():
                print_view(handle.view) if as_json else click.echo(f"{handle.id}\t{name}")
            return OK
        try:
            return await _wait(tasks, handles, as_json=as_json)
        except asyncio.CancelledError:
            click.echo(f"The tasks continue. To wait for them again, run the same command with --id {run}", err=True)
            raise


def _show(tasks: list[PlannedTask], *, as_json: bool) -> None:
    """Print the tasks without submitting them."""
    if as_json:
        print_json([task.submission.model_dump(mode="json", exclude_unset=True) for task in tasks])
        return
    print_table(
        ("ID", "LLM", "DEPENDS ON", "DESCRIPTION"),
        [(task.submission.id, _llms(task), task.depends_on, task.submission.description) for task in tasks],
    )


def _llms(task: PlannedTask) -> str:
    """Return the LLMs for a task: one, several, or the skills that they need."""
    spec = task.submission
    several = f"{spec.mode} of {', '.join(spec.assignees)}" if spec.mode else ""
    author = spec.assignee or several or ", ".join(spec.skills) or "any"
    return f"{author}; reviewed by {spec.reviewer}" if spec.reviewer else author


async def _wait(tasks: list[PlannedTask], handles: dict[str, TaskHandle], *, as_json: bool) -> int:
    """Print the ends of the tasks: as JSON one by one, or the results of the tasks that no other task depends on."""
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
    needed = {above for task in tasks for above in task.depends_on}
    last = {name: ends[handle.id] for name, handle in handles.items() if name not in needed}
    good = {name: view for name, view in last.items() if view.status is Status.COMPLETED}
    if good and not as_json:
        if len(last) == 1:
            print_outcome(*good.values())
        else:
            print_result({name: view.result for name, view in good.items()})
    return OK if all(view.status is Status.COMPLETED for view in ends.values()) else TASK_FAILED
