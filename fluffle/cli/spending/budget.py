"""`fluffle budget`: how much money, tokens and runs may be used."""

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import click

from fluffle.cli.lazy import OrderedGroup
from fluffle.cli.options import Nothing, OrNothing, Positive, Whole, given
from fluffle.cli.session import change_each, client, json_option, run

if TYPE_CHECKING:
    from broker.protocol.spending import BudgetList
    from fluffle.client.client import Client

_STOPPED = "All spending is stopped{reason}. To allow it again: fluffle budget start"

names_argument = click.argument("names", metavar="NAME...", nargs=-1, required=True)


@click.group(cls=OrderedGroup)
def budget() -> None:
    """List the budgets and what is left of them; set or raise them; stop all spending.

    A budget limits US dollars, tokens or runs of LLMs, for example per day. When not enough is left, tasks wait, ask a
    person, or fail. The budget of a task (`--budget` of `fluffle task submit`) has the name task:ID.
    """


@budget.command(name="list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the budgets, with what is spent, reserved and left.

    Budgets of tasks are not in the list: `fluffle budget show task:ID` shows one. With --json, prints the answer of the
    coordinator.
    """
    from fluffle.presentation.output import print_json, print_table
    from fluffle.presentation.spending_text import left, reserved, rules, spent

    found = run(_budgets())
    if as_json:
        print_json(found.model_dump(mode="json", exclude_none=True))
        return
    print_table(
        ("NAME", "FOR", "STATE", "SPENT", "RESERVED", "LEFT", "RULES", "WHEN EMPTY", "UNTIL"),
        [
            (
                view.name,
                view.value,
                view.state,
                spent(view),
                reserved(view),
                left(view),
                rules(view),
                view.on_empty,
                view.until,
            )
            for view in found.budgets
        ],
        spare=("RULES", "RESERVED", "WHEN EMPTY", "LEFT"),
        empty="No budgets. Set one with `fluffle budget set NAME --usd 10 --per day`.",
    )
    _say_if_stopped(found)


@budget.command()
@click.argument("name")
@json_option
def show(*, name: str, as_json: bool) -> None:
    """Show a budget in its present period, with a forecast.

    The forecast is what will be spent at the end of the period if the spending goes on as so far.
    """
    from datetime import UTC, datetime

    from fluffle.presentation.output import print_fields, print_json
    from fluffle.presentation.spending_text import forecasts, left, reserved, rules, spent

    found = run(_budget(name))
    if as_json:
        print_json(found.model_dump(mode="json", exclude_none=True))
        return
    for place, view in enumerate(found.budgets):
        if place:
            click.echo()
        print_fields(
            [
                ("Name", view.name),
                ("For", view.value),
                ("State", view.state),
                ("Spent", spent(view)),
                ("Reserved", reserved(view) or "nothing"),
                ("Left", left(view)),
                ("Forecast", forecasts(view, datetime.now(UTC)) or None),
                ("Rules", rules(view) or None),
                ("When empty", f"tasks {'ask a person' if view.on_empty == 'ask' else view.on_empty}"),
                ("Since", view.since),
                ("Until", view.until),
            ]
        )
    _say_if_stopped(found)


@budget.command(name="set")
@click.argument("name")
@click.option("--usd", type=OrNothing(Positive()), metavar="N|none", help="Maximum US dollars.")
@click.option("--tokens", type=OrNothing(Whole(1, 10**15)), metavar="N|none", help="Maximum tokens, in and out.")
@click.option("--runs", type=OrNothing(Whole(1, 10**12)), metavar="N|none", help="Maximum runs of LLMs.")
@click.option(
    "--per",
    type=click.Choice(["hour", "day", "week", "month"]),
    help="The period, in UTC; weeks begin on Monday.  [default: month]",
)
@click.option(
    "--by",
    type=OrNothing(click.Choice(["submitter", "label", "llm", "limit"])),
    metavar="submitter|label|llm|limit|none",
    help="Each submitter, label, LLM or rate limit has this budget separately.",
)
@click.option(
    "--on-empty",
    type=click.Choice(["wait", "ask", "fail"]),
    help="What a task does when not enough is left.  [default: wait]",
)
@json_option
def set_(
    *,
    name: str,
    usd: float | Nothing | None,
    tokens: int | Nothing | None,
    runs: int | Nothing | None,
    per: str | None,
    by: str | Nothing | None,
    on_empty: str | None,
    as_json: bool,
) -> int:
    """Create or change a budget; `none` removes a figure or a rule.

    \b
      fluffle budget set team --usd 20 --per day
      fluffle budget set people --tokens 2000000 --per hour --by submitter --on-empty ask

    Options that you omit stay as they are. A new budget needs at least one of --usd, --tokens and --runs.
    """
    changes = given({"usd": usd, "tokens": tokens, "runs": runs, "per": per, "by": by, "on_empty": on_empty})
    if not changes:
        raise click.UsageError("Give at least one of --usd, --tokens, --runs, --per, --by and --on-empty.")
    return _each((name,), lambda client, name: client.manage_budget(name, **changes), as_json=as_json)


@budget.command(name="raise")
@click.argument("name")
@click.option("--value", metavar="TEXT", help="The submitter, label, LLM or limit, for a budget with --by.")
@click.option("--usd", type=Positive(), metavar="N", help="Additional US dollars.")
@click.option("--tokens", type=Whole(1, 10**15), metavar="N", help="Additional tokens.")
@click.option("--runs", type=Whole(1, 10**12), metavar="N", help="Additional runs.")
@json_option
def raise_(
    *, name: str, value: str | None, usd: float | None, tokens: int | None, runs: int | None, as_json: bool
) -> int:
    """Add to a budget, in its present period only.

    Tasks that wait because the budget is used up go on. NAME may be task:ID, for the budget of a task.
    """
    more = given({"raise_usd": usd, "raise_tokens": tokens, "raise_runs": runs})
    if not more:
        raise click.UsageError("Give at least one of --usd, --tokens and --runs.")
    changes = given({**more, "value": value})
    return _each((name,), lambda client, name: client.manage_budget(name, **changes), as_json=as_json, value=value)


@budget.command()
@names_argument
@json_option
def drop(*, names: tuple[str, ...], as_json: bool) -> int:
    """Remove budgets. Nothing limits what they limited."""
    return _each(names, lambda client, name: client.manage_budget(name, drop=True), as_json=as_json, dropped=True)


@budget.command()
@click.option("--reason", default="", metavar="TEXT", help="The reason, for everybody who asks why tasks wait.")
@json_option
def stop(*, reason: str, as_json: bool) -> None:
    """Stop all spending at once.

    Stops the running tasks of all LLMs that cost money or whose price is unknown, and assigns no new tasks to them.
    LLMs with the price 0 go on. `fluffle budget start` allows spending again.
    """
    _switch(lambda client: client.stop_spending(reason), as_json=as_json)


@budget.command()
@json_option
def start(*, as_json: bool) -> None:
    """Allow spending again after `fluffle budget stop`."""
    _switch(lambda client: client.allow_spending(), as_json=as_json)


async def _budgets() -> "BudgetList":
    async with client() as asking:
        return await asking.budgets()


async def _budget(name: str) -> "BudgetList":
    """Return the budgets of that name. Raises QueryRejected with a suggestion if there is none."""
    from broker.errors import Problem, QueryRejected, did_you_mean

    async with client() as asking:
        found = await asking.budgets(name)
        if not found.budgets:
            names = {view.name for view in (await asking.budgets()).budgets}
            raise QueryRejected([Problem("name", f"there is no budget {name}{did_you_mean(name, names)}")])
    return found


def _switch(change: "Callable[[Client], Coroutine[Any, Any, BudgetList]]", *, as_json: bool) -> None:
    """Stop or allow spending, and print the outcome."""
    from fluffle.presentation.output import print_json

    async def switch() -> "BudgetList":
        async with client() as steering:
            return await change(steering)

    found = run(switch())
    if as_json:
        print_json(found.model_dump(mode="json", exclude_none=True))
    else:
        click.echo("Spending is allowed." if found.stopped is None else _stopped(found.stopped))


def _each(
    names: tuple[str, ...],
    change: "Callable[[Client, str], Coroutine[Any, Any, BudgetList]]",
    *,
    as_json: bool,
    value: str | None = None,
    dropped: bool = False,
) -> int:
    """Change one budget after the other and print its new state; that of one `value`, if given.

    Returns the exit code.
    """
    from fluffle.presentation.output import cell, print_json, styled
    from fluffle.presentation.spending_text import left, rules, spent, title

    left_to_print = list(names)

    def show(found: "BudgetList") -> None:
        name = left_to_print.pop(0)
        views = [view for view in found.budgets if view.name == name and value in (None, view.value)]
        if as_json:
            print_json(found.model_copy(update={"budgets": views}).model_dump(mode="json", exclude_none=True))
        elif dropped:
            click.echo(f"{name}\tdropped")
        for view in () if as_json or dropped else views:
            texts = (spent(view), f"left: {left(view)}", rules(view))
            click.echo("\t".join([title(view), styled(view.state), *(cell(text) for text in texts)]))

    async def change_next(steering: "Client", name: str) -> "BudgetList":
        while left_to_print[0] != name:  # the ones before it were refused
            left_to_print.pop(0)
        return await change(steering, name)

    return change_each(names, change_next, show)


def _say_if_stopped(found: "BudgetList") -> None:
    if found.stopped is not None:
        click.echo(_stopped(found.stopped), err=True)


def _stopped(reason: str) -> str:
    from fluffle.presentation.output import cell

    return _STOPPED.format(reason=f": {cell(reason)}" if reason else "")
