"""`fluffle task assign|unassign|update|answer|cancel|retry`: what people do to tasks by hand."""

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
priority_option = click.option("--priority", "-p", type=Whole(0, 9), metavar="N", help="Higher goes first.")
due_option = click.option(
    "--due", type=OrNothing(Moment(past=False)), metavar="MOMENT|none", help="Wanted by then; none: at any time."
)
label_option = click.option(
    "--label", "-l", "labels", multiple=True, type=Names(), help="A label. They replace the present ones."
)
metadata_option = click.option(
    "--metadata", "-m", multiple=True, metavar="KEY=VALUE", help="Something to carry along. It replaces what there is."
)


@click.command()
@ids_argument
@click.argument("llm", type=Name())
@click.option("--now", is_flag=True, help="Stop tasks that run at another LLM, and move them.")
@click.option("--force", is_flag=True, help="Take an LLM that has never said hello, and wait for it.")
@json_option
def assign(*, ids: tuple[str, ...], llm: str, now: bool, force: bool, as_json: bool) -> int:
    """Give tasks to the LLM of that name.

    They may be blocked, pending or assigned to another LLM. One that is running elsewhere is moved only with --now:
    its call is stopped, and begins again at the new LLM. While the LLM is offline, they wait for it.
    """
    return _each(ids, lambda client, task_id: client.assign(task_id, llm, now=now, force=force), as_json=as_json)


@click.command()
@ids_argument
@click.option("--now", is_flag=True, help="Stop tasks where they run, and assign them anew.")
@json_option
def unassign(*, ids: tuple[str, ...], now: bool, as_json: bool) -> int:
    """Leave tasks that were given to an LLM by hand to the coordinator.

    One that the LLM has already stays there, unless --now is given: its call is stopped, and begins again at the LLM
    that is chosen.
    """
    return _each(ids, lambda client, task_id: client.unassign(task_id, now=now), as_json=as_json)


@click.command()
@ids_argument
@priority_option
@due_option
@label_option
@click.option("--no-labels", is_flag=True, help="Take all labels away.")
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
    """Change tasks that are not over. What is not given stays as it is.

    A MOMENT is ISO 8601, in local time unless it has an offset, or a length of time from now: 90s, 5m, 2h, 1d.
    """
    if labels and no_labels:
        raise click.UsageError("Give --label or --no-labels, not both.")
    changes = given({"priority": priority, "due": due, "metadata": pairs(metadata) or None})
    if labels or no_labels:
        changes["labels"] = flat(labels)
    if not changes:
        raise click.UsageError("Say what to change: --priority, --due, --label, --no-labels, --metadata.")
    return _each(ids, lambda client, task_id: client.update(task_id, **changes), as_json=as_json)


@click.command()
@click.argument("task_id", metavar="ID")
@click.argument("text")
@click.option("--question", "-q", metavar="ID", help="Which of its questions; needed when it asks several.")
@json_option
def answer(*, task_id: str, text: str, question: str | None, as_json: bool) -> int:
    """Answer what a task asks a person. The LLM that asked goes on with the answer.

    \b
      fluffle task list --status input_required
      fluffle task answer 7f3a "The blue one"

    TEXT `-` takes the answer from standard input. `fluffle task show` tells what is asked.
    """
    given = text_of("-").rstrip("\n") if text == "-" else text
    return _each((task_id,), lambda client, task_id: client.answer(task_id, given, question=question), as_json=as_json)


@click.command()
@ids_argument
@click.option("--reason", "-r", help="Why; it is kept in the task's history.")
@json_option
def cancel(*, ids: tuple[str, ...], reason: str | None, as_json: bool) -> int:
    """Cancel tasks. A call that is running is stopped.

    A line tells for each what was ended: id, status, where it was waiting or running.
    """
    from fluffle.presentation.task_text import cancelled_text

    return _each(ids, lambda client, task_id: client.cancel(task_id, reason), cancelled_text, as_json=as_json)


@click.command()
@ids_argument
@click.option("--description", metavar="TEXT", help="What to do this time; `-` takes it from standard input.")
@click.option("--input", "inputs", type=JSON(), metavar="JSON", help="What the LLM gets besides, as JSON.")
@click.option("--skills", "-k", multiple=True, type=Names(), help="What the LLM must be able to do: python,review.")
@click.option(
    "--assignee", "-a", type=OrNothing(Name()), metavar="LLM|none", help="The LLM that does it; none: one is chosen."
)
@priority_option
@due_option
@click.option("--timeout", type=OrNothing(Duration()), metavar="DURATION|none", help="How long one attempt may take.")
@click.option("--max-attempts", type=Whole(1, 100), metavar="N", help="How often it is tried.")
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
    """Run tasks that are over once more, as they were or with other fields.

    They have all their attempts again.
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
    told: "Callable[[TaskView], str] | None" = None,
    *,
    as_json: bool,
) -> int:
    """Change one task after the other and tell how each stands, or what `told` says. Returns the exit code."""
    from fluffle.cli.task.printing import print_state
    from fluffle.presentation.task_text import where

    return change_each(ids, change, lambda view: print_state(view, told or where, as_json=as_json))
