"""The cost of reports on a million finished tasks: how long each takes, and how much it slows the work down.

    .venv/bin/python benchmarks/reports.py --finished 1000000 --tasks 5000 --rounds 10 --every 1

One coordinator with SQLite on a private RabbitMQ. Every predefined report is asked for by a client while nothing else
goes on. Then one worker process does no-ops, by turns alone and while a client asks for the next report every second,
three times as often as a page that shows one.
"""

import argparse
import asyncio
import itertools
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median

from rich.progress import Progress

from benchmarks.support.broker import broker
from benchmarks.support.command import command
from benchmarks.support.memory import PeakMemory
from benchmarks.support.place import Place
from benchmarks.support.processes import run_program
from benchmarks.support.report import Bar, console, print_bars, print_table, write_json
from benchmarks.support.waiting import LEASE, Amount, fill
from broker.protocol.report_catalog import PREDEFINED
from broker.timestamps import now
from coordinator.queries.reports.closing import close_period
from coordinator.storage.engine import open_engine
from coordinator.storage.store import Store
from coordinator.storage.upgrade import upgrade
from fluffle import Client


async def _one(name: str, client: Client) -> None:
    await client.report(name)


async def _one_after_the_other(names: Iterator[str], every: float, client: Client) -> None:
    """Request reports until cancelled."""
    for name in names:
        await client.report(name)
        await asyncio.sleep(every)


def make(database: Path, finished: int) -> None:
    """Create a database with this many finished tasks, as an idle coordinator leaves it."""
    store = Store(open_engine(f"sqlite:///{database}"))
    upgrade(store.engine)
    store.take_lead("benchmark", now(), LEASE)
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task(f"{finished:,} tasks", total=finished)
        fill(store, Amount(0, 0, finished), lambda done: progress.update(bar, completed=done))
        while close_period(store, now(), LEASE):
            pass
    store.give_up_lead()
    store.close()


def arguments() -> argparse.Namespace:
    """Return the sizes given on the command line."""
    parser = command(__doc__)
    parser.add_argument("--finished", type=int, default=1_000_000, help="finished tasks (1000000)")
    parser.add_argument("--tasks", type=int, default=5_000, help="tasks of each measurement of a pace (5000)")
    parser.add_argument("--rounds", type=int, default=10, help="how often everything is measured (10)")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two reports beside the work (1)")
    return parser.parse_args()


def main() -> None:
    """Measure, print the tables, write the file."""
    sizes = arguments()
    with tempfile.TemporaryDirectory() as folder, broker(sizes.amqp_url, Path(folder)) as on, PeakMemory() as peak:
        place = Place("reported", Path(folder) / "place", on.url)
        place.folder.mkdir()
        make(place.database, sizes.finished)
        console.print("[dim]reports[/dim]")
        times = place.queries([partial(_one, name) for name in PREDEFINED], sizes.rounds, peak)
        took = dict(zip(PREDEFINED, times, strict=True))
        console.print("[dim]work, alone and beside reports[/dim]")
        reading = partial(_one_after_the_other, itertools.cycle(PREDEFINED), sizes.every)
        rates = list(place.beside(sizes.tasks, reading, sizes.rounds, peak))
    print_table(
        f"{sizes.finished:,} finished tasks on {on.name}",
        ("report", "seconds: median", "least", "most"),
        [(name, *(f"{figure(these):.2f}" for figure in (median, min, max))) for name, these in took.items()],
    )
    bars = [Bar(f"fluffle report {name}, as a query", median(these), "s", at_most=1) for name, these in took.items()]
    ratio = median(beside / alone for alone, beside in rates)
    bars.append(Bar("tasks/s beside reports ÷ tasks/s alone", ratio, "", at_least=0.95))
    bars.append(Bar("coordinator, most resident memory", peak.most / 1e6, "MB", at_most=300))
    print_bars("Bars", bars)
    if sizes.json:
        figures = {"broker": on.name, "finished": sizes.finished, "tasks": sizes.tasks, "every": sizes.every}
        write_json(sizes.json, "reports", {**figures, "seconds": took, "tasks_per_second": rates}, bars)


if __name__ == "__main__":
    run_program(main)
