"""Rate limits and budgets as text: their states, what is used of them, and a forecast."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from broker.protocol.spending import BudgetView, LimitView
from fluffle.presentation.amounts import UNKNOWN, Unit, amount, dollars
from fluffle.presentation.output import moment

_FORECAST_FROM = 0.02  # of the period; earlier, a forecast says nothing


class Figure(NamedTuple):
    """One figure of a budget: at most `most`, of which `spent` and `reserved` are used. `left` is the rest."""

    unit: Unit
    most: float
    spent: float
    reserved: float
    left: float

    @property
    def share(self) -> float:
        """The part that is spent or reserved; more than 1 where the budget is exceeded."""
        return (self.spent + self.reserved) / self.most if self.most else 1.0


def figures(view: BudgetView) -> list[Figure]:
    """Return the figures that a budget has."""
    rows: list[tuple[Unit, float | None, float, float, float | None]] = [
        ("USD", view.usd, view.spent_usd, view.reserved_usd, view.left_usd),
        ("tokens", view.tokens, view.spent_tokens, view.reserved_tokens, view.left_tokens),
        ("runs", view.runs, view.spent_runs, 0, view.left_runs),
    ]
    return [
        Figure(unit, most, spent, reserved, max(0.0, most - spent - reserved) if left is None else left)
        for unit, most, spent, reserved, left in rows
        if most is not None
    ]


def title(view: BudgetView) -> str:
    """Return the name of a budget, with the submitter, label, LLM or limit that it is for."""
    return view.name if view.value is None else f"{view.name} ({view.value})"


def spent(view: BudgetView) -> str:
    """Return what is spent of each figure: `1.20 USD of 5.00 USD`; unknown costs are named."""
    texts = [f"{spent_of(view, figure)} of {amount(figure.most, figure.unit)}" for figure in figures(view)]
    if view.unknown_runs:
        texts.append(f"{amount(view.unknown_runs, 'runs')} of unknown cost")
    return ", ".join(texts)


def spent_of(view: BudgetView, figure: Figure) -> str:
    """Return what is spent of a figure; of dollars, at least what is known."""
    return _at_least(figure.spent, view, figure)


def _at_least(value: float, view: BudgetView, figure: Figure) -> str:
    text = amount(value, figure.unit)
    if figure.unit != "USD" or not view.unknown_runs:
        return text
    return f"at least {text}" if value else UNKNOWN


def reserved(view: BudgetView) -> str:
    """Return what is set aside for runs; empty where that is nothing."""
    return ", ".join(amount(figure.reserved, figure.unit) for figure in figures(view) if figure.reserved)


def left(view: BudgetView) -> str:
    """Return what is neither spent nor reserved."""
    return ", ".join(amount(figure.left, figure.unit) for figure in figures(view))


def rules(view: BudgetView) -> str:
    """Return the period of a budget and what it is divided by: `per day, by submitter`."""
    return ", ".join(f"{word} {value}" for word, value in (("per", view.per), ("by", view.by)) if value)


def forecast(view: BudgetView, figure: Figure, now: datetime) -> float | None:
    """Return what will be spent at the end of the period if the spending goes on as so far; None if unknown.

    The forecast is linear in the elapsed time. Early in a period it is None.
    """
    if view.since is None or view.until is None or view.until <= view.since:
        return None
    elapsed = (now - view.since) / (view.until - view.since)
    return None if elapsed < _FORECAST_FROM else figure.spent / min(1.0, elapsed)


def forecast_of(view: BudgetView, figure: Figure, now: datetime) -> str:
    """Return the forecast for a figure as text; empty without one."""
    expected = forecast(view, figure, now)
    return "" if expected is None else _at_least(expected, view, figure)


def forecasts(view: BudgetView, now: datetime) -> str:
    """Return the forecast for each figure of a budget; empty without one."""
    return ", ".join(filter(None, (forecast_of(view, figure, now) for figure in figures(view))))


def limit_figures(view: LimitView) -> str:
    """Return the figures of a rate limit that were set: `500 requests/min, at most 8 at a time`."""
    parts = [
        "" if view.requests_per_minute is None else f"{view.requests_per_minute:,g} requests/min",
        "" if view.tokens_per_minute is None else f"{view.tokens_per_minute:,g} tokens/min",
        "" if view.concurrent is None else f"at most {view.concurrent:,} at a time",
    ]
    return ", ".join(part for part in parts if part)


def limit_left(view: LimitView) -> str:
    """Return what the figures of a rate limit allow at the moment; empty where they say nothing."""
    parts = [
        "" if view.requests_left is None else amount(view.requests_left, "runs").replace("run", "request"),
        "" if view.tokens_left is None else amount(view.tokens_left, "tokens"),
    ]
    return ", ".join(part for part in parts if part)


def running(view: LimitView) -> str:
    """Return the runs of a rate limit, of how many that are allowed at the moment."""
    return f"{view.running}" if view.allowed is None else f"{view.running} of {view.allowed}"


def until(view: LimitView) -> str:
    """Return when a limit opens; `unknown` for a closed one without a time, empty for an open one."""
    if view.until is not None:
        return moment(view.until)
    return UNKNOWN if view.state == "closed" else ""


def task_budget(budget: Mapping[str, Any]) -> str:
    """Return the budget of a task with what its whole tree has spent: `0.12 USD of 0.50 USD; fail when empty`."""
    parts = []
    if budget.get("usd") is not None:
        parts.append(f"{dollars(budget.get('spent_usd'))} of {dollars(budget['usd'])}")
    if budget.get("tokens") is not None:
        used, most = budget.get("spent_tokens"), budget["tokens"]
        parts.append(f"{UNKNOWN if used is None else f'{used:,}'} of {most:,} tokens")
    when_empty = budget.get("on_empty")
    return ", ".join(parts) + (f"; {when_empty} when empty" if when_empty else "")
