"""The client against a real broker, a real coordinator and LLMs that do what they are told."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
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
from broker.protocol.worker_reports import Progress
from fluffle.client.client import Client
from fluffle.client.events import Event
from fluffle.client.handle import TaskHandle
from fluffle.client.sync import SyncClient
from tests.support.amqp import amqp
from tests.support.processes import ROOT, fluffle
from tests.support.proxy import proxy_to
from tests.support.rabbitmq import NodeInfo
from tests.support.site import site_on

PAGE = ROOT / "docs/howto-client.md"
WITHIN = 30.0  # seconds


@pytest.fixture(scope="module")
def url(rabbitmq: NodeInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a broker with a coordinator and the LLM obi, which obeys."""
    obey = ("--handler", "tests.support.scripted_llm:obey", "--slots", "50", "--skills", "obey,summarise")
    with site_on(rabbitmq, tmp_path_factory.mktemp("client")) as site:  # which removes its queues in the end
        site.coordinator()
        site.worker("obi", *obey)
        yield site.url


@pytest.fixture
async def client(url: str) -> AsyncIterator[Client]:
    async with Client(url) as client:
        yield client


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def until_status(client: Client, task_id: str, status: Status) -> None:
    async with asyncio.timeout(WITHIN), client.watch(task_id) as events:
        async for event in events:
            if isinstance(event, Event) and event.data.status is status:
                return


def pretend(url: str, progress: Progress) -> None:
    """Publish the progress of a task as an LLM that does not have it."""
    forged = progress.model_copy(update={"text": "nonsense"})
    with amqp(url) as mallory:
        mallory.publish("fluffle.status", "mallory.progress", forged.encode(), type="progress")


# -- submitting and results ----------------------------------------------------------------------------------------


async def test_a_submitted_task_comes_back_with_its_result(client: Client) -> None:
    task = await client.submit("anything", inputs={"answer": {"rabbits": 3}}, skills=["obey"], priority=7)
    assert await task.result(WITHIN) == {"rabbits": 3}
    assert (task.view.status, task.view.llm, task.view.priority) == (Status.COMPLETED, "obi", 7)


async def test_a_task_without_an_id_gets_one_that_holds_the_time(client: Client) -> None:
    task = await client.submit("anything", skills=["obey"])
    assert UUID(task.id).version == 7


async def test_submitting_an_id_again_is_the_same_task(client: Client, url: str) -> None:
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


async def test_a_bad_submission_is_refused_with_every_error_by_its_path(client: Client) -> None:
    with pytest.raises(TaskRejected) as caught:
        await client.submit("", priority=11, labels=["Upper"])
    assert {problem.path for problem in caught.value.problems} == {"description", "priority", "labels.0"}


async def test_what_only_the_coordinator_can_see_is_refused_by_it(client: Client) -> None:
    one, other = uuid7(), uuid7()
    await client.submit("first", id=one, depends_on=[other])
    with pytest.raises(TaskRejected, match=f"depends_on: a cycle: .*{one}"):
        await client.submit("second", id=other, depends_on=[one])


async def test_a_failed_task_raises_why(client: Client) -> None:
    task = await client.submit("anything", inputs={"fail": "no ink"}, skills=["obey"])
    with pytest.raises(TaskFailed, match=f"task {task.id} failed: broken: no ink"):
        await task.result(WITHIN)
    assert (await task.end()).status is Status.FAILED


async def test_a_cancelled_task_says_so(client: Client, tmp_path: Path) -> None:
    task = await client.submit("anything", inputs={"until": str(tmp_path / "never")}, skills=["obey"])
    await until_status(client, task.id, Status.IN_PROGRESS)
    assert (await client.cancel(task.id, "no longer needed")).status is Status.CANCELLED
    with pytest.raises(TaskCancelled):
        await task.result(WITHIN)
    assert any("no longer needed" in change.what for change in (await client.task(task.id)).history)
    with pytest.raises(TaskRejected, match="over already"):
        await client.cancel(task.id)


