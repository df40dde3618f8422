"""The usage of an attempt, as far as known, without impossible figures."""

from typing import Any

from workers.models.base import Usage

MAX_TOKENS = 10**12
MAX_DOLLARS = 1_000_000


def tokens(value: Any) -> int | None:
    """Return a number of tokens from 7, 7.0 or "7"; None for another value."""
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) <= len(str(MAX_TOKENS)) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_TOKENS:
        return None
    return int(value) if value == int(value) else None


def usage_of(input_tokens: Any, output_tokens: Any, cost_usd: Any) -> Usage | None:
    """Return the usage to report; None if nothing is known. 0 tokens mean that the server reported none."""
    cost = None if cost_usd is None else float(cost_usd)
    if cost is not None and not 0 <= cost <= MAX_DOLLARS:
        cost = None
    figures = (tokens(input_tokens) or None, tokens(output_tokens) or None, cost)
    if figures == (None, None, None):
        return None
    return Usage(input_tokens=figures[0], output_tokens=figures[1], cost_usd=figures[2])
