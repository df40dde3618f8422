"""Amounts, budgets, limits and the health of LLMs as text."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broker.protocol.spending import BudgetView, LimitView
from broker.protocol.status import Status
from broker.protocol.views import HealthView, LLMView, PriceView, TaskView
from broker.protocol.worker_reports import Usage
from fluffle.presentation import llm_text, spending_text
from fluffle.presentation.amounts import amount, dollars
from fluffle.presentation.task_text import usage_text, waiting_for

T0 = datetime(2026, 12, 1, tzinfo=UTC)


def budget(**fields: Any) -> BudgetView:
    return BudgetView(name="team", **fields)


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (None, "unknown"),
        (0.0, "0.00 USD"),
        (0.00001, "less than 0.0001 USD"),
        (0.0123, "0.0123 USD"),
        (0.5, "0.50 USD"),
        (0.99999, "1.00 USD"),
        (1234.567, "1,234.57 USD"),
    ],
)
def test_dollars_are_never_rounded_to_nothing_and_unknown_is_called_unknown(usd: float | None, text: str) -> None:
    assert dollars(usd) == text


def test_amounts_have_their_units() -> None:
    assert [amount(1, "runs"), amount(2, "runs"), amount(1_200, "tokens"), amount(None, "tokens")] == [
        "1 run",
        "2 runs",
        "1,200 tokens",
        "unknown tokens",
    ]


def test_a_budget_has_a_line_for_each_figure() -> None:
    view = budget(usd=5.0, tokens=1000, spent_usd=1.0, spent_tokens=100, reserved_tokens=50, left_usd=4.0)
    assert spending_text.spent(view) == "1.00 USD of 5.00 USD, 100 tokens of 1,000 tokens"
    assert spending_text.reserved(view) == "50 tokens"
    assert spending_text.left(view) == "4.00 USD, 850 tokens"


def test_runs_of_unknown_cost_are_named_beside_what_is_known() -> None:
    assert spending_text.spent(budget(usd=5.0, spent_usd=1.0, unknown_runs=1)) == (
        "at least 1.00 USD of 5.00 USD, 1 run of unknown cost"
    )


def test_a_forecast_is_linear_and_absent_early_in_the_period_or_without_one() -> None:
    day = budget(usd=5.0, spent_usd=1.0, since=T0, until=T0 + timedelta(days=1))
    [figure] = spending_text.figures(day)
    assert spending_text.forecast(day, figure, T0 + timedelta(hours=6)) == pytest.approx(4.0)
    assert spending_text.forecast(day, figure, T0 + timedelta(minutes=5)) is None
    assert spending_text.forecast(budget(usd=5.0), figure, T0) is None
    assert spending_text.forecasts(day, T0 + timedelta(hours=6)) == "4.00 USD"


def test_a_closed_limit_without_a_time_opens_at_an_unknown_time() -> None:
    assert spending_text.until(LimitView(name="x", state="closed")) == "unknown"
    assert spending_text.until(LimitView(name="x", state="open")) == ""


def test_an_llm_that_did_nothing_has_no_cost_and_one_that_worked_for_an_unknown_price_an_unknown_one() -> None:
    assert llm_text.cost(HealthView()) == ""
    assert llm_text.cost(HealthView(completed=1)) == "unknown"
    assert llm_text.cost(HealthView(completed=1, cost_usd=0.0)) == "0.00 USD"


def test_a_price_is_free_known_or_unknown() -> None:
    assert llm_text.price(None) == "unknown"
    assert llm_text.price(PriceView(input=0, output=0)) == "free"
    assert llm_text.price(PriceView(input=3, output=15, cached_input=0.3)) == (
        "3 USD in, 0.3 USD cached in, 15 USD out, per million tokens"
    )


def test_a_healthy_llm_that_gets_no_tasks_says_why() -> None:
    waiting = LLMView(name="vega", state="online", why_not="closed until 14:32:10 (openai-main: 429)")
    assert llm_text.trouble(waiting) == "closed until 14:32:10 (openai-main: 429)"
    assert llm_text.trouble(LLMView(name="vega", state="online")) == ""
    assert llm_text.health_word(LLMView(name="vega", state="offline")) == ""


@pytest.mark.parametrize(
    ("status", "waits", "text"),
    [
        (Status.PENDING, "closed until 14:32:10 (openai-main: 429)", "closed until 14:32:10 (openai-main: 429)"),
        (Status.PENDING, "for a free slot of atlas", "waiting for a free slot of atlas"),
        (Status.PENDING, None, "waiting for an LLM"),
        (Status.COMPLETED, "for a free slot of atlas", ""),
    ],
)
def test_a_task_waits_for_what_the_coordinator_says(status: Status, waits: str | None, text: str) -> None:
    view = TaskView(id="t", status=status, description="x", priority=4, submitted_at=T0, waits=waits)
    assert waiting_for(view) == text


def test_usage_without_a_cost_says_that_the_cost_is_unknown() -> None:
    assert usage_text(Usage(input_tokens=10, cached_tokens=4)) == "10 tokens in, 4 of them cached, cost unknown"
    assert usage_text(Usage(output_tokens=10, reasoning_tokens=7, cost_usd=0.00001)) == (
        "10 tokens out, 7 of them for reasoning, less than 0.0001 USD"
    )
    assert usage_text(Usage()) == ""


def test_the_budget_of_a_task_shows_what_its_tree_has_spent() -> None:
    assert spending_text.task_budget({"usd": 0.5, "spent_usd": None, "on_empty": "ask"}) == (
        "unknown of 0.50 USD; ask when empty"
    )
