"""Run every row of the crash matrix: python -m tests.programs.storm.matrix --times 10

Each row runs on SQLite and on PostgreSQL, on a separate site, and the ledger judges the outcome. Prints one table and
ends with exit code 1 when a row did not hold.
"""

import argparse
import os
import sys
import tempfile
import traceback
from contextlib import ExitStack, redirect_stdout
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.programs.storm.rows import ROWS, Row, play
from tests.support.postgres import Postgres, postgres
from tests.support.rabbitmq import NodeInfo, private_node

DATABASES = ("SQLite", "PostgreSQL")


def main() -> None:
    """Parse the options, run the rows, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=10, help="on each database (%(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name has this in it")
    parser.add_argument("--log", type=argparse.FileType("w"), default=os.devnull, help="what the processes print last")
    options = parser.parse_args()
    console = Console(file=sys.stdout)
    shown = Table(title="Crash matrix", title_justify="left")
    for heading in ("who", "when", *DATABASES):
        shown.add_column(heading, justify="right" if heading in DATABASES else "left")
    held = True
    with ExitStack() as stack, redirect_stdout(options.log):
        rabbitmq = stack.enter_context(private_node(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        server = stack.enter_context(postgres())
        for row in ROWS:
            if options.only not in row.name:
                continue
            cells = [_many_times(row, rabbitmq, database, options.times, console) for database in (None, server)]
            held = held and not any("of" in cell for cell in cells)
            shown.add_row(row.who, row.when, *cells)
            console.print(row.name, *cells, sep=" | ")
    console.print(shown)
    sys.exit(not held)


def _many_times(row: Row, rabbitmq: NodeInfo, server: Postgres | None, times: int, console: Console) -> str:
    """Return the cell of the table: how often the row held."""
    if why := row.why_not(rabbitmq, server):
        return why
    held = 0
    for _ in range(times):
        try:
            play(row, rabbitmq, server)
        except AssertionError:
            console.print(f"{row.name}: {traceback.format_exc()}", style="red", markup=False)
        else:
            held += 1
    return f"{held}" if held == times else f"{held} of {times}"


if __name__ == "__main__":
    main()
