"""What the hand-written parts of the storage bring: `bulk_sql` against SQLAlchemy, sampled percentiles against sorting.

    .venv/bin/python benchmarks/storage.py --rows 500 --finished 20000,100000,500000 --rounds 5

On SQLite in a temporary file. The first part writes `--rows` new tasks and then as many changes, by
`coordinator/storage/bulk_sql.py` and by SQLAlchemy's `insert` and `update` with lists of values. The second part
computes the median and the 95th percentile of all durations of finished tasks, by the sample of
`coordinator/queries/reports/percentiles.py` and by sorting in the database.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from sqlalchemy import Connection, bindparam, insert, update

from benchmarks.support.command import command
from benchmarks.support.processes import run_program
from benchmarks.support.report import Bar, print_bars, print_table, write_json
from benchmarks.support.waiting import LEASE, Amount, everyday, fill
from broker.protocol.report_catalog import PERCENTILES, Report
from broker.protocol.status import Status
from broker.timestamps import now
from coordinator.core.tasks.task import Task
from coordinator.queries.reports import facts
from coordinator.queries.reports.facts import Span
from coordinator.queries.reports.percentiles import SampledPercentiles, by_group
from coordinator.storage.bulk_sql import insert_rows, update_rows
from coordinator.storage.engine import open_engine
from coordinator.storage.rows import changing_row, task_row
from coordinator.storage.schema import tasks
from coordinator.storage.store import Store
from coordinator.storage.upgrade import upgrade

PERCENTS = tuple(PERCENTILES.values())
Rows = list[dict[str, Any]]


def seconds_of(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    began = perf_counter()
    call()
    return perf_counter() - began


def new_store(folder: Path) -> Store:
    """Return the store of a leader, on an empty database in the folder."""
    store = Store(open_engine(f"sqlite:///{folder / 'benchmark.db'}"))
    upgrade(store.engine)
    store.take_lead("benchmark", now(), LEASE)
    return store


def rows_of(count: int) -> tuple[Rows, Rows]:
    """Return the rows of new tasks, and the rows that change them."""
    made = [
        Task(
            id=f"t{seq}",
            seq=seq,
            spec=everyday(seq),
            status=Status.PENDING,
            priority=4,
            submitted_at=now(),
            submitted_by="ana",
        )
        for seq in range(1, count + 1)
    ]
    return [task_row(task) for task in made], [{**changing_row(task), "seq": task.seq} for task in made]


def by_sqlalchemy(connection: Connection, new: Rows, changed: Rows) -> None:
    """Write the rows with SQLAlchemy's own statements."""
    connection.execute(insert(tasks), new)
    columns = [name for name in changed[0] if name != "seq"]
    statement = update(tasks).where(tasks.c.seq == bindparam("its_seq")).values({n: bindparam(n) for n in columns})
    connection.execute(statement, [{**{n: row[n] for n in columns}, "its_seq": row["seq"]} for row in changed])


def by_bulk_sql(connection: Connection, new: Rows, changed: Rows) -> None:
    """Write the rows as the store does."""
    insert_rows(connection, tasks, new)
    update_rows(connection, tasks, changed)


def measure_writes(count: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each round without the commit, by the way of writing."""
    new, changed = rows_of(count)
    took: dict[str, list[float]] = {"SQLAlchemy": [], "bulk_sql": []}
    with tempfile.TemporaryDirectory() as folder:
        store = new_store(Path(folder))
        for _ in range(rounds):
            for name, write in (("SQLAlchemy", by_sqlalchemy), ("bulk_sql", by_bulk_sql)):
                with store.engine.connect() as connection, connection.begin() as transaction:
                    took[name].append(seconds_of(lambda: write(connection, new, changed)))  # noqa: B023 - called here
                    transaction.rollback()
        store.close()
    return took


def measure_percentiles(finished: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each round for that many finished tasks, by the way of finding percentiles."""
    took: dict[str, list[float]] = {"sorting": [], "sample": []}
    with tempfile.TemporaryDirectory() as folder:
        store = new_store(Path(folder))
        fill(store, Amount(0, 0, finished))
        fact = facts.tasks(Report(), Span(None, None, now()))
        with store.engine.connect() as connection:
            [counted] = [
                connection.execute(statement).one()
                for statement in fact.selects([fact.parts[f"{name}_count"] for name in fact.measures], group=False)[:1]
            ]
            counts: Mapping[str, int] = {
                name: int(count) for name, count in zip(fact.measures, counted, strict=True) if count
            }
            measures = {name: fact.measures[name] for name in counts}

            def sort() -> dict[str, dict[int, int]]:
                return {
                    name: by_group(connection, fact.selects([measure], group=False), PERCENTS)[()]
                    for name, measure in measures.items()
                }

            def sample() -> dict[str, dict[int, int]]:
                return SampledPercentiles(connection, fact, measures).values(counts, PERCENTS)

            assert sort() == sample()
            for _ in range(rounds):
                took["sorting"].append(seconds_of(sort))
                took["sample"].append(seconds_of(sample))
        store.close()
    return took


def arguments() -> argparse.Namespace:
    """Return the sizes, from the command line."""
    parser = command(__doc__, broker=False)
    parser.add_argument("--rows", type=int, default=500, help="tasks of one transaction (500)")
    parser.add_argument(
        "--finished", default="20000,100000,500000", help="finished tasks, several sizes (20000,100000,500000)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (5)")
    return parser.parse_args()


def main() -> None:
    """Measure, print the tables, write the file."""
    sizes = arguments()
    writes = measure_writes(sizes.rows, sizes.rounds)
    print_table(
        f"{sizes.rows:,} new tasks and {sizes.rows:,} changes",
        ("", "µs a row"),
        [(name, f"{median(took) / sizes.rows / 2 * 1e6:.1f}") for name, took in writes.items()],
    )
    percentiles = {
        finished: measure_percentiles(finished, sizes.rounds) for finished in map(int, sizes.finished.split(","))
    }
    print_table(
        "Percentiles of all durations",
        ("finished tasks", "sorting, s", "sample, s", "sorting ÷ sample"),
        [
            (
                f"{finished:,}",
                f"{median(took['sorting']):.3f}",
                f"{median(took['sample']):.3f}",
                f"{median(took['sorting']) / median(took['sample']):.2f}",
            )
            for finished, took in percentiles.items()
        ],
    )
    ratio = median(one / other for one, other in zip(writes["SQLAlchemy"], writes["bulk_sql"], strict=True))
    largest = percentiles[max(percentiles)]
    bars = [
        Bar("writes: SQLAlchemy ÷ bulk_sql", ratio, "", at_least=1.2),
        Bar("percentiles: sorting ÷ sample", median(largest["sorting"]) / median(largest["sample"]), "", at_least=1.5),
    ]
    print_bars("Bars", bars)
    if sizes.json:
        write_json(sizes.json, "storage", {"writes": writes, "percentiles": percentiles}, bars)


if __name__ == "__main__":
    run_program(main)
