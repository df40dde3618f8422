"""`fluffle limit`: the rate limits that LLMs share."""

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from fluffle.cli.lazy import OrderedGroup
from fluffle.cli.options import Duration, Moment, Nothing, OrNothing, Positive, Whole, given
from fluffle.cli.session import change_each, client, json_option, run

if TYPE_CHECKING:
    from broker.protocol.spending import LimitView
    from fluffle.client.client import Client

names_argument = click.argument("names", metavar="NAME...", nargs=-1, required=True)


@click.group(cls=OrderedGroup)
def limit() -> None:
    """List the rate limits that LLMs share; pause, resume or set them.

    LLMs that share an API key, or whose workers have the same --limit, share a rate limit. When the provider answers
    "too many requests", no LLM of the limit gets tasks until the limit opens again.
    """


@limit.command(name="list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the rate limits."""
    from fluffle.presentation.output import print_json, print_table
    from fluffle.presentation.spending_text import limit_figures, running, until

    limits = run(_limits())
    if as_json:
        print_json([view.model_dump(mode="json", exclude_none=True) for view in limits])
        return
    print_table(
        ("NAME", "STATE", "UNTIL", "RUNNING", "FIGURES", "LLMS", "WHY"),
        [
            (view.name, view.state, until(view), running(view), limit_figures(view), ",".join(view.llms), view.why)
            for view in limits
        ],
        spare=("FIGURES", "LLMS", "RUNNING"),
        empty="No rate limits yet. An LLM that connects brings its own.",
    )


@limit.command()
@click.argument("name")
@json_option
def show(*, name: str, as_json: bool) -> None:
    """Show a rate limit: its state, its figures and its LLMs."""
    from fluffle.presentation.output import print_fields, print_json
    from fluffle.presentation.spending_text import limit_figures, limit_left, running, until

    view = run(_limit(name))
    if as_json:
        print_json(view.model_dump(mode="json", exclude_none=True))
        return
    closed_for = {"throttle": "seconds (throttled)", "window": "hours (usage window)"}
    print_fields(
        [
            ("Name", view.name),
            ("State", view.state),
            ("Until", until(view) or None),
            ("Why", view.why or None),
            ("Closed for", view.tier and closed_for[view.tier]),
            ("LLMs", view.llms or None),
            ("Running", running(view)),
            ("Figures", limit_figures(view) or "none set"),
            ("Left now", limit_left(view) or None),
        ]
    )


@limit.command()
@names_argument
@click.option("--until", type=Moment(past=False), metavar="TIME", help="Open again at this time.")
@click.option("--for", "length", type=Duration(), metavar="DURATION", help="Open again after this time.")
@json_option
def pause(*, names: tuple[str, ...], until: datetime | None, length: float | None, as_json: bool) -> int:
    """Assign no new tasks to the LLMs of rate limits.

    Without --until and --for, a limit stays closed until you resume it. A TIME is ISO 8601, in local time unless it has
    an offset, or a DURATION from now: 90s, 5m, 2h, 1d.
    """
    if until is not None and length is not None:
        raise click.UsageError("Give --until or --for, not both.")
    if length is not None:
        until = datetime.now(UTC) + timedelta(seconds=length)
    if until is not None and until <= datetime.now(UTC):
        raise click.BadParameter("must be in the future", param_hint="--until")
    changes = given({"paused": True, "until": until})
    return _each(names, lambda client, name: client.manage_limit(name, **changes), as_json=as_json)


@limit.command()
@names_argument
@json_option
def resume(*, names: tuple[str, ...], as_json: bool) -> int:
    """Open rate limits at once, whatever closed them.

    If the provider still refuses requests, its next refusal closes the limit again.
    """
    return _each(names, lambda client, name: client.manage_limit(name, paused=False), as_json=as_json)


@limit.command(name="set")
@click.argument("name")
@click.option(
    "--requests-per-minute",
    type=OrNothing(Positive()),
    metavar="N|none",
    help="Maximum number of requests to the provider in a minute.",
)
@click.option(
    "--tokens-per-minute", type=OrNothing(Positive()), metavar="N|none", help="Maximum number of tokens in a minute."
)
@click.option(
    "--concurrent",
    type=OrNothing(Whole(1, 100_000)),
    metavar="N|none",
    help="Maximum number of tasks at the same time, on all computers together.",
)
@json_option
def set_(
    *,
    name: str,
    requests_per_minute: float | Nothing | None,
    tokens_per_minute: float | Nothing | None,
    concurrent: int | Nothing | None,
    as_json: bool,
) -> int:
    """Set the figures of a rate limit; `none` removes a figure.

    A limit that does not exist is created, so that you can set its figures before its first LLM connects.
    """
    figures = given(
        {
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
            "concurrent": concurrent,
        }
    )
    if not figures:
        raise click.UsageError("Give at least one of --requests-per-minute, --tokens-per-minute and --concurrent.")
    return _each((name,), lambda client, name: client.manage_limit(name, **figures), as_json=as_json)


@limit.command()
@names_argument
@json_option
def forget(*, names: tuple[str, ...], as_json: bool) -> int:
    """Remove rate limits that no LLM uses, with their figures."""
    return _each(names, lambda client, name: client.manage_limit(name, forget=True), as_json=as_json)


async def _limits() -> "list[LimitView]":
    async with client() as asking:
        return await asking.limits()


async def _limit(name: str) -> "LimitView":
    """Return the limit of that name. Raises QueryRejected with a suggestion if there is none."""
    from broker.errors import Problem, QueryRejected, did_you_mean

    async with client() as asking:
        found = await asking.limits(name)
        if not found:
            names = [view.name for view in await asking.limits()]
            raise QueryRejected([Problem("name", f"there is no rate limit {name}{did_you_mean(name, names)}")])
    return found[0]


def _each(
    names: tuple[str, ...], change: "Callable[[Client, str], Coroutine[Any, Any, LimitView]]", *, as_json: bool
) -> int:
    """Change one limit after the other and print its new state. Returns the exit code."""
    from fluffle.presentation.output import cell, print_json, styled
    from fluffle.presentation.spending_text import limit_figures, until

    def show(view: "LimitView") -> None:
        if as_json:
            print_json(view.model_dump_json(exclude_none=True).encode())
        else:
            click.echo(f"{view.name}\t{styled(view.state)}\t{until(view)}\t{cell(limit_figures(view))}")

    return change_each(names, change, show)
