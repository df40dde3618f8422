"""Waiting for tasks and watching them, also across reconnects."""

import asyncio
from pathlib import Path

from broker.ids import uuid7
from broker.protocol.status import Status
from broker.protocol.worker_reports import Progress
from fluffle.client.client import Client
from fluffle.client.events import Event
from tests.support.amqp import amqp
from tests.support.client_waits import WITHIN, until, until_status
from tests.support.processes import fluffle
from tests.support.proxy import proxy_to


def pretend(url: str, progress: Progress) -> None:
    """Publish the progress of a task as an LLM that does not have it."""
    forged = progress.model_copy(update={"text": "nonsense"})
    with amqp(url) as mallory:
        mallory.publish("fluffle.status", "mallory.progress", forged.encode(), type="progress")


# -- waiting and watching ------------------------------------------------------------------------------------------


async def test_a_wait_for_a_label_includes_tasks_of_other_clients(client: Client, url: str) -> None:
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


async def test_watching_yields_the_events_of_a_task_until_its_end(client: Client, tmp_path: Path) -> None:
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


async def test_watching_everything_yields_the_events_of_new_tasks(client: Client) -> None:
    async with asyncio.timeout(WITHIN), client.watch() as events:
        task = await client.submit("anything", skills=["obey"])
        async for event in events:
            if isinstance(event, Event) and event.subject == task.id and event.data.status is Status.COMPLETED:
                break


async def test_watching_with_progress_yields_the_text_of_the_llm(client: Client, url: str, tmp_path: Path) -> None:
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


async def test_a_result_missed_while_the_broker_was_away_still_arrives(
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


async def test_a_result_after_a_reconnect_still_arrives(client: Client, url: str, tmp_path: Path) -> None:
    async with proxy_to(url) as proxy, Client(proxy.url) as cut_off:
        task = await cut_off.submit("anything", inputs={"until": str(tmp_path / "go"), "answer": 1}, skills=["obey"])
        proxy.break_connections()
        assert (await cut_off.task(task.id)).id == task.id  # so it is connected again
        (tmp_path / "go").touch()
        assert await task.result(WITHIN) == 1


async def test_results_arrive_after_a_reconnect_that_rabbitmq_has_not_noticed(
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


async def test_an_end_missed_while_the_broker_was_away_ends_the_wait(client: Client, url: str, tmp_path: Path) -> None:
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
