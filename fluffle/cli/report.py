"""`fluffle report`: statistics about tasks, as a table, JSON, CSV or HTML."""

from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

import click

from broker.mappings import without_none
from broker.protocol.report_catalog import DIMENSIONS, METRICS, PREDEFINED, Value, unknown
from fluffle.cli.options import Moment, Names, Whole, flat
from fluffle.cli.session import client, json_option, run

if TYPE_CHECKING:
    from broker.protocol.views import ReportView
    from fluffle.client.kwargs import ReportDefinition, ReportFields

SAVED_FIELDS = ("group_by", "metrics", "where", "moment", "sort", "limit")  # of a report that is saved under a name
FORMATS = ("table", "json", "csv", "html")


class Known(Names):
    """Comma-separated names of dimensions or metrics."""

    def __init__(self, kind: str, known: tuple[str, ...]) -> None:
        self._kind = kind
        self._known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Return the names."""
        names = super().convert(value, param, ctx)
        for name in names:
            if name not in self._known:
                raise click.BadParameter(unknown(self._kind, name, self._known), ctx, param)
        return names


class Filter(click.ParamType[tuple[str, list[Value]]]):
    """A dimension and its allowed values: `llm=ada,bela`; `llm=` matches tasks without an LLM."""

    name = "filter"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, list[Value]]:
        """Return the name and the values."""
        if isinstance(value, tuple):
            return value
        name, equals, rest = value.partition("=")
        if name not in DIMENSIONS:
            raise click.BadParameter(unknown("dimension", name, DIMENSIONS), ctx, param)
        if not equals:
            raise click.BadParameter(f"{value!r} must be DIMENSION=VALUE,…", ctx, param)
        dimension = DIMENSIONS[name]
        texts = [text.strip() for text in rest.split(",")]
        for text in filter(None, texts):
            if dimension.values and text not in dimension.values:
                raise click.BadParameter(unknown(name.replace("_", " "), text, dimension.values), ctx, param)
            if dimension.kind == "number" and not text.isdecimal():
                raise click.BadParameter(f"{name} must be a number, not {text!r}", ctx, param)
        return name, [_value(dimension.kind, text) for text in texts]


def _value(kind: str, text: str) -> Value:
    match kind:
        case _ if not text:
            return None
        case "yes or no":
            return text == "yes"
        case "number":
            return int(text)
        case _:
            return text


EPILOG = f"""\b
Reports:
{chr(10).join(f"  {name:<11} {report.meaning}" for name, report in PREDEFINED.items())}

Dimensions: {", ".join(DIMENSIONS)}.

Metrics: {", ".join(METRICS)}.

