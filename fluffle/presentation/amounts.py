"""Amounts of money, tokens and runs as text. What is unknown is called unknown, and is never shown as 0."""

from typing import Literal

Unit = Literal["USD", "tokens", "runs"]

UNKNOWN = "unknown"
_SMALLEST = 0.0001  # US dollars that four decimals show
_CENTS_FROM = 0.995  # US dollars from which two decimals are enough


def dollars(usd: float | None) -> str:
    """Return US dollars as text: `12.50 USD`, `0.50 USD`, `0.0123 USD`, `less than 0.0001 USD`, `unknown`."""
    if usd is None:
        return UNKNOWN
    if usd and abs(usd) < _SMALLEST:
        return f"less than {_SMALLEST} USD"
    if abs(usd) >= _CENTS_FROM:
        return f"{usd:,.2f} USD"
    whole, _, decimals = f"{usd:.4f}".partition(".")
    return f"{whole}.{decimals[:2]}{decimals[2:].rstrip('0')} USD"


def amount(value: float | None, unit: Unit) -> str:
    """Return an amount with its unit: `12.50 USD`, `1,200 tokens`, `1 run`."""
    if unit == "USD":
        return dollars(value)
    if value is None:
        return f"{UNKNOWN} {unit}"
    return f"{value:,.0f} {unit.removesuffix('s') if round(value) == 1 else unit}"
