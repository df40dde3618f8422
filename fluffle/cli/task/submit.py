"""`fluffle task submit`: one task from options, many from JSON lines, or a plan."""

import re
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import click

from broker.mappings import without_none
from fluffle.cli.exit_codes import OK, TASK_FAILED
from fluffle.cli.options import JSON, Duration, Moment, Names, Positive, Weights, Whole, flat, pairs, schema_of, text_of
from fluffle.cli.session import client, json_option, run

if TYPE_CHECKING:
    from broker.protocol.primitives import WireModel
    from broker.protocol.task_requests import TaskBudget, Vote

W = TypeVar("W", bound="WireModel")

file = click.Path(exists=True, dir_okay=False, readable=True, allow_dash=True)


@click.command()
@click.argument("description", required=False)
@click.option("--file", "-f", "description_file", type=file, metavar="FILE", help="Read the description from a file.")
@click.option("--input", "inputs", type=JSON(), metavar="JSON", help="Additional input for the LLM, as JSON.")
@click.option("--input-file", type=file, metavar="FILE", help='The text of a file as additional input, {"text": …}.')
@click.option("--json-lines", type=file, metavar="FILE", help="Submit many tasks: one JSON object per line.")
@click.option(
    "--id",
    "task_id",
    metavar="ID",
    help="The task's ID. Submitting the same task again changes nothing; a different task with this ID is rejected.",
)
@click.option("--skills", "-k", multiple=True, type=Names(), help="Skills that the LLM must have: python,review.")
@click.option("--assignee", "-a", metavar="LLM", help="The LLM for this task. Default: the coordinator chooses one.")
@click.option("--assignees", multiple=True, type=Names(), help="Several LLMs that share the task: ada,bob.")
@click.option("--mode", type=click.Choice(["any", "all", "vote", "relay"]), help="How the assignees share the task.")
@click.option("--choice", "choices", multiple=True, metavar="TEXT", help="An option of the vote. Repeat for each.")
@click.option("--judge", metavar="LLM", help="The LLM that chooses among their answers, instead of --choice.")
@click.option("--quorum", type=Whole(1), metavar="N", help="Votes needed.  [default: more than half]")
@click.option("--weights", type=Weights(), help="Weights of votes, where not 1: ada=2,bob=0.5.")
@click.option("--reviewer", "-r", metavar="LLM", help="The LLM that must approve the result.")
@click.option("--max-rounds", type=Whole(1, 10), metavar="N", help="Maximum number of reviews.  [default: 3]")
@click.option("--exclude", "excluded", multiple=True, type=Names(), help="LLMs that must not get the task.")
@click.option(
    "--force", is_flag=True, default=None, help="Accept an assignee that has never connected, and wait for it."
)
@click.option("--priority", "-p", type=Whole(0, 9), metavar="N", help="Higher numbers first.  [default: 4]")
@click.option("--due", type=Moment(past=False), metavar="TIME", help="The due time.")
@click.option("--not-before", type=Moment(past=False), metavar="TIME", help="The earliest start.")
@click.option(
    "--depends-on",
    "-d",
    multiple=True,
    type=Names(),
    help="IDs of tasks that must end first; the LLM receives their results.",
)
@click.option(
    "--on-dependency-failure",
    type=click.Choice(["fail", "run"]),
    help="What to do if a dependency fails.  [default: fail]",
)
@click.option(
    "--timeout",
    type=Duration(),
    metavar="DURATION",
    help="Maximum duration of one attempt; for a task for several LLMs, also of the whole task.",
)
@click.option("--max-attempts", type=Whole(1, 100), metavar="N", help="Maximum number of attempts.  [default: 3]")
@click.option("--budget", type=Positive(), metavar="USD", help="US dollars for the task and all its parts.")
@click.option(
    "--budget-tokens", "tokens", type=Whole(1, 10**12), metavar="N", help="Tokens for the task and all its parts."
)
@click.option(
    "--on-empty",
    type=click.Choice(["wait", "ask", "fail"]),
    help="What to do when the budget is used up.  [default: fail]",
)
@click.option(
    "--needs",
    multiple=True,
    type=Names(),
    help="What the LLM must be able to do: some of tools,pictures,schema.",
)
@click.option("--output-schema", type=file, metavar="FILE", help="A JSON Schema for the result.")
@click.option("--label", "-l", "labels", multiple=True, type=Names(), help="A label, for filters and reports.")
@click.option("--metadata", "-m", multiple=True, metavar="KEY=VALUE", help="Metadata of the task.")
@click.option("--set", "variables", multiple=True, metavar="NAME=VALUE", help="A variable of a plan.")
@click.option("--wait", "-w", is_flag=True, help="Wait until the task ends, and print the result.")
@click.option("--dry-run", "-n", is_flag=True, help="Submit nothing; print which LLM would get the task, and why.")
@json_option
def submit(
    *,
    description: str | None,
    description_file: str | None,
    json_lines: str | None,
    variables: tuple[str, ...],
    wait: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Submit a task and print its ID.

    DESCRIPTION is the instruction for the LLM. If it is `-`, or missing while standard input is a pipe, the description
    is read from standard input. Options with a FILE accept `-`, too.

    \b
      fluffle task submit "Summarise the report" --input-file report.txt --wait
      git diff | fluffle task submit "Review this change" --input-file - -k review
      fluffle task submit "Which name?" --assignees ada,bob,cleo --mode vote --choice Flo --choice Mo --wait
      fluffle task submit tasks.jsonl --label nightly
      fluffle task submit plan.toml --set topic=rabbits --wait

    With --json-lines, all lines are checked before the first task is submitted. The other options are defaults for
    lines without these fields. The IDs are printed one per line, in the order of the lines.

    If DESCRIPTION is the name of a .jsonl file, it is read as with --json-lines. If DESCRIPTION is the name of a .toml
    or .yaml file, it is a plan: tasks that depend on each other. The IDs of its tasks begin with --id or a generated
    name. The other options are defaults for tasks without these fields.

    A TIME is ISO 8601, in local time unless it has an offset, or a DURATION from now: 90s, 5m, 2h, 1d.

    For a plan, --wait prints the results of the tasks that no other task depends on, and --dry-run prints the tasks.
    For one task, --dry-run prints the LLM that would get it and why; if no LLM can take it now, its status and what it
    would wait for. With --wait, the exit code is 3 if a task fails or is cancelled.
    """
    fields = _fields(**options)
    if description is not None and re.fullmatch(r"\S+\.(toml|ya?ml)", description):
        if json_lines is not None or description_file is not None:
            raise click.UsageError("A plan contains its tasks: do not give --file or --json-lines.")
        from fluffle.cli.task.submit_plan import submit_plan

        given = pairs(variables, "--set")
        prefix = fields.pop("id", None)
        return run(submit_plan(description, given, fields, run=prefix, wait=wait, dry_run=dry_run, as_json=as_json))
    if description is not None and json_lines is None and re.fullmatch(r"\S+\.jsonl", description):
        json_lines = str(file.convert(description, None, click.get_current_context()))
        description = None
    if variables:
        raise click.UsageError("--set needs a plan: a .toml or .yaml file as DESCRIPTION.")
    if dry_run and (wait or json_lines is not None):
        raise click.UsageError("--dry-run works with one task or a plan, and without --wait.")
    if json_lines is not None:
        if description is not None or description_file is not None or "id" in fields:
            raise click.UsageError("With --json-lines, give descriptions and IDs in the lines.")
        from fluffle.cli.task.submit_many import submit_lines

        return run(submit_lines(json_lines, fields, wait=wait, as_json=as_json))
    fields["description"] = _description(description, description_file)
    if dry_run:
        return run(_place(fields, as_json=as_json))
    return run(_submit_one(fields, wait=wait, as_json=as_json))


async def _place(fields: dict[str, Any], *, as_json: bool) -> int:
    from fluffle.presentation.output import cell, print_json

    async with client() as asking:
        placement = await asking.placement(fields.pop("description"), **fields)
    if as_json:
        print_json(placement.model_dump(mode="json", exclude_none=True))
    else:
        click.echo(f"{placement.llm or placement.status}\t{cell(placement.why)}")
    return OK


async def _submit_one(fields: dict[str, Any], *, wait: bool, as_json: bool) -> int:
    from fluffle.cli.task.printing import print_already_known, print_outcome, print_view
    from fluffle.cli.task.wait_hints import print_why_it_waits, shown_while_waiting
    from fluffle.client.handle import outcome

    async with client() as submitting:
        handle = await submitting.submit(fields.pop("description"), **fields)
        if not as_json:
            print_already_known(handle)
        if wait:
            async with shown_while_waiting(submitting, handle.id):
                view = await handle.end()
        else:
            view = handle.view
        if as_json:
            print_view(view)
        elif not wait:
            click.echo(handle.id)
            await print_why_it_waits(submitting, view)
        else:
            outcome(view)
            print_outcome(view)
    return OK if not wait or view.status == "completed" else TASK_FAILED


def _description(argument: str | None, path: str | None) -> str:
    """Return the description from the argument, the file or standard input."""
    if argument is not None and path is not None:
        raise click.UsageError("Give DESCRIPTION or --file, not both.")
    if path is not None:
        text = text_of(path)
    elif argument == "-" or (argument is None and not sys.stdin.isatty()):
        text = text_of("-")
    else:
        text = argument or ""
    if not text.strip():
        raise click.UsageError("No task given: use DESCRIPTION, --file, --json-lines, or standard input.")
    return text.rstrip("\n")


def _fields(
    *,
    task_id: str | None,
    inputs: Any,
    input_file: str | None,
    output_schema: str | None,
    metadata: tuple[str, ...],
    skills: tuple[list[str], ...],
    depends_on: tuple[list[str], ...],
    labels: tuple[list[str], ...],
    assignees: tuple[list[str], ...],
    excluded: tuple[list[str], ...],
    choices: tuple[str, ...],
    judge: str | None,
    quorum: int | None,
    weights: dict[str, float] | None,
    needs: tuple[list[str], ...],
    budget: float | None,
    tokens: int | None,
    on_empty: str | None,
    **plain: Any,
) -> dict[str, Any]:
    """Return the fields of a submission. `plain` are the options with the name of their field."""
    if inputs is not None and input_file is not None:
        raise click.UsageError("Give --input or --input-file, not both.")
    given = {
        **plain,
        "id": task_id,
        "inputs": inputs if input_file is None else {"text": text_of(input_file)},
        "output_schema": None if output_schema is None else schema_of(output_schema),
        "metadata": pairs(metadata) or None,
        "skills": flat(skills) or None,
        "depends_on": flat(depends_on) or None,
        "labels": flat(labels) or None,
        "assignees": flat(assignees) or None,
        "excluded": flat(excluded) or None,
        "needs": flat(needs) or None,
        "budget": _budget({"usd": budget, "tokens": tokens, "on_empty": on_empty}),
        "vote": _vote({"choices": list(choices) or None, "judge": judge, "quorum": quorum, "weights": weights}),
    }
    return without_none(given)


def _vote(rules: dict[str, Any]) -> "Vote | None":
    """Return the rules of a vote, or None without options about it."""
    from broker.protocol.task_requests import Vote

    return _part("vote", Vote, without_none(rules))


def _budget(figures: dict[str, Any]) -> "TaskBudget | None":
    """Return the budget of the task, or None without options about it."""
    from broker.protocol.task_requests import TaskBudget

    given = without_none(figures)
    if given.keys() == {"on_empty"}:
        raise click.UsageError("--on-empty needs --budget or --budget-tokens.")
    return _part("budget", TaskBudget, given)


def _part(name: str, kind: "type[W]", given: dict[str, Any]) -> "W | None":
    """Return a field of a submission that is an object, or None without values for it. Raises TaskRejected."""
    from pydantic import ValidationError

    from broker.errors import Problem, TaskRejected
    from broker.protocol.primitives import problems

    try:
        return kind(**given) if given else None
    except ValidationError as error:
        raise TaskRejected(
            [Problem(f"{name}.{path}".removesuffix("."), message) for path, message in problems(error)]
        ) from error
