"""What reviews and votes have found about the work of an LLM, for each of its skills.

The mean of what was found, of which the older counts less and less. It makes the level that the LLM is said to have
count for half of it at the least and for a quarter more at the most: who is right two times out of three is taken for
what it is said to be. Little is made of few findings.
"""

from dataclasses import dataclass
from typing import Self

from broker.timestamps import EPOCH, Instant, seconds

LEAST, MOST = 0.5, 1.25
DOUBT = 3.0  # findings that weigh as much as what is said of the LLM
MEMORY = 20.0  # findings after which the oldest are forgotten
HALF_LIFE = seconds(7 * 86_400)


@dataclass(slots=True)
class Quality:
    """The mean of what was found, from 0 to 1, and how many findings it rests on, as of the moment `at`."""

    mean: float = 0.0
    weight: float = 0.0
    at: Instant = EPOCH

    def learn(self, score: float, now: Instant) -> None:
        """Take in what was found, from 0 to 1."""
        before = min(self._weight(now), MEMORY - 1)
        self.weight = before + 1
        self.mean += (score - self.mean) / self.weight
        self.at = now

    def factor(self, now: Instant) -> float:
        """What a level is to be multiplied with, from LEAST to MOST."""
        weight = self._weight(now)
        return 1 + (LEAST + (MOST - LEAST) * self.mean - 1) * weight / (weight + DOUBT)

    def _weight(self, now: Instant) -> float:
        return self.weight * float(0.5 ** (max(0, now - self.at) / HALF_LIFE))

    def plain(self) -> list[float]:
        """All of it as JSON-able data."""
        return [self.mean, self.weight, self.at]

    @classmethod
    def from_plain(cls, plain: list[float]) -> Self:
        """What `plain` gave."""
        mean, weight, at = plain
        return cls(mean, weight, Instant(int(at)))
