"""Estimates of costs and tokens, learned from finished runs: per LLM, for each character of a task.

Kept in logarithms, as the durations are (see duration_estimates.py), with how much more a run uses that is as dear as
one in twenty. Nothing is ever reserved for the most that a model may write: that is a hundred times what runs use.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp, log
from typing import Any, Self

from broker.protocol.worker_reports import ModelUsage, Price

NANOS = 1_000_000_000  # in a US dollar
CHARACTERS_PER_TOKEN = 4  # where nothing is learned yet
ASSUMED_OUTPUT_TOKENS = 1000  # likewise
LIKELY = 0.95  # the share of runs that use less than `most`
DEARER_AT_FIRST = log(2)
_WEIGHT = 0.15  # of the newest run, once there are several
_SURPRISE = 1.0  # one outlier moves the logarithm by at most a share of this
_OUTLIER = 10.0  # a run counts in the mean as at most so many times the mean
_STEP = 0.3
_NANOS_PER_TOKEN = 1000  # for a dollar per million tokens


def nanos_of(usd: float) -> int:
    """Return US dollars as whole nanodollars."""
    return round(usd * NANOS)


def in_usd(nanos: int) -> float:
    """Return nanodollars as US dollars."""
    return nanos / NANOS


def is_free(price: Price | None) -> bool:
    """Whether runs cost nothing. An unknown price is not free."""
    return price is not None and not any((price.input, price.output, price.cached_input, price.cache_write))


def priced(price: Price, usage: ModelUsage) -> int:
    """Return what a usage costs at a price, in nanodollars."""
    inputs, cached, written = usage.input_tokens or 0, usage.cached_tokens or 0, usage.cache_write_tokens or 0
    cached_price = price.input if price.cached_input is None else price.cached_input
    write_price = price.input if price.cache_write is None else price.cache_write
    plain = max(0, inputs - cached - written)
    dollars = plain * price.input + cached * cached_price + written * write_price
    return round((dollars + (usage.output_tokens or 0) * price.output) * _NANOS_PER_TOKEN)


@dataclass(slots=True)
class Spread:
    """What runs use for each character: the logarithm, how much more a dear run uses (a logarithm), and the mean."""

    log: float = 0.0
    dearer: float = DEARER_AT_FIRST
    mean: float = 0.0
    runs: int = 0

    def learn(self, observed: float) -> None:
        """Learn from a run that used so much for each character, more than nothing."""
        self.runs += 1
        logarithm, weight = log(observed), max(_WEIGHT, 1 / self.runs)
        if self.runs == 1:
            self.log, self.mean = logarithm, observed
            return
        exceeded = logarithm - self.log > self.dearer
        self.dearer = max(0.0, self.dearer + _STEP * (LIKELY - 1 + exceeded))
        self.log += weight * max(-_SURPRISE, min(_SURPRISE, logarithm - self.log))
        self.mean += weight * (min(observed, _OUTLIER * self.mean) - self.mean)

    def most(self, size: float) -> int:
        """Return what nearly all runs for a task of that size stay below: at least the mean, and at least 1."""
        return max(1, round(size * max(exp(self.log + self.dearer), self.mean)))

    def plain(self) -> list[float]:
        """Return the spread as JSON-able data."""
        return [self.log, self.dearer, self.mean, self.runs]

    @classmethod
    def from_plain(cls, plain: list[float] | None) -> Self:
        """Return the spread from what `plain` returned; a new one for None."""
        if not plain:
            return cls()
        logarithm, dearer, mean, runs = plain
        return cls(logarithm, dearer, mean, int(runs))


@dataclass(slots=True)
class CostEstimates:
    """What runs of one LLM cost in nanodollars, and the tokens that they use."""

    nanos: Spread = field(default_factory=Spread)
    tokens: Spread = field(default_factory=Spread)

    def learn(self, size: float, usage: ModelUsage) -> None:
        """Learn from the usage of a completed run for a task of that size (see Task.size)."""
        if usage.cost_usd:
            self.nanos.learn(usage.cost_usd * NANOS / size)
        if used := (usage.input_tokens or 0) + (usage.output_tokens or 0):
            self.tokens.learn(used / size)

    def tokens_for(self, size: float) -> int:
        """Return how many tokens to reserve for a task of that size."""
        if self.tokens.runs:
            return self.tokens.most(size)
        return round(size / CHARACTERS_PER_TOKEN) + ASSUMED_OUTPUT_TOKENS

    def nanos_for(self, size: float, price: Price | None) -> int | None:
        """Return how many nanodollars to reserve for a task of that size; None where the price is unknown."""
        if is_free(price):
            return 0
        if self.nanos.runs:
            return self.nanos.most(size)
        if price is None:
            return None
        tokens = round(size / CHARACTERS_PER_TOKEN)
        if self.tokens.runs:
            tokens = max(tokens, self.tokens.most(size) - ASSUMED_OUTPUT_TOKENS)
        usual = ModelUsage(input_tokens=min(tokens, 10**12), output_tokens=ASSUMED_OUTPUT_TOKENS)
        return max(1, priced(price, usual))

    def plain(self) -> dict[str, Any]:
        """Return the estimates as JSON-able data."""
        return {"nanos": self.nanos.plain(), "tokens": self.tokens.plain()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any] | None) -> Self:
        """Return the estimates from what `plain` returned; new ones for None."""
        plain = plain or {}
        return cls(Spread.from_plain(plain.get("nanos")), Spread.from_plain(plain.get("tokens")))
