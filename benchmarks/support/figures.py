"""The arithmetic of throughput.py: the measurements of each system, and the comparison."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

from benchmarks.support.report import Bar
from benchmarks.systems.catalogue import System


@dataclass(slots=True)
class Measured:
    """The measurements of one system: a rate in tasks/s for each round, and every idle round trip in seconds."""

    system: System
    version: str = ""
    rates: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)

    def add(self, tasks: int, printed: dict[str, Any]) -> None:
        """Add the output of the system's client after a round of `tasks` tasks."""
        self.version = printed["version"]
        self.rates.append(tasks / printed["seconds"])
        if self.system.results:  # without results the client sees the end of a task, not its answer
            self.latencies += printed["latencies"]

    @property
    def rate(self) -> float:
        """Return the median of the rounds, in tasks per second."""
        return median(self.rates)

    def latency(self, percent: int) -> float | None:
        """Return a percentile of the round trips in seconds, or None without round trips."""
        if len(self.latencies) < 2:
            return None
        return quantiles(self.latencies, n=100, method="inclusive")[percent - 1]

    def figures(self) -> dict[str, Any]:
        """Return all figures by name."""
        return {
            "version": self.version,
            "queues": self.system.queues,
            "results": self.system.results,
            "rate": self.rate,
            "rates": self.rates,
            "latency_p50": self.latency(50),
            "latency_p95": self.latency(95),
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """The measurements of Fluffle and of the other systems."""

    fluffle: Measured
    others: Sequence[Measured]

    def bars(self) -> list[Bar]:
        """Return the targets: Fluffle's rate and round trip compared with the best Celery pool, if measured."""
        celery = [other for other in self.others if other.system.is_celery]
        rate = max((pool.rate for pool in celery), default=None)
        latency = min((p50 for pool in celery if (p50 := pool.latency(50))), default=None)
        bars = []
        if rate:
            bars.append(Bar("tasks/s ÷ Celery's best", self.fluffle.rate / rate, "", at_least=5))
        if latency and (ours := self.fluffle.latency(50)):
            bars.append(Bar("idle round trip p50 ÷ Celery's best", ours / latency, "", at_most=1))
        return bars

    def figures(self) -> dict[str, Any]:
        """Return all measurements by the name of the system."""
        return {one.system.name: one.figures() for one in (self.fluffle, *self.others)}

    def rows(self) -> list[tuple[str, ...]]:
        """Return one row for each system, with the cells of COLUMNS."""
        return [self._row(one) for one in (self.fluffle, *self.others)]

    def _row(self, one: Measured) -> tuple[str, ...]:
        ours, p50, p95 = self.fluffle.latency(50), one.latency(50), one.latency(95)
        return (
            f"{one.system.name} {one.version}",
            one.system.queues,
            "yes" if one.system.results else "no",
            f"{one.rate:,.0f}",
            f"{min(one.rates):,.0f}-{max(one.rates):,.0f}",
            f"{self.fluffle.rate / one.rate:.2f}",
            f"{p50 * 1000:.2f}" if p50 else "",
            f"{p95 * 1000:.2f}" if p95 else "",
            f"{ours / p50:.2f}" if ours and p50 else "",
        )


COLUMNS = ("", "queues", "results", "tasks/s", "range", "rate x", "p50 ms", "p95 ms", "p50 x")
