import random

import pytest

from broker.protocol.worker_reports import Price, Usage
from coordinator.core.llms.cost_estimates import ASSUMED_OUTPUT_TOKENS, NANOS, CostEstimates, is_free, priced
from coordinator.core.llms.duration_estimates import DurationEstimates

PRICE = Price(input=2.0, output=8.0)


def test_before_a_run_the_price_and_the_size_are_reserved() -> None:
    costs = CostEstimates()
    assert costs.nanos_for(4000, PRICE) == 1000 * 2_000 + ASSUMED_OUTPUT_TOKENS * 8_000
    assert costs.tokens_for(4000) == 1000 + ASSUMED_OUTPUT_TOKENS


def test_an_unknown_price_is_neither_free_nor_known() -> None:
    assert CostEstimates().nanos_for(4000, None) is None
    assert not is_free(None)
    assert is_free(Price(input=0.0, output=0.0))
    assert CostEstimates().nanos_for(4000, Price(input=0.0, output=0.0)) == 0


def test_what_is_reserved_covers_about_nineteen_of_twenty_runs_and_at_least_the_mean() -> None:
    source, costs = random.Random(7), CostEstimates()
    runs = [source.lognormvariate(0, 0.8) * 0.01 for _ in range(3000)]
    for run in runs[:1500]:
        costs.learn(2000, Usage(cost_usd=run, input_tokens=round(run * 10**5)))
    covered = 0
    for run in runs[1500:]:
        reserved = costs.nanos_for(2000, PRICE)
        assert reserved is not None
        covered += run * NANOS <= reserved
        costs.learn(2000, Usage(cost_usd=run))
    assert 0.92 < covered / 1500 < 0.98
    assert (costs.nanos_for(2000, PRICE) or 0) >= costs.nanos.mean * 2000 - 1


def test_a_larger_task_reserves_in_proportion() -> None:
    costs = CostEstimates()
    costs.learn(2000, Usage(cost_usd=0.01, input_tokens=1000))
    assert costs.nanos_for(20_000, PRICE) == pytest.approx(10 * (costs.nanos_for(2000, PRICE) or 0), rel=1e-6)


def test_one_absurd_report_does_not_block_all_tasks_that_follow() -> None:
    costs = CostEstimates()
    for _ in range(20):
        costs.learn(2000, Usage(cost_usd=0.01, input_tokens=1000))
    costs.learn(2000, Usage(cost_usd=10**6, input_tokens=10**12))
    assert (costs.nanos_for(2000, PRICE) or 0) < 0.1 * NANOS
    assert costs.tokens_for(2000) < 10_000


def test_cached_tokens_have_their_own_price() -> None:
    usage = Usage(input_tokens=1000, cached_tokens=600, cache_write_tokens=100, output_tokens=10)
    price = Price(input=2.0, output=8.0, cached_input=0.5)
    assert priced(price, usage) == (300 * 2.0 + 600 * 0.5 + 100 * 2.0 + 10 * 8.0) * 1000


def test_what_is_learned_survives_and_may_be_absent() -> None:
    learned = DurationEstimates()
    learned.costs.learn(2000, Usage(cost_usd=0.01, input_tokens=1000))
    again = DurationEstimates.from_plain(learned.plain())
    assert again.costs == learned.costs
    earlier = {name: value for name, value in learned.plain().items() if name != "costs"}
    assert DurationEstimates.from_plain(earlier).costs == CostEstimates()
