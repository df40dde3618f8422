"""What an attempt used, as far as it is known: figures that make no sense are left out."""

from typing import Any

from workers.models.base import Usage

MOST_TOKENS = 10**12
MOST_DOLLARS = 1_000_000


def tokens(value: Any) -> int | None:
    """A number of tokens, whatever a server makes of it (7, 7.0, "7"); None if it is none."""
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) <= len(str(MOST_TOKENS)) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_TOKENS:
        return None
    return int(value) if value == int(value) else None


def usage_of(input_tokens: Any, output_tokens: Any, cost_usd: Any) -> Usage | None:
    """The usage to report; None where nothing is known. A client counts 0 tokens where the server does not tell."""
    cost = None if cost_usd is None else float(cost_usd)
    if cost is not None and not 0 <= cost <= MOST_DOLLARS:
        cost = None
    figures = (tokens(input_tokens) or None, tokens(output_tokens) or None, cost)
    if figures == (None, None, None):
        return None
    return Usage(input_tokens=figures[0], output_tokens=figures[1], cost_usd=figures[2])
