"""Budgets with real processes. The judge is the ledger of the LLM, which knows what it billed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.amqp import Amqp
from tests.support.paid_llm import PaidLLM
from tests.support.processes import until
from tests.support.rabbitmq import NodeInfo
from tests.support.site import Site, site_on

EAGER = {"FLUFFLE_LEASE": "5", "FLUFFLE_LEADER_LEASE": "1"}
PRICE = {"input": 1.0, "output": 4.0}  # US dollars per million tokens
CENT = 10_000_000  # nanodollars


@pytest.fixture
def site(rabbitmq: NodeInfo, tmp_path: Path) -> Iterator[Site]:
    """A site whose coordinators take over soon."""
    with site_on(rabbitmq, tmp_path, env=EAGER) as site:
        yield site


def paid(site: Site, client: Amqp, **fields: Any) -> PaidLLM:
    llm = PaidLLM(site, client, "paid", PRICE, **fields)
    llm.begin()
    until(lambda: site.select("select 1 from llms where properties like '%price%'"), "the coordinator knows the price")
    return llm


def status(site: Site, task_id: str) -> str | None:
    rows = site.select(f"select status from tasks where id = '{task_id}'")
    return str(rows[0][0]) if rows else None


def spent(site: Site, name: str) -> int:
    rows = site.select(f"select spent_nanos from budget_accounts where name = '{name}'")
    return sum(row[0] for row in rows)


def reserved(site: Site) -> list[Any]:
    return site.select("select id from tasks where reserved_nanos is not null or reserved_tokens is not null")


def test_a_run_that_would_cost_5_dollars_11_is_stopped_at_50_cents(site: Site, client: Amqp) -> None:
    site.coordinator()
    llm = paid(site, client, step=5 * CENT)
    events = client.queue(("fluffle.events", "budget.#"))
    client.submit({"id": "t", "description": "expensive", "budget": {"usd": 0.5}})
    until(llm.take_work, "the task is assigned")
    steps = 0
    while llm.runs:
        llm.work(until_steps=103)  # $5.11 and a little
        steps += 1

        def handled(steps: int = steps) -> bool:
            llm.obey()
            return not llm.runs or bool(site.select(f"select 1 from tasks where input_tokens = {steps * 1000}"))

        until(handled, "the coordinator has handled the report")
    assert llm.stopped == ["the budget of the task t is used up"]
    assert llm.ledger <= 50 * CENT + llm.step
    until(lambda: status(site, "t") == "failed", "the task has failed")
    assert [row[0] for row in site.select("select error_type from tasks")] == ["budget_exceeded"]
    until(lambda: spent(site, "task:t") == llm.ledger, "what it used until it stopped is charged, too")
    assert reserved(site) == []
    assert [client.take(events).routing_key for _ in range(2)] == ["budget.warning.task:t", "budget.empty.task:t"]


def test_five_concurrent_attempts_of_30_cents_keep_within_45(site: Site, client: Amqp) -> None:
    site.coordinator()
    llm = paid(site, client, step=30 * CENT)
    client.publish("fluffle.tasks", "manage_budget", {"budget": "team", "usd": 0.45})
    until(lambda: site.select("select 1 from budgets"), "the budget is set")
    text = "x" * 1_000_000  # 250,000 tokens, at $1 for a million
    for number in range(5):
        client.submit({"id": f"t{number}", "description": "large", "inputs": {"text": text}})
    until(lambda: len(site.select("select 1 from tasks where status <> 'pending'")) == 5, "each is assigned or waits")
    until(llm.take_work, "one is assigned")
    llm.work(until_steps=1)
    until(lambda: spent(site, "team") == llm.ledger, "it is settled")
    client.submit({"id": "free", "description": "free", "skills": ["unheard-of"]})
    until(lambda: status(site, "free") == "pending", "the coordinator has gone on")
    assert llm.take_work() == []
    assert llm.ledger == 30 * CENT
    waiting = site.select("select waits_for, status from tasks where waits_for is not null")
    assert [tuple(row) for row in waiting] == [("team", "blocked")] * 4
    client.publish("fluffle.tasks", "manage_budget", {"budget": "team", "raise_usd": 10.0})

    def all_have_run() -> bool:
        llm.take_work()
        llm.work(until_steps=1)
        return llm.ledger == 150 * CENT

    until(all_have_run, "all have run")
    until(lambda: spent(site, "team") == llm.ledger, "all is settled")
    assert reserved(site) == []


@pytest.mark.parametrize("crash", ["before-commit:8", "after-commit:8", "before-commit:13", "after-commit:13"])
def test_a_coordinator_that_is_killed_between_reserve_and_settle_leaves_the_books_right(
    site: Site, client: Amqp, crash: str
) -> None:
    first = site.coordinator(env={"FLUFFLE_CRASH_AT": crash})
    site.coordinator(until=None)
    llm = paid(site, client, step=2 * CENT)
    client.publish("fluffle.tasks", "manage_budget", {"budget": "team", "usd": 100.0})
    for number in range(12):
        client.submit({"id": f"t{number}", "description": "work", "max_attempts": 100})

    def all_done() -> bool:
        llm.obey()
        llm.take_work()
        llm.work(until_steps=3)
        llm.beat()
        return len(site.select("select 1 from tasks where status = 'completed'")) == 12

    until(all_done, "all tasks are completed", within=60)
    until(lambda: not first.alive, "the first coordinator was killed")
    assert reserved(site) == []
    charged = site.select("select sum(charged_nanos), sum(cost_nanos), count(*) from attempts")[0]
    assert tuple(charged) == (llm.ledger, llm.ledger, 12)
    assert spent(site, "team") == llm.ledger
