"""How the attempts of a worker end, and the progress that it reports meanwhile."""

import asyncio
from typing import Any

import pytest

from broker.protocol.worker_reports import Usage
from tests.support.fake_coordinator import StandIn
from tests.support.worker_harness import Scripted, Workers, for_ever, until
from workers.models.base import Answer, Job, ModelError, TextCallback

# -- how attempts end ----------------------------------------------------------------------------------------------


async def test_an_error_of_the_llm_is_reported_as_a_failure(
    workers: Workers, coordinator: StandIn, llm: Scripted
) -> None:
    async def refuse(job: Job, progress: TextCallback) -> Answer:
        raise ModelError("content_filter", "I will not", retryable=False)

    async def break_down(job: Job, progress: TextCallback) -> Answer:
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
async def test_an_attempt_over_its_timeout_is_reported_as_a_retryable_failure(
    workers: Workers, coordinator: StandIn, llm: Scripted, of_task: float | None, of_worker: float | None
) -> None:
    llm.plays("t-1", for_ever)
    async with workers.one(timeout=of_worker):
        await coordinator.assign("t-1", timeout=of_task)
        result = await coordinator.next("result")
        await until(lambda: llm.running == 0)
    assert (result.outcome, result.error.type, result.error.retryable) == ("failed", "timeout", True)
    assert result.duration >= 0.05


async def test_an_attempt_ends_even_if_its_call_ignores_the_cancellation(
    workers: Workers, coordinator: StandIn, llm: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.execution.attempt.CANCEL_TIMEOUT_SECONDS", 0.05)
    release = asyncio.Event()

    async def stubborn(job: Job, progress: TextCallback) -> Answer:
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


async def test_a_stop_cancels_a_running_and_a_waiting_task(
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


async def test_a_stop_of_a_waiting_task_frees_no_slot(workers: Workers, coordinator: StandIn, llm: Scripted) -> None:
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


async def test_a_result_over_the_size_limit_is_reported_as_a_failure(
    workers: Workers, coordinator: StandIn, llm: Scripted
) -> None:
    async def verbose(job: Job, progress: TextCallback) -> Answer:
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
async def test_an_answer_that_is_not_json_is_reported_as_a_failure(
    workers: Workers, coordinator: StandIn, llm: Scripted, value: Any
) -> None:
    async def answer(job: Job, progress: TextCallback) -> Answer:
        return Answer(value)

    llm.plays("t-1", answer)
    async with workers.one():
        await coordinator.assign("t-1")
        result = await coordinator.next("result")
    assert (result.outcome, result.error.type, result.error.retryable) == ("failed", "not_json", False)


# -- progress ------------------------------------------------------------------------------------------------------


async def test_progress_is_reported_in_few_messages_without_loss(
    workers: Workers, coordinator: StandIn, llm: Scripted
) -> None:
    words = [f"word{number} " for number in range(200)]

    async def stream(job: Job, progress: TextCallback) -> Answer:
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
    async def answer(job: Job, progress: TextCallback) -> Answer:
        progress("")
        progress("done")
        return Answer("done")

    llm.plays("t-1", answer)
    async with workers.one():
        await coordinator.assign("t-1")
        await coordinator.next("result")
    assert coordinator.all("progress") == []
