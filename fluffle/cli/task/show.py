"""`fluffle task show`: a task with its timeline."""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from fluffle.cli.session import client, json_option, run

if TYPE_CHECKING:
    from broker.protocol.views import TaskView
    from fluffle.client.client import Client
    from fluffle.client.kwargs import TaskFields
    from fluffle.presentation.timeline import Entry


@click.command()
@click.argument("task_id", metavar="ID")
@json_option
def show(*, task_id: str, as_json: bool) -> None:
    """Show a task with its timeline.

    Prints the fields of the task, its timeline, its attempts and its result. With --json, prints the answer of the
    coordinator.
    """
    from broker.protocol.views import TaskView
    from fluffle.cli.task.tree import parts_of
    from fluffle.presentation.output import print_json

    async def fetch() -> None:
        async with client() as asking:
            answer = await asking.task_json(task_id)
            if as_json:
                print_json(answer)
                return
            view = TaskView.model_validate_json(answer)
            parts = await parts_of(asking, task_id)
            describe(view, await waits_for(asking, view), parts)

    run(fetch())


async def waits_for(asking: "Client", view: "TaskView") -> str | None:
    """Return what a task waits for. For a pending task that does not say it, ask the coordinator why no LLM gets it."""
    from broker.protocol.status import Status
    from fluffle.presentation.task_text import waiting_for

    if view.status is Status.PENDING and not view.waits:
        fields: TaskFields = {"skills": view.skills, "labels": view.labels, "force": True}
        if view.assignee is not None:
            fields["assignee"] = view.assignee
        elif view.mode == "any":
            fields |= {"assignees": view.assignees, "mode": "any"}
        now = await asking.placement(view.description, **fields)
        if now.llm is None:
            return now.why.removeprefix("waits ")
    return waiting_for(view).removeprefix("waiting ") or None


def describe(view: "TaskView", waits: str | None = None, parts: Sequence["TaskView"] = ()) -> None:
    """Print a task for people. `waits` is what it waits for, `parts` are its parts at any depth."""
    from fluffle.cli.task.tree import tree
    from fluffle.client.handle import reason
    from fluffle.presentation.durations import duration, time_since
    from fluffle.presentation.output import heading, print_fields
    from fluffle.presentation.spending_text import task_budget
    from fluffle.presentation.task_text import attempts_text, left_out, usage_text
    from fluffle.presentation.team_text import is_joined, sections
    from fluffle.presentation.timeline import timeline

    print_fields(
        [
            ("ID", view.id),
            ("Status", view.status),
            ("Description", view.description),
            ("LLM", view.llm),
            ("Assignee", view.assignee),
            ("Assignees", view.mode and f"{view.mode} of {', '.join(view.assignees)}"),
            ("Vote", view.vote and _rules(view.vote)),
            ("Reviewer", view.reviewer and f"{view.reviewer}, rounds: at most {view.max_rounds}"),
            ("Excluded", view.excluded or None),
            ("Priority", view.priority),
            ("Skills", view.skills or None),
            ("Labels", view.labels or None),
            ("Metadata", view.metadata or None),
            ("Due", view.due),
            ("Overdue", "yes" if view.overdue else None),
            ("Not before", view.not_before),
            ("Depends on", view.depends_on or None),
            ("Waits", waits),
            ("Parent", view.parent_id),
            ("Conversation", view.conversation_id),
            ("Timeout", view.timeout and f"{view.timeout:g} s"),
            ("Attempts", attempts_text(view) if view.attempts or not parts else None),
            ("Submitted by", view.submitted_by),
            ("Waited for people", None if view.person_wait is None else duration(view.person_wait)),
            ("Needs", view.needs or None),
            ("Usage", usage_text(view.usage) or None),
            ("Budget", view.budget and task_budget(view.budget)),
            ("Left out", f"{left_out(view)}: too large for an answer" if view.left_out else None),
        ]
    )
    for attempt in view.attempts:
        if attempt.quiet_since is not None:
            click.echo(f"Attempt {attempt.attempt} has sent no text for {time_since(attempt.quiet_since)}.")
    heading("Timeline")
    for line in _with_steps(timeline(view)):
        click.echo(line)
    if parts:
        heading("Parts")
        for line in tree(parts, view.id):
            click.echo(line)
    for asked in view.questions:
        if asked.answer is None:
            heading("Question")
            click.echo(_text(asked.text))
            if asked.choices:
                click.echo(_text("one of: " + " | ".join(asked.choices)))
            which = f" -q {asked.id}" if sum(other.answer is None for other in view.questions) > 1 else ""
            click.echo(f"To answer: fluffle task answer {view.id}{which} TEXT")
    contents: list[tuple[str, Any]] = [("Inputs", view.inputs), ("Error", view.error and reason(view))]
    contents += [
        (f"Result of attempt {attempt.attempt}, before the retry", attempt.result) for attempt in view.attempts
    ]
    contents += sections(view.result) if is_joined(view) else [("Result", view.result)]
    for title, content in contents:
        if content is not None:
            heading(title)
            click.echo(_text(content))


def _rules(vote: dict[str, Any]) -> str:
    """Return the rules of a vote on one line."""
    weights = ", ".join(f"{llm} {weight:g}" for llm, weight in vote.get("weights", {}).items())
    rules = {
        "for": " | ".join(vote.get("choices", ())),
        "judge": vote.get("judge"),
        "quorum": vote.get("quorum"),
        "weights": weights,
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items() if value)


def _with_steps(lines: "list[Entry]") -> Iterator[str]:
    """Yield the entries with their times, and the time since the entry before."""
    from fluffle.presentation.durations import duration
    from fluffle.presentation.output import cell, clock

    before: datetime | None = None
    for at, what in lines:
        step = "" if before is None else "+" + duration((at - before).total_seconds())
        yield f"{clock(at)}  {step:>12}  {cell(what)}"
        before = at


def _text(content: Any) -> str:
    from fluffle.presentation.output import plain

    return plain(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, indent=2))
