"""The policy `cheapest-in-time`: what a task costs decides, as long as it is in time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.protocol.worker_reports import Price
from coordinator.core.llms.cost import expected_cost
from coordinator.core.llms.llm import LLM
from coordinator.core.llms.properties import Properties
from coordinator.policy_loader import load_policy
from tests.support.core_driver import Core
from tests.support.core_events import assignments, claimed, completed, seen, submitted
from tests.support.thoroughness import examples


def price(dollars: float) -> Price:
    """So much for each million tokens."""
    return Price(input=dollars, output=dollars)


def pool(**llms: tuple[float | None, float]) -> Core:
    """LLMs with one slot: what each costs (None: unknown), and how many seconds a task takes there."""
    core = Core(policy=load_policy("cheapest-in-time"))
    for name, (dollars, duration) in llms.items():
        core.handle(seen(name, price=None if dollars is None else price(dollars)))
        for number in range(3):
            task_id = f"{name}-{number}"
            core.handle(submitted(task_id, assignee=name))
            core.handle(claimed(task_id, llm=name), completed(task_id, llm=name, duration=duration))
    return core


def test_the_expected_cost_is_the_price_of_the_text_and_of_a_usual_answer() -> None:
    core = Core()
    core.handle(submitted("t", description="x" * 3_500))
    llm = LLM("ada", properties=Properties(price=Price(input=2.0, output=8.0)))
    assert expected_cost(llm, core.task("t")) == (1_000 * 2 + 572 * 8) * 1_000
    assert expected_cost(LLM("ben"), core.task("t")) is None


def test_without_a_due_date_the_cheapest_llm_gets_the_task() -> None:
    core = pool(cheap=(1.0, 60.0), dear=(9.0, 2.0))
    assert assignments(core.handle(submitted("t"))) == [("t", 1, "cheap")]
    assert core.task("t").why == "cheap: the cheapest ($0.0006 expected), expected finish in 60 s"


def test_the_cheapest_that_is_in_time_gets_a_task_with_a_due_date() -> None:
    core = pool(cheap=(1.0, 60.0), dear=(9.0, 2.0), dearest=(20.0, 1.0))
    assert assignments(core.handle(submitted("t", due=30))) == [("t", 1, "dear")]
    assert core.task("t").why == "dear: the cheapest in time ($0.0052 expected), expected finish in 2.0 s, due in 30 s"


def test_a_task_waits_for_a_cheaper_llm_while_that_is_in_time() -> None:
    core = pool(cheap=(1.0, 10.0), dear=(9.0, 2.0))
    core.handle(submitted("busy"))
    core.handle(claimed("busy", llm="cheap"))
    assert assignments(core.handle(submitted("t", due=60))) == []
    assert (core.task("t").why or "").startswith("waits for cheap: the cheapest in time")
    assert assignments(core.handle(seen("cheap", price=price(1.0), tasks=[("busy", 1)]), seen("dear"), at=5)) == []
    core.handle(completed("busy", llm="cheap", duration=10.0), at=9)
    assert core.task("t").llm == "cheap"


def test_a_task_goes_to_a_dearer_llm_when_the_cheaper_one_keeps_it_waiting_for_too_long() -> None:
    core = pool(cheap=(1.0, 10.0), dear=(9.0, 2.0))
    core.handle(submitted("busy"))
    core.handle(claimed("busy", llm="cheap"))
    core.handle(submitted("t", due=60))
    for at in range(5, 60, 5):
        here = [seen("cheap", price=price(1.0), tasks=[("busy", 1)]), seen("dear", price=price(9.0))]
        if assignments(core.handle(*here, at=at)) == [("t", 1, "dear")]:
            return
    pytest.fail("the task is late")


def test_tasks_that_wait_for_the_same_llm_wait_one_after_the_other() -> None:
    core = pool(cheap=(1.0, 10.0), dear=(9.0, 2.0))
    core.handle(submitted("busy"))
    core.handle(claimed("busy", llm="cheap"))
    assert assignments(core.handle(submitted("t", due=30), submitted("u", due=31))) == [("u", 1, "dear")]


def test_an_unknown_price_counts_as_the_highest() -> None:
    core = pool(unknown=(None, 1.0), dear=(99.0, 60.0))
    assert assignments(core.handle(submitted("t"))) == [("t", 1, "dear")]


def test_among_equal_costs_the_earliest_finish_counts() -> None:
    core = pool(slow=(1.0, 30.0), quick=(1.0, 3.0))
    assert assignments(core.handle(submitted("t"), submitted("u"), submitted("v"))) == [("t", 1, "quick")]
    core = pool(slow=(None, 30.0), quick=(None, 3.0))
    assert assignments(core.handle(submitted("t", due=60))) == [("t", 1, "quick")]


def test_a_task_that_no_llm_finishes_in_time_goes_where_it_is_done_first() -> None:
    core = pool(cheap=(1.0, 60.0), dear=(9.0, 20.0))
    assert assignments(core.handle(submitted("t", due=5))) == [("t", 1, "dear")]
    assert "no LLM is expected to be in time" in (core.task("t").why or "")


@settings(max_examples=examples(50), deadline=None)
@given(
    prices=st.lists(st.none() | st.integers(0, 5), min_size=1, max_size=4),
    dues=st.lists(st.none() | st.integers(1, 100), max_size=8),
)
def test_every_task_is_done_whatever_the_prices(prices: list[int | None], dues: list[int | None]) -> None:
    core = pool(**{f"llm{number}": (dollars, 4.0 * number + 1) for number, dollars in enumerate(prices)})
    core.handle(*(submitted(f"t{number}", due=due) for number, due in enumerate(dues)))
    while work := core.database.in_hand():
        core.handle(*(claimed(task.id, task.attempt, llm=task.llm or "") for task in work))
        core.handle(*(completed(task.id, task.attempt, llm=task.llm or "") for task in work), at=core.at + 1)
    assert all(task.status == "completed" for task in core.database.tasks.values())
