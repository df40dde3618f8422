"""Counters of a coordinator: of batches, and of the tasks and attempts that ended with them."""

from collections import Counter
from collections.abc import Container

from broker.telemetry.counters import Distribution, Runs
from broker.timestamps import Instant, in_seconds
from coordinator.core.state import StateChanges

BATCHES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)  # messages
COMMITS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)  # seconds
WAITS = (0.01, 0.1, 1, 5, 15, 60, 300, 900, 3600, 14_400, 86_400)  # seconds


class Counters:
    """Counts since the start of this process. `count` and `runs_of` belong to one thread."""

    def __init__(self) -> None:
        self.batches = Distribution(BATCHES)
        self.commits = Distribution(COMMITS)
        self.waits = Distribution(WAITS)
        self.submitted = 0
        self.refused = 0
        self.ignored = 0  # fields of workers' reports
        self.ended: Counter[str] = Counter()  # tasks, by their final state
        self._runs: dict[str, Runs] = {}

    def count(self, changes: StateChanges, *, messages: int, refused: int, took: float, now: Instant) -> None:
        """Count a committed batch. `took`: seconds of the commit; `now`: the time of the batch."""
        if messages:
            self.batches.add(messages)
        self.commits.add(took)
        self.refused += refused
        self.submitted += len(changes.new)
        self.ended.update([task.status.value for task in changes.changed.values() if task.finished_at == now])
        for task, attempt in changes.attempts:
            if attempt in changes.settled:
                continue
            runs = self._runs.get(attempt.llm)
            if runs is None:
                runs = self._runs[attempt.llm] = Runs()
            runs.add(attempt.outcome, in_seconds(attempt.duration), attempt.usage)
            if task.ready_at is not None and attempt.assigned_at is not None and attempt.assigned_at >= task.ready_at:
                self.waits.add((attempt.assigned_at - task.ready_at) / 1_000_000)

    def runs_of(self, llms: Container[str]) -> dict[str, Runs]:
        """Return the counts of these LLMs by name, and forget all others, which have left."""
        self._runs = {llm: runs for llm, runs in self._runs.items() if llm in llms}
        return dict(self._runs)
