"""What a program counts of its work since it started, for whoever watches over it.

Plain numbers: one thread writes them, another may read them at any time.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

from broker.protocol.worker_reports import Usage

RUNS = (0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
"""Bounds in seconds for calls of LLMs."""


class Distribution:
    """How many values there were up to each bound, and their sum."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Another value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """For each bound, as text, and for `+Inf`: how many values were no larger."""
        return list(zip((*map(str, map(float, self._bounds)), "+Inf"), accumulate(self._counts), strict=True))


class Runs:
    """Attempts that are over: how they ended, how long they took, what they used."""

    __slots__ = ("cost", "durations", "outcomes", "tokens")

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.durations = Distribution(RUNS)  # in seconds
        self.tokens: Counter[str] = Counter()  # input and output
        self.cost = 0.0  # in US dollars

    def add(self, outcome: str, duration: float | None, usage: Usage | None) -> None:
        """Another attempt; `duration` in seconds, None when it never ran."""
        self.outcomes[outcome] += 1
        if duration is not None:
            self.durations.add(duration)
        if usage is not None:
            self.tokens["input"] += usage.input_tokens or 0
            self.tokens["output"] += usage.output_tokens or 0
            self.cost += usage.cost_usd or 0.0
