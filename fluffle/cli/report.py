"""`fluffle report`: figures about the tasks."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from fluffle.cli.parameters import Moment
from fluffle.cli.session import client, json_option, run

if TYPE_CHECKING:
    from broker.views import ReportView


@click.command()
@click.argument("name", default="summary")
@click.option("--since", type=Moment(past=True), metavar="MOMENT", help="Only tasks submitted from then on.")
@click.option("--until", type=Moment(past=True), metavar="MOMENT", help="Only tasks submitted before then.")
@json_option
def report(*, name: str, since: datetime | None, until: datetime | None, as_json: bool) -> None:
    """Print figures about the tasks.

    NAME is the report, `summary` unless you say otherwise. A MOMENT is ISO 8601, in local time unless it has an
    offset, or a length of time before now: 90s, 5m, 24h, 7d.
    """
    from fluffle.cli.output import print_json

    async def fetch() -> "ReportView":
        async with client() as asking:
            return await asking.report(name, since=since, until=until)

    figures = run(fetch())
    if as_json:
        print_json(figures.model_dump(mode="json"))
    else:
        print_report(figures)


def print_report(figures: "ReportView") -> None:
    """Figures one a line, then the tables among them."""
    from fluffle.cli.output import heading, print_fields, print_table

    if not figures.values:
        names = [column.name for column in figures.columns]
        print_table(
            [column.title.upper() for column in figures.columns],
            [[row[name] for name in names] for row in figures.rows],
        )
        return
    tables = {name: value for name, value in figures.values.items() if isinstance(value, list | dict)}
    print_fields([(_words(name), _figure(name, value)) for name, value in figures.values.items() if name not in tables])
    for name, value in tables.items():
        heading(_words(name))
        if isinstance(value, dict):
            print_fields([(key, _figure(key, figure)) for key, figure in value.items()])
        elif value:
            columns = list(value[0])
            rows = [[_figure(column, row.get(column)) for column in columns] for row in value]
            print_table([column.upper() for column in columns], rows)


def _words(name: str) -> str:
    """`avg_task_time` as `Avg task time`."""
    return name.replace("_", " ").capitalize()


def _figure(name: str, value: Any) -> str:
    """A figure with its unit, which the last word of its name tells; `-` where there is nothing to measure."""
    from fluffle.cli.output import cell, duration

    if value is None:
        return "-"
    match name.split("_")[-1]:
        case "time" | "wait" | "turnaround" | "busy":
            return duration(value)
        case "rate" | "share":
            return f"{value:.0%}"
        case "usd":
            return f"{value:.4f}"
        case _:
            return f"{value:,}" if isinstance(value, int) else cell(value)
