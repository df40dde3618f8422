"""`fluffle task submit`: one task from the command line, or many from JSON lines."""

import re
import sys
from typing import TYPE_CHECKING, Any

import click

from fluffle.cli.main import OK, TASK_FAILED
from fluffle.cli.options import JSON, Duration, Moment, Names, Weights, Whole, flat, pairs, schema_of, text_of
from fluffle.cli.session import client, json_option, run

if TYPE_CHECKING:
    from broker.protocol.task_requests import Vote

file = click.Path(exists=True, dir_okay=False, readable=True, allow_dash=True)


@click.command()
@click.argument("description", required=False)
@click.option("--file", "-f", "description_file", type=file, metavar="FILE", help="Take the description from a file.")
@click.option("--input", "inputs", type=JSON(), metavar="JSON", help="What the LLM gets besides, as JSON.")
@click.option("--input-file", type=file, metavar="FILE", help='Give the LLM the text of a file, as {"text": …}.')
@click.option("--json-lines", type=file, metavar="FILE", help="Submit many: one task a line, as a JSON object.")
@click.option(
    "--id", "task_id", metavar="ID", help="The id. The same task again changes nothing; another one is rejected."
)
@click.option("--skills", "-k", multiple=True, type=Names(), help="What the LLM must be able to do: python,review.")
@click.option("--assignee", "-a", metavar="LLM", help="The LLM that does it; else one is chosen.")
@click.option("--assignees", multiple=True, type=Names(), help="Several LLMs that work on it together: ada,bob.")
@click.option("--mode", type=click.Choice(["any", "all", "vote", "relay"]), help="How they work together.")
@click.option("--choice", "choices", multiple=True, metavar="TEXT", help="What they vote for. Repeat for each.")
@click.option("--judge", metavar="LLM", help="Who decides about their answers, instead of choices.")
@click.option("--quorum", type=Whole(1), metavar="N", help="Votes that are needed.  [default: more than half]")
@click.option("--weights", type=Weights(), help="What their votes count, where it is not 1: ada=2,bob=0.5.")
@click.option("--reviewer", "-r", metavar="LLM", help="The LLM that must approve of the result.")
@click.option("--max-rounds", type=Whole(1, 10), metavar="N", help="How often it looks at it.  [default: 3]")
@click.option("--exclude", "excluded", multiple=True, type=Names(), help="LLMs that do not get it.")
@click.option(
    "--force", is_flag=True, default=None, help="Take an assignee that has never said hello, and wait for it."
)
@click.option("--priority", "-p", type=Whole(0, 9), metavar="N", help="Higher goes first.  [default: 4]")
@click.option("--due", type=Moment(past=False), metavar="MOMENT", help="Wanted by then.")
@click.option("--not-before", type=Moment(past=False), metavar="MOMENT", help="Not to be done earlier.")
@click.option(
    "--depends-on", "-d", multiple=True, type=Names(), help="Ids of tasks that come first; it gets their results."
)
@click.option(
    "--on-dependency-failure", type=click.Choice(["fail", "run"]), help="What it does when one fails.  [default: fail]"
)
@click.option("--timeout", type=Duration(), metavar="DURATION", help="How long one attempt may take.")
@click.option("--max-attempts", type=Whole(1, 100), metavar="N", help="How often it is tried.  [default: 3]")
@click.option("--output-schema", type=file, metavar="FILE", help="JSON Schema that the result has to satisfy.")
@click.option("--label", "-l", "labels", multiple=True, type=Names(), help="A label, for filters and reports.")
@click.option("--metadata", "-m", multiple=True, metavar="KEY=VALUE", help="Something to carry along.")
@click.option("--set", "variables", multiple=True, metavar="NAME=VALUE", help="A variable of a plan.")
@click.option("--wait", "-w", is_flag=True, help="Wait for the end and print the result.")
@click.option("--dry-run", "-n", is_flag=True, help="Submit nothing; tell who would get the task, and why.")
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
    """Submit a task and print its id.

    DESCRIPTION says what to do. `-`, or none when standard input is piped, takes it from standard input; every FILE
    may be `-` too.

    \b
      fluffle task submit "Summarise the report" --input-file report.txt --wait
      git diff | fluffle task submit "Review this change" --input-file - -k review
      fluffle task submit "Which name?" --assignees ada,bob,cleo --mode vote --choice Flo --choice Mo --wait
      fluffle task submit tasks.jsonl --label nightly
      fluffle task submit plan.toml --set topic=rabbits --wait

    With --json-lines, every line is checked before the first task is submitted; the other options hold for lines
    that do not say otherwise; the ids are printed one a line, in their order.

    A DESCRIPTION that is the name of a .jsonl file is the same as --json-lines with it. One that is the name of a .toml
    or .yaml file is a plan: tasks that depend on each other. Their ids begin
    with --id or a name that is made, and the other options hold for tasks that do not say otherwise. With --wait, the
    results of those that no other builds on are printed; with --dry-run, what would be submitted.

    A MOMENT is ISO 8601, in local time unless it has an offset, or a DURATION from now: 90s, 5m, 2h, 1d.

    With --wait, the exit code is 3 when a task fails or is cancelled. With --dry-run, an LLM and why it would get the
    task are printed, or the state that the task would wait in and for what.
    """
    fields = _fields(**options)
    if description is not None and re.fullmatch(r"\S+\.(toml|ya?ml)", description):
        if json_lines is not None or description_file is not None:
            raise click.UsageError("With a plan, the tasks are in the plan.")
        from fluffle.cli.task.submit_plan import submit_plan

        given = pairs(variables, "--set")
        prefix = fields.pop("id", None)
        return run(submit_plan(description, given, fields, run=prefix, wait=wait, dry_run=dry_run, as_json=as_json))
    if description is not None and json_lines is None and re.fullmatch(r"\S+\.jsonl", description):
        json_lines = str(file.convert(description, None, click.get_current_context()))
        description = None
    if variables:
        raise click.UsageError("--set is for a plan: the name of a .toml or .yaml file.")
    if dry_run and (wait or json_lines is not None):
        raise click.UsageError("--dry-run is for one task, and nothing to wait for.")
    if json_lines is not None:
        if description is not None or description_file is not None or "id" in fields:
            raise click.UsageError("With --json-lines, descriptions and ids are in the lines.")
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
    from fluffle.cli.task.wait_hints import nobody_is_there, shown_while_it_lasts
    from fluffle.client.handle import outcome
    from fluffle.presentation.task_text import print_outcome, print_view, say_known

    async with client() as submitting:
        handle = await submitting.submit(fields.pop("description"), **fields)
        if not as_json:
            say_known(handle)
        if wait:
            async with shown_while_it_lasts(submitting, handle.id):
                view = await handle.end()
        else:
            view = handle.view
        if as_json:
            print_view(view)
        elif not wait:
            click.echo(handle.id)
            await nobody_is_there(submitting, view)
        else:
            outcome(view)
            print_outcome(view)
    return OK if not wait or view.status == "completed" else TASK_FAILED


