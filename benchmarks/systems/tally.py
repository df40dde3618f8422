"""A counter of finished tasks for systems without results: every task appends one byte to a file."""

import os
import time
from pathlib import Path

VARIABLE = "BENCHMARK_TALLY"
_PATIENCE = 60.0  # seconds without any progress


class Tally:
    """The file named by BENCHMARK_TALLY, shared by all processes of one system."""

    def __init__(self) -> None:
        self._path = Path(os.environ[VARIABLE])
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def add(self) -> None:
        """Count one more task. Atomic between processes, because the file is open for appending."""
        os.write(self._file, b".")

    def count(self) -> int:
        """Return how many tasks are done."""
        return self._path.stat().st_size

    def wait_for(self, count: int) -> None:
        """Wait until `count` tasks are done. Raises TimeoutError after a minute without progress."""
        seen, since = self.count(), time.monotonic()
        while (now := self.count()) < count:
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > _PATIENCE:
                raise TimeoutError(f"{now} of {count} tasks done, and nothing moves")
            time.sleep(0.001)
