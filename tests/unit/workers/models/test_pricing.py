"""The cost of a usage at a price that a person gave."""

import pytest

from broker.protocol.worker_reports import ModelUsage, Price, Usage
from workers.models.pricing import FREE, cost_of, highest, with_cost

PRICE = Price(input=2.0, output=10.0, cached_input=0.5, cache_write=4.0)


def test_each_kind_of_token_has_its_price() -> None:
    usage = ModelUsage(input_tokens=1_000_000, cached_tokens=400_000, cache_write_tokens=100_000, output_tokens=200_000)
    assert cost_of(usage, PRICE) == pytest.approx(500_000 * 2e-6 + 400_000 * 0.5e-6 + 100_000 * 4e-6 + 200_000 * 10e-6)


def test_cached_input_costs_as_much_as_other_input_without_a_price_of_its_own() -> None:
    usage = ModelUsage(input_tokens=1_000_000, cached_tokens=400_000, output_tokens=0)
    assert cost_of(usage, Price(input=2.0, output=10.0)) == pytest.approx(2.0)


@pytest.mark.parametrize("usage", [ModelUsage(), ModelUsage(input_tokens=3), ModelUsage(output_tokens=3)])
def test_the_cost_of_unknown_tokens_is_unknown_unless_nothing_costs_anything(usage: ModelUsage) -> None:
    assert cost_of(usage, PRICE) is None
    assert cost_of(usage, FREE) == 0


def test_a_cost_that_is_known_stays() -> None:
    usage = Usage(input_tokens=1_000_000, output_tokens=0, cost_usd=0.25)
    assert with_cost(usage, PRICE) == usage
    assert with_cost(usage, None) == usage


def test_a_usage_without_a_cost_gets_one() -> None:
    usage = with_cost(Usage(input_tokens=1_000_000, output_tokens=0), PRICE)
    assert usage is not None
    assert usage.cost_usd == pytest.approx(2.0)


def test_only_a_free_llm_is_known_to_cost_nothing_without_a_usage() -> None:
    assert with_cost(None, PRICE) is None
    assert with_cost(None, FREE) == Usage(cost_usd=0.0)


def test_several_models_cost_as_much_as_the_dearest_and_an_unknown_price_makes_theirs_unknown() -> None:
    cheap = Price(input=3.0, output=1.0)
    assert highest([PRICE, cheap]) == Price(input=3.0, output=10.0, cached_input=3.0, cache_write=4.0)
    assert highest([PRICE]) == PRICE
    assert highest([PRICE, None]) is None
    assert highest([]) is None
