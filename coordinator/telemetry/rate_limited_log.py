"""Warnings about what others do wrong: bounded in length and number, because a flood of them must not fill a disk."""

import re
import time
from collections.abc import Callable, Iterable
from typing import Any

from broker.errors import Problem
from broker.protocol.primitives import shortened
from coordinator.core.commands import Refuse
from coordinator.core.state import StateChanges
from coordinator.core.tasks.attempts import UNCLAIMED
from coordinator.outbound.outbox import Item, RejectedMessage

MOST_A_SECOND = 10  # lines of one kind
LONGEST = 300  # characters of one value

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class RateLimitedLog:
    """Logs warnings, at most MOST_A_SECOND of one kind; what is more is counted, and told in one line. For one thread.

    `log` is a logger of structlog.
    """

    def __init__(self, log: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._second = 0
        self._counts: dict[str, int] = {}

    def warning(self, event: str, **values: object) -> None:
        """Log it, unless much of that kind has been logged in this second. Values of None are left out."""
        self.flush()
        count = self._counts[event] = self._counts.get(event, 0) + 1
        if count <= MOST_A_SECOND:
            told = {name: _told(value) for name, value in values.items() if value is not None}
            self._log.warning(event, **told)

    def flush(self) -> None:
        """Tell how many lines were left out, once their second is over."""
        second = int(self._clock())
        if second == self._second:
            return
        counts, self._counts, self._second = self._counts, {}, second
        for event, count in counts.items():
            if count > MOST_A_SECOND:
                self._log.warning(f"{event}: more of this kind", not_logged=count - MOST_A_SECOND)


def _told(value: object) -> object:
    return shortened(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", value), LONGEST) if isinstance(value, str) else value


def log_refusals_and_losses(
    log: RateLimitedLog, items: Iterable[Item], requests: Iterable[Refuse], changes: StateChanges
) -> None:
    """A line for every message and request that is refused, and for every attempt whose end nobody reported."""
    for item in items:
        if isinstance(item, RejectedMessage):
            log.warning(
                "refused a message",
                exchange=item.exchange,
                routing_key=item.routing_key,
                message_id=item.properties.get("message_id"),
                user=item.user,
                errors=_in_words(item.problems),
            )
    for refuse in requests:
        log.warning("refused a request", about=refuse.task_id, errors=_in_words(refuse.problems))
    for task, attempt in changes.attempts:
        if attempt.outcome in ("lost", UNCLAIMED):
            log.warning(
                f"an attempt is {attempt.outcome}",
                task=task.id,
                attempt=attempt.attempt,
                llm=attempt.llm,
                instance=attempt.instance,
                reason=attempt.error and attempt.error.message,
            )


def _in_words(problems: Iterable[Problem]) -> str:
    return "; ".join(map(str, problems))