async def test_a_failed_task_runs_once_more_when_asked(client: Client) -> None:
    task = await client.submit("anything", inputs={"fail": "no ink"}, skills=["obey"])
    await task.end(WITHIN)
    assert not (await client.retry(task.id)).status.is_final
    [view] = await client.wait(task.id, timeout=WITHIN)
    assert [attempt.outcome for attempt in view.attempts] == ["failed", "failed"]


async def test_waiting_has_its_limit_and_the_task_goes_on(client: Client, tmp_path: Path) -> None:
    task = await client.submit("anything", inputs={"until": str(tmp_path / "go"), "answer": 1}, skills=["obey"])
    with pytest.raises(TimeoutError, match=f"task {task.id} is .* after 0.05 s"):
        await task.result(0.05)
    with pytest.raises(TimeoutError):
        await client.wait(task.id, timeout=0.05)
    (tmp_path / "go").touch()
    assert await task.result(WITHIN) == 1


async def test_closing_the_client_ends_the_waiting(url: str, tmp_path: Path) -> None:
    async with Client(url) as client:
        task = await client.submit("anything", inputs={"until": str(tmp_path / "go")}, skills=["obey"])
        waiting = asyncio.create_task(task.result())
        await asyncio.sleep(0)
    with pytest.raises(ConnectionClosed):
        await waiting
    (tmp_path / "go").touch()


async def test_nobody_at_the_url_is_said_at_once() -> None:
    with pytest.raises(BrokerUnreachable, match=r"127\.0\.0\.1:1 cannot be reached"):
        async with Client("amqp://guest:guest@127.0.0.1:1/"):
            pass


# -- many ----------------------------------------------------------------------------------------------------------


async def test_many_tasks_come_back_in_their_order(client: Client) -> None:
    tasks = [Submission(description=f"number {number}", skills=["obey"]) for number in range(2_000)]
    handles = [handle async for handle in client.submit_many(tasks) if isinstance(handle, TaskHandle)]
    results = await asyncio.gather(*(handle.result(WITHIN * 2) for handle in handles))
    assert results == [f"number {number}" for number in range(2_000)]


async def test_a_bad_one_among_many_stops_none_of_the_others(client: Client) -> None:
    own = uuid7()
    tasks = [
        Submission(description="one", skills=["obey"]),
        Submission(id=uuid7(), description="two", assignee="obi", depends_on=[own]),
        Submission(id=own, description="three", depends_on=["missing"]),
    ]
    cycle = Submission(id="missing", description="four", depends_on=[own])
    fates = [fate async for fate in client.submit_many([*tasks, cycle])]
    assert [isinstance(fate, TaskHandle) for fate in fates] == [True, True, True, False]


async def test_a_task_that_cannot_be_sent_is_rejected_and_the_others_go_on(client: Client) -> None:
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
async def test_text_that_utf8_cannot_carry_is_rejected_with_its_path(client: Client, bad: dict[str, Any]) -> None:
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


async def test_a_list_goes_on_over_its_pages(client: Client) -> None:
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


async def test_an_unknown_task_llm_or_report_is_refused(client: Client) -> None:
    for asking in (client.task("nope"), client.task("not an id!"), client.llm("nobody"), client.report("nope")):
        with pytest.raises(QueryRejected):
            await asking


async def test_the_llms_are_known_by_name(client: Client) -> None:
    assert "obi" in {llm.name for llm in await client.llms()}
    obi = await client.llm("obi")
    assert (obi.state, obi.slots, obi.skills["obey"]) == ("online", 50, 1.0)


async def test_the_report_counts_what_was_done_in_a_span(client: Client) -> None:
    since = datetime.now(UTC)
    task = await client.submit("anything", skills=["obey"])
    await task.result(WITHIN)
    values = (await client.report(since=since)).values
    assert (values["total_tasks"], values["completed_tasks"]) == (1, 1)
    assert (await client.report(until=since)).values["total_tasks"] > 0
    assert (await client.report(since=datetime.now(UTC))).values["total_tasks"] == 0


# -- waiting and watching ------------------------------------------------------------------------------------------


