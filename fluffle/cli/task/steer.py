"""`fluffle task assign|unassign|update|answer|cancel|retry`: changes to submitted tasks."""

from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from fluffle.cli.options import (
    JSON,
    Duration,
    Moment,
    Name,
    Names,
    Nothing,
    OrNothing,
    Whole,
    flat,
    given,
    pairs,
    text_of,
)
from fluffle.cli.session import change_each, json_option

if TYPE_CHECKING:
    from broker.protocol.views import TaskView
    from fluffle.client.client import Client

ids_argument = click.argument("ids", metavar="ID...", nargs=-1, required=True)
priority_option = click.option("--priority", "-p", type=Whole(0, 9), metavar="N", help="Higher numbers first.")
due_option = click.option(
    "--due", type=OrNothing(Moment(past=False)), metavar="TIME|none", help="The due time; none: no due time."
)
label_option = click.option(
    "--label", "-l", "labels", multiple=True, type=Names(), help="A label. The given labels replace the current ones."
)
metadata_option = click.option(
    "--metadata", "-m", multiple=True, metavar="KEY=VALUE", help="Metadata. The given pairs replace the current ones."
)


@click.command()
@ids_argument
@click.argument("llm", type=Name())
@click.option("--now", is_flag=True, help="Move tasks that are running at another LLM.")
@click.option("--force", is_flag=True, help="Accept an LLM that has never connected, and wait for it.")
@json_option
def assign(*, ids: tuple[str, ...], llm: str, now: bool, force: bool, as_json: bool) -> int:
    """Assign tasks to an LLM.

    The tasks may be blocked, pending or assigned to another LLM. A task that is running at another LLM moves only with
    --now: the running attempt is stopped, and the new LLM starts the task again. While the LLM is offline, the tasks
    wait for it.
    """
    return _each(ids, lambda client, task_id: client.assign(task_id, llm, now=now, force=force), as_json=as_json)


@click.command()
@ids_argument
@click.option("--now", is_flag=True, help="Stop running tasks, and assign them again.")
@json_option
def unassign(*, ids: tuple[str, ...], now: bool, as_json: bool) -> int:
    """Undo `assign`: let the coordinator choose the LLM.

    A task stays at its LLM if it was already sent there. With --now the attempt is stopped, and the coordinator chooses
    an LLM that starts the task again.
    """
    return _each(ids, lambda client, task_id: client.unassign(task_id, now=now), as_json=as_json)


@click.command()
@ids_argument
@priority_option
@due_option
@label_option
@click.option("--no-labels", is_flag=True, help="Remove all labels.")
@metadata_option
@json_option
def update(
    *,
    ids: tuple[str, ...],
    priority: int | None,
    due: datetime | Nothing | None,
    labels: tuple[list[str], ...],
    no_labels: bool,
    metadata: tuple[str, ...],
    as_json: bool,
) -> int:
    """Change tasks that have not ended. Fields that are not given stay as they are.

    A TIME is ISO 8601, in local time unless it has an offset, or a duration from now: 90s, 5m, 2h, 1d.
    """
    if labels and no_labels:
        raise click.UsageError("Give --label or --no-labels, not both.")
    changes = given({"priority": priority, "due": due, "metadata": pairs(metadata) or None})
    if labels or no_labels:
        changes["labels"] = flat(labels)
    if not changes:
        raise click.UsageError("Give at least one of --priority, --due, --label, --no-labels and --metadata.")
    return _each(ids, lambda client, task_id: client.update(task_id, **changes), as_json=as_json)


@click.command()
@click.argument("task_id", metavar="ID")
@click.argument("text")
@click.option("--question", "-q", metavar="ID", help="The ID of the question. Needed if the task asks several.")
@json_option
def answer(*, task_id: str, text: str, question: str | None, as_json: bool) -> int:
    """Answer the question of a task. The LLM continues with the answer.

    \b
      fluffle task list --status input_required
      fluffle task answer 7f3a "The blue one"

    TEXT `-` reads standard input. `fluffle task show` prints the question.
    """
    given = text_of("-").rstrip("\n") if text == "-" else text
    return _each((task_id,), lambda client, task_id: client.answer(task_id, given, question=question), as_json=as_json)


@click.command()
@ids_argument
@click.option("--reason", "-r", help="The reason, for the task's history.")
@json_option
def cancel(*, ids: tuple[str, ...], reason: str | None, as_json: bool) -> int:
    """Cancel tasks. Running attempts are stopped.

    Prints one line for each task: ID, status, and where it was waiting or running.
    """
    from fluffle.presentation.task_text import cancelled_text

    return _each(ids, lambda client, task_id: client.cancel(task_id, reason), cancelled_text, as_json=as_json)


@click.command()
@ids_argument
@click.option("--description", metavar="TEXT", help="A new description; `-` reads standard input.")
@click.option(
    "--input",
    "inputs",
    type=JSON(),
    metavar="JSON",
    help="New input for the LLM, as JSON; replaces the current input.",
)
@click.option("--skills", "-k", multiple=True, type=Names(), help="Skills that the LLM must have: python,review.")
@click.option(
    "--assignee",
    "-a",
    type=OrNothing(Name()),
    metavar="LLM|none",
    help="The LLM for this task; none: the coordinator chooses one.",
)
@priority_option
@due_option
@click.option(
    "--timeout",
    type=OrNothing(Duration()),
    metavar="DURATION|none",
    help="Maximum duration of one attempt; for a task for several LLMs, also of the whole task.",
)
@click.option("--max-attempts", type=Whole(1, 100), metavar="N", help="Maximum number of attempts.")
@label_option
@metadata_option
@json_option
def retry(
    *,
    ids: tuple[str, ...],
    description: str | None,
    skills: tuple[list[str], ...],
    labels: tuple[list[str], ...],
    metadata: tuple[str, ...],
    as_json: bool,
    **plain: Any,
) -> int:
    """Run ended tasks again, unchanged or with other fields.

    Earlier attempts no longer count towards the maximum number of attempts.
    """
    changes = given(
        {
            **plain,
            "description": text_of("-").rstrip("\n") if description == "-" else description,
            "skills": flat(skills) or None,
            "labels": flat(labels) or None,
            "metadata": pairs(metadata) or None,
        }
    )
    return _each(ids, lambda client, task_id: client.retry(task_id, **changes), as_json=as_json)


def _each(
    ids: tuple[str, ...],
    change: "Callable[[Client, str], Coroutine[Any, Any, TaskView]]",
    remark: "Callable[[TaskView], str] | None" = None,
    *,
    as_json: bool,
) -> int:
    """Change one task after the other and print its new state with a remark. Returns the exit code."""
    from fluffle.cli.task.printing import print_state
    from fluffle.presentation.task_text import where

    return change_each(ids, change, lambda view: print_state(view, remark or where, as_json=as_json))
