"""The worker, with a real RabbitMQ; the test plays the coordinator."""

import asyncio
import logging
import os
import signal
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pika
import pytest

from broker.amqp.envelope import Outgoing
from broker.amqp.robust_connection import RobustConnection
from broker.errors import AccessRefused, ConfigurationError
from broker.protocol.primitives import MAX_BODY_BYTES
from broker.protocol.topology import REJECTED, SHARED, TASKS, work_queue
from broker.protocol.worker_reports import Result, RunningTask, Usage
from broker.settings import Settings
from tests.support.fake_coordinator import WITHIN, StandIn, stand_in
from tests.support.processes import Process, fluffle
from tests.support.proxy import CONSUMER, PUBLISHER, Proxy, proxy_to
from tests.support.rabbitmq import NodeInfo
from workers.execution.spool import Spool
from workers.models.base import Answer, Job, ModelError, Progress
from workers.tools.toolbox import Toolbox
from workers.worker import Worker


class Scripted:
    """An LLM that does what the test tells it for a task: by default it answers at once with the description."""

    model = "scripted"

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.running = 0
        self.most_running = 0
        self._plays: dict[str, Callable[[Job, Progress], Any]] = {}

    def plays(self, task_id: str, play: Callable[[Job, Progress], Any]) -> None:
        """For that task, await `play(job, progress)`; what it returns is the answer."""
        self._plays[task_id] = play

    def waits(self, *task_ids: str) -> asyncio.Event:
        """These tasks wait for the event; then they answer with "done"."""
        event = asyncio.Event()

        async def play(job: Job, progress: Progress) -> Answer:
            await event.wait()
            return Answer("done")

        for task_id in task_ids:
            self.plays(task_id, play)
        return event

    async def run(self, job: Job, progress: Progress, tools: Toolbox | None = None) -> Answer:
        self.jobs.append(job)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            if play := self._plays.get(job.task_id):
                answer = await play(job, progress)
                assert isinstance(answer, Answer)
                return answer
            return Answer(job.description)
        finally:
            self.running -= 1


async def for_ever(job: Job, progress: Progress) -> Answer:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.fixture
def name() -> str:
    return f"w{uuid.uuid4().hex[:8]}"


@pytest.fixture
def llm() -> Scripted:
    return Scripted()


@pytest.fixture
async def coordinator(amqp_url: str, name: str) -> AsyncIterator[StandIn]:
    async with stand_in(amqp_url, name) as it:
        yield it


@pytest.fixture
async def proxy(amqp_url: str) -> AsyncIterator[Proxy]:
    async with proxy_to(amqp_url) as proxy:
        yield proxy


class Workers:
    """Makes workers of one LLM that share a state folder."""

    def __init__(self, url: str, name: str, llm: Scripted, state_dir: Path) -> None:
        self._url = url
        self._name = name
        self._llm = llm
        self.state_dir = state_dir

    def make(
        self, *, url: str | None = None, lease: float = 15, max_body: int = MAX_BODY_BYTES, **options: Any
    ) -> Worker:
        settings = Settings(state_dir=self.state_dir, lease=lease, max_body=max_body)
        arguments: dict[str, Any] = {"name": self._name, "llm": self._llm} | options
        return Worker(settings, url=url or self._url, **arguments)

    @asynccontextmanager
    async def one(self, **options: Any) -> AsyncIterator[Worker]:
        """A worker that is ready; cancelled at the end if it has not left by itself."""
        async with at_work(self.make(**options)) as (worker, _):
            yield worker

    def spooled(self) -> list[bytes]:
        folder = self.state_dir / "spool" / self._name
        return [line for path in folder.glob("*.jsonl") for line in path.read_bytes().splitlines()]


@asynccontextmanager
async def at_work(worker: Worker) -> AsyncIterator[tuple[Worker, asyncio.Task[None]]]:
    """The worker, ready, and the task that runs it."""
    running = asyncio.create_task(worker.run())
    try:
        ready = asyncio.create_task(worker.ready.wait())
        await asyncio.wait([ready, running], timeout=WITHIN, return_when=asyncio.FIRST_COMPLETED)
        assert worker.ready.is_set(), "the worker did not get ready"
        yield worker, running
    finally:
        running.cancel()
        await asyncio.wait([running])


