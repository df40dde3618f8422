"""Printing: tables on a terminal, tab-separated lines in a pipe, JSON on request.

Colours, headings, shortened cells and relative times such as "3 min ago" appear only on a terminal. Texts from LLMs and
other senders are printed without control characters, so that they cannot move the cursor or change colours.
"""

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from fluffle.presentation.durations import duration, iso

if TYPE_CHECKING:
    from rich.console import Console

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_COLOURS = {
    "completed": "green",
    "online": "green",
    "failed": "red",
    "offline": "red",
    "cancelled": "yellow",
    "draining": "yellow",
    "circuit open": "red",
    "failing": "yellow",
    "probing": "yellow",
    "closed": "red",
    "empty": "red",
    "warning": "yellow",
    "paused": "yellow",
    "in_progress": "cyan",
    "assigned": "cyan",
    "input_required": "magenta",
}
_GAP = 2  # characters between two columns
_LAST_COLUMN = 20  # characters; the last column keeps this width before a spare column is shown


def on_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout.isatty()


def console(*, stderr: bool = False) -> "Console":
    """Return a rich console without markup. It respects NO_COLOR."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def say(text: str) -> None:
    """Print a line on standard output, above the progress bar if there is one."""
    click.echo(text, file=sys.stdout)  # rich replaces it during a progress bar; click would not notice


def print_json(value: Any) -> None:
    """Print a value as JSON, indented on a terminal. Bytes are printed as they are: they are JSON already."""
    if isinstance(value, bytes):
        say(value.decode())
    else:
        say(json.dumps(value, ensure_ascii=False, indent=2 if on_terminal() else None))


def print_table(
    headings: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str = "", spare: Sequence[str] = ()
) -> None:
    """Print rows under headings on a terminal, tab-separated lines in a pipe. `cell` formats the cells.

    On a terminal, the last column is shortened to the remaining width. If that is too small, the columns in `spare` are
    left out, in their order. Other cells are never shortened: a part of an id is useless. Without rows, `empty` is
    printed.
    """
    if not on_terminal():
        for row in rows:
            click.echo("\t".join(cell(value) for value in row))
        return
    if not rows and empty:
        click.echo(empty)
        return
    from rich.table import Table
    from rich.text import Text

    printer = console()
    cells = [tuple(map(cell, row)) for row in rows]
    widths = _fitting(headings, cells, spare, printer.width)
    printer.width = max(printer.width, sum(widths.values()) + _GAP * (len(widths) - 1))
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    for column in widths:
        least, ratio = (None, 1) if column == len(headings) - 1 else (widths[column], None)
        table.add_column(headings[column], no_wrap=True, min_width=least, ratio=ratio)
    for row in cells:
        shown = (row[column] for column in widths)
        table.add_row(*(Text(text, style=_COLOURS.get(text, ""), overflow="ellipsis") for text in shown))
    printer.print(table)


def _fitting(headings: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[str], room: int) -> dict[int, int]:
    """Return the columns that fit, with their widths. Columns that are not spare are always included."""
    from rich.cells import cell_len

    widths = {place: max(map(cell_len, column)) for place, column in enumerate(zip(headings, *rows, strict=True))}
    last = len(headings) - 1
    widths[last] = min(widths[last], _LAST_COLUMN)
    for heading in spare:
        if sum(widths.values()) + _GAP * (len(widths) - 1) <= room:
            break
        del widths[headings.index(heading)]
    return widths


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one pair a line, without values of None. Further lines of a value are indented."""
    shown = [(name, cell(value, lines=True)) for name, value in fields if value is not None]
    width = max((len(name) for name, _ in shown), default=0) + 2
    for name, text in shown:
        body = text.replace("\n", "\n" + " " * width)
        click.echo(_bold(f"{name + ':':<{width}}") + styled(body))


def heading(text: str) -> None:
    """Print a heading."""
    click.echo()
    click.echo(_bold(text))


def styled(status: str) -> str:
    """Return a status, in its colour on a terminal."""
    return click.style(status, fg=_COLOURS.get(status)) if in_colour() else str(status)


def complain(text: str) -> None:
    """Print an error that does not end the command."""
    click.echo(f"Error: {plain(text)}", err=True)


def cell(value: object, *, lines: bool = False) -> str:
    """Return a value as text, on one line unless `lines`. None becomes an empty text."""
    match value:
        case None:
            return ""
        case datetime():
            return moment(value)
        case str():
            return plain(value) if lines else re.sub(r"\s+", " ", plain(value)).strip()
        case float():
            return f"{value:g}"
        case list() | tuple():
            return ", ".join(cell(item) for item in value)
        case dict():
            return plain(json.dumps(value, ensure_ascii=False))
        case _:
            return str(value)


def plain(text: str) -> str:
    """Return text without control characters, except line ends and tabs."""
    return _CONTROL.sub("", text.replace("\r\n", "\n"))


def moment(at: datetime) -> str:
    """Return a time: on a terminal, the time since or until it in the largest unit; in a pipe, ISO 8601 in UTC."""
    if not on_terminal():
        return iso(at)
    seconds = round((datetime.now(UTC) - at).total_seconds())
    coarse = " ".join(duration(abs(seconds)).split()[:2]) if seconds else "1 s"
    return f"{coarse} ago" if seconds >= 0 else f"in {coarse}"


def clock(at: datetime) -> str:
    """Return a time to the millisecond: on a terminal, local time; in a pipe, ISO 8601 in UTC."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] if on_terminal() else iso(at)


def in_colour() -> bool:
    """Return whether to use colours: on a terminal without NO_COLOR."""
    return on_terminal() and not os.environ.get("NO_COLOR")


def _bold(text: str) -> str:
    return click.style(text, bold=True) if in_colour() else text
