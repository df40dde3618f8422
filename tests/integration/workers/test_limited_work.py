"""What the coordinator limits, and what a stopped attempt has used; the test plays the coordinator."""

import asyncio
from pathlib import Path

import pytest

from broker.protocol.assignments import Allowance, Slots
from broker.protocol.topology import work_queue
from broker.protocol.worker_reports import Price, Usage
from tests.support.fake_coordinator import WITHIN, StandIn
from tests.support.proxy import Proxy
from tests.support.worker_harness import Scripted, Workers, at_work, for_ever, until
from workers.models.base import Answer, Job, ModelError, TextCallback
from workers.worker import Worker

USED = Usage(input_tokens=100, output_tokens=10, cached_tokens=40, requests=2, cost_usd=0.5)


async def limit(coordinator: StandIn, worker: Worker, slots: int | None) -> None:
    await coordinator.control(worker.instance, Slots(slots=slots, reason="closed until 14:32").encode())


# -- slots ---------------------------------------------------------------------------------------------------------


async def test_with_no_slots_the_running_attempt_goes_on_and_what_waits_goes_back(
    workers: Workers, coordinator: StandIn, llm: Scripted, name: str
) -> None:
    release = llm.waits("t-1")
    async with workers.one() as worker:
        await coordinator.assign("t-1")
        await coordinator.next("claim")
        await coordinator.assign("t-2")  # waits for the slot
        await coordinator.delivered()
        await limit(coordinator, worker, 0)
        await until_depth(coordinator, name, 1)
        await coordinator.assign("t-3")
        release.set()
        assert (await coordinator.next("result", task_id="t-1")).outcome == "completed"
        await until_depth(coordinator, name, 2)
        assert [claim.task_id for claim in coordinator.all("claim")] == ["t-1"]
        await limit(coordinator, worker, None)
        await coordinator.next("result", task_id="t-2")
        await coordinator.next("result", task_id="t-3")


async def test_another_instance_does_what_an_instance_without_slots_gave_back(
    workers: Workers, coordinator: StandIn, llm: Scripted
) -> None:
    release = llm.waits("t-1")
    async with workers.one() as first:
        await coordinator.assign("t-1")
        await coordinator.next("claim")
        await coordinator.assign("t-2")
        await coordinator.delivered()
        async with workers.one() as second:
            await limit(coordinator, first, 0)
            result = await coordinator.next("result", task_id="t-2")
            assert result.instance == second.instance
            release.set()
            await coordinator.next("result", task_id="t-1")


async def test_an_instance_runs_at_most_as_many_attempts_as_it_has_slots_left(
    workers: Workers, coordinator: StandIn, llm: Scripted, name: str
) -> None:
    tasks = [f"t-{number}" for number in range(6)]
    release = llm.waits(*tasks)
    async with workers.one(slots=4) as worker:
        await limit(coordinator, worker, 2)
        for task in tasks:
            await coordinator.assign(task)
        await until(lambda: llm.running == 2)
        await until_depth(coordinator, name, 2)  # two run, and two more are at the worker
        assert llm.most_running == 2
        await limit(coordinator, worker, 3)
        await until(lambda: llm.running == 3)
        await limit(coordinator, worker, None)
        await until(lambda: llm.running == 4)
        release.set()
        for task in tasks:
            await coordinator.next("result", task_id=task)


async def test_orders_that_follow_each_other_at_once_end_with_the_last_one(
    workers: Workers, coordinator: StandIn, name: str
) -> None:
    async with workers.one() as worker:
        for slots in (0, None, 0, 1, 0, None, 0):
            await limit(coordinator, worker, slots)
        await coordinator.until(lambda: bool(coordinator.all("hello")))
        await until_consumers(coordinator, name, 0)
        await coordinator.assign("t-1")
        await until_depth(coordinator, name, 1)
        for slots in (None, 0, None):
            await limit(coordinator, worker, slots)
        await coordinator.next("result", task_id="t-1")


async def test_an_instance_without_slots_can_be_drained(workers: Workers, coordinator: StandIn, llm: Scripted) -> None:
    release = llm.waits("t-1")
    async with at_work(workers.make()) as (worker, running):
        await coordinator.assign("t-1")
        await coordinator.next("claim")
        await limit(coordinator, worker, 0)
        await coordinator.drain(worker.instance)
        await coordinator.next("beat", draining=True)
        await limit(coordinator, worker, None)
        await coordinator.assign("t-2")
        release.set()
        await asyncio.wait_for(running, WITHIN)
    assert [result.task_id for result in coordinator.all("result")] == ["t-1"]
    assert coordinator.heard[-1][0] == "goodbye"


async def test_after_a_reconnect_an_instance_takes_assignments_until_the_limit_is_repeated(
    workers: Workers, coordinator: StandIn, proxy: Proxy, name: str
) -> None:
    async with workers.one(url=proxy.url) as worker:
        await limit(coordinator, worker, 0)
        await until_consumers(coordinator, name, 0)
        proxy.break_connections()
        await coordinator.until(lambda: len(coordinator.all("hello")) == 2)
        await coordinator.assign("t-1")
        await coordinator.next("result", task_id="t-1")
        await limit(coordinator, worker, 0)
        await until_consumers(coordinator, name, 0)


async def until_depth(coordinator: StandIn, name: str, messages: int) -> None:
    async with asyncio.timeout(WITHIN):
        while await coordinator.depth(work_queue(name)) != messages:  # noqa: ASYNC110 - RabbitMQ has no event for it
            await asyncio.sleep(0.01)


