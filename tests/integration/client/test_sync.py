"""The client for programs without asyncio, and the code of its page."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broker.errors import (
    BrokerUnreachable,
    QueryRejected,
    TaskRejected,
)
from broker.protocol.status import Status
from fluffle.client.client import Client
from fluffle.client.events import Event
from fluffle.client.sync import SyncClient
from tests.support.client_waits import WITHIN
from tests.support.processes import ROOT

PAGE = ROOT / "docs/howto-client.md"


# -- without asyncio -----------------------------------------------------------------------------------------------


def test_a_program_without_asyncio_submits_and_waits(url: str) -> None:
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


def test_a_program_without_asyncio_steers_tasks_and_llms(url: str) -> None:
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
        with pytest.raises(TaskRejected, match="the task is already completed"):
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


def test_the_code_of_the_how_to_page_runs(
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
