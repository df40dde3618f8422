"""`fluffle llm`: the LLMs and what they are doing."""

from typing import TYPE_CHECKING

import click

from fluffle.cli.lazy import OrderedGroup
from fluffle.cli.session import client, json_option, run

if TYPE_CHECKING:
    from broker.messages import LLMView


@click.group(cls=OrderedGroup)
def llm() -> None:
    """List the LLMs and what they are doing."""


@llm.command(name="list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the LLMs that have ever said hello."""
    from fluffle.cli.output import print_json, print_table

    async def fetch() -> "list[LLMView]":
        async with client() as asking:
            return await asking.llms()

    llms = run(fetch())
    if as_json:
        print_json([view.model_dump(mode="json", exclude_none=True) for view in llms])
        return
    print_table(
        ("NAME", "STATE", "IN HAND", "LAST SEEN", "MODEL", "SKILLS"),
        [
            (view.name, view.state, f"{view.in_hand}/{view.slots}", view.last_seen, view.model, skills(view))
            for view in llms
        ],
        empty="No LLM has said hello yet. Start one with `fluffle worker`.",
    )


@llm.command()
@click.argument("name")
@json_option
def show(*, name: str, as_json: bool) -> None:
    """Show an LLM and the tasks that it has in hand."""
    from fluffle.cli.output import heading, print_fields, print_json

    async def fetch() -> "LLMView":
        async with client() as asking:
            return await asking.llm(name)

    view = run(fetch())
    if as_json:
        print_json(view.model_dump(mode="json", exclude_none=True))
        return
    print_fields(
        [
            ("Name", view.name),
            ("State", view.state),
            ("Model", view.model or None),
            ("Skills", skills(view) or None),
            ("Labels", view.labels or None),
            ("Slots", view.slots),
            ("In hand", view.in_hand),
            ("Instances", view.instances or None),
            ("Last seen", view.last_seen),
            ("Description", view.description or None),
        ]
    )
    if view.tasks:
        heading("Tasks in hand")
        for task_id in view.tasks:
            click.echo(task_id)


def skills(view: "LLMView") -> str:
    """The skills with their levels, as `fluffle worker --skills` takes them; a level of 1 is left out."""
    return ",".join(tag if level == 1 else f"{tag}={level:g}" for tag, level in sorted(view.skills.items()))
