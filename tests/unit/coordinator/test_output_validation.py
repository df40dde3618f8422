"""Results that are set aside: checked in turn, returned with a verdict, never lost."""

import asyncio
from typing import Any

import pytest

from broker.amqp.pika_connection import Delivery
from broker.protocol.messages import Failure, Goodbye, Result, Status, Submission
from broker.timestamps import EPOCH
from coordinator.core.events import Event, InstanceLeft, Reported
from coordinator.core.tasks.task import Task
from coordinator.inbound import output_validation as module
from coordinator.inbound.output_validation import OutputValidator, SetAside
from tests.unit.coordinator.test_buffer import Channel, message

SCHEMA: dict[str, Any] = {"properties": {"n": {"pattern": "x"}}}


class Slow:
    """Checks that end when the test says so."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.verdicts: asyncio.Queue[Failure | OSError | None] = asyncio.Queue()

    async def __call__(self, answer: Any, schema: Any, helpers: Any) -> Failure | None:
        self.asked.append(answer)
        verdict = await self.verdicts.get()
        if isinstance(verdict, OSError):
            raise verdict
        return verdict


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    checks = Slow()
    monkeypatch.setattr(module, "check_apart", checks)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0)
    return checks


def a_task(task_id: str, llm: str) -> Task:
    spec = Submission(description="x", output_schema=SCHEMA)
    task = Task(id=task_id, seq=1, spec=spec, priority=4, status=Status.IN_PROGRESS, submitted_at=EPOCH)
    task.llm, task.attempt = llm, 1
    return task


def answer(task_id: str, llm: str, channel: Channel) -> tuple[Event, Delivery]:
    result = Result(task_id=task_id, attempt=1, instance="i", outcome="completed", result=task_id)
    return Reported(llm, result), message(f"{llm}.result", f"{task_id}/1", by=channel)


def goodbye(llm: str, channel: Channel) -> tuple[Event, Delivery]:
    return InstanceLeft(Goodbye(name=llm, instance="i")), message(f"{llm}.goodbye", by=channel)


def take(answers: OutputValidator, *arrived: tuple[Event, Delivery]) -> list[SetAside]:
    """Process a batch of these events to its end."""
    tasks = {e.result.task_id: a_task(e.result.task_id, e.llm) for e, _ in arrived if isinstance(e, Reported)}
    _, _, aside = answers.in_batch([event for event, _ in arrived], [it for _, it in arrived], tasks)
    answers.set_aside(aside)
    answers.done([delivery for _, delivery in arrived])
    return aside


async def turn() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_result_returns_with_its_verdict_and_then_the_goodbye(slow: Slow) -> None:
    ready: list[Delivery] = []
    answers, channel = OutputValidator(ready.append), Channel()
    first, last = answer("a", "atlas", channel), goodbye("atlas", channel)
    assert [it.delivery for it in take(answers, first, last)] == [first[1], last[1]]
    slow.verdicts.put_nowait(Failure(type="output_schema", message="no"))
    await turn()
    assert ready == [first[1]]
    [event], _, aside = answers.in_batch([first[0]], [first[1]], {"a": a_task("a", "atlas")})
    assert not aside
    assert isinstance(event, Reported)
    assert (event.result.outcome, event.result.error) == ("failed", Failure(type="output_schema", message="no"))
    assert ready == [first[1]], "it is not done yet"
    answers.done([first[1]])
    assert ready == [first[1], last[1]]
    assert take(answers, last) == []


async def test_results_are_checked_one_at_a_time_for_each_llm(slow: Slow) -> None:
    answers, channel = OutputValidator(), Channel()
    take(answers, *(answer(name, "evil", channel) for name in "abc"), answer("d", "good", channel))
    await turn()
    assert slow.asked == ["a", "d"]
    answers.leave()


async def test_a_check_that_cannot_begin_is_tried_again(slow: Slow) -> None:
    ready: list[Delivery] = []
    answers, channel = OutputValidator(ready.append), Channel()
    take(answers, it := answer("a", "atlas", channel))
    slow.verdicts.put_nowait(OSError("too many open files"))
    slow.verdicts.put_nowait(None)
    await turn()
    assert slow.asked == ["a", "a"]
    assert ready == [it[1]]


async def test_too_many_results_behind_a_failed_check_are_refused(slow: Slow) -> None:
    ready: list[Delivery] = []
    answers, channel = OutputValidator(ready.append), Channel()
    row = [answer(f"t{n}", "evil", channel) for n in range(30)]
    take(answers, *row)
    slow.verdicts.put_nowait(Failure(type="output_schema", message="too slow", retryable=False))
    await turn()
    assert len(ready) == 30
    assert slow.asked == ["t0"]


async def test_leaving_requeues_the_results_being_checked(slow: Slow) -> None:
    answers, channel = OutputValidator(), Channel()
    take(answers, answer("a", "atlas", channel), goodbye("atlas", channel))
    await turn()
    answers.leave()
    await turn()
    assert channel.settled == [("requeue", 0), ("requeue", 0)]
    assert answers.being_checked() == []


async def test_results_of_a_closed_channel_are_forgotten(slow: Slow) -> None:
    ready: list[Delivery] = []
    answers, gone, channel = OutputValidator(ready.append), Channel(), Channel()
    take(answers, answer("a", "atlas", gone))
    gone.is_there = False
    assert answers.being_checked() == []
    last = goodbye("atlas", channel)
    assert take(answers, last) == [], "it waits for nothing"
    slow.verdicts.put_nowait(None)
    await turn()
    assert ready == []
