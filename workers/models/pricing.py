"""The price of a model, and the cost of a usage at this price."""

from collections.abc import Iterable

from broker.protocol.worker_reports import ModelUsage, Price, Usage

FREE = Price(input=0.0, output=0.0)
TOKENS_OF_A_PRICE = 1_000_000


def is_free(price: Price) -> bool:
    """Return whether nothing costs anything."""
    return not any((price.input, price.output, price.cached_input, price.cache_write))


def cost_of(usage: ModelUsage, price: Price) -> float | None:
    """Return the cost of a usage in US dollars; None if its tokens are not known."""
    if is_free(price):
        return 0.0
    if usage.input_tokens is None or usage.output_tokens is None:
        return None
    cached, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
    plain = max(0, usage.input_tokens - cached - written)
    at_input = price.input
    return (
        plain * at_input
        + cached * (at_input if price.cached_input is None else price.cached_input)
        + written * (at_input if price.cache_write is None else price.cache_write)
        + usage.output_tokens * price.output
    ) / TOKENS_OF_A_PRICE


def with_cost(usage: Usage | None, price: Price | None) -> Usage | None:
    """Return the usage with its cost at the price, unless its cost is known already."""
    if price is None or (usage is not None and usage.cost_usd is not None):
        return usage
    if usage is None:
        return Usage(cost_usd=0.0) if is_free(price) else None
    return usage.model_copy(update={"cost_usd": cost_of(usage, price)})


def highest(prices: Iterable[Price | None]) -> Price | None:
    """Return the highest price of each kind of token; None if a price is unknown or there is none."""
    known: list[Price] = []
    for price in prices:
        if price is None:
            return None
        known.append(price)
    if len(known) <= 1:
        return known[0] if known else None
    return Price(
        input=max(it.input for it in known),
        output=max(it.output for it in known),
        cached_input=max(it.input if it.cached_input is None else it.cached_input for it in known),
        cache_write=max(it.input if it.cache_write is None else it.cache_write for it in known),
    )
