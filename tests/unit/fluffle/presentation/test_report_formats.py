"""Reports as CSV and as a page."""

import csv
from datetime import UTC, datetime
from html.parser import HTMLParser
from io import StringIO
from typing import Any
from xml.etree import ElementTree

import pytest

from broker.protocol.views import ReportColumn, ReportView
from fluffle.presentation.report_html import as_html
from fluffle.presentation.report_svg import Bar, bars, charts
from fluffle.presentation.report_text import as_csv, figure, filters, summary_figures

EVIL = "<script>alert('x')</script>\"&"


def view(rows: list[dict[str, Any]], **fields: Any) -> ReportView:
    columns = [
        ReportColumn(name="error", title="Error"),
        ReportColumn(name="attempts", title="Attempts", unit="count"),
        ReportColumn(name="busy_time", title="Busy", unit="s"),
    ]
    at = datetime(2026, 12, 1, 9, tzinfo=UTC)
    return ReportView(name="failures", generated_at=at, group_by=["error"], columns=columns, rows=rows, **fields)


ROWS: list[dict[str, Any]] = [
    {"error": EVIL, "attempts": 2, "busy_time": 0.1},
    {"error": None, "attempts": 1_000, "busy_time": 3723.000001},
]


def test_csv_has_unformatted_values() -> None:
    assert as_csv(view(ROWS)) == (
        "error,attempts,busy_time\n" + '"<script>alert(\'x\')</script>""&",2,0.1\n' + ",1000,3723.000001\n"
    )


@pytest.mark.parametrize("text", ['=HYPERLINK("http://evil")', "+1", "-1+cmd", "@SUM(A1)", "\t=1", "\r=1", "\n=1"])
def test_text_that_a_spreadsheet_would_run_is_only_text(text: str) -> None:
    [_, row] = csv.reader(StringIO(as_csv(view([{"error": text, "attempts": -2, "busy_time": -0.1}])), newline=""))
    assert row == [f"'{text}".replace("\r", "\n"), "-2", "-0.1"]


def test_a_line_break_in_a_cell_begins_no_row() -> None:
    rows = list(csv.reader(StringIO(as_csv(view([{"error": "x\r=1", "attempts": 1, "busy_time": 1}])), newline="")))
    assert rows[1:] == [["x\n=1", "1", "1"]]


@pytest.mark.parametrize(
    ("dollars", "text"),
    [
        (None, "-"),
        (0.0, "0.0000"),
        (0.00001, "0.00001"),
        (0.000000001, "0.000000001"),
        (0.0001, "0.0001"),
        (1.5, "1.5000"),
    ],
)
def test_neither_an_unknown_cost_nor_a_small_one_is_shown_as_zero(dollars: float | None, text: str) -> None:
    assert figure(dollars, "USD") == text


def test_a_summary_says_that_a_cost_is_unknown() -> None:
    assert summary_figures({"unknown_cost": 2, "cost_usd": None})["cost_usd"] == ("Cost in USD", "unknown")
    partly = summary_figures({"unknown_cost": 2, "cost_usd": 0.5})
    assert (partly["cost_usd"][1], partly["unknown_cost"][1]) == ("0.5000", "2")
    assert "cost_usd" not in summary_figures({"unknown_cost": 0, "cost_usd": None})


class Tags(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_a_page_shows_what_workers_wrote_as_text() -> None:
    page = Tags(as_html(view(ROWS, where={"outcome": ["failed", None]}, left_out=3)))
    assert "script" not in page.tags
    assert EVIL in page.text
    assert {"svg", "table", "style"} <= set(page.tags)
    assert "3 more rows are not shown." in page.text
    assert "Outcome failed or none" in page.text


def test_a_report_without_data_says_so() -> None:
    page = Tags(as_html(view([])))
    assert "svg" not in page.tags
    assert "No data for this report." in page.text


def test_there_is_a_chart_for_each_unit_and_its_bars_are_as_long_as_the_values() -> None:
    (counted, first), (timed, _) = charts(view(ROWS))
    assert (counted, timed) == ("Attempts", "Busy")
    widths = [float(rect.attrib["width"]) for rect in ElementTree.fromstring(first).iter("rect")]
    assert widths[0] / widths[1] == pytest.approx(2 / 1000, abs=0.001)


def test_a_chart_of_nothing_but_zeros_is_left_out() -> None:
    assert charts(view([{"error": "x", "attempts": 0, "busy_time": None}])) == []


def test_a_chart_has_a_text_for_screen_readers() -> None:
    drawn = ElementTree.fromstring(bars([Bar("a & b", 3, "3 s", 0), Bar("c", 0, "0 s", 0)]))
    assert drawn.attrib["aria-label"] == "a & b 3 s; c 0 s"


@pytest.mark.parametrize(
    ("value", "unit", "told"),
    [
        (None, "s", "-"),
        (0.25, "s", "250 ms"),
        (0.125, "share", "12%"),
        (0.00015, "USD", "0.0001"),
        (1234, "tokens", "1,234"),
        (1234.56, "1/h", "1,234.6/h"),
    ],
)
def test_figures_have_their_unit(value: float | None, unit: str, told: str) -> None:
    assert figure(value, unit) == told


def test_the_filters_of_a_report_are_shown_as_text() -> None:
    since = datetime(2026, 11, 30, tzinfo=UTC)
    shown = view([], where={"overdue": [True]}, since=since, moment="finished")
    assert filters(shown) == "Overdue yes, finished since 2026-11-30 00:00 UTC"
