"""The output of benchmarks: tables for people, a file for machines."""

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_WIDTH = 110  # least width in columns, so that a table in a pipe is not folded

console = Console(highlight=False)
if console.width < _WIDTH:
    console.width = _WIDTH


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure and its target: `at_most` or `at_least`."""

    name: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None

    @property
    def reached(self) -> bool:
        """Return whether the figure reaches its target."""
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table of targets."""
        wanted = f"at least {self.at_least:g}" if self.at_most is None else f"at most {self.at_most:g}"
        return (self.name, f"{self.value:.2f} {self.unit}", f"{wanted} {self.unit}", "yes" if self.reached else "NO")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: the first column is text, the others are figures."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def print_bars(title: str, bars: Sequence[Bar]) -> None:
    """Print figures with their targets."""
    print_table(title, ("", "measured", "bar", "reached"), [bar.cells() for bar in bars])


def write_json(path: Path, program: str, figures: Mapping[str, Any], bars: Sequence[Bar]) -> None:
    """Write the figures and the targets, with the time and the machine of the measurement."""
    head = {
        "program": program,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processors": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
    }
    reached = [{"name": bar.name, "value": bar.value, "unit": bar.unit, "reached": bar.reached} for bar in bars]
    path.write_text(json.dumps({**head, **figures, "bars": reached}, indent=2) + "\n")
