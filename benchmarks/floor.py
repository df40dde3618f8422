"""The lower bound for the round trip of a task: only the waits that docs/reliability.md requires.

    .venv/bin/python benchmarks/floor.py --samples 500

Submission, assignment, claim and result go through quorum queues one after the other, the claim until its confirm, and
what follows from submission and result is committed by SQLite with synchronous=FULL first. All in one process, with one
row for each commit and a few bytes for each message, and nothing that a task needs besides. What the round trip in
throughput.py takes beyond that is what the programs cost.
"""

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles

from benchmarks.support.broker import broker
from benchmarks.support.command import command
from benchmarks.support.processes import run_program
from benchmarks.support.report import console, print_table, write_json
from broker.amqp.envelope import Delivery, Outgoing
from broker.amqp.robust_connection import RobustConnection
from broker.protocol.topology import COORDINATOR, SHARED, Queue, Topology

[_LIKE] = [queue for queue in SHARED.queues if queue.name == COORDINATOR]
INBOX, WORK = replace(_LIKE, name="floor.inbox"), replace(_LIKE, name="floor.work")
REPLIES = Queue("floor.replies", exclusive=True)

PATIENCE = 30.0  # seconds

Samples = list[float]  # milliseconds


class CommitLog:
    """A database that returns from a commit when the data is on disk."""

    def __init__(self, folder: Path) -> None:
        self.connection = sqlite3.connect(folder / "floor.db", isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute("PRAGMA synchronous=FULL")
        self.connection.execute("CREATE TABLE tasks (id INTEGER PRIMARY KEY, body TEXT)")

    def commit(self) -> None:
        """Write one row."""
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.execute("INSERT INTO tasks (body) VALUES (?)", ("x" * 500,))
        self.connection.execute("COMMIT")


class Floor:
    """A client, a coordinator and a worker that do nothing but wait."""

    def __init__(
        self, client: RobustConnection, coordinator: RobustConnection, worker: RobustConnection, log: CommitLog
    ) -> None:
        self._client, self._coordinator, self._worker, self._log = client, coordinator, worker, log
        self._replied = asyncio.Event()
        self._working: set[asyncio.Task[None]] = set()

    async def set_up(self) -> None:
        """Declare the queues and consume them."""
        await self._coordinator.declare(Topology(queues=(INBOX, WORK)))
        await self._client.declare(Topology(queues=(REPLIES,)))
        await self._coordinator.consume(INBOX.name, self._on_inbox, prefetch=100)
        await self._worker.consume(WORK.name, self._on_assignment, prefetch=100)
        await self._client.consume(REPLIES.name, lambda delivery: self._replied.set(), auto_ack=True)

    def _on_inbox(self, delivery: Delivery) -> None:
        if delivery.body != b"claim":
            self._log.commit()
            reply = Outgoing("", REPLIES.name, b"completed", persistent=False)
            self._coordinator.publish_soon(
                Outgoing("", WORK.name, b"assignment") if delivery.body == b"submission" else reply
            )
        delivery.ack()

    def _on_assignment(self, delivery: Delivery) -> None:
        task = asyncio.create_task(self._work(delivery))
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _work(self, delivery: Delivery) -> None:
        await self.confirmed()
        delivery.ack()
        self._worker.publish_soon(Outgoing("", INBOX.name, b"result"))

    async def round_trip(self) -> None:
        """Run a task from its submission to its result."""
        self._replied.clear()
        self._client.publish_soon(Outgoing("", INBOX.name, b"submission"))
        await self._reply()

    async def confirmed(self) -> None:
        """Publish a message to a quorum queue and wait for its confirm."""
        await self._worker.publish_soon(Outgoing("", INBOX.name, b"claim"))

    async def committed(self) -> None:
        """A commit."""
        self._log.commit()

    async def replied(self) -> None:
        """Send a message through the reply queue, which is not written to disk."""
        self._replied.clear()
        self._coordinator.publish_soon(Outgoing("", REPLIES.name, b"completed", persistent=False))
        await self._reply()

    async def _reply(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self._replied.wait()


async def timed(what: Callable[[], Awaitable[None]], samples: int) -> Samples:
    """Time `count` calls, one after the other."""
    taken = []
    for _ in range(samples):
        start = time.perf_counter()
        await what()
        taken.append(1e3 * (time.perf_counter() - start))
    return taken


async def measure(url: str, samples: int, folder: Path) -> dict[str, Samples]:
    """Measure the parts and the whole round trip."""
    log = CommitLog(folder)
    with closing(log.connection):
        async with AsyncExitStack() as stack:
            client, coordinator, worker = [
                await stack.enter_async_context(RobustConnection(url, name=f"floor {name}")) for name in ("a", "b", "c")
            ]
            floor = Floor(client, coordinator, worker, log)
            await floor.set_up()
            await timed(floor.round_trip, samples // 4)  # warms up
            return {
                "a confirm by a quorum queue": await timed(floor.confirmed, samples),
                "a commit": await timed(floor.committed, samples),
                "a reply": await timed(floor.replied, samples),
                "a round trip": await timed(floor.round_trip, samples),
            }


def main() -> None:
    """Measure, print the table, write the file."""
    parser = command(__doc__)
    parser.add_argument("--samples", type=int, default=500, help="of each kind, at least 2 (500)")
    sizes = parser.parse_args()
    if sizes.samples < 2:
        parser.error("--samples: two make the least from which percentiles can be told")
    with tempfile.TemporaryDirectory() as folder, broker(sizes.amqp_url, Path(folder)) as on:
        measured = asyncio.run(measure(on.url, sizes.samples, Path(folder)))
    shown = {what: (median(samples), quantiles(samples, n=20)[-1]) for what, samples in measured.items()}
    rows = [(what, f"{middle:.2f}", f"{p95:.2f}") for what, (middle, p95) in shown.items()]
    print_table(f"{sizes.samples:,} of each on {on.name}", ("", "p50 ms", "p95 ms"), rows)
    console.print("A round trip is four quorum queues, two commits and a reply, one after the other.")
    if sizes.json:
        figures = {what: {"p50_ms": middle, "p95_ms": p95} for what, (middle, p95) in shown.items()}
        write_json(sizes.json, "floor", {"broker": on.name, "samples": sizes.samples, "figures": figures}, [])


if __name__ == "__main__":
    run_program(main)
