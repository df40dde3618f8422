"""Reports as text: figures with units, and CSV."""

from csv import writer
from io import StringIO
from typing import Any

from broker.protocol.report_catalog import DIMENSIONS, Value
from broker.protocol.views import ReportView
from fluffle.presentation.durations import duration

_SUMMARY = {
    "total_tasks": ("Tasks", "count"),
    "completed_tasks": ("Completed", "count"),
    "failed_tasks": ("Failed", "count"),
    "cancelled_tasks": ("Cancelled", "count"),
    "open_tasks": ("Open", "count"),
    "completion_rate": ("Completion rate", "share"),
    "avg_task_time": ("Mean run time", "s"),
    "avg_queue_wait": ("Mean queue wait", "s"),
    "avg_turnaround": ("Mean turnaround", "s"),
    "input_tokens": ("Input tokens", "tokens"),
    "output_tokens": ("Output tokens", "tokens"),
    "cost_usd": ("Cost in USD", "USD"),
    "unknown_cost": ("Attempts of unknown cost", "count"),
}
_USED = ("input_tokens", "output_tokens", "cost_usd", "unknown_cost")
_FORMULA = ("=", "+", "-", "@", "\t", "\n")  # a cell that starts with one of these may be a formula
_LEAST_DOLLARS = 0.0001
_WORKLOAD = {
    "llm": ("LLM", None),
    "attempts": ("Attempts", "count"),
    "completed": ("Completed", "count"),
    "failed": ("Failed", "count"),
    "busy": ("Busy", "s"),
    "share": ("Share", "share"),
}


def summary_figures(values: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the figures of a summary: name -> title and text. Tokens and cost only if LLMs used something."""
    shown = {
        name: (title, figure(values.get(name), unit))
        for name, (title, unit) in _SUMMARY.items()
        if values.get(name) or name not in _USED
    }
    if values.get("unknown_cost") and "cost_usd" not in shown:
        shown["cost_usd"] = (_SUMMARY["cost_usd"][0], "unknown")
    return shown


def summary_workload(values: dict[str, Any]) -> tuple[list[tuple[str, bool]], list[list[str]]]:
    """Return the attempts by LLM of a summary: titles, each with whether its column has figures; and the rows."""
    heads = [(title, unit is not None) for title, unit in _WORKLOAD.values()]
    rows = values.get("workload_distribution", [])
    return heads, [
        [figure(row.get(name), unit) if unit else group(row[name]) for name, (_, unit) in _WORKLOAD.items()]
        for row in rows
    ]


def as_csv(view: ReportView) -> str:
    """Return the rows of a report as CSV, with unformatted values: seconds, shares, dollars.

    Texts that a spreadsheet would run as a formula get a `'` before them: they may come from LLMs and workers.
    """
    text = StringIO()
    lines = writer(text, lineterminator="\n")
    names = [column.name for column in view.columns]
    lines.writerow(map(_cell, names))
    lines.writerows([_cell(row[name]) for name in names] for row in view.rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")  # a bare "\r" is not quoted and would begin a row
    return f"'{text}" if text.startswith(_FORMULA) else text


def figure(value: Any, unit: str | None) -> str:
    """Return a figure with its unit; `-` for None."""
    if value is None:
        return "-"
    match unit:
        case "s":
            return duration(value)
        case "share":
            return f"{value:.0%}"
        case "USD":
            return _dollars(value)
        case "1/h":
            return f"{value:,.1f}/h"
        case "tokens/s":
            return f"{value:,.1f}/s"
        case _:
            return f"{value:,}"


def _dollars(value: float) -> str:
    """Return an amount with four decimals; with more, if they would all be 0."""
    return f"{value:.4f}" if not value or value >= _LEAST_DOLLARS else f"{value:.9f}".rstrip("0")


def group(value: Value) -> str:
    """Return a value of a dimension as text."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)


def filters(view: ReportView) -> str:
    """Return the filters and the time span of a report as text."""
    texts = [
        f"{DIMENSIONS[name].title if name in DIMENSIONS else name} {' or '.join(map(group, values))}"
        for name, values in view.where.items()
    ]
    if view.since is not None:
        texts.append(f"{view.moment} since {view.since:%Y-%m-%d %H:%M} UTC")
    if view.until is not None:
        texts.append(f"{view.moment} before {view.until:%Y-%m-%d %H:%M} UTC")
    return ", ".join(texts)