async def test_waiting_for_a_label_is_for_all_its_tasks_whoever_submitted_them(client: Client, url: str) -> None:
    label = f"batch-{uuid7()}"
    async with Client(url) as other:
        over = await other.submit("over", labels=[label], skills=["obey"])
        await over.end(WITHIN)
        await other.submit("running", labels=[label], skills=["obey"], inputs={"fail": "no"})
        views = await client.wait(label=label, timeout=WITHIN)
    assert {view.description: view.status for view in views} == {
        "over": Status.COMPLETED,
        "running": Status.FAILED,
    }
    assert {view.result for view in views} == {"over", None}


async def test_watching_tells_what_happens_until_the_end(client: Client, tmp_path: Path) -> None:
    task = await client.submit("anything", inputs={"until": str(tmp_path / "go")}, skills=["obey"])
    seen: list[str] = []
    async with asyncio.timeout(WITHIN), client.watch(task.id) as events:
        (tmp_path / "go").touch()
        async for event in events:
            assert isinstance(event, Event)
            assert (event.subject, event.type) == (task.id, f"fluffle.task.{event.data.status}")
            if not seen or seen[-1] != event.data.status:
                seen.append(event.data.status)
    assert seen[-2:] == ["in_progress", "completed"]


async def test_watching_everything_tells_of_tasks_that_come(client: Client) -> None:
    async with asyncio.timeout(WITHIN), client.watch() as events:
        task = await client.submit("anything", skills=["obey"])
        async for event in events:
            if isinstance(event, Event) and event.subject == task.id and event.data.status is Status.COMPLETED:
                break


async def test_watching_with_progress_tells_what_the_llm_writes(client: Client, url: str, tmp_path: Path) -> None:
    label = f"talk-{uuid7()}"
    script = f"cat > /dev/null; echo one; until [ -e {tmp_path}/go ]; do sleep 0.02; done; echo two"
    talk = ("worker", "tia", "--exec", f"sh -c '{script}'", "--skills", "talk")
    texts: list[str] = []
    async with asyncio.timeout(WITHIN), client.watch(label=label, progress=True) as events:
        task = await client.submit("talk", labels=[label], skills=["talk"])
        with fluffle(*talk, url=url, state=tmp_path):
            async for event in events:
                if isinstance(event, Progress):
                    assert event.task_id == task.id
                    texts.append(event.text or "")
                    await asyncio.to_thread(pretend, url, event)
                    (tmp_path / "go").touch()
    assert texts[0] == "one\n"
    assert "".join(texts) == "one\ntwo\n", "what another LLM writes to the task is not told"
    assert await task.result(WITHIN) == "one\ntwo"


# -- reconnects ----------------------------------------------------------------------------------------------------


async def test_a_result_that_was_missed_while_the_broker_was_away_still_comes(
    client: Client, url: str, tmp_path: Path
) -> None:
    async with proxy_to(url) as proxy, Client(proxy.url) as cut_off:
        task = await cut_off.submit("anything", inputs={"until": str(tmp_path / "go"), "answer": 1}, skills=["obey"])
        await until_status(client, task.id, Status.IN_PROGRESS)
        proxy.cut()
        (tmp_path / "go").touch()
        await client.wait(task.id, timeout=WITHIN)
        await proxy.open()
        assert await task.result(WITHIN) == 1


async def test_a_result_that_comes_after_a_reconnect_still_arrives(client: Client, url: str, tmp_path: Path) -> None:
    async with proxy_to(url) as proxy, Client(proxy.url) as cut_off:
        task = await cut_off.submit("anything", inputs={"until": str(tmp_path / "go"), "answer": 1}, skills=["obey"])
        proxy.break_connections()
        assert (await cut_off.task(task.id)).id == task.id  # so it is connected again
        (tmp_path / "go").touch()
        assert await task.result(WITHIN) == 1


async def test_results_arrive_after_a_reconnect_that_rabbitmq_knows_nothing_of(
    client: Client, url: str, tmp_path: Path
) -> None:
    """RabbitMQ keeps the reply queue for the lost connection."""
    async with proxy_to(url) as proxy, Client(proxy.url) as cut_off:
        inputs = {"until": str(tmp_path / "go"), "answer": 1}
        task = await cut_off.submit("anything", inputs=inputs, skills=["obey"])
        changed = await cut_off.submit("anything", inputs=inputs, skills=["obey"])
        await client.update(changed.id, priority=9)
        proxy.break_for_clients()
        await until(lambda: not cut_off.connected)
        await until(lambda: cut_off.connected)
        assert (await cut_off.task(task.id)).id == task.id
        (tmp_path / "go").touch()
        assert await task.result(WITHIN) == 1
        assert await changed.result(WITHIN) == 1


