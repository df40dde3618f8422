"""Reports: a form, a chart, a table, and a download as CSV."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from nicegui import ui

from broker.errors import FluffleError, QueryRejected
from broker.protocol.report_catalog import DIMENSIONS, METRICS, PREDEFINED
from broker.protocol.views import ReportView
from fluffle.client.kwargs import ReportFields
from fluffle.presentation.report_text import as_csv, figure, group, summary_figures, summary_workload
from fluffle.web.charts import MAX_BARS, chart, distribution
from fluffle.web.components import HtmlElement, Pairs, empty, field, form, options
from fluffle.web.layout import frame
from fluffle.web.page_context import PageContext, SharedServices

CUSTOM = "custom"
SPANS = {"1h": "Last hour", "24h": "Last 24 hours", "7d": "Last 7 days", "30d": "Last 30 days", "": "All time"}

_HOURS = {"1h": 1, "24h": 24, "7d": 7 * 24, "30d": 30 * 24}


@dataclass(frozen=True, slots=True)
class Choice:
    """The report in the URL: a predefined or custom one, with its filters and its time span."""

    name: str = "summary"
    group_by: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    llm: str = ""
    label: str = ""
    span: str = ""

    @classmethod
    def read(cls, pairs: Iterable[tuple[str, str]]) -> "Choice":
        """Return the choice in a query or a form. Unknown values are ignored."""
        given: dict[str, list[str]] = {}
        for name, value in pairs:
            if value.strip():
                given.setdefault(name, []).append(value.strip())
        name, span = given.get("name", ["summary"])[-1], given.get("since", [""])[-1]
        return cls(
            name=name if name in PREDEFINED or name == CUSTOM else "summary",
            group_by=tuple(word for word in dict.fromkeys(given.get("group_by", [])) if word in DIMENSIONS),
            metrics=tuple(word for word in dict.fromkeys(given.get("metrics", [])) if word in METRICS),
            llm=given.get("llm", [""])[-1],
            label=given.get("label", [""])[-1],
            span=span if span in SPANS else "",
        )

    def query(self) -> str:
        """Return the query of a URL, which `read` reads."""
        own = [("group_by", word) for word in self.group_by] + [("metrics", word) for word in self.metrics]
        pairs = [("name", self.name), *(own if self.name == CUSTOM else [])]
        pairs += [(name, value) for name, value in (("llm", self.llm), ("label", self.label)) if value]
        return "?" + urlencode([*pairs, *([("since", self.span)] if self.span else [])])

    def asked(self, now: datetime) -> tuple[str | None, ReportFields]:
        """Return the arguments of `Client.report`."""
        fields: ReportFields = {}
        if self.name == CUSTOM:
            fields["group_by"] = list(self.group_by or ("llm",))
            fields["metrics"] = list(self.metrics or ("tasks",))
        where: dict[str, list[str | int | bool | None]] = {}
        if self.llm:
            where["llm"] = [self.llm]
        if self.label:
            where["label"] = [self.label]
        if where:
            fields["where"] = where
        if self.span:
            fields["since"] = now - timedelta(hours=_HOURS[self.span])
        return None if self.name == CUSTOM else self.name, fields


def add(site: SharedServices) -> None:
    """Add the page."""

    @ui.page("/reports")
    async def reports() -> None:
        context = PageContext(site)
        choice = Choice.read(context.client.request.query_params.multi_items())
        with frame(context, "reports", "Reports") as actions:
            with actions:
                HtmlElement("a", "CSV", "button", href=context.url(f"/reports.csv{choice.query()}"), download=True)
            await _Reports(context, choice).follow()


def add_downloads(app: FastAPI, site: SharedServices) -> None:
    """Add the download as CSV."""

    @app.get("/reports.csv")
    async def csv(request: Request) -> Response:
        choice = Choice.read(request.query_params.multi_items())
        name, fields = choice.asked(datetime.now(UTC))
        try:
            view = await site.live.reader.report(name, **fields)
        except QueryRejected as error:
            return PlainTextResponse(str(error), 400)
        except FluffleError as error:
            return PlainTextResponse(str(error), 503)
        headers = {"content-disposition": f'attachment; filename="fluffle-{choice.name}.csv"'}
        return Response(as_csv(view), media_type="text/csv; charset=utf-8", headers=headers)


class _Reports:
    def __init__(self, context: PageContext, choice: Choice) -> None:
        self._context = context
        self._choice = choice
        self._shown: ReportView | None = None
        with HtmlElement("nav", None, "tabs", aria_label="Reports"):
            for name in (*PREDEFINED, CUSTOM):
                href = self._context.url("/reports" + Choice(name, span=self._choice.span).query())
                current = "page" if name == self._choice.name else None
                HtmlElement("a", name.capitalize(), "tab", href=href, aria_current=current)
        meaning = PREDEFINED[self._choice.name].meaning if self._choice.name in PREDEFINED else "a custom report"
        HtmlElement("p", meaning[0].upper() + meaning[1:] + ".", "muted meaning")
        self._build_choice()
        self._place = HtmlElement("div", None, "report")

    async def follow(self) -> None:
        """Show the report, and update it while the page is open."""
        await self._context.follow(self._refresh, {"task"}, every=3.0)

    def _build_choice(self) -> None:
        choice = self._choice
        with form(self._choose, "card choice", aria_label="Filters of the report"):
            HtmlElement("input", type="hidden", name="name", value=choice.name)
            with HtmlElement("div", None, "columns"):
                with field("Time", "select", name="since"):
                    options(SPANS.items(), choice.span)
                with field("LLM", "select", name="llm"):
                    names = sorted({llm.name for llm in self._context.site.live.llms} | ({choice.llm} - {""}))
                    options([("", "All"), *((name, name) for name in names)], choice.llm)
                field("Label", name="label", defaultValue=choice.label)
                if choice.name == CUSTOM:
                    with field("By", "select", name="group_by", multiple=True, size="8"):
                        _several(((name, it.title, it.meaning) for name, it in DIMENSIONS.items()), choice.group_by)
                    with field("Figures", "select", name="metrics", multiple=True, size="8"):
                        _several(((name, it.title, it.meaning) for name, it in METRICS.items()), choice.metrics)
            HtmlElement("button", "Show", "button primary")

    async def _choose(self, pairs: Pairs) -> None:
        self._context.go("/reports" + Choice.read(pairs).query())

    async def _refresh(self) -> None:
        name, fields = self._choice.asked(datetime.now(UTC))
        try:
            view = await self._context.reader.report(name, **fields)
        except QueryRejected as error:
            self._place.clear()
            with self._place:
                empty("Cannot make this report", str(error))
            return
        if self._shown and view.rows == self._shown.rows and view.values == self._shown.values:
            return
        self._shown = view
        self._place.clear()
        with self._place:
            self._build(view)

    def _build(self, view: ReportView) -> None:
        if view.values:
            _build_summary(view.values)
            return
        if not view.rows:
            empty("No data", "No tasks match. Choose a longer time, or another LLM or label.")
            return
        if (drawn := chart(view)) is not None:
            _draw(drawn, f"{view.name} as a chart", len(view.rows))
        _table(
            [(column.title, column.unit is not None) for column in view.columns],
            [
                [figure(row[it.name], it.unit) if it.unit else group(row[it.name]) for it in view.columns]
                for row in view.rows
            ],
        )
        if view.left_out:
            HtmlElement("p", f"{view.left_out:,} more rows are not shown.", "muted")


def _several(known: Iterable[tuple[str, str, str]], chosen: tuple[str, ...]) -> None:
    for name, title, meaning in known:
        HtmlElement("option", title, value=name, title=meaning, selected=name in chosen)


def _build_summary(values: dict[str, Any]) -> None:
    with HtmlElement("dl", None, "tiles"):
        for name, (title, text) in summary_figures(values).items():
            with HtmlElement("div", None, "tile", data_figure=name):
                HtmlElement("dt", title)
                HtmlElement("dd", text)
    by_llm = values.get("workload_distribution")
    if by_llm:
        with HtmlElement("section", None, "card"):
            HtmlElement("h2", "Attempts by LLM")
            _draw(distribution(by_llm, "llm", ["completed", "failed"]), "Attempts by LLM", len(by_llm))
            _table(*summary_workload(values))


def _draw(drawn: dict[str, Any], label: str, rows: int) -> None:
    bars = 1 if any("stack" in series for series in drawn["series"]) else len(drawn["series"])
    height = 280 if drawn["xAxis"]["type"] == "category" else 80 + min(rows, MAX_BARS) * (16 + 14 * bars)
    made = ui.echart(drawn, renderer="svg").classes("chart").style(f"height:{height}px")
    made.props["role"], made.props["aria-label"] = "img", label


def _table(heads: list[tuple[str, bool]], rows: list[list[str]]) -> None:
    with HtmlElement("div", None, "grid-frame scroll"), HtmlElement("table", None, "grid figures"):
        with HtmlElement("thead"), HtmlElement("tr"):
            for title, is_number in heads:
                HtmlElement("th", title, "number" if is_number else "", scope="col")
        with HtmlElement("tbody"):
            for row in rows:
                with HtmlElement("tr"):
                    for (_, is_number), text in zip(heads, row, strict=True):
                        HtmlElement("td", text, "number" if is_number else "")
