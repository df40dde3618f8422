"""Bar charts of a report as SVG without external content; the page around it defines the colours."""

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from broker.protocol.report_catalog import METRICS
from broker.protocol.views import ReportColumn, ReportView
from fluffle.presentation.report_text import figure, group

MAX_BARS = 60  # in a chart; the table has all rows
COLOURS = 6  # classes c0 … c5 of the page

_LABELS, _BARS, _FIGURES = 190, 480, 110  # widths
_BAR, _GAP = 16, 10


class Bar(NamedTuple):
    """A bar of a chart."""

    label: str
    value: float
    text: str
    colour: int


def charts(view: ReportView) -> list[tuple[str, str]]:
    """Return a title and an SVG for each unit of the metrics, if there is something to draw."""
    units: dict[str, list[ReportColumn]] = {}
    for column in view.columns:
        if column.name in METRICS and column.unit is not None:
            units.setdefault(column.unit, []).append(column)
    drawn = []
    for columns in units.values():
        if found := _bars_of(view, columns):
            legend = len(columns) > 1 and bool(view.group_by)
            title = ", ".join(column.title for column in columns[:COLOURS])
            drawn.append((title, bars(found, [column.title for column in columns[:COLOURS]] if legend else [])))
    return drawn


def _bars_of(view: ReportView, columns: Sequence[ReportColumn]) -> list[Bar]:
    found: list[Bar] = []
    for row in view.rows:
        label = " · ".join(group(row[name]) for name in view.group_by)
        for place, column in enumerate(columns[:COLOURS]):
            if (value := row[column.name]) is not None:
                name = (label if place == 0 else "") if view.group_by else column.title
                found.append(Bar(name, value, figure(value, column.unit), place if view.group_by else 0))
    return found[:MAX_BARS] if any(bar.value for bar in found) else []


def bars(drawn: Sequence[Bar], legend: Sequence[str] = ()) -> str:
    """Return horizontal bars with names on the left and figures on the right."""
    largest = max(bar.value for bar in drawn) or 1
    top = 28 if legend else 4
    height = top + len(drawn) * (_BAR + _GAP)
    width = _LABELS + _BARS + _FIGURES
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(_spoken(drawn))}">']
    for place, name in enumerate(legend):
        x = _LABELS + place * 165
        parts.append(f'<rect class="c{place}" x="{x}" y="4" width="10" height="10" rx="2"/>')
        parts.append(f'<text x="{x + 15}" y="13">{_short(name, 22)}</text>')
    for place, bar in enumerate(drawn):
        y = top + place * (_BAR + _GAP)
        length = max(1.0, _BARS * bar.value / largest) if bar.value else 0.0
        parts.append(f'<text x="{_LABELS - 8}" y="{y + 12}" text-anchor="end">{_short(bar.label, 28)}</text>')
        parts.append(f'<rect class="c{bar.colour}" x="{_LABELS}" y="{y}" width="{length:.1f}" height="{_BAR}" rx="3"/>')
        parts.append(f'<text class="n" x="{_LABELS + length + 6:.1f}" y="{y + 12}">{escape(bar.text)}</text>')
    return "".join([*parts, "</svg>"])


def _short(text: str, size: int) -> str:
    return escape(text if len(text) <= size else text[: size - 1] + "…")


def _spoken(drawn: Sequence[Bar]) -> str:
    return "; ".join(f"{bar.label} {bar.text}".strip() for bar in drawn)


def summary_bars(rows: Sequence[dict[str, Any]], label: str, value: str, unit: str | None) -> str:
    """Return a bar for each row of a table of a summary."""
    return bars([Bar(group(row[label]), row[value], figure(row[value], unit), 0) for row in rows])
