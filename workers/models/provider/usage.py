"""The usage of a run, as far as known, without impossible figures."""

from collections.abc import Callable, Iterable
from typing import Any

from pydantic_ai import ModelResponse, exceptions

from broker.protocol.assignments import Allowance
from broker.protocol.worker_reports import ModelUsage, Price
from workers.models.base import ModelError, Usage
from workers.models.pricing import cost_of

MAX_TOKENS = 10**12
MAX_DOLLARS = 1_000_000
MAX_REQUESTS = 1_000_000
_TOKENS = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")

Cost = Callable[[ModelResponse], float | None]
"""Returns the cost of a response in US dollars; None if unknown."""


def tokens(value: Any) -> int | None:
    """Return a number of tokens from 7, 7.0 or "7"; None for another value."""
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) <= len(str(MAX_TOKENS)) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_TOKENS:
        return None
    return int(value) if value == int(value) else None


class Meter:
    """Adds up the requests, tokens and cost of one run, by model. `report` gets the usage so far.

    A run that has used up its allowance gets no further request; its first request is always made.
    """

    def __init__(self, allowance: Allowance | None, report: Callable[[Usage], None]) -> None:
        self._allowance = allowance
        self._report = report
        self._reported: Usage | None = None
        self._models: dict[str, ModelUsage] = {}
        self.last_model: str | None = None
        """The model that answered last."""
        self.failures: list[tuple[str, exceptions.AgentRunError]] = []
        """The models that did not answer the present request, and why."""

    @property
    def has_answers(self) -> bool:
        """Whether a request of the run was answered."""
        return bool(self._models)

    @property
    def usage(self) -> Usage | None:
        """The usage so far; None before the first answer."""
        if not self._models:
            return None
        total = Usage.model_validate(_sum(self._models.values()).model_dump())
        return total.model_copy(update={"models": dict(self._models)}) if len(self._models) > 1 else total

    def add(self, model: str, response: ModelResponse, *, price: Price | None, cost: Cost, is_whole: bool) -> None:
        """Add an answered request. The part of an answer that was not `is_whole` may have no figures yet."""
        used = _figures(response.usage)
        is_measured = used.input_tokens is not None and used.output_tokens is not None
        dollars = cost_of(used, price) if price is not None else cost(response) if is_measured else None
        known = dollars is not None and 0 <= dollars <= MAX_DOLLARS
        used = used.model_copy(update={"requests": 1, "cost_usd": dollars if known else None})
        if before := self._models.get(model):
            total = _sum((before, used))
            if not is_whole and not is_measured:  # what the earlier requests cost is known all the same
                total = total.model_copy(update={"cost_usd": before.cost_usd})
            used = total
        self._models[model] = used
        self.last_model = model
        self.failures.clear()

    def publish(self) -> None:
        """Report the usage so far, unless that was done."""
        if (usage := self.usage) is not None and usage != self._reported:
            self._reported = usage
            self._report(usage)

    def check(self) -> None:
        """Raise ModelError `budget_exceeded` if the allowance is used up."""
        if self._allowance is None or (usage := self.usage) is None:
            return
        used = (usage.input_tokens or 0) + (usage.output_tokens or 0)
        if self._allowance.tokens is not None and used >= self._allowance.tokens > 0:
            raise _over(f"{used:,} tokens are used, of {self._allowance.tokens:,}")
        if self._allowance.usd is not None and usage.cost_usd and usage.cost_usd >= self._allowance.usd:
            raise _over(f"${usage.cost_usd:.4f} are used, of ${self._allowance.usd:.4f}")


def _over(what: str) -> ModelError:
    return ModelError("budget_exceeded", f"the run was stopped: {what}", retryable=False)


def _figures(given: Any) -> ModelUsage:
    """Return the figures of a response that make sense. 0 input or output tokens: the server reported none."""
    count_in, count_out = tokens(given.input_tokens) or None, tokens(given.output_tokens) or None
    found = {
        "input_tokens": count_in,
        "output_tokens": count_out,
        "cached_tokens": _part(given.cache_read_tokens, count_in),
        "cache_write_tokens": _part(given.cache_write_tokens, count_in),
        "reasoning_tokens": _part(given.output_reasoning_tokens, count_out),
    }
    if (found["cached_tokens"] or 0) + (found["cache_write_tokens"] or 0) > (count_in or 0):
        found["cached_tokens"] = found["cache_write_tokens"] = None
    return ModelUsage.model_validate(found)


def _part(value: Any, whole: int | None) -> int | None:
    count = tokens(value) or None
    return count if count is not None and whole is not None and count <= whole else None


def _sum(usages: Iterable[ModelUsage]) -> ModelUsage:
    """Add up the figures that are known. The cost of several requests is known if that of each one is."""
    usages = list(usages)
    total: dict[str, Any] = {}
    for name in _TOKENS:
        counts = [count for it in usages if (count := getattr(it, name)) is not None]
        total[name] = tokens(sum(counts)) if counts else None
    total["requests"] = min(sum(it.requests or 0 for it in usages), MAX_REQUESTS)
    costs = [it.cost_usd for it in usages]
    dollars = sum(cost for cost in costs if cost is not None)
    total["cost_usd"] = dollars if None not in costs and dollars <= MAX_DOLLARS else None
    return ModelUsage.model_validate(total)
