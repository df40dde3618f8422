"""Submissions, their results, and queries."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from broker.errors import (
    BrokerUnreachable,
    ConnectionClosed,
    MessageRejected,
    QueryRejected,
    TaskCancelled,
    TaskFailed,
    TaskRejected,
)
from broker.ids import uuid7
from broker.protocol.status import Status
from broker.protocol.task_requests import Submission
from fluffle.client.client import Client
from fluffle.client.handle import TaskHandle
from tests.support.client_waits import WITHIN, until_status

# -- submitting and results ----------------------------------------------------------------------------------------


async def test_a_submitted_task_returns_its_result(client: Client) -> None:
    task = await client.submit("anything", inputs={"answer": {"rabbits": 3}}, skills=["obey"], priority=7)
    assert await task.result(WITHIN) == {"rabbits": 3}
    assert (task.view.status, task.view.llm, task.view.priority) == (Status.COMPLETED, "obi", 7)


async def test_a_task_without_an_id_gets_one_that_contains_the_time(client: Client) -> None:
    task = await client.submit("anything", skills=["obey"])
    assert UUID(task.id).version == 7


async def test_a_second_submission_with_the_same_id_is_the_same_task(client: Client, url: str) -> None:
    task_id = uuid7()
    first = await client.submit("anything", id=task_id, skills=["obey"])
    await first.result(WITHIN)
    again = await client.submit("anything", id=task_id, skills=["obey"])
    async with Client(url) as other:
        elsewhere = await other.submit(Submission(id=task_id, description="anything", skills=["obey"]))
        assert await elsewhere.result(WITHIN) == "anything"
        with pytest.raises(TaskRejected, match="description: differs"):
            await other.submit(Submission(id=task_id, description="something else", skills=["obey"]))
    assert await again.result(WITHIN) == "anything"
    assert (await client.task(task_id)).attempt == 1


async def test_an_invalid_submission_is_rejected_with_the_path_of_every_error(client: Client) -> None:
    with pytest.raises(TaskRejected) as caught:
        await client.submit("", priority=11, labels=["Upper"])
    assert {problem.path for problem in caught.value.problems} == {"description", "priority", "labels.0"}


async def test_the_coordinator_rejects_mistakes_that_the_client_cannot_find(client: Client) -> None:
    one, other = uuid7(), uuid7()
    await client.submit("first", id=one, depends_on=[other])
    with pytest.raises(TaskRejected, match=f"depends_on: a cycle: .*{one}"):
        await client.submit("second", id=other, depends_on=[one])


async def test_a_failed_task_raises_its_reason(client: Client) -> None:
    task = await client.submit("anything", inputs={"fail": "no ink"}, skills=["obey"])
    with pytest.raises(TaskFailed, match=f"task {task.id} failed: broken: no ink"):
        await task.result(WITHIN)
    assert (await task.end()).status is Status.FAILED


async def test_a_cancelled_task_raises_task_cancelled(client: Client, tmp_path: Path) -> None:
    task = await client.submit("anything", inputs={"until": str(tmp_path / "never")}, skills=["obey"])
    await until_status(client, task.id, Status.IN_PROGRESS)
    assert (await client.cancel(task.id, "no longer needed")).status is Status.CANCELLED
    with pytest.raises(TaskCancelled):
        await task.result(WITHIN)
    assert any("no longer needed" in change.what for change in (await client.task(task.id)).history)
    with pytest.raises(TaskRejected, match="the task is already cancelled"):
        await client.cancel(task.id)


async def test_a_failed_task_can_be_retried(client: Client) -> None:
    task = await client.submit("anything", inputs={"fail": "no ink"}, skills=["obey"])
    await task.end(WITHIN)
    assert not (await client.retry(task.id)).status.is_final
    [view] = await client.wait(task.id, timeout=WITHIN)
    assert [attempt.outcome for attempt in view.attempts] == ["failed", "failed"]


async def test_a_wait_can_time_out_and_the_task_goes_on(client: Client, tmp_path: Path) -> None:
    task = await client.submit("anything", inputs={"until": str(tmp_path / "go"), "answer": 1}, skills=["obey"])
    with pytest.raises(TimeoutError, match=f"task {task.id} is .* after 0.05 s"):
        await task.result(0.05)
    with pytest.raises(TimeoutError):
        await client.wait(task.id, timeout=0.05)
    (tmp_path / "go").touch()
    assert await task.result(WITHIN) == 1


async def test_closing_the_client_ends_every_wait(url: str, tmp_path: Path) -> None:
    async with Client(url) as client:
        task = await client.submit("anything", inputs={"until": str(tmp_path / "go")}, skills=["obey"])
        waiting = asyncio.create_task(task.result())
        await asyncio.sleep(0)
    with pytest.raises(ConnectionClosed):
        await waiting
    (tmp_path / "go").touch()


async def test_an_unreachable_broker_is_an_error_at_once() -> None:
    with pytest.raises(BrokerUnreachable, match=r"127\.0\.0\.1:1 cannot be reached"):
        async with Client("amqp://guest:guest@127.0.0.1:1/"):
            pass


# -- many ----------------------------------------------------------------------------------------------------------


async def test_submit_many_yields_the_tasks_in_their_order(client: Client) -> None:
    tasks = [Submission(description=f"number {number}", skills=["obey"]) for number in range(2_000)]
    handles = [handle async for handle in client.submit_many(tasks) if isinstance(handle, TaskHandle)]
    results = await asyncio.gather(*(handle.result(WITHIN * 2) for handle in handles))
    assert results == [f"number {number}" for number in range(2_000)]


async def test_a_rejected_task_does_not_stop_the_others(client: Client) -> None:
    own = uuid7()
    tasks = [
        Submission(description="one", skills=["obey"]),
        Submission(id=uuid7(), description="two", assignee="obi", depends_on=[own]),
        Submission(id=own, description="three", depends_on=["missing"]),
    ]
    cycle = Submission(id="missing", description="four", depends_on=[own])
    fates = [fate async for fate in client.submit_many([*tasks, cycle])]
    assert [isinstance(fate, TaskHandle) for fate in fates] == [True, True, True, False]


async def test_a_task_that_cannot_be_encoded_is_rejected_and_the_others_go_on(client: Client) -> None:
    changed = Submission(description="changed later", inputs={"texts": []}, skills=["obey"])
    assert isinstance(changed.inputs, dict)
    changed.inputs["texts"] = ["half \ud83d"]
    good = [Submission(description=text, skills=["obey"]) for text in ("one", "two")]
    fates = [fate async for fate in client.submit_many([good[0], "half \ud83d", changed, good[1]])]
    one, described, with_inputs, two = fates
    assert isinstance(one, TaskHandle)
    assert isinstance(two, TaskHandle)
    assert [await one.result(WITHIN), await two.result(WITHIN)] == ["one", "two"]
    assert isinstance(described, TaskRejected)
    assert [problem.path for problem in described.problems] == ["description"]
    assert isinstance(with_inputs, TaskRejected)
    assert [problem.path for problem in with_inputs.problems] == ["inputs"]
    with pytest.raises(TaskRejected, match="inputs: cannot be encoded as UTF-8"):
        await client.submit(changed)


@pytest.mark.parametrize("bad", [{"a": "\ud83d"}, {"\udc00": 1}, {"a": [{"b": ["\ud83d"]}]}])
async def test_text_that_is_not_valid_in_utf8_is_rejected_with_its_path(client: Client, bad: dict[str, Any]) -> None:
    with pytest.raises(TaskRejected, match=r"^metadata: cannot be encoded as UTF-8"):
        await client.update("some-task", metadata=bad)
    with pytest.raises(TaskRejected, match=r"^changes.metadata: cannot be encoded as UTF-8"):
        await client.retry("some-task", metadata=bad)
    with pytest.raises(TaskRejected, match=r"^inputs: cannot be encoded as UTF-8"):
        await client.submit("x", inputs=bad)
    with pytest.raises(TaskRejected, match=r"^output_schema: cannot be encoded as UTF-8"):
        await client.submit("x", output_schema=bad)
    with pytest.raises(MessageRejected, match=r"^metadata: cannot be encoded as UTF-8"):
        await client.send("llm.obi", "x", metadata=bad)


async def test_a_list_continues_over_its_pages(client: Client) -> None:
    later = datetime.now(UTC) + timedelta(days=365)
    tasks = [Submission(description=f"number {n}", not_before=later, labels=["paged"]) for n in range(1_005)]
    ids = [fate.id async for fate in client.submit_many(tasks) if isinstance(fate, TaskHandle)]
    assert [view.id async for view in client.tasks(label=["paged"])] == ids[::-1]
    assert [view.id async for view in client.tasks(label=["paged"], limit=3)] == ids[:-4:-1]
    assert [view.id async for view in client.tasks(label=["paged"], text="number 17", status=[Status.BLOCKED])] == [
        ids[n] for n in range(1_004, -1, -1) if f"number {n}".startswith("number 17")
    ]
    assert [view async for view in client.tasks(label=["paged"], status=[Status.COMPLETED])] == []


# -- asking --------------------------------------------------------------------------------------------------------


async def test_a_query_for_an_unknown_task_llm_or_report_is_rejected(client: Client) -> None:
    for asking in (client.task("nope"), client.task("not an id!"), client.llm("nobody"), client.report("nope")):
        with pytest.raises(QueryRejected):
            await asking


async def test_llms_are_found_by_name(client: Client) -> None:
    assert "obi" in {llm.name for llm in await client.llms()}
    obi = await client.llm("obi")
    assert (obi.state, obi.slots, obi.skills["obey"]) == ("online", 50, 1.0)


async def test_the_report_counts_the_tasks_of_its_period(client: Client) -> None:
    since = datetime.now(UTC)
    task = await client.submit("anything", skills=["obey"])
    await task.result(WITHIN)
    values = (await client.report(since=since)).values
    assert (values["total_tasks"], values["completed_tasks"]) == (1, 1)
    assert (await client.report(until=since)).values["total_tasks"] > 0
    assert (await client.report(since=datetime.now(UTC))).values["total_tasks"] == 0
