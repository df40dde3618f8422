"""The cost of a million waiting tasks: memory, throughput (also of an empty database), takeovers, lists and reports.

    .venv/bin/python benchmarks/backlog.py --backlog 1000000 --tasks 20000 --rounds 3

One coordinator with SQLite and one worker process with a no-op, on a private RabbitMQ. A tenth of the tasks that wait
are ready for this LLM; the others wait for skills or LLMs that are absent, for a moment, or for other tasks.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from rich.progress import Progress

from benchmarks.support.broker import broker
from benchmarks.support.command import command
from benchmarks.support.memory import PeakMemory
from benchmarks.support.place import Pace, Place, Read, ReadTime, Takeover
from benchmarks.support.processes import run_program
from benchmarks.support.report import Bar, console, print_bars, print_table, write_json
from benchmarks.support.waiting import LEASE, Amount, fill
from broker.protocol.status import Status
from broker.timestamps import now
from coordinator.storage.engine import open_engine
from coordinator.storage.store import Store
from coordinator.storage.upgrade import upgrade
from fluffle import Client

LEAST_TASKS = 1000  # fewer tasks fit into a few batches, which gives no rate


async def _newest(client: Client) -> None:
    async for _ in client.tasks(limit=50):
        pass


async def _failed(client: Client) -> None:
    async for _ in client.tasks(status=[Status.FAILED], limit=50):
        pass


async def _summary(client: Client) -> None:
    await client.report("summary")


LIST, SUMMARY = ("task", "list"), ("report", "summary")
READS = (Read(LIST, _newest), Read((*LIST, "--status", "failed"), _failed), Read(SUMMARY, _summary))


@dataclass(slots=True)
class Figures:
    """All measurements: one Pace per round and database, takeovers, reads."""

    empty: list[Pace] = field(default_factory=list)
    full: list[Pace] = field(default_factory=list)
    takeovers: list[Takeover] = field(default_factory=list)
    reads: list[ReadTime] = field(default_factory=list)
    memory: int = 0  # most resident bytes of a coordinator on the full database

    def bars(self) -> list[Bar]:
        """Return the figures with their targets: the median of ratios and reads, the slowest takeover."""
        bars = [Bar("coordinator, most resident memory", self.memory / 1e6, "MB", at_most=300)]
        for name, what in PACES:
            ratio = median(f / e for f, e in zip(_paces(self.full, name), _paces(self.empty, name), strict=True))
            bars.append(Bar(f"{what}, tasks/s ÷ those of the empty database", ratio, "", at_least=0.9))
        for by in ("a new start", "a standby"):
            these = [takeover for takeover in self.takeovers if takeover.by == by]
            bars.append(Bar(f"kill -9 until {by} leads", max(t.leads for t in these), "s", at_most=5))
            bars.append(Bar(f"kill -9 until {by} has a task done", max(t.completes for t in these), "s", at_most=5))
        for arguments in (LIST, SUMMARY):
            command = median(read.command for read in self.reads if read.arguments == arguments and not read.busy)
            bars.append(Bar(f"fluffle {' '.join(arguments)}", command, "s", at_most=1))
        return bars


PACES = (("accepted", "accepted"), ("worked_off", "worked off"), ("done", "done as they come in"))


def _paces(paces: Sequence[Pace], name: str) -> list[float]:
    return [getattr(pace, name) for pace in paces]


def measure(sizes: argparse.Namespace, url: str, full: Place, folder: Path) -> Figures:
    """All rounds. Raises BenchmarkFailed."""
    figures = Figures()
    with PeakMemory() as peak, PeakMemory() as of_no_interest:
        for number in range(sizes.rounds):
            empty = Place("on-empty", folder / f"empty-{number}", url)
            for place in (full, empty) if number % 2 else (empty, full):
                console.print(f"[dim]round {number + 1}: {place.llm}[/dim]")
                if place is full:
                    figures.full.append(full.pace(sizes.tasks, peak))
                else:
                    figures.empty.append(empty.pace(sizes.tasks, of_no_interest))
        console.print("[dim]kill -9[/dim]")
        figures.takeovers += full.takeovers(sizes.rounds, peak)
        console.print("[dim]lists and reports[/dim]")
        figures.reads += full.reads(READS, sizes.rounds, peak)
    figures.memory = peak.most
    return figures


def fill_with_progress(database: Path, amount: Amount) -> None:
    """Create the full database and show the progress."""
    store = Store(open_engine(f"sqlite:///{database}"))
    upgrade(store.engine)
    store.take_lead("benchmark", now(), LEASE)
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task(f"{amount.tasks:,} tasks", total=amount.tasks)
        fill(store, amount, lambda done: progress.update(bar, completed=done))
    store.give_up_lead()
    store.close()


def print_figures(figures: Figures, title: str) -> None:
    """Print the tables, with the range of every figure."""
    rows: list[tuple[str, ...]] = [
        (what, *(_spread(_paces(paces, name), "{:,.0f}") for paces in (figures.empty, figures.full)))
        for name, what in PACES
    ]
    both = [_spread([1e6 * pace.processor for pace in paces], "{:,.0f}") for paces in (figures.empty, figures.full)]
    rows.append(("coordinator, processor µs/task", *both))
    print_table(title, ("tasks/s", "empty", "full"), rows)
    rows = []
    for read in READS:
        cells = ["fluffle " + " ".join(read.arguments)]
        for busy in (False, True):
            these = [time for time in figures.reads if time.arguments == read.arguments and time.busy == busy]
            cells.append(_spread([time.command for time in these]))
            cells.append(_spread([1e3 * time.query for time in these], "{:,.0f}"))
        rows.append(tuple(cells))
    print_table("Reads", ("", "idle: s", "query ms", "at work: s", "query ms"), rows)
    print_bars("Bars", figures.bars())


def _spread(values: Sequence[float], form: str = "{:.2f}") -> str:
    return f"{form.format(median(values))} ({form.format(min(values))}-{form.format(max(values))})"


def arguments() -> argparse.Namespace:
    """Return the sizes given on the command line."""
    parser = command(__doc__)
    parser.add_argument("--backlog", type=int, default=1_000_000, help="tasks that wait (1000000)")
    parser.add_argument("--tasks", type=int, default=20_000, help="tasks of each measurement of a pace (20000)")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (3)")
    sizes = parser.parse_args()
    if sizes.tasks < LEAST_TASKS:
        parser.error(f"--tasks: at least {LEAST_TASKS}")
    return sizes


def main() -> None:
    """Measure, print the tables, write the file."""
    sizes = arguments()
    ready = max(sizes.backlog // 10, 20 * sizes.tasks)
    amount = Amount(waiting=sizes.backlog, ready=ready, finished=sizes.backlog // 5)
    with tempfile.TemporaryDirectory() as folder, broker(sizes.amqp_url, Path(folder)) as on:
        full = Place("on-full", Path(folder) / "full", on.url)
        full.folder.mkdir()
        fill_with_progress(full.database, amount)
        figures = measure(sizes, on.url, full, Path(folder))
    print_figures(figures, f"{amount.waiting:,} tasks waiting, {amount.finished:,} finished, on {on.name}")
    if sizes.json:
        head = {"broker": on.name, **asdict(amount), "tasks": sizes.tasks, "rounds": sizes.rounds}
        write_json(sizes.json, "backlog", {**head, **asdict(figures)}, figures.bars())


if __name__ == "__main__":
    run_program(main)
