"""Reports as text: figures for people, CSV for spreadsheets."""

from csv import writer
from io import StringIO
from typing import Any

from broker.reporting import DIMENSIONS, Value
from broker.views import ReportView


def as_csv(view: ReportView) -> str:
    """The rows of a report under the names of its columns, values as they are: seconds, shares, dollars."""
    text = StringIO()
    lines = writer(text, lineterminator="\n")
    names = [column.name for column in view.columns]
    lines.writerow(names)
    lines.writerows([row[name] for name in names] for row in view.rows)
    return text.getvalue()


def figure(value: Any, unit: str | None) -> str:
    """A figure for people, with its unit; `-` where there is nothing to measure."""
    from fluffle.cli.output import duration

    if value is None:
        return "-"
    match unit:
        case "s":
            return duration(value)
        case "share":
            return f"{value:.0%}"
        case "USD":
            return f"{value:.4f}"
        case "1/h":
            return f"{value:,.1f}/h"
        case _:
            return f"{value:,}"


def group(value: Value) -> str:
    """A value of a dimension for people."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)


def filters(view: ReportView) -> str:
    """What a report is about, in words: its filters and its span."""
    told = [
        f"{DIMENSIONS[name].title if name in DIMENSIONS else name} {' or '.join(map(group, values))}"
        for name, values in view.where.items()
    ]
    if view.since is not None:
        told.append(f"{view.moment} since {view.since:%Y-%m-%d %H:%M} UTC")
    if view.until is not None:
        told.append(f"{view.moment} before {view.until:%Y-%m-%d %H:%M} UTC")
    return ", ".join(told)
