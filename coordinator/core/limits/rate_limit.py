"""One rate limit: when it is closed, how many runs it allows, and what its figures leave."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import ceil
from typing import Any, Literal, Self

from broker.backoff import Backoff
from broker.protocol.worker_reports import Failure, Usage
from broker.timestamps import EPOCH, Instant, seconds, to_datetime

Tier = Literal["throttle", "window"]

THROTTLED = "rate_limited"
EXHAUSTED = "quota_exceeded"
CLOSING = frozenset({THROTTLED, EXHAUSTED})  # types of failures that close the limit of their LLM
WINDOW = seconds(900)  # from this on, a closure is a usage window
LONGEST = seconds(86_400)  # a limit is closed for at most so long before it is probed
PAUSE = Backoff(initial=1.0, maximum=60.0)  # where a provider says no time
WINDOW_PAUSE = Backoff(initial=60.0, maximum=3600.0)
BURST = seconds(2)  # what accrues in this time may be used at once
MINUTE = seconds(60)
FIRST_GUESS = 0.5  # tokens for each character of the size of a task
AMPLE = 1000  # room for so many runs is as good as no bound: it is measured again with every run
WEIGHT = 0.2  # of the newest run
OUTLIER = 10.0  # a run counts as at most so many times the expected tokens
MOST_DEBT = 10  # minutes: whatever runs report to have used, their limit opens after that time
_WORDS = {THROTTLED: "429", EXHAUSTED: "quota exceeded"}


@dataclass(slots=True, eq=False)
class RateLimit:
    """The state of a limit. LLMs of a limit without figures that was never closed have no bounds.

    `closed_until` and `paused_until` are moments; `paused_until` None: until somebody resumes. `allowed` is the number
    of runs after a closure, which begins with one and grows with every success; None: no bound. `closures` counts
    closures without a success in between. `requests` and `tokens` are what the figures left at `counted_at`. The `runs`
    are not stored, since they follow from the tasks that are running; those that are `parked` wait without a slot, and
    take no part of what the limit allows. Each has the tokens that are set aside for it, at least one. `room` is how
    many more runs may begin; None: any number.
    """

    name: str
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    concurrent: int | None = None
    paused: bool = False
    paused_until: Instant | None = None
    closed_until: Instant = EPOCH
    reopened_at: Instant = EPOCH
    is_closed: bool = False
    why: str = ""
    tier: Tier | None = None
    closures: int = 0
    allowed: int | None = None
    requests: float = 0.0
    tokens: float = 0.0
    counted_at: Instant = EPOCH
    tokens_per_character: float = FIRST_GUESS
    runs: dict[str, int] = field(default_factory=dict)
    parked: dict[str, int] = field(default_factory=dict)
    room: int | None = None

    # -- closing and opening -------------------------------------------------------------------------------------------

    def close(self, failure: Failure, retry_after: float | None, now: Instant) -> bool:
        """Close the limit after a refusal of the provider; return whether it was open before.

        `retry_after` is what the provider said, in seconds. The later of two moments wins.
        """
        was_open = not self.is_closed
        if was_open:
            self.closures += 1
        pauses = WINDOW_PAUSE if failure.type == EXHAUSTED else PAUSE
        said = seconds(min(retry_after, 10**9)) if retry_after else None
        pause = seconds(pauses.pause(max(self.closures, 1))) if said is None else said
        until = Instant(now + min(pause, LONGEST))
        if not was_open and until <= self.closed_until:
            return False
        self.closed_until, self.is_closed, self.allowed = until, True, 1
        self.tier = "window" if failure.type == EXHAUSTED or pause >= WINDOW else "throttle"
        self.why = _WORDS.get(failure.type, failure.type)
        if pause > LONGEST:
            self.why += f"; the provider asked for {pause // seconds(3600)} h, the next probe is after 24 h"
        return was_open

    def open(self, now: Instant) -> None:
        """Open the limit for one run at a time, because its time is over."""
        self.is_closed, self.reopened_at = False, now

    def resume(self, now: Instant) -> None:
        """Open the limit by hand, whatever closed it."""
        self.paused, self.paused_until = False, None
        self.closed_until, self.closures, self.allowed, self.tier, self.why = now, 0, None, None, ""
        self.open(now)

    def succeeded(self, since: Instant, enough: int) -> None:
        """Count a success of a run that began at `since`, until `enough` runs are allowed.

        One more run is allowed for each success, so that every round allows twice as many.
        """
        if self.allowed is None or self.is_closed or since < self.reopened_at:
            return
        self.allowed += 1
        if self.allowed >= enough:
            self.allowed, self.closures, self.tier, self.why = None, 0, None, ""

    @property
    def shuts(self) -> bool:
        """Whether no run may begin because the limit is closed or paused."""
        return self.is_closed or self.paused

    def time_passed(self, now: Instant) -> bool:
        """Open what is open again by now; return whether that changed something."""
        changed = False
        if self.paused and self.paused_until is not None and self.paused_until <= now:
            self.paused, self.paused_until, changed = False, None, True
        if self.is_closed and self.closed_until <= now:
            self.open(now)
            changed = True
        return changed

    # -- runs and figures ----------------------------------------------------------------------------------------------

    def begin(self, task_id: str, size: int, now: Instant) -> None:
        """Begin a run of a task of that size: a request and the expected tokens are set aside."""
        tokens = self._expected(size)
        self.runs[task_id] = tokens
        if self.is_counted:
            self._count(now)
            self.requests -= 1
            self.tokens -= tokens

    def take_over(self, task_id: str, size: int, *, parked: bool) -> None:
        """Know a run that another coordinator has begun."""
        runs = self.parked if parked else self.runs
        runs[task_id] = self._expected(size)

    def end(self, task_id: str, usage: Usage | None, size: int, now: Instant) -> bool:
        """End a run, and settle what it used; return whether there was one."""
        set_aside = self.runs.pop(task_id, None) or self.parked.pop(task_id, None)
        if set_aside is None:
            return False
        used = None if usage is None else (usage.input_tokens or 0) + (usage.output_tokens or 0)
        if used:
            observed = min(used / size, OUTLIER * self.tokens_per_character)
            self.tokens_per_character += WEIGHT * (observed - self.tokens_per_character)
        if self.is_counted:
            self._count(now)
            self.tokens += set_aside - (used or 0)
            self.requests -= max(0, ((usage and usage.requests) or 1) - 1)
            self.requests = max(self.requests, -MOST_DEBT * (self.requests_per_minute or 0.0))
            self.tokens = max(self.tokens, -MOST_DEBT * (self.tokens_per_minute or 0.0))
        return True

    def _expected(self, size: int) -> int:
        return max(1, ceil(size * self.tokens_per_character))

    def park(self, task_id: str) -> None:
        """A run waits without a slot."""
        if set_aside := self.runs.pop(task_id, None):
            self.parked[task_id] = set_aside

    def unpark(self, task_id: str) -> None:
        """A run goes on."""
        if set_aside := self.parked.pop(task_id, None):
            self.runs[task_id] = set_aside

    def hand_over(self, task_id: str, other: "RateLimit") -> None:
        """Give a run to another limit, because its LLM belongs to that one now."""
        if set_aside := self.runs.pop(task_id, None):
            other.runs[task_id] = set_aside
        if set_aside := self.parked.pop(task_id, None):
            other.parked[task_id] = set_aside

    @property
    def is_counted(self) -> bool:
        """Whether it has figures for requests or tokens."""
        return self.requests_per_minute is not None or self.tokens_per_minute is not None

    @property
    def is_bounded(self) -> bool:
        """Whether anything bounds its runs at the moment."""
        bounds = (self.concurrent, self.allowed, self.requests_per_minute, self.tokens_per_minute)
        return self.shuts or any(bound is not None for bound in bounds)

    def measure(self, now: Instant) -> bool:
        """Compute `room`; return whether it changed."""
        before, self.room = self.room, self._room(now)
        return self.room != before

    def _room(self, now: Instant) -> int | None:
        if not self.is_bounded:
            return None
        if self.shuts:
            return 0
        bounds = [bound - len(self.runs) for bound in (self.concurrent, self.allowed) if bound is not None]
        if self.is_counted:
            self._count(now)
            if self.requests_per_minute is not None:
                bounds.append(int(self.requests))
            if self.tokens_per_minute is not None and self.tokens <= 0:
                bounds.append(0)
        room = max(0, min(bounds, default=AMPLE))
        return None if room >= AMPLE else room

    def _count(self, now: Instant) -> None:
        """Add what has accrued since it was counted last."""
        passed = max(0, now - self.counted_at)
        self.requests = _accrued(self.requests, self.requests_per_minute, passed, at_least=1.0)
        self.tokens = _accrued(self.tokens, self.tokens_per_minute, passed, at_least=1.0)
        self.counted_at = now

    def opens_at(self, now: Instant) -> Instant | None:
        """Return when it is expected to allow the next run; None: unknown, or it does now."""
        if self.paused:
            return self.paused_until
        if self.is_closed:
            return self.closed_until
        if self.room != 0 or not self.is_counted:
            return None
        missing = [
            (1 - self.requests) / self.requests_per_minute if self.requests_per_minute else 0.0,
            -self.tokens / self.tokens_per_minute if self.tokens_per_minute else 0.0,
        ]
        wait = max(missing) * MINUTE - (now - self.counted_at)
        return Instant(now + ceil(wait)) if wait > 0 else None

    def reason(self, now: Instant) -> str:
        """Return in words why it allows no run; empty if it does."""
        if self.paused:
            return f"paused{_until(self.paused_until, now)} ({self.name})"
        if self.is_closed:
            return f"closed{_until(self.closed_until, now)} ({self.name}: {self.why})"
        if self.room != 0:
            return ""
        if (opens_at := self.opens_at(now)) is not None:
            return f"rate limit {self.name} is used up{_until(opens_at, now)}"
        return f"rate limit {self.name}: as many runs as it allows"

    def clock_set(self, by: int) -> None:
        """Move the measured times along with the clock."""
        self.closed_until = Instant(self.closed_until + by)
        self.reopened_at = Instant(self.reopened_at + by)
        self.counted_at = Instant(self.counted_at + by)

    def plain(self) -> dict[str, Any]:
        """Return what is stored, as JSON-able data."""
        return {name: getattr(self, name) for name in self.__slots__ if name not in ("name", "runs", "parked", "room")}

    @classmethod
    def from_plain(cls, name: str, plain: Mapping[str, Any]) -> Self:
        """Return a limit without runs from what `plain` returned."""
        return cls(name, **plain)


def _accrued(level: float, per_minute: float | None, passed: int, *, at_least: float) -> float:
    if per_minute is None:
        return 0.0
    return min(level + per_minute * passed / MINUTE, max(at_least, per_minute * BURST / MINUTE))


def _until(moment: Instant | None, now: Instant) -> str:
    if moment is None:
        return ""
    at = to_datetime(moment).astimezone(UTC)
    today = datetime.date(at) == to_datetime(now).astimezone(UTC).date()
    return f" until {at:%H:%M:%S} UTC" if today else f" until {at:%Y-%m-%d %H:%M} UTC"
