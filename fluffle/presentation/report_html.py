"""A report as one HTML file with figures, charts and table, in light and dark mode, without external content."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from broker.protocol.report_catalog import PREDEFINED
from broker.protocol.views import ReportView
from fluffle.presentation.report_svg import charts, summary_bars
from fluffle.presentation.report_text import figure, filters, group, summary_figures, summary_workload

STYLE = """
:root{color-scheme:light dark;--ink:#1d2433;--dim:#5b6472;--page:#f5f6f8;--card:#fff;--line:#dfe3e9;
--c0:#2f6f4f;--c1:#2a63b8;--c2:#a05a00;--c3:#7a4cc2;--c4:#b3303a;--c5:#5b6472}
@media(prefers-color-scheme:dark){:root{--ink:#e8ebf0;--dim:#a3adba;--page:#14171c;--card:#1d2229;--line:#323a45;
--c0:#62c293;--c1:#7aaef5;--c2:#e6a552;--c3:#b99bf0;--c4:#f2858d;--c5:#a3adba}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:60rem;margin:0 auto;padding:2rem 1rem 4rem}
h1{margin:0;font-size:1.6rem}h2{margin:2rem 0 .6rem;font-size:1.05rem}
p{margin:.2rem 0;color:var(--dim)}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:1rem;overflow-x:auto}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(10rem,1fr));gap:.8rem;margin:1.2rem 0}
dl>div{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.7rem .9rem}
dt{color:var(--dim);font-size:.8rem}dd{margin:0;font-size:1.25rem;font-variant-numeric:tabular-nums}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .7rem;border-bottom:1px solid var(--line);text-align:left;white-space:nowrap}
th{color:var(--dim);font-weight:600;font-size:.8rem}.r{text-align:right}tr:last-child td{border:0}
svg{display:block;width:100%;min-width:36rem;height:auto;font-size:12px}
svg text{fill:var(--ink)}svg .n{fill:var(--dim)}
""" + "".join(f".c{n}{{fill:var(--c{n})}}" for n in range(6))


def as_html(view: ReportView) -> str:
    """Return the HTML file."""
    meaning = PREDEFINED[view.name].meaning if view.name in PREDEFINED else ""
    subtitles = [text for text in (meaning[:1].upper() + meaning[1:], filters(view)) if text]
    body = [
        f"<h1>Report: {escape(view.name)}</h1>",
        *(f"<p>{escape(text)}</p>" for text in subtitles),
        f"<p>Made {view.generated_at:%Y-%m-%d %H:%M:%S} UTC</p>",
        *_summary(view.values),
        *(f'<h2>{escape(title)}</h2><div class="card">{drawing}</div>' for title, drawing in charts(view)),
        *_rows(view),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Fluffle: {escape(view.name)}</title><style>{STYLE}</style></head>\n<body><main>"
        + "\n".join(body)
        + "</main></body></html>\n"
    )


def _summary(values: dict[str, Any]) -> Iterable[str]:
    if not values:
        return
    tiles = (
        f"<div><dt>{escape(title)}</dt><dd>{escape(text)}</dd></div>"
        for title, text in summary_figures(values).values()
    )
    yield f"<dl>{''.join(tiles)}</dl>"
    if executor := values.get("workload_distribution"):
        yield '<h2>Attempts by LLM</h2><div class="card">' + summary_bars(executor, "llm", "busy", "s") + "</div>"
        yield _table(*summary_workload(values))


def _rows(view: ReportView) -> Iterable[str]:
    yield "<h2>Figures</h2>"
    if not view.rows:
        yield "<p>No data for this report.</p>"
        return
    heads = [(column.title, column.unit is not None) for column in view.columns]
    cells = [
        [figure(row[it.name], it.unit) if it.unit else group(row[it.name]) for it in view.columns] for row in view.rows
    ]
    yield _table(heads, cells)
    if view.left_out:
        yield f"<p>{view.left_out:,} more rows are not shown.</p>"


def _table(heads: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]]) -> str:
    sides = [' class="r"' if right else "" for _, right in heads]
    head = "".join(f"<th{side}>{escape(title)}</th>" for (title, _), side in zip(heads, sides, strict=True))
    lines = (
        "<tr>" + "".join(f"<td{side}>{escape(cell)}</td>" for cell, side in zip(row, sides, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="card"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
