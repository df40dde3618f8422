"""`fluffle llm`: the LLMs, their tasks and their settings."""

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import click

from fluffle.cli.lazy import OrderedGroup
from fluffle.cli.options import Duration, Names, OrNothing, Skills, Whole, given
from fluffle.cli.session import change_each, client, json_option, run

if TYPE_CHECKING:
    from broker.protocol.views import LLMView
    from fluffle.client.client import Client

names_argument = click.argument("names", metavar="NAME...", nargs=-1, required=True)


@click.group(cls=OrderedGroup)
def llm() -> None:
    """List the LLMs and their tasks; pause, drain or change them."""


@llm.command(name="list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the LLMs that have ever connected.

    HEALTH is the state of the circuit breaker. DONE, FAILED, TOKENS/S, S/TASK and COST are of the last hour. On a
    terminal, lines below the table say what is wrong with LLMs that get no tasks.
    """
    from broker.protocol.worker_reports import skills_in_text
    from fluffle.presentation.llm_text import cost, health_word
    from fluffle.presentation.output import on_terminal, print_json, print_table

    async def fetch() -> "list[LLMView]":
        async with client() as asking:
            return await asking.llms()

    llms = run(fetch())
    if as_json:
        print_json([view.model_dump(mode="json", exclude_none=True) for view in llms])
        return
    print_table(
        (
            "NAME",
            "STATE",
            "TASKS",
            "HEALTH",
            "DONE",
            "FAILED",
            "TOKENS/S",
            "S/TASK",
            "COST",
            "LIMIT",
            "LAST SEEN",
            "MODEL",
            "LABELS",
            "SKILLS",
        ),
        [
            (
                view.name,
                state(view),
                f"{view.in_hand}/{view.slots}",
                health_word(view),
                view.health.completed,
                view.health.failed,
                _three_digits(view.health.tokens_per_second),
                _three_digits(view.health.seconds_per_task),
                cost(view.health),
                view.limit,
                view.last_seen,
                view.model,
                ",".join(view.labels),
                skills_in_text(view.skills),
            )
            for view in llms
        ],
        spare=("LABELS", "LAST SEEN", "MODEL", "LIMIT", "S/TASK", "TOKENS/S", "COST", "DONE", "FAILED"),
        empty="No LLM has connected yet. Start one with `fluffle worker`.",
    )
    if on_terminal():
        _print_troubles(llms)


@llm.command()
@click.argument("name")
@json_option
def show(*, name: str, as_json: bool) -> None:
    """Show an LLM: its health, its settings and its current tasks."""
    from broker.protocol.worker_reports import skills_in_text
    from fluffle.presentation import llm_text
    from fluffle.presentation.durations import time_since
    from fluffle.presentation.output import heading, print_fields, print_json, print_table

    async def fetch() -> "LLMView":
        async with client() as asking:
            return await asking.llm(name)

    view = run(fetch())
    if as_json:
        print_json(view.model_dump(mode="json", exclude_none=True))
        return
    by_hand = "" if view.skills_given is None else " (set by hand)"
    at_most = "" if view.slots_limit is None else f", at most {view.slots_limit} (set by hand)"
    print_fields(
        [
            ("Name", view.name),
            ("State", state(view)),
            ("Health", _health_fields(view)),
            ("Gets no tasks", view.why_not),
            ("Last error", view.health.last_error and llm_text.last_error(view.health, view.health.last_error.at)),
            ("Last hour", llm_text.last_hour(view.health) or None),
            ("Model", view.model or None),
            ("Skills", f"{skills_in_text(view.skills)}{by_hand}" if view.skills or by_hand else None),
            ("Quality", ", ".join(f"{skill} times {factor:g}" for skill, factor in view.quality.items()) or None),
            ("Labels", view.labels or None),
            ("Local", None if view.local is None else f"{'yes' if view.local else 'no'} (set by hand)"),
            ("Limit", view.limit),
            ("Price", llm_text.price(view.price)),
            ("Reserve", llm_text.role(view) or None),
            ("Context window", view.context_window and f"{view.context_window:,} tokens"),
            ("Abilities", None if view.abilities is None else ", ".join(view.abilities) or "none"),
            ("Slots", f"{view.slots}{at_most}"),
            ("Tasks", view.in_hand),
            ("Parked", view.parked or None),
            ("Instances", view.instances or None),
            ("Last seen", view.last_seen),
            ("Description", view.description or None),
        ]
    )
    if view.tasks:
        heading("Current tasks")
        for task_id in view.tasks:
            quiet = view.quiet.get(task_id)
            click.echo(task_id + (f"  no text for {time_since(quiet)}" if quiet else ""))
    if view.by_instance:
        heading("Instances with different settings")
        print_table(
            ("INSTANCE", "MODEL", "SLOTS", "LABELS", "SKILLS"),
            [(it.id, it.model, it.slots, ",".join(it.labels), skills_in_text(it.skills)) for it in view.by_instance],
        )


@llm.command()
@names_argument
@json_option
def pause(*, names: tuple[str, ...], as_json: bool) -> int:
    """Assign no new tasks to LLMs until they are resumed.

    They finish their current tasks.
    """
    return _each(names, lambda client, name: client.pause(name), as_json=as_json)


@llm.command()
@names_argument
@json_option
def resume(*, names: tuple[str, ...], as_json: bool) -> int:
    """Assign tasks to paused LLMs again.

    Also closes the circuit breaker of an LLM that was taken out because it failed: it gets tasks at once, without
    waiting for the next probe. Use this when you have repaired the cause, such as a wrong API key.
    """
    return _each(names, lambda client, name: client.resume(name), as_json=as_json)


@llm.command()
@names_argument
@json_option
def drain(*, names: tuple[str, ...], as_json: bool) -> int:
    """Let the workers of these LLMs finish their current tasks, then stop them."""
    return _each(names, lambda client, name: client.drain(name), as_json=as_json)


@llm.command()
@names_argument
@json_option
def forget(*, names: tuple[str, ...], as_json: bool) -> int:
    """Remove offline LLMs from the list.

    Deletes their settings and all that was learned about them; their finished tasks stay. An LLM that still has tasks
    cannot be removed. If the LLM connects again, it is a new LLM. Its queues stay in RabbitMQ.
    """
    return _each(names, lambda client, name: client.forget(name), as_json=as_json)


@llm.command(name="set")
@click.argument("name")
@click.option(
    "--slots",
    type=OrNothing(Whole(0, 10_000), "auto"),
    metavar="N|auto",
    help="Maximum number of tasks for all its workers together; auto: the sum of their own values.",
)
@click.option(
    "--skills",
    "-k",
    type=OrNothing(Skills(), "auto"),
    metavar="SKILLS|auto",
    help="Skills with levels: python=0.9,review; auto: the skills that its workers report.",
)
@click.option(
    "--local/--no-local", default=None, help="Whether the LLM sends no data to other computers; for `local-only` tasks."
)
@click.option("--reserve/--no-reserve", default=None, help="Whether it gets tasks only if other LLMs cannot do them.")
@click.option(
    "--spill",
    type=OrNothing(click.Choice(["late", "busy", "never"]), "auto"),
    metavar="late|busy|never|auto",
    help="When a reserve gets tasks although others work: they would finish late; they are busy; never.",
)
@click.option(
    "--spill-after",
    type=OrNothing(Duration(), "auto"),
    metavar="DURATION|auto",
    help="How long others must be busy, for --spill busy.",
)
@click.option(
    "--context-window",
    type=OrNothing(Whole(1, 10**9), "auto"),
    metavar="N|auto",
    help="Maximum tokens of a prompt and its answer.",
)
@click.option(
    "--abilities",
    type=OrNothing(Names(), "auto"),
    metavar="NAMES|auto",
    help="What the model can do besides text: some of tools,pictures,schema.",
)
@json_option
def set_(*, name: str, as_json: bool, **options: Any) -> int:
    """Set the slots, the skills and other properties of an LLM.

    These values replace those of the workers, until you set other values or `auto`. Its current tasks stay assigned.
    """
    settings = given(options)
    if not settings:
        raise click.UsageError("Give at least one option, such as --slots or --skills.")
    return _each((name,), lambda client, name: client.manage(name, **settings), as_json=as_json)


def state(view: "LLMView") -> str:
    """Return the state of an LLM, with "paused" for one that is paused and draining or offline."""
    return f"{view.state}, paused" if view.paused and view.state != "paused" else view.state


def _health_fields(view: "LLMView") -> str | None:
    """Return the health of an LLM in words; None for an offline LLM of which nothing bad is known."""
    from fluffle.presentation.llm_text import health_word, is_sick, next_probe, trouble

    text = trouble(view) if view.health.state != "healthy" else health_word(view)
    probe = next_probe(view.health) if is_sick(view) else ""
    return ", ".join(part for part in (text, probe) if part) or None


def _print_troubles(llms: "list[LLMView]") -> None:
    """Print why LLMs get no tasks, and how to close a circuit breaker."""
    from fluffle.presentation.llm_text import is_sick, next_probe, trouble
    from fluffle.presentation.output import cell, in_colour

    sick = [view for view in llms if trouble(view)]
    for place, view in enumerate(sick):
        if not place:
            click.echo()
        parts = [trouble(view), next_probe(view.health) if is_sick(view) else ""]
        line = f"{view.name}: {cell(', '.join(part for part in parts if part))}"
        click.echo(click.style(line, fg="red") if is_sick(view) and in_colour() else line)
    if any(is_sick(view) for view in sick):
        click.echo("Repaired? `fluffle llm resume NAME` lets an LLM work at once.")


def _three_digits(figure: float | None) -> str:
    if figure is None:
        return ""
    return f"{figure:.0f}" if figure >= 100 else f"{figure:.3g}"


def _each(
    names: tuple[str, ...], change: "Callable[[Client, str], Coroutine[Any, Any, LLMView]]", *, as_json: bool
) -> int:
    """Change one LLM after the other and print its new state. Returns the exit code."""
    from broker.protocol.worker_reports import skills_in_text
    from fluffle.presentation.output import print_json, styled

    def show(view: "LLMView") -> None:
        if as_json:
            print_json(view.model_dump_json(exclude_none=True).encode())
        else:
            skills = skills_in_text(view.skills)
            click.echo(f"{view.name}\t{styled(state(view))}\t{view.in_hand}/{view.slots}\t{skills}")

    return change_each(names, change, show)