docs/reports.md explains each of them.
"""


@click.command(epilog=EPILOG)
@click.argument("name", required=False)
@click.option(
    "--group-by",
    "-g",
    "group_by",
    multiple=True,
    type=Known("dimension", tuple(DIMENSIONS)),
    metavar="DIMENSION,…",
    help="One row for each combination of values of these dimensions.",
)
@click.option(
    "--metrics",
    "-m",
    multiple=True,
    type=Known("metric", tuple(METRICS)),
    metavar="METRIC,…",
    help="The columns of each row.",
)
@click.option(
    "--where",
    "-w",
    multiple=True,
    type=Filter(),
    metavar="DIMENSION=VALUE,…",
    help="Only tasks with one of these values. Repeat the option for other dimensions.",
)
@click.option(
    "--since",
    type=Moment(past=True),
    metavar="TIME",
    help="Only tasks submitted (or finished, see --moment) at or after this time.",
)
@click.option(
    "--until",
    type=Moment(past=True),
    metavar="TIME",
    help="Only tasks submitted (or finished, see --moment) before this time.",
)
@click.option(
    "--moment",
    type=click.Choice(("submitted", "finished")),
    help="The time of a task that --since, --until and the dimensions hour, day, week, hour_of_day and weekday "
    "refer to.",
)
@click.option("--sort", metavar="NAME", help="Sort the rows by a dimension, or by a metric with the largest first.")
@click.option("--limit", "-n", type=Whole(1, 10_000), help="Maximum number of rows.")
@click.option(
    "--format", "-f", "as_", type=click.Choice(FORMATS), default="table", show_default=True, help="The output format."
)
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, writable=True),
    metavar="FILE",
    help="Write to this file; its ending decides the format.",
)
@click.option("--save", "save_as", metavar="NAME", help="Save this report under a name, for all users.")
@click.option("--drop", metavar="NAME", help="Delete the saved report with this name.")
@click.option("--list", "listed", is_flag=True, help="List all reports.")
@json_option
def report(
    *,
    name: str | None,
    save_as: str | None,
    drop: str | None,
    listed: bool,
    where: tuple[tuple[str, list[Value]], ...],
    as_: str,
    output: str | None,
    as_json: bool,
    group_by: tuple[list[str], ...],
    metrics: tuple[list[str], ...],
    since: datetime | None,
    until: datetime | None,
    **others: Any,
) -> None:
    """Print statistics about tasks.

    NAME is a report, by default `summary`; options change it. Without a name, --group-by and --metrics define a custom
    report. A TIME is ISO 8601, in local time unless it has an offset, or a duration before now: 90s, 5m, 24h, 7d.
    """
    if listed or drop:
        run(_dropped(drop) if drop else _listed(as_json=as_json))
        return
    fields = cast("ReportFields", without_none(others))
    if group_by:
        fields["group_by"] = flat(group_by)
    if metrics:
        fields["metrics"] = flat(metrics)
    if where:
        fields["where"] = {}
        for dimension, values in where:
            fields["where"].setdefault(dimension, []).extend(values)
    view = run(_fetched(name, save_as, {**fields, "since": since, "until": until}))
    if output is None:
        _show(view, "json" if as_json else as_)
        return
    ending = output.rpartition(".")[2]
    chosen = "json" if as_json else as_ if as_ != "table" else ending if ending in FORMATS else "table"
    if chosen == "table":
        raise click.UsageError("The file name must end in .json, .csv or .html; or give --format.")
    _write(output, _text(view, chosen))


async def _fetched(name: str | None, save_as: str | None, fields: "ReportFields") -> "ReportView":
    async with client() as asking:
        view = await asking.report(name, **fields)
        if save_as is not None:
            kept = view.model_dump(include={*SAVED_FIELDS}, exclude_none=True)
            await asking.save_report(save_as, **cast("ReportDefinition", kept))
        return view


async def _listed(*, as_json: bool) -> None:
    from fluffle.presentation.output import print_json, print_table

    async with client() as asking:
        reports = await asking.reports()
    if as_json:
        print_json([report.model_dump(mode="json", exclude_none=True) for report in reports])
        return
    print_table(
        ("NAME", "BY", "METRICS", "MEANING"),
        [
            (
                it.name,
                it.group_by,
                len(it.metrics),
                it.meaning or f"saved by {it.saved_by}",
            )
            for it in reports
        ],
    )


async def _dropped(name: str) -> None:
    async with client() as asking:
        await asking.drop_report(name)


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(text)
    except OSError as error:
        raise click.FileError(path, error.strerror) from error
    click.echo(f"wrote {path}")


def _show(view: "ReportView", chosen: str) -> None:
    from fluffle.presentation.output import print_json

    match chosen:
        case "table":
            print_report(view)
        case "json":
            print_json(view.model_dump(mode="json"))
        case _:
            click.echo(_text(view, chosen), nl=False)


def _text(view: "ReportView", chosen: str) -> str:
    from fluffle.presentation.report_html import as_html
    from fluffle.presentation.report_text import as_csv

    match chosen:
        case "csv":
            return as_csv(view)
        case "html":
            return as_html(view)
        case _:
            return view.model_dump_json(indent=2) + "\n"


def print_report(view: "ReportView") -> None:
    """Print a summary as one figure a line and its tables; any other report as a table."""
    from fluffle.presentation.output import heading, on_terminal, print_fields, print_table
    from fluffle.presentation.report_text import figure, filters, group

    if view.values:
        _print_summary(view.values)
        return
    if on_terminal():
        heading(f"{view.name}: {filters(view)}" if filters(view) else view.name)
    if not view.group_by and on_terminal():
        print_fields([(it.title, figure(view.rows[0][it.name], it.unit)) for it in view.columns])
        return
    print_table(
        [column.title.upper() for column in view.columns],
        [
            [_cell(row[it.name], it.unit) if it.unit else group(row[it.name]) for it in view.columns]
            for row in view.rows
        ],
        empty="No data for this report.",
    )
    if view.left_out:
        click.echo(f"{view.left_out:,} more rows are not shown: raise --limit", err=True)


def _cell(value: Any, unit: str | None) -> str:
    """Return a figure: with its unit on a terminal, as it is in a pipe."""
    from fluffle.presentation.output import on_terminal
    from fluffle.presentation.report_text import figure

    return figure(value, unit) if on_terminal() else "" if value is None else str(value)


def _print_summary(values: dict[str, Any]) -> None:
    from fluffle.presentation.output import heading, print_fields, print_table
    from fluffle.presentation.report_text import figure, group, summary_figures, summary_workload

    print_fields(list(summary_figures(values).values()))
    if by_status := values.get("by_status"):
        heading("By status")
        print_fields([(group(status), figure(count, None)) for status, count in by_status.items()])
    heads, rows = summary_workload(values)
    if rows:
        heading("Attempts by LLM")
        print_table([title.upper() for title, _ in heads], rows)
