"""Reports as charts: options for ECharts, with the colours of the style sheet for light and dark mode."""

from typing import Any

from broker.protocol.report_catalog import DIMENSIONS
from broker.protocol.views import ReportColumn, ReportView
from fluffle.presentation.report_text import group

MAX_BARS = 24  # the table has all rows

_COLOURS = [f"var(--{name})" for name in ("accent", "blue", "amber", "violet", "red", "green", "grey")]
_STATES = {
    "blocked": "var(--violet)",
    "pending": "var(--grey)",
    "assigned": "var(--blue)",
    "in_progress": "var(--accent)",
    "input_required": "var(--amber)",
    "completed": "var(--green)",
    "failed": "var(--red)",
    "cancelled": "var(--line-strong)",
}
_OUTCOMES = {
    "completed": "green",
    "failed": "red",
    "lost": "amber",
    "cancelled": "line-strong",
}  # by the last word of a metric
_TEXT = {"color": "var(--muted)", "fontFamily": "system-ui, sans-serif", "fontSize": 12}
_LINES = {"lineStyle": {"color": "var(--line)"}}


def chart(view: ReportView) -> dict[str, Any] | None:
    """Return a chart of the metrics with the same unit as the first one; None if there is nothing to draw."""
    groups = view.group_by
    units = [column.unit for column in view.columns if column.name in view.metrics]
    if not groups or not view.rows or not units:
        return None
    columns = [column for column in view.columns if column.name in view.metrics and column.unit == units[0]]
    is_time = DIMENSIONS[groups[0]].kind == "time" if groups[0] in DIMENSIONS else False
    rows = view.rows if is_time else view.rows[:MAX_BARS]
    labels = [" · ".join(group(row[name]) for name in groups) for row in rows]
    series = [_series(column, [row[column.name] for row in rows], is_time) for column in columns]
    if groups == ["status"] and len(series) == 1:
        colours = [_STATES.get(label, "var(--grey)") for label in labels]
        series[0]["data"] = [
            {"value": value, "itemStyle": {"color": colour}}
            for value, colour in zip(series[0]["data"], colours, strict=True)
        ]
    return _axes(labels, series, is_time)


def distribution(rows: list[dict[str, Any]], label: str, names: list[str]) -> dict[str, Any]:
    """Return rows of a summary as stacked bars."""
    columns = [ReportColumn(name=name, title=name.capitalize()) for name in names]
    series = [_series(column, [row[column.name] for row in rows], False) | {"stack": "all"} for column in columns]
    return _axes([group(row[label]) for row in rows], series, False)


def _series(column: ReportColumn, values: list[Any], is_time: bool) -> dict[str, Any]:
    shape: dict[str, Any] = (
        {"type": "line", "symbolSize": 6, "lineStyle": {"width": 2}}
        if is_time and len(values) > 2
        else {"type": "bar", "barMaxWidth": 34, "itemStyle": {"borderRadius": 3}}
    )
    colour = _OUTCOMES.get(column.name.split("_")[-1])
    return {"name": column.title, "data": values, **shape, **({"color": f"var(--{colour})"} if colour else {})}


def _axes(labels: list[str], series: list[dict[str, Any]], is_time: bool) -> dict[str, Any]:
    """Return horizontal bars, for long names; with time, from left to right."""
    names = {
        "type": "category",
        "data": labels,
        "axisLabel": {**_TEXT, "width": 150, "overflow": "truncate"},
        "axisTick": {"show": False},
        "axisLine": _LINES,
    }
    values = {"type": "value", "axisLabel": _TEXT, "splitLine": _LINES}
    return {
        "color": _COLOURS,
        "animation": False,
        "textStyle": _TEXT,
        "grid": {"left": 8, "right": 24, "top": 36 if len(series) > 1 else 10, "bottom": 4, "containLabel": True},
        "legend": {
            "show": len(series) > 1,
            "top": 0,
            "left": 0,
            "icon": "roundRect",
            "itemWidth": 12,
            "itemHeight": 12,
            "textStyle": _TEXT,
        },
        "tooltip": {
            "trigger": "axis",
            "axisPointer": {"type": "none"},
            "backgroundColor": "var(--card)",
            "borderColor": "var(--line)",
            "textStyle": {**_TEXT, "color": "var(--ink)"},
        },
        **({"xAxis": names, "yAxis": values} if is_time else {"xAxis": values, "yAxis": {**names, "inverse": True}}),
        "series": series,
    }