def _description(argument: str | None, path: str | None) -> str:
    """What is to be done, from the argument, the file or standard input."""
    if argument is not None and path is not None:
        raise click.UsageError("Give DESCRIPTION or --file, not both.")
    if path is not None:
        text = text_of(path)
    elif argument == "-" or (argument is None and not sys.stdin.isatty()):
        text = text_of("-")
    else:
        text = argument or ""
    if not text.strip():
        raise click.UsageError("Say what to do: DESCRIPTION, --file, --json-lines, or standard input.")
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
    **plain: Any,
) -> dict[str, Any]:
    """The fields of a submission that the options give; `plain` are those that are named alike."""
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
        "vote": _vote({"choices": list(choices) or None, "judge": judge, "quorum": quorum, "weights": weights}),
    }
    return {name: value for name, value in given.items() if value is not None}


def _vote(rules: dict[str, Any]) -> "Vote | None":
    """How the assignees vote, where an option says something about it."""
    from pydantic import ValidationError

    from broker.errors import Problem, TaskRejected
    from broker.protocol.primitives import problems
    from broker.protocol.task_requests import Vote

    given = {name: value for name, value in rules.items() if value is not None}
    try:
        return Vote(**given) if given else None
    except ValidationError as error:
        raise TaskRejected(
            [Problem(f"vote.{path}".removesuffix("."), told) for path, told in problems(error)]
        ) from error
