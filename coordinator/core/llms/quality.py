"""The quality of an LLM's work, for each of its skills: the mean score of reviews and votes.

Older scores count less and less. The quality multiplies the level that the LLM claims by 0.5 at least and 1.25 at most:
an LLM that is right two times out of three keeps its level. Few scores change little.
"""

from dataclasses import dataclass
from typing import Self

from broker.timestamps import EPOCH, Instant, seconds

LEAST, MOST = 0.5, 1.25
DOUBT = 3.0  # scores that weigh as much as the claim of the LLM
MEMORY = 20.0  # scores after which the oldest are forgotten
HALF_LIFE = seconds(7 * 86_400)


@dataclass(slots=True)
class Quality:
    """The mean score, from 0 to 1, and the weight of the scores behind it, as of `at`."""

    mean: float = 0.0
    weight: float = 0.0
    at: Instant = EPOCH

    def learn(self, score: float, now: Instant) -> None:
        """Learn from a score, from 0 to 1."""
        before = min(self._weight(now), MEMORY - 1)
        self.weight = before + 1
        self.mean += (score - self.mean) / self.weight
        self.at = now

    def factor(self, now: Instant) -> float:
        """Return the factor for a level, from LEAST to MOST."""
        weight = self._weight(now)
        return 1 + (LEAST + (MOST - LEAST) * self.mean - 1) * weight / (weight + DOUBT)

    def _weight(self, now: Instant) -> float:
        return self.weight * float(0.5 ** (max(0, now - self.at) / HALF_LIFE))

    def plain(self) -> list[float]:
        """Return the quality as JSON-able data."""
        return [self.mean, self.weight, self.at]

    @classmethod
    def from_plain(cls, plain: list[float]) -> Self:
        """Return the quality from what `plain` returned."""
        mean, weight, at = plain
        return cls(mean, weight, Instant(int(at)))