@pytest.fixture
def workers(amqp_url: str, name: str, llm: Scripted, tmp_path: Path) -> Workers:
    return Workers(amqp_url, name, llm, tmp_path)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


# -- presence ------------------------------------------------------------------------------------------------------


async def test_a_worker_says_who_it_is_and_goes_on_saying_what_it_does(
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


async def test_every_start_of_a_worker_is_an_instance_of_its_own(workers: Workers) -> None:
    assert workers.make().instance != workers.make().instance


def test_a_worker_with_an_impossible_name_skill_or_number_of_slots_is_refused(workers: Workers) -> None:
    for wrong in ({"name": "Atlas"}, {"skills": {"py": 2.0}}, {"slots": 0}):
        with pytest.raises(ConfigurationError):
            workers.make(**wrong)


# -- the way of an assignment --------------------------------------------------------------------------------------


async def test_an_assignment_is_claimed_then_done_then_reported(
    workers: Workers, coordinator: StandIn, llm: Scripted
) -> None:
    async def answer(job: Job, progress: Progress) -> Answer:
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


async def test_no_more_run_at_a_time_than_there_are_slots(
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


async def test_many_slots_carry_many_tasks(workers: Workers, coordinator: StandIn) -> None:
    async with workers.one(slots=100):
        await asyncio.gather(*(coordinator.assign(f"t-{number}", str(number)) for number in range(1000)))
        await coordinator.until(lambda: len(coordinator.all("result")) == 1000)
        assert {result.result for result in coordinator.all("result")} == {str(number) for number in range(1000)}
        await until(lambda: workers.spooled() == [])


async def test_an_assignment_that_comes_again_is_done_once(
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


async def test_an_assignment_that_comes_again_while_it_waits_is_acknowledged_with_the_first(
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
async def test_an_assignment_that_cannot_be_read_is_rejected_and_the_next_one_is_done(
    workers: Workers, coordinator: StandIn, amqp_url: str, body: bytes
) -> None:
    rejected: list[bytes] = []
    async with workers.one(), RobustConnection(amqp_url, name="rejected") as link:
        await link.consume(REJECTED, lambda delivery: rejected.append(delivery.body), prefetch=10)
        await coordinator.assign_raw(body)
        await coordinator.assign("t-1", "hello")
        assert (await coordinator.next("result")).result == "hello"
        await until(lambda: rejected == [body])


# -- how attempts end ----------------------------------------------------------------------------------------------


async def test_an_llm_that_cannot_do_it_is_a_failure_with_its_reason(
    workers: Workers, coordinator: StandIn, llm: Scripted
) -> None:
    async def refuse(job: Job, progress: Progress) -> Answer:
        raise ModelError("content_filter", "I will not", retryable=False)

    async def break_down(job: Job, progress: Progress) -> Answer:
        raise ZeroDivisionError("one by \udcff none")

    llm.plays("t-1", refuse)
    llm.plays("t-2", break_down)
    async with workers.one(slots=2):
        await coordinator.assign("t-1")
        await coordinator.assign("t-2")
        refused = await coordinator.next("result", task_id="t-1")
        broken = await coordinator.next("result", task_id="t-2")
    assert (refused.outcome, refused.error.type, refused.error.message) == ("failed", "content_filter", "I will not")
    assert not refused.error.retryable
    assert (broken.outcome, broken.error.type) == ("failed", "ZeroDivisionError")
    assert broken.error.message == "one by \ufffd none"
    assert broken.error.retryable


@pytest.mark.parametrize(("of_task", "of_worker"), [(0.05, None), (None, 0.05), (0.05, 60)])
async def test_an_answer_that_takes_too_long_is_a_failure_that_may_be_retried(
    workers: Workers, coordinator: StandIn, llm: Scripted, of_task: float | None, of_worker: float | None
) -> None:
    llm.plays("t-1", for_ever)
    async with workers.one(timeout=of_worker):
        await coordinator.assign("t-1", timeout=of_task)
        result = await coordinator.next("result")
        await until(lambda: llm.running == 0)
    assert (result.outcome, result.error.type, result.error.retryable) == ("failed", "timeout", True)
    assert result.duration >= 0.05


async def test_a_call_that_does_not_heed_its_cancellation_ends_all_the_same(
    workers: Workers, coordinator: StandIn, llm: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.execution.attempt.CANCEL_WITHIN", 0.05)
    release = asyncio.Event()

    async def stubborn(job: Job, progress: Progress) -> Answer:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                progress("not now")
        return Answer("too late")

    llm.plays("t-1", stubborn)
    async with workers.one():
        await coordinator.assign("t-1", timeout=0.05)
        result = await coordinator.next("result")
        release.set()
        await coordinator.assign("t-2", "next")
        assert (await coordinator.next("result", task_id="t-2")).result == "next"
    assert result.error.type == "timeout"
    assert len(coordinator.all("result", task_id="t-1")) == 1


async def test_a_task_that_is_stopped_is_cancelled_while_it_runs_and_while_it_waits(
    workers: Workers, coordinator: StandIn, llm: Scripted
) -> None:
    llm.plays("t-1", for_ever)
    async with workers.one() as worker:
        await coordinator.assign("t-1")
        await coordinator.next("claim", task_id="t-1")
        await coordinator.assign("t-2")
        await coordinator.delivered()
        await coordinator.control(worker.instance, b"not a control message")
        await coordinator.stop(worker.instance, "t-unknown")
        await coordinator.stop(worker.instance, "t-1", attempt=2)
        await coordinator.stop(worker.instance, "t-2")
        assert (await coordinator.next("result", task_id="t-2")).outcome == "cancelled"
        assert (llm.running, [job.task_id for job in llm.jobs]) == (1, ["t-1"])
        await coordinator.stop(worker.instance, "t-1")
        assert (await coordinator.next("result", task_id="t-1")).outcome == "cancelled"
        assert llm.running == 0
        await coordinator.assign("t-3", "and on")
        assert (await coordinator.next("result", task_id="t-3")).result == "and on"


async def test_a_waiting_task_that_is_stopped_makes_no_room_for_another(
    workers: Workers, coordinator: StandIn, llm: Scripted
) -> None:
    release = llm.waits("t-1", "t-2")
    async with workers.one(slots=2) as worker:
        for task_id in ("t-1", "t-2", "t-3", "t-4"):
            await coordinator.assign(task_id)
        await coordinator.delivered()
        await coordinator.stop(worker.instance, "t-3")
        assert (await coordinator.next("result", task_id="t-3")).outcome == "cancelled"
        release.set()
        await coordinator.next("result", task_id="t-4")
    order = [(kind, message.task_id) for kind, message in coordinator.heard if kind in ("claim", "result")]
    first_end = min(order.index(("result", "t-1")), order.index(("result", "t-2")))
    assert order.index(("claim", "t-4")) > first_end


async def test_a_result_over_the_limit_is_a_failure_that_says_so(
    workers: Workers, coordinator: StandIn, llm: Scripted
) -> None:
    async def verbose(job: Job, progress: Progress) -> Answer:
        return Answer("x" * 5000, Usage(output_tokens=1250))

    llm.plays("t-1", verbose)
    async with workers.one(max_body=4096):
        await coordinator.assign("t-1")
        result = await coordinator.next("result")
        await until(lambda: workers.spooled() == [])
    assert (result.outcome, result.error.type, result.error.retryable) == ("failed", "result_too_large", False)
    assert "the limit is 4,096" in result.error.message
    assert result.usage == Usage(output_tokens=1250)


@pytest.mark.parametrize("value", [float("nan"), {"a": {1, 2}}, b"bytes"])
async def test_an_answer_that_is_not_json_is_a_failure_that_says_so(
    workers: Workers, coordinator: StandIn, llm: Scripted, value: Any
) -> None:
    async def answer(job: Job, progress: Progress) -> Answer:
        return Answer(value)

    llm.plays("t-1", answer)
    async with workers.one():
        await coordinator.assign("t-1")
        result = await coordinator.next("result")
    assert (result.outcome, result.error.type, result.error.retryable) == ("failed", "not_json", False)


# -- progress ------------------------------------------------------------------------------------------------------


async def test_text_is_passed_on_as_it_comes_in_few_messages_and_whole(
    workers: Workers, coordinator: StandIn, llm: Scripted
) -> None:
    words = [f"word{number} " for number in range(200)]

    async def stream(job: Job, progress: Progress) -> Answer:
        for word in words:
            progress(word)
            await asyncio.sleep(0.003)
        return Answer("".join(words))

    llm.plays("t-1", stream)
    async with workers.one():
        await coordinator.assign("t-1")
        result = await coordinator.next("result")
    texts = [progress.text for progress in coordinator.all("progress", task_id="t-1")]
    assert "".join(texts) == "".join(words)
    assert 2 <= len(texts) <= result.duration * 10 + 1
    assert coordinator.heard[-1][0] in ("result", "beat"), "no text comes after the result"


async def test_a_quick_answer_sends_no_progress(workers: Workers, coordinator: StandIn, llm: Scripted) -> None:
    async def answer(job: Job, progress: Progress) -> Answer:
        progress("")
        progress("done")
        return Answer("done")

    llm.plays("t-1", answer)
    async with workers.one():
        await coordinator.assign("t-1")
        await coordinator.next("result")
    assert coordinator.all("progress") == []


# -- leaving -------------------------------------------------------------------------------------------------------


async def test_a_worker_that_is_drained_finishes_what_it_has_and_gives_back_the_rest(
    workers: Workers, coordinator: StandIn, llm: Scripted, name: str
) -> None:
    release = llm.waits("t-1")
    async with at_work(workers.make()) as (worker, running):
        await coordinator.assign("t-1")
        await coordinator.next("claim")
        await coordinator.assign("t-2")  # waits for the slot
        await coordinator.delivered()
        await coordinator.drain(worker.instance)
        leaving = await coordinator.next("beat", draining=True)
        assert leaving.tasks == [RunningTask(task_id="t-1", attempt=1)]
        await coordinator.assign("t-3")
        release.set()
        await asyncio.wait_for(running, WITHIN)
    kinds = [kind for kind, _ in coordinator.heard if kind != "beat"]
    assert kinds == ["hello", "claim", "result", "goodbye"]
    assert await coordinator.depth(work_queue(name)) == 2
    async with workers.one():  # whoever comes next does the rest
        await coordinator.next("result", task_id="t-2")
        await coordinator.next("result", task_id="t-3")


async def test_a_worker_that_is_stopped_reports_what_it_had_as_failed_and_leaves(
    workers: Workers, coordinator: StandIn, llm: Scripted
) -> None:
    llm.plays("t-1", for_ever)
    async with at_work(workers.make()) as (worker, running):
        await coordinator.assign("t-1")
        await until(lambda: llm.running == 1)
        worker.drain()
        worker.stop()
        await asyncio.wait_for(running, WITHIN)
    result = await coordinator.next("result")
    assert (result.outcome, result.error.type, result.error.retryable) == ("failed", "worker_stopped", True)
    assert coordinator.heard[-1][0] == "goodbye"
    assert llm.running == 0


async def test_a_worker_that_is_stopped_while_rabbitmq_is_away_leaves_its_results_on_disk(
    workers: Workers, coordinator: StandIn, llm: Scripted, proxy: Proxy
) -> None:
    release = llm.waits("t-1")
    async with at_work(workers.make(url=proxy.url)) as (worker, running):
        await coordinator.assign("t-1")
        await until(lambda: llm.running == 1)
        proxy.cut()
        release.set()
        await until(lambda: len(workers.spooled()) == 1)
        worker.stop()
        await asyncio.wait_for(running, WITHIN)
    async with workers.one():
        assert (await coordinator.next("result")).result == "done"


# -- when RabbitMQ is away -----------------------------------------------------------------------------------------


async def test_a_worker_that_starts_before_rabbitmq_says_that_it_waits_and_comes_up_by_itself(
    workers: Workers, coordinator: StandIn, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.cut()
    starting = asyncio.create_task(workers.make(url=proxy.url).run())
    await until(lambda: "waiting for RabbitMQ" in caplog.text)
    assert "Connection refused" in caplog.text
    await proxy.open()
    await coordinator.next("hello")
    starting.cancel()
    await asyncio.wait([starting])


async def test_a_worker_comes_up_on_a_rabbitmq_where_nothing_is_declared(workers: Workers, amqp_url: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        for exchange in SHARED.exchanges:
            connection.channel().exchange_delete(exchange.name)
    async with workers.one(), RobustConnection(amqp_url, name="look") as link:
        await link.publish(Outgoing(TASKS, "submit", b"{}"))


async def test_a_worker_that_is_drained_while_it_waits_for_rabbitmq_leaves(workers: Workers, proxy: Proxy) -> None:
    proxy.cut()
    worker = workers.make(url=proxy.url)
    running = asyncio.create_task(worker.run())
    await asyncio.sleep(0)
    worker.drain()
    await asyncio.wait_for(running, WITHIN)


async def test_a_worker_whose_user_is_refused_does_not_wait(workers: Workers, amqp_url: str) -> None:
    host = amqp_url.rpartition("@")[2]
    with pytest.raises(AccessRefused, match="refused the user"):
        await workers.make(url=f"amqp://nobody:wrong@{host}").run()


async def test_a_broken_connection_costs_no_work(
    workers: Workers, coordinator: StandIn, llm: Scripted, proxy: Proxy
) -> None:
    release = llm.waits("t-1")
    async with workers.one(url=proxy.url, slots=2) as worker:
        await coordinator.assign("t-1")
        await until(lambda: llm.running == 1)
        proxy.cut()
        release.set()
        await until(lambda: len(workers.spooled()) == 1)
        await proxy.open()
        assert (await coordinator.next("result")).result == "done"
        await coordinator.until(lambda: len(coordinator.all("hello", instance=worker.instance)) == 2)
        await coordinator.assign("t-2", "and on")
        assert (await coordinator.next("result", task_id="t-2")).result == "and on"
        await coordinator.stop(worker.instance, "t-none")  # the control queue is there again
        await until(lambda: workers.spooled() == [])
    assert [job.task_id for job in llm.jobs] == ["t-1", "t-2"]


async def test_a_connection_that_rabbitmq_believes_in_keeps_no_worker_away(
    workers: Workers, coordinator: StandIn, llm: Scripted, proxy: Proxy
) -> None:
    llm.plays("t-1", for_ever)
    async with workers.one(url=proxy.url) as worker:
        await coordinator.assign("t-1")
        await until(lambda: llm.running == 1)
        proxy.break_for_clients()
        await coordinator.until(lambda: len(coordinator.all("hello", instance=worker.instance)) == 2)
        await coordinator.stop(worker.instance, "t-1")
        assert (await coordinator.next("result")).outcome == "cancelled"


async def test_an_assignment_that_was_delivered_before_is_not_begun_when_its_claim_is_answered_with_a_stop(
    workers: Workers, coordinator: StandIn, llm: Scripted, proxy: Proxy, name: str
) -> None:
    async with workers.one(url=proxy.url, slots=2) as worker:
        proxy.pairs[CONSUMER].hold_answers()  # as for a connection that is dead and that RabbitMQ believes in
        await coordinator.assign("t-1")
        await coordinator.assign("t-2", "done")
        await coordinator.delivered()
        proxy.break_connections()
        await coordinator.next("claim", task_id="t-1")
        await coordinator.stop(worker.instance, "t-1")
        assert (await coordinator.next("result", task_id="t-1")).outcome == "cancelled"
        assert (await coordinator.next("result", task_id="t-2")).result == "done"
    assert [job.task_id for job in llm.jobs] == ["t-2"]


async def test_a_worker_beats_while_its_consuming_connection_is_away(
    workers: Workers, coordinator: StandIn, llm: Scripted, name: str, amqp_url: str
) -> None:
    def replace_queue() -> None:
        with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
            connection.channel().queue_delete(work_queue(name))
            connection.channel().queue_declare(work_queue(name))

    llm.plays("t-1", for_ever)
    async with workers.one(lease=1) as worker:
        await coordinator.assign("t-1")
        await until(lambda: llm.running == 1)
        await asyncio.to_thread(replace_queue)
        await until(lambda: not worker._link.connected)
        before = len(coordinator.all("beat"))
        await coordinator.until(lambda: len(coordinator.all("beat")) > before + 3)
        assert not worker._link.connected
        assert coordinator.all("beat")[-1].tasks == [RunningTask(task_id="t-1", attempt=1)]


async def test_a_hello_after_a_reconnect_names_what_is_still_in_hand(
    workers: Workers, coordinator: StandIn, llm: Scripted, proxy: Proxy
) -> None:
    llm.plays("t-1", for_ever)
    async with workers.one(url=proxy.url):
        await coordinator.assign("t-1")
        await until(lambda: llm.running == 1)
        proxy.break_connections()
        await coordinator.next("hello", tasks=[RunningTask(task_id="t-1", attempt=1)])


async def test_an_unclaimed_assignment_that_is_redelivered_after_a_reconnect_is_done_once(
    workers: Workers, coordinator: StandIn, llm: Scripted, proxy: Proxy, name: str
) -> None:
    release = llm.waits("t-1")
    async with workers.one(url=proxy.url) as worker:
        await coordinator.assign("t-1")
        await until(lambda: llm.running == 1)
        await coordinator.assign("t-2", "waited")
        await coordinator.delivered()
        proxy.pairs[CONSUMER].abort()
        await coordinator.until(lambda: len(coordinator.all("hello")) == 2)
        release.set()
        assert (await coordinator.next("result", task_id="t-2")).result == "waited"
        await coordinator.drain(worker.instance)
        await coordinator.next("goodbye")
    assert [job.task_id for job in llm.jobs] == ["t-1", "t-2"]
    assert await coordinator.depth(work_queue(name)) == 0


async def test_a_restart_of_rabbitmq_costs_no_work(
    rabbitmq: NodeInfo, workers: Workers, coordinator: StandIn, llm: Scripted
) -> None:
    if rabbitmq.node is None:
        pytest.skip("the broker is not ours to stop")
    release = llm.waits("t-1")
    async with workers.one(slots=2):
        await coordinator.assign("t-1")
        await until(lambda: llm.running == 1)
        await asyncio.to_thread(rabbitmq.node.stop)
        release.set()
        await until(lambda: len(workers.spooled()) == 1)
        await asyncio.to_thread(rabbitmq.node.start)
        assert (await coordinator.next("result")).result == "done"
        await coordinator.assign("t-2", "and on")
        assert (await coordinator.next("result", task_id="t-2")).result == "and on"


# -- results that RabbitMQ did not confirm -------------------------------------------------------------------------


async def test_results_left_by_a_dead_instance_are_sent_before_the_hello(
    workers: Workers, coordinator: StandIn, llm: Scripted, name: str
) -> None:
    left = Result(task_id="t-1", attempt=1, instance="dead-1", outcome="completed", result="paid for")
    torn = left.encode()[:-10]
    folder = workers.state_dir / "spool" / name
    folder.mkdir(parents=True)
    (folder / "dead-1-1.jsonl").write_bytes(left.encode() + b"\n" + torn)
    async with workers.one():
        assert await coordinator.next("result") == left
        await coordinator.next("hello")
        assert [kind for kind, _ in coordinator.heard] == ["result", "hello"]
        await until(lambda: workers.spooled() == [])
        assert not (folder / "dead-1-1.jsonl").exists()
        await coordinator.assign("t-1")  # its acknowledgement was lost with the instance
        await coordinator.assign("t-2", "next")
        await coordinator.next("result", task_id="t-2")
    assert [job.task_id for job in llm.jobs] == ["t-2"]


async def test_a_spooled_result_over_a_new_limit_is_a_failure_that_says_so(
    workers: Workers, coordinator: StandIn, name: str
) -> None:
    left = Result(task_id="t-1", attempt=1, instance="dead-1", outcome="completed", result="x" * 5000)
    async with asyncio.timeout(WITHIN):
        spool = Spool(workers.state_dir / "spool" / name, "dead-1")
        spool.add(left.encode())
        await spool.aclose()
    async with workers.one(max_body=4096):
        result = await coordinator.next("result")
        assert (result.instance, result.error.type) == ("dead-1", "result_too_large")
        await until(lambda: workers.spooled() == [])


async def test_a_result_that_rabbitmq_refuses_is_sent_again(
    workers: Workers, coordinator: StandIn, llm: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    release = llm.waits("t-1")
    async with workers.one():
        await coordinator.assign("t-1")
        await until(lambda: llm.running == 1)
        async with coordinator.deaf():
            release.set()
            await until(lambda: "did not take a result" in caplog.text)
            assert len(workers.spooled()) == 1
        assert (await coordinator.next("result")).result == "done"
        await until(lambda: workers.spooled() == [])


async def test_nothing_is_logged_about_what_a_task_says(
    workers: Workers, coordinator: StandIn, llm: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with workers.one():
        await coordinator.assign("t-1", "the secret of the sea", inputs={"text": "the secret of the sea"})
        await coordinator.next("result")
    assert "t-1" in {getattr(record, "task", None) for record in caplog.records}
    assert "secret" not in caplog.text


# -- as a process --------------------------------------------------------------------------------------------------


class Gate:
    """A worker process whose tasks are done when the test opens the gate."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "gate"

    def open(self) -> None:
        self._file.touch()

    def worker(self, name: str, *, url: str) -> AbstractContextManager[Process]:
        command = f"sh -c 'until [ -e \"$0\" ]; do sleep 0.01; done; echo done' {self._file}"
        return fluffle("worker", name, "--exec", command, url=url, state=self._folder)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


async def exit_code(process: Process) -> int:
    return await asyncio.to_thread(process.wait)


async def test_sigterm_drains_a_worker(
    coordinator: StandIn, gate: Gate, amqp_url: str, name: str, workers: Workers
) -> None:
    with gate.worker(name, url=amqp_url) as process:
        await coordinator.next("hello")
        await coordinator.assign("t-1")
        await coordinator.next("claim")
        process.terminate()
        await coordinator.next("beat", draining=True)
        await coordinator.assign("t-2")
        gate.open()
        assert await exit_code(process) == 0
    assert [kind for kind, _ in coordinator.heard if kind != "beat"] == ["hello", "claim", "result", "goodbye"]
    assert coordinator.all("result")[0].outcome == "completed"
    assert await coordinator.depth(work_queue(name)) == 1
    assert workers.spooled() == []
    assert "draining" in process.output


async def test_a_second_interrupt_stops_a_worker_at_once(
    coordinator: StandIn, gate: Gate, amqp_url: str, name: str
) -> None:
    with gate.worker(name, url=amqp_url) as process:
        await coordinator.next("hello")
        await coordinator.assign("t-1")
        await coordinator.next("claim")
        os.kill(process.pid, signal.SIGINT)
        await coordinator.next("beat", draining=True)
        os.kill(process.pid, signal.SIGINT)
        assert await exit_code(process) == 130
    assert (await coordinator.next("result")).error.type == "worker_stopped"
    assert coordinator.heard[-1][0] == "goodbye"


async def test_an_answer_survives_kill_9_before_rabbitmq_has_it(
    coordinator: StandIn, gate: Gate, amqp_url: str, proxy: Proxy, name: str, workers: Workers
) -> None:
    with gate.worker(name, url=proxy.url) as killed:
        await coordinator.next("hello")
        await coordinator.assign("t-1")
        claim = await coordinator.next("claim")
        proxy.pairs[PUBLISHER].hold_what_is_sent()
        gate.open()
        await until(lambda: len(workers.spooled()) == 1)
        killed.kill()
    proxy.cut()
    assert coordinator.all("result") == []
    with gate.worker(name, url=amqp_url) as successor:
        result = await coordinator.next("result")
        assert (result.task_id, result.outcome, result.instance) == ("t-1", "completed", claim.instance)
        await until(lambda: workers.spooled() == [])
        successor.terminate()
        assert await exit_code(successor) == 0
    assert [kind for kind, _ in coordinator.heard if kind == "claim"] == ["claim"], "it is not done again"


async def test_a_refused_user_is_one_clear_sentence(amqp_url: str, name: str, tmp_path: Path) -> None:
    url = f"amqp://nobody:wrong-password@{amqp_url.rpartition('@')[2]}"
    with fluffle("worker", name, "--model", "demo", url=url, state=tmp_path) as process:
        assert await exit_code(process) == 1
    assert process.output.startswith("Error: RabbitMQ at ")
    assert len(process.output.splitlines()) == 1
    assert "wrong-password" not in process.output
