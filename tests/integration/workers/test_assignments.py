"""A worker reports its presence, and takes assignments."""

import asyncio

import pytest

from broker.amqp.robust_connection import RobustConnection
from broker.errors import ConfigurationError
from broker.protocol.topology import REJECTED, work_queue
from broker.protocol.worker_reports import RunningTask, Usage
from tests.support.fake_coordinator import WITHIN, StandIn
from tests.support.proxy import PUBLISHER, Proxy
from tests.support.worker_harness import Scripted, Workers, for_ever, until
from workers.models.base import Answer, Job, TextCallback

# -- presence ------------------------------------------------------------------------------------------------------


async def test_a_worker_reports_its_presence_and_then_its_running_tasks(
    workers: Workers, coordinator: StandIn, llm: Scripted, name: str
) -> None:
    release = llm.waits("t-1")
    options = {"slots": 3, "skills": {"python": 0.9}, "description": "writes Python", "lease": 1}
    async with workers.one(**options) as worker:
        hello = await coordinator.next("hello")
        assert (hello.name, hello.instance, hello.model, hello.slots) == (name, worker.instance, "scripted", 3)
        assert (hello.skills, hello.description, hello.tasks) == ({"python": 0.9}, "writes Python", [])
        await coordinator.assign("t-1")
        await coordinator.next("beat", tasks=[RunningTask(task_id="t-1", attempt=1)])
        release.set()
        await coordinator.next("result")
        await coordinator.until(lambda: coordinator.heard[-1][0] == "beat" and not coordinator.heard[-1][1].tasks)


async def test_every_start_of_a_worker_has_a_separate_instance_id(workers: Workers) -> None:
    assert workers.make().instance != workers.make().instance


def test_an_invalid_name_skill_or_number_of_slots_is_a_configuration_error(workers: Workers) -> None:
    for wrong in ({"name": "Atlas"}, {"skills": {"py": 2.0}}, {"slots": 0}):
        with pytest.raises(ConfigurationError):
            workers.make(**wrong)


# -- the way of an assignment --------------------------------------------------------------------------------------


async def test_an_assignment_is_claimed_then_done_then_reported(
    workers: Workers, coordinator: StandIn, llm: Scripted
) -> None:
    async def answer(job: Job, progress: TextCallback) -> Answer:
        return Answer({"words": 2, "none": None}, Usage(input_tokens=10, output_tokens=2, cost_usd=0.01))

    llm.plays("t-1", answer)
    async with workers.one(instructions="Be brief.", timeout=60) as worker:
        await coordinator.assign(
            "t-1",
            "Count the words",
            inputs={"text": "two words"},
            skills=["count"],
            metadata={"for": "ana"},
            output_schema={"type": "object"},
        )
        result = await coordinator.next("result")
    assert [kind for kind, _ in coordinator.heard if kind in ("claim", "result")] == ["claim", "result"]
    claim = coordinator.all("claim")[0]
    assert (claim.task_id, claim.attempt, claim.instance) == ("t-1", 1, worker.instance)
    assert (result.task_id, result.attempt, result.instance) == ("t-1", 1, worker.instance)
    assert (result.outcome, result.result) == ("completed", {"words": 2, "none": None})
    assert result.usage == Usage(input_tokens=10, output_tokens=2, cost_usd=0.01)
    assert result.started_at <= result.finished_at
    assert 0 <= result.duration < WITHIN
    [job] = llm.jobs
    assert (job.description, job.inputs, job.instructions) == ("Count the words", {"text": "two words"}, "Be brief.")
    assert (job.timeout, job.skills, job.metadata) == (60, ("count",), {"for": "ana"})
    assert job.output_schema == {"type": "object"}


async def test_an_assignment_is_acknowledged_only_when_its_claim_is_confirmed(
    workers: Workers, coordinator: StandIn, llm: Scripted, proxy: Proxy
) -> None:
    async with workers.one(url=proxy.url) as first:
        proxy.pairs[PUBLISHER].hold_answers()
        await coordinator.assign("t-1", "hello")
        await coordinator.next("claim", instance=first.instance)
        assert llm.jobs == [], "nothing is done before the claim is confirmed"
        proxy.cut()
        async with workers.one() as second:
            result = await coordinator.next("result")
            assert (result.instance, result.result) == (second.instance, "hello")


