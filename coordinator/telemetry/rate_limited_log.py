"""Warnings about messages of others, bounded in length and number: a flood of them must not fill a disk."""

import re
import time
from collections.abc import Callable
from typing import Any

from broker.protocol.primitives import shortened

MAX_PER_SECOND = 10  # lines of one kind
MAX_VALUE_CHARACTERS = 300

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class RateLimitedLog:
    """Logs at most MAX_PER_SECOND warnings of one kind, and one line with the number of the others. For one thread."""

    def __init__(self, log: Any, clock: Callable[[], float] = time.monotonic) -> None:
        """`log` is a logger of structlog."""
        self._log = log
        self._clock = clock
        self._second = 0
        self._counts: dict[str, int] = {}

    def warning(self, event: str, **values: object) -> None:
        """Log a warning, unless MAX_PER_SECOND of that event are logged in this second. Leaves out values of None."""
        self.flush()
        count = self._counts[event] = self._counts.get(event, 0) + 1
        if count <= MAX_PER_SECOND:
            shown = {name: _shown(value) for name, value in values.items() if value is not None}
            self._log.warning(event, **shown)

    def flush(self) -> None:
        """Log how many lines were left out, once their second is over."""
        second = int(self._clock())
        if second == self._second:
            return
        counts, self._counts, self._second = self._counts, {}, second
        for event, count in counts.items():
            if count > MAX_PER_SECOND:
                self._log.warning(f"{event}: more of this kind", not_logged=count - MAX_PER_SECOND)


def _shown(value: object) -> object:
    return (
        shortened(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", value), MAX_VALUE_CHARACTERS)
        if isinstance(value, str)
        else value
    )
