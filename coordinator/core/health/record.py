"""What an LLM did in the last hour, and its last failure: figures for people."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from broker.protocol.worker_reports import Failure, Usage
from broker.timestamps import EPOCH, NO_TIME, Instant, Micros, in_seconds, seconds, to_iso
from coordinator.core.llms.cost_estimates import in_usd, nanos_of

PERIOD = seconds(300)
PERIODS = 12  # an hour


@dataclass(slots=True)
class Figures:
    """The attempts of a period: how they ended, and what the completed ones took. Money in nanodollars."""

    completed: int = 0
    failed: int = 0
    tokens: int = 0
    timed_tokens: int = 0  # output tokens of attempts whose duration is known
    run_time: Micros = NO_TIME
    cost: int = 0
    costs: int = 0  # attempts whose cost is known

    def plain(self) -> list[int]:
        """Return the figures as a list."""
        return [getattr(self, name) for name in self.__slots__]

    def add(self, other: "Figures") -> None:
        """Add the figures of another period."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class LastFailure(NamedTuple):
    """The last failure of an LLM that was not the fault of a task."""

    type: str
    message: str
    at: Instant


@dataclass(slots=True)
class HealthRecord:
    """The figures of an LLM by period, and its last failure. `succeeded_at` is when an attempt was completed last."""

    periods: dict[int, Figures] = field(default_factory=dict)
    last_failure: LastFailure | None = None
    succeeded_at: Instant = EPOCH

    def succeeded(self, usage: Usage | None, duration: Micros | None, now: Instant) -> None:
        """Count a completed attempt."""
        figures = self._present(now)
        figures.completed += 1
        self.succeeded_at = now
        if duration is not None:
            figures.run_time = Micros(figures.run_time + duration)
        _add_usage(figures, usage, timed=duration is not None)

    def failed(self, failure: Failure, usage: Usage | None, now: Instant) -> None:
        """Count an attempt that failed by the LLM's fault."""
        figures = self._present(now)
        figures.failed += 1
        self.last_failure = LastFailure(failure.type, failure.message, now)
        _add_usage(figures, usage, timed=False)

    def last_hour(self, now: Instant) -> Figures:
        """Return the sum of the last hour."""
        total = Figures()
        first = now // PERIOD - PERIODS
        for number, figures in self.periods.items():
            if number > first:
                total.add(figures)
        return total

    def _present(self, now: Instant) -> Figures:
        number = now // PERIOD
        if number not in self.periods:
            self.periods = {other: it for other, it in self.periods.items() if number - PERIODS < other <= number}
            self.periods[number] = Figures()
        return self.periods[number]

    def plain(self) -> dict[str, Any]:
        """Return the record as JSON-able data."""
        periods = {number: figures.plain() for number, figures in self.periods.items()}
        return {"periods": periods, "last_failure": self.last_failure, "succeeded_at": self.succeeded_at}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any] | None) -> Self:
        """Return the record from what `plain` returned; a new one for None."""
        if not plain:
            return cls()
        periods = {int(number): Figures(*figures) for number, figures in plain["periods"].items()}
        last = plain["last_failure"]
        return cls(periods, None if last is None else LastFailure(*last), Instant(plain["succeeded_at"]))


def figures_view(record: HealthRecord, now: Instant) -> dict[str, Any]:
    """Return the figures and the last failure: fields of views.HealthView."""
    hour, last = record.last_hour(now), record.last_failure
    run_time = in_seconds(hour.run_time) or 0.0
    shown: dict[str, Any] = {"completed": hour.completed, "failed": hour.failed}
    if last is not None:
        shown["last_error"] = {"type": last.type, "message": last.message, "at": to_iso(last.at)}
    if run_time and hour.completed:
        shown["seconds_per_task"] = round(run_time / hour.completed, 3)
    if run_time and hour.timed_tokens:
        shown["tokens_per_second"] = round(hour.timed_tokens / run_time, 3)
    if hour.costs:
        shown["cost_usd"] = in_usd(hour.cost)
    return shown


def _add_usage(figures: Figures, usage: Usage | None, *, timed: bool) -> None:
    if usage is None:
        return
    figures.tokens += (usage.input_tokens or 0) + (usage.output_tokens or 0)
    if timed:
        figures.timed_tokens += usage.output_tokens or 0
    if usage.cost_usd is not None:
        figures.cost += nanos_of(usage.cost_usd)
        figures.costs += 1
