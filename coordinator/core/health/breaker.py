"""The circuit breaker of an instance of an LLM."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from broker.backoff import Backoff
from broker.protocol.worker_reports import Failure
from broker.timestamps import EPOCH, Instant, seconds

IN_A_ROW = 3  # failures of the LLM's own after which the breaker opens
LATEST = 10  # attempts of which a share counts, too
SHARE = 6  # failures among the latest attempts after which the breaker opens
PAUSE = Backoff(initial=1.0, maximum=60.0)  # before each probe
LONG_PAUSE = Backoff(initial=5.0, maximum=300.0)  # before each probe when a person must repair something
_ALL = (1 << LATEST) - 1

AT_ONCE = frozenset(
    {"authentication", "quota_exceeded", "model_not_found", "not_a_model_server", "command_not_started"}
)
"""Failures that no repetition repairs: the first one opens the breaker."""


class BreakerState(StrEnum):
    """The state of a circuit breaker, in the field's words."""

    CLOSED = "closed"  # tasks as usual
    OPEN = "open"  # no tasks
    HALF_OPEN = "half_open"  # one task at a time, as a probe


@dataclass(slots=True)
class Breaker:
    """Counts failures of the LLM's own. `probe_at` is when an open breaker becomes half open.

    `latest` has a bit for each of the latest attempts, the newest first: 1 for a failure. `openings` counts how often
    the breaker opened without a success in between; `opened_at` is when it did so last. `last_task` is the task that
    failed last: the same task failing again says nothing new about the LLM where the fault is unclear.
    """

    state: BreakerState = BreakerState.CLOSED
    in_a_row: int = 0
    latest: int = 0
    openings: int = 0
    opened_at: Instant = EPOCH
    probe_at: Instant = EPOCH
    why: str = ""
    last_task: str = ""

    def failed(self, failure: Failure, task_id: str, now: Instant, *, is_unclear: bool = False) -> bool:
        """Count a failure; return whether the breaker opened, or opened again after a probe."""
        if is_unclear and task_id == self.last_task and self.state is BreakerState.CLOSED:
            return False
        self.last_task = task_id
        self.in_a_row += 1
        self.latest = (self.latest << 1 | 1) & _ALL
        many = self.in_a_row >= IN_A_ROW or self.latest.bit_count() >= SHARE or failure.type in AT_ONCE
        if self.state is BreakerState.OPEN or not (many or self.state is BreakerState.HALF_OPEN):
            return False
        self.openings += 1
        pauses = LONG_PAUSE if failure.type in AT_ONCE else PAUSE
        self.state, self.opened_at = BreakerState.OPEN, now
        self.probe_at = Instant(now + seconds(pauses.pause(self.openings)))
        self.why = f"{failure.type}: {failure.message}" if failure.message else failure.type
        return True

    def succeeded(self, since: Instant) -> bool:
        """Count a success of an attempt that began at `since`; return whether the breaker closed.

        An attempt that began before the breaker opened proves nothing.
        """
        if self.state is BreakerState.CLOSED:
            self.in_a_row, self.latest = 0, self.latest << 1 & _ALL
            return False
        if since < self.opened_at:
            return False
        self.close()
        return True

    def close(self) -> None:
        """Close the breaker, and forget the failures."""
        self.state, self.in_a_row, self.latest, self.openings = BreakerState.CLOSED, 0, 0, 0
        self.why = self.last_task = ""
        self.opened_at = self.probe_at = EPOCH

    def time_passed(self, now: Instant) -> bool:
        """Allow a probe when it is time; return whether that is so."""
        if self.state is not BreakerState.OPEN or now < self.probe_at:
            return False
        self.state = BreakerState.HALF_OPEN
        return True

    def clock_set(self, by: int) -> None:
        """Move the measured times along with the clock."""
        self.opened_at, self.probe_at = Instant(self.opened_at + by), Instant(self.probe_at + by)

    def plain(self) -> dict[str, Any]:
        """Return the breaker as JSON-able data; empty for one without failures."""
        if self == Breaker():
            return {}
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any] | None) -> Self:
        """Return the breaker from what `plain` returned. A probe that was allowed is allowed again."""
        if not plain:
            return cls()
        given = {**plain, "state": BreakerState(plain["state"])}
        return cls(**{**given, "opened_at": Instant(plain["opened_at"]), "probe_at": Instant(plain["probe_at"])})
