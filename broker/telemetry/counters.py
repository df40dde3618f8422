"""Counters of a program's work since its start, for metrics.

Plain numbers: one thread writes them, others may read them at any time.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

from broker.protocol.worker_reports import Usage

RUNS = (0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
"""The bounds in seconds of the duration of attempts."""


class Distribution:
    """The number of values up to each bound, and their sum."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Add a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return, for each bound as text and for `+Inf`, the number of values up to it."""
        return list(zip((*map(str, map(float, self._bounds)), "+Inf"), accumulate(self._counts), strict=True))


class Runs:
    """The finished attempts of an LLM: outcomes, durations, tokens and cost."""

    __slots__ = ("cost", "durations", "outcomes", "tokens")

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.durations = Distribution(RUNS)  # in seconds
        self.tokens: Counter[str] = Counter()  # input and output
        self.cost = 0.0  # in US dollars

    def add(self, outcome: str, duration: float | None, usage: Usage | None) -> None:
        """Add an attempt; `duration` in seconds, None when the attempt never ran."""
        self.outcomes[outcome] += 1
        if duration is not None:
            self.durations.add(duration)
        if usage is not None:
            self.tokens["input"] += usage.input_tokens or 0
            self.tokens["output"] += usage.output_tokens or 0
            self.cost += usage.cost_usd or 0.0