async def until_consumers(coordinator: StandIn, name: str, number: int) -> None:
    async with asyncio.timeout(WITHIN):
        while await coordinator.consumers(work_queue(name)) != number:  # noqa: ASYNC110 - RabbitMQ has no event for it
            await asyncio.sleep(0.01)


# -- usage and failures --------------------------------------------------------------------------------------------


async def uses_and_waits(job: Job, progress: TextCallback) -> Answer:
    job.report_usage(USED)
    return await for_ever(job, progress)


async def test_what_an_attempt_uses_is_reported_while_it_runs(
    workers: Workers, coordinator: StandIn, llm: Scripted
) -> None:
    llm.plays("t-1", uses_and_waits)
    async with workers.one() as worker:
        await coordinator.assign("t-1")
        progress = await coordinator.next("progress", task_id="t-1")
        assert (progress.usage, progress.text) == (USED, None)
        await coordinator.stop(worker.instance, "t-1")
        result = await coordinator.next("result", task_id="t-1")
        assert (result.outcome, result.usage) == ("cancelled", USED)


async def test_an_attempt_that_takes_too_long_has_its_usage(
    workers: Workers, coordinator: StandIn, llm: Scripted
) -> None:
    llm.plays("t-1", uses_and_waits)
    async with workers.one():
        await coordinator.assign("t-1", timeout=0.2)
        result = await coordinator.next("result", task_id="t-1")
        assert (result.error.type, result.usage) == ("timeout", USED)


async def test_a_failure_says_what_the_provider_asked_for_and_whose_it_is(
    workers: Workers, coordinator: StandIn, llm: Scripted
) -> None:
    async def play(job: Job, progress: TextCallback) -> Answer:
        raise ModelError("rate_limited", "429", retryable=True, usage=USED, retry_after=12.5, fault="llm")

    llm.plays("t-1", play)
    async with workers.one():
        await coordinator.assign("t-1")
        result = await coordinator.next("result", task_id="t-1")
        assert (result.error.type, result.error.retry_after, result.error.fault) == ("rate_limited", 12.5, "llm")
        assert result.usage == USED


@pytest.mark.parametrize("retry_after", [-1.0, float("nan"), float("inf"), "soon"])
async def test_a_time_that_makes_no_sense_is_left_out_of_a_failure(
    workers: Workers, coordinator: StandIn, llm: Scripted, retry_after: float
) -> None:
    async def play(job: Job, progress: TextCallback) -> Answer:
        raise ModelError("rate_limited", "429", retryable=True, retry_after=retry_after)

    llm.plays("t-1", play)
    async with workers.one():
        await coordinator.assign("t-1")
        error = (await coordinator.next("result", task_id="t-1")).error
        assert (error.type, error.retry_after) == ("rate_limited", None)


async def test_a_full_disk_of_the_worker_is_the_fault_of_the_llm(
    workers: Workers, coordinator: StandIn, llm: Scripted
) -> None:
    async def play(job: Job, progress: TextCallback) -> Answer:
        Path("/dev/full").write_text("x")  # noqa: ASYNC240 - it fails at once
        raise AssertionError

    llm.plays("t-1", play)
    async with workers.one():
        await coordinator.assign("t-1")
        assert (await coordinator.next("result", task_id="t-1")).error.type == "disk_full"


async def test_an_llm_gets_its_allowance_and_its_answer_can_name_another_model(
    workers: Workers, coordinator: StandIn, llm: Scripted
) -> None:
    async def play(job: Job, progress: TextCallback) -> Answer:
        return Answer([job.budget.usd, job.budget.tokens] if job.budget else None, model="openai:gpt-6-luna")

    llm.plays("t-1", play)
    async with workers.one():
        await coordinator.assign("t-1", budget=Allowance(usd=0.5, tokens=900))
        result = await coordinator.next("result", task_id="t-1")
        assert (result.result, result.model) == ([0.5, 900], "openai:gpt-6-luna")


async def test_the_cost_of_an_llm_that_does_not_know_it_is_computed_from_the_given_price(
    workers: Workers, coordinator: StandIn, llm: Scripted
) -> None:
    async def play(job: Job, progress: TextCallback) -> Answer:
        return Answer("done", Usage(input_tokens=1_000_000, output_tokens=100_000))

    llm.plays("t-1", play)
    async with workers.one(price=Price(input=1.0, output=20.0)):
        assert (await coordinator.next("hello")).price == Price(input=1.0, output=20.0)
        await coordinator.assign("t-1")
        assert (await coordinator.next("result", task_id="t-1")).usage.cost_usd == pytest.approx(3.0)


async def test_a_free_llm_costs_nothing_known(workers: Workers, coordinator: StandIn) -> None:
    async with workers.one(price=Price(input=0.0, output=0.0)):
        await coordinator.assign("t-1")
        assert (await coordinator.next("result", task_id="t-1")).usage == Usage(cost_usd=0.0)


async def test_the_properties_of_an_llm_are_in_its_presence(workers: Workers, coordinator: StandIn) -> None:
    async with workers.one(
        limit="team",
        reserve=True,
        spill="busy",
        spill_after=90.0,
        context_window=8192,
        abilities=["tools"],
    ):
        hello = await coordinator.next("hello")
    assert (hello.limit, hello.reserve, hello.spill, hello.spill_after) == ("team", True, "busy", 90.0)
    assert (hello.context_window, hello.abilities, hello.price) == (8192, ["tools"], None)
