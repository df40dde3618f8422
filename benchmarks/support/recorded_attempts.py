"""The attempts that a running coordinator has recorded, read from its SQLite database."""

import sqlite3
import time
from pathlib import Path

from benchmarks.support.processes import BenchmarkFailed
from broker.timestamps import Instant

_LOOK = 0.005  # seconds between two reads


class RecordedAttempts:
    """The attempts of a database."""

    def __init__(self, database: Path) -> None:
        self._connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def ended(self) -> int:
        """Return how many attempts have ended."""
        (last,) = self._connection.execute("SELECT coalesce(max(rowid), 0) FROM attempts").fetchone()
        return int(last)

    def wait_for(self, count: int, timeout: float) -> None:
        """Wait until this many attempts have ended. Raises BenchmarkFailed after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while (ended := self.ended()) < count:
            if time.monotonic() > deadline:
                raise BenchmarkFailed(f"{ended:,} attempts have ended after {timeout:.0f} s, and not {count:,}")
            time.sleep(_LOOK)

    def completions(self, after: int) -> list[Instant]:
        """Return the completion times in order, without the first `after` ended attempts."""
        query = "SELECT finished_at FROM attempts WHERE rowid > ? AND outcome = 'completed' ORDER BY finished_at"
        return [Instant(at) for (at,) in self._connection.execute(query, (after,))]