async def test_a_claimed_assignment_is_acknowledged_before_it_is_done(
    workers: Workers, coordinator: StandIn, llm: Scripted, name: str
) -> None:
    llm.plays("t-1", for_ever)
    async with workers.one():
        await coordinator.assign("t-1")
        await coordinator.next("claim")
        await until(lambda: llm.running == 1)
    assert await coordinator.depth(work_queue(name)) == 0


async def test_no_more_tasks_run_at_once_than_there_are_slots(
    workers: Workers, coordinator: StandIn, llm: Scripted
) -> None:
    tasks = [f"t-{number}" for number in range(6)]
    events = {task_id: llm.waits(task_id) for task_id in tasks}
    async with workers.one(slots=2):
        for task_id in tasks:
            await coordinator.assign(task_id)
        for number, task_id in enumerate(tasks):
            await coordinator.next("claim", task_id=task_id)
            assert len(coordinator.all("claim")) <= number + 2
            events[task_id].set()
        await coordinator.until(lambda: len(coordinator.all("result")) == 6)
    assert llm.most_running == 2


async def test_a_worker_with_many_slots_does_many_tasks(workers: Workers, coordinator: StandIn) -> None:
    async with workers.one(slots=100):
        await asyncio.gather(*(coordinator.assign(f"t-{number}", str(number)) for number in range(1000)))
        await coordinator.until(lambda: len(coordinator.all("result")) == 1000)
        assert {result.result for result in coordinator.all("result")} == {str(number) for number in range(1000)}
        await until(lambda: workers.spooled() == [])


async def test_an_assignment_that_is_delivered_twice_is_done_once(
    workers: Workers, coordinator: StandIn, llm: Scripted, name: str
) -> None:
    release = llm.waits("t-1", "t-2")
    async with workers.one(slots=1) as worker:
        await coordinator.assign("t-1")
        await coordinator.next("claim", task_id="t-1")
        await coordinator.assign("t-1")  # comes again while it runs
        await coordinator.assign("t-2")  # waits for the slot
        release.set()
        await coordinator.next("result", task_id="t-2")
        await coordinator.assign("t-1")  # when it is done
        await coordinator.assign("t-1", attempt=2)  # another attempt is something else
        await coordinator.next("result", task_id="t-1", attempt=2)
        await coordinator.drain(worker.instance)
        await coordinator.next("goodbye")
    assert [(job.task_id, job.attempt) for job in llm.jobs] == [("t-1", 1), ("t-2", 1), ("t-1", 2)]
    assert len(coordinator.all("claim")) == len(coordinator.all("result")) == 3
    assert await coordinator.depth(work_queue(name)) == 0


async def test_an_assignment_that_is_delivered_twice_while_it_waits_is_acknowledged_twice(
    workers: Workers, coordinator: StandIn, llm: Scripted, name: str
) -> None:
    release = llm.waits("t-1")
    async with workers.one(slots=2) as worker:
        await coordinator.assign("t-1")
        await coordinator.assign("t-2")
        await coordinator.assign("t-2")
        await coordinator.assign("t-3")
        release.set()
        await coordinator.until(lambda: len(coordinator.all("result")) == 3)
        await coordinator.drain(worker.instance)
        await coordinator.next("goodbye")
    assert sorted(job.task_id for job in llm.jobs) == ["t-1", "t-2", "t-3"]
    assert await coordinator.depth(work_queue(name)) == 0


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff\xfe", b"{", b'{"task_id": "t-1"}', b"[" * 10_000],
    ids=["empty", "binary", "torn", "half", "deep"],
)
async def test_an_assignment_that_cannot_be_decoded_is_rejected_and_the_next_one_is_done(
    workers: Workers, coordinator: StandIn, amqp_url: str, body: bytes
) -> None:
    rejected: list[bytes] = []
    async with workers.one(), RobustConnection(amqp_url, name="rejected") as link:
        await link.consume(REJECTED, lambda delivery: rejected.append(delivery.body), prefetch=10)
        await coordinator.assign_raw(body)
        await coordinator.assign("t-1", "hello")
        assert (await coordinator.next("result")).result == "hello"
        await until(lambda: rejected == [body])
