"""`fluffle task show`: a task with its timeline."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from fluffle.cli.session import client, json_option, run

if TYPE_CHECKING:
    from broker.protocol.views import AttemptView, TaskView
    from broker.protocol.worker_reports import Usage
    from fluffle.client.client import Client
    from fluffle.client.kwargs import TaskFields

Line = tuple[datetime, str]  # when, what


@click.command()
@click.argument("task_id", metavar="ID")
@json_option
def show(*, task_id: str, as_json: bool) -> None:
    """Show a task with its timeline.

    What was asked, how it stands, what happened when, every attempt, the result. With --json, just what the
    coordinator answers.
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
    """What a task waits for. Who could do it and why they do not is asked of the coordinator."""
    from broker.protocol.status import Status
    from fluffle.presentation.task_text import waiting_for

    if view.status is Status.PENDING:
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
    """Print a task for people; `waits` tells what for, `parts` are its parts and theirs."""
    from fluffle.cli.task.tree import tree
    from fluffle.client.handle import reason
    from fluffle.presentation.output import duration, heading, print_fields
    from fluffle.presentation.task_text import left_out
    from fluffle.presentation.team_text import is_joined, sections

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
            ("Attempts", _attempts(view) if view.attempts or not parts else None),
            ("Submitted by", view.submitted_by),
            ("Asked people", None if view.person_wait is None else f"for {duration(view.person_wait)}"),
            ("Usage", _usage(view.usage)),
            ("Left out", view.left_out and f"{left_out(view)}: too large for an answer"),
        ]
    )
    for attempt in view.attempts:
        if attempt.quiet_since is not None:
            click.echo(f"Attempt {attempt.attempt} has sent no text for {since(attempt.quiet_since)}.")
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


def _attempts(view: "TaskView") -> str:
    """How many there were, and are granted: those that were moved to another LLM are not counted."""
    moved = sum(attempt.outcome == "moved" for attempt in view.attempts)
    return f"{len(view.attempts)}{f' ({moved} moved)' if moved else ''}, at most {view.max_attempts}"


def _rules(vote: dict[str, Any]) -> str:
    """How a vote is taken, on one line."""
    weights = ", ".join(f"{llm} {weight:g}" for llm, weight in vote.get("weights", {}).items())
    told = {
        "for": " | ".join(vote.get("choices", ())),
        "judge": vote.get("judge"),
        "quorum": vote.get("quorum"),
        "weights": weights,
    }
    return "; ".join(f"{name} {value}" for name, value in told.items() if value)


def timeline(view: "TaskView") -> list[Line]:
    """What happened to a task, in order: its own moments, those of its attempts, and what was done to it."""
    lines = [(view.submitted_at, "submitted" + (f" by {view.submitted_by}" if view.submitted_by else ""))]
    lines += [(change.at, change.told) for change in view.history]
    if view.ready_at:
        lines.append((view.ready_at, "ready"))
    for attempt in view.attempts:
        lines += _of_attempt(attempt)
    if view.finished_at and view.status.is_final:
        lines.append((view.finished_at, str(view.status)))
    return sorted(lines, key=lambda line: line[0])


def _of_attempt(attempt: "AttemptView") -> Iterator[Line]:
    from fluffle.presentation.output import duration

    name = f"attempt {attempt.attempt}"
    if attempt.assigned_at:
        yield attempt.assigned_at, f"{name} assigned to {attempt.llm}" + (f": {attempt.why}" if attempt.why else "")
    if attempt.started_at:
        where = f" at {attempt.instance}" if attempt.instance else ""
        yield attempt.started_at, f"{name} started{where}" + (f" ({attempt.model})" if attempt.model else "")
    if attempt.finished_at:
        length = f" after {duration(attempt.duration)}" if attempt.duration is not None else ""
        used = f", {usage}" if (usage := _usage(attempt.usage)) else ""
        why = f": {attempt.error.type}: {attempt.error.message}" if attempt.error else ""
        yield attempt.finished_at, f"{name} {attempt.outcome}{length}{used}{why}"


def since(moment: datetime) -> str:
    """How long ago that was."""
    from fluffle.presentation.output import duration

    return duration(max(0.0, (datetime.now(UTC) - moment).total_seconds()))


def _with_steps(lines: list[Line]) -> Iterator[str]:
    """The lines with their moments, and the time since the line before."""
    from fluffle.presentation.output import cell, clock, duration

    before: datetime | None = None
    for at, what in lines:
        step = "" if before is None else "+" + duration((at - before).total_seconds())
        yield f"{clock(at)}  {step:>12}  {cell(what)}"
        before = at


def _usage(usage: "Usage | None") -> str | None:
    if usage is None:
        return None
    parts = [
        None if usage.input_tokens is None else f"{usage.input_tokens:,} tokens in",
        None if usage.output_tokens is None else f"{usage.output_tokens:,} tokens out",
        None if usage.cost_usd is None else f"{usage.cost_usd:.4f} USD",
    ]
    return ", ".join(part for part in parts if part) or None


def _text(content: Any) -> str:
    from fluffle.presentation.output import plain

    return plain(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, indent=2))
