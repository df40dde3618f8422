"""Growing pauses between attempts."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

_MAX_EXPONENT = 60  # the pause is at its maximum long before; larger powers do not fit into a float


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses in seconds: `initial` after the first failure, then `factor` times the last pause, at most `maximum`.

    `jitter` spreads each pause evenly by that share: 0.25 means 75 to 125 percent.
    """

    initial: float
    maximum: float
    factor: float = 2.0
    jitter: float = 0.0

    def pause(self, failures: int) -> float:
        """Return the pause after a number of failures in a row, 1 or more."""
        exact = min(self.initial * self.factor ** min(failures - 1, _MAX_EXPONENT), self.maximum)
        return exact * random.uniform(1 - self.jitter, 1 + self.jitter) if self.jitter else exact  # noqa: S311

    def pauses(self) -> Iterator[float]:
        """Iterate over the pauses after the first failure, the second, and so on without end."""
        failures = 0
        while True:
            failures += 1
            yield self.pause(failures)