async def test_an_end_that_was_missed_while_the_broker_was_away_ends_the_waiting(
    client: Client, url: str, tmp_path: Path
) -> None:
    task = await client.submit("anything", inputs={"until": str(tmp_path / "go")}, skills=["obey"])
    async with (
        asyncio.timeout(WITHIN),
        proxy_to(url) as proxy,
        Client(proxy.url) as cut_off,
        cut_off.watch(task.id) as events,
    ):
        await anext(events)
        proxy.cut()
        (tmp_path / "go").touch()
        await task.result()
        await proxy.open()
        statuses = [event.data.status async for event in events if isinstance(event, Event)]
    assert statuses[-1] is Status.COMPLETED


# -- without asyncio -----------------------------------------------------------------------------------------------


def test_a_program_without_asyncio_does_the_same(url: str) -> None:
    with SyncClient(url) as client:
        task = client.submit("anything", skills=["obey"], labels=["plain"])
        assert task.result(WITHIN) == "anything"
        assert (task.view.status, task.end().id) == (Status.COMPLETED, task.id)
        assert client.task(task.id).result == "anything"
        assert task.id in [view.id for view in client.tasks(label=["plain"])]
        assert [view.id for view in client.wait(task.id)] == [task.id]
        assert [view.id for view in client.endings(task.id)] == [task.id]
        fates = list(client.submit_many(["one", "two"]))
        assert not any(isinstance(fate, TaskRejected) for fate in fates)
        with client.watch(task.id) as events:
            assert [event.subject for event in events if isinstance(event, Event)] == [task.id]
        with pytest.raises(QueryRejected):
            client.task("nope")


def test_tasks_and_llms_are_steered(url: str) -> None:
    due = datetime.now(UTC) + timedelta(days=1)
    with SyncClient(url) as client:
        task = client.submit("anything", skills=["unheard-of"], due=due, labels=["kept"])
        assert client.update(task.id, priority=9).due == due
        changed = client.update(task.id, due=None)
        assert (changed.due, changed.priority, changed.labels) == (None, 9, ["kept"])
        assert [client.pause("obi").state, client.resume("obi").state] == ["paused", "online"]
        assert [client.manage("obi", slots=slots).slots for slots in (1, None)] == [1, 50]
        placed = client.placement("anything", skills=["obey"])
        assert (placed.status, placed.llm) == (Status.ASSIGNED, "obi")
        assert client.placement("anything", skills=["unheard-of"]).llm is None
        assert client.assign(task.id, "obi").assignee == "obi"
        assert task.result(WITHIN) == "anything"
        with pytest.raises(TaskRejected, match="over already"):
            client.unassign(task.id)
        client.retry(task.id, description="something else")
        assert [view.result for view in client.wait(task.id, timeout=WITHIN)] == ["something else"]
        with pytest.raises(TaskRejected, match="llm: no LLM named nobody"):
            client.drain("nobody")


def test_a_client_that_cannot_connect_leaves_no_thread_behind() -> None:
    import threading

    before = threading.active_count()
    with pytest.raises(BrokerUnreachable), SyncClient("amqp://guest:guest@127.0.0.1:1/"):
        pass
    assert threading.active_count() == before


# -- the page ------------------------------------------------------------------------------------------------------


def test_the_code_of_the_page_runs(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLUFFLE_AMQP_URL", url)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    assert capsys.readouterr().out.splitlines() == ["Summarise the incident log", "Name three rabbits"]

    async def use() -> list[str]:
        async with Client(url) as client:
            texts: list[str] = await names["digest"](client, ["a", "b"])
            await names["follow"](client)
            return texts

    assert asyncio.run(use()) == ["Summarise", "Summarise"]
    assert capsys.readouterr().out.count("completed") == 2
