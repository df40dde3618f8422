"""The client while no coordinator runs, and when one starts later."""

import asyncio
from pathlib import Path

import pytest

from broker.amqp.robust_connection import RobustConnection
from broker.errors import NoAnswer
from broker.ids import uuid7
from broker.protocol.status import Status
from broker.protocol.topology import COORDINATOR, QUERIES, SHARED
from fluffle.client.client import Client
from tests.support.processes import fluffle
from tests.support.proxy import proxy_to
from tests.support.rabbitmq import private_node

WITHIN = 30.0  # seconds


async def until_depth(link: RobustConnection, queue: str, depth: int) -> None:
    async with asyncio.timeout(WITHIN):
        while await link.depth(queue) != depth:  # noqa: ASYNC110 - RabbitMQ has no event for it
            await asyncio.sleep(0.01)


async def test_a_task_without_a_coordinator_is_done_when_one_starts(amqp_url: str, tmp_path: Path) -> None:
    task_id = uuid7()
    async with Client(amqp_url, answer_timeout=0.2) as hasty:
        with pytest.raises(NoAnswer, match=f"Task {task_id} is in RabbitMQ and will be done when a coordinator comes"):
            await hasty.submit("anything", id=task_id, skills=["obey"])
        with pytest.raises(
            NoAnswer, match=r"no coordinator answered within 0\.2 s\. Start one with `fluffle coordinator`"
        ):
            await hasty.llms()
    obey = ("--handler", "tests.support.scripted_llm:obey", "--skills", "obey")
    with (
        fluffle("coordinator", url=amqp_url, state=tmp_path, until="ready"),
        fluffle("worker", "obi", *obey, url=amqp_url, state=tmp_path),
    ):
        async with Client(amqp_url) as client:
            [view] = await client.wait(task_id, timeout=WITHIN)
    assert view.status is Status.COMPLETED


async def test_requests_whose_answers_were_lost_are_sent_again(amqp_url: str, tmp_path: Path) -> None:
    async with (
        RobustConnection(amqp_url, name="test") as link,
        proxy_to(amqp_url) as proxy,
        Client(proxy.url) as client,
    ):
        await link.declare(SHARED)
        tasks, queries = await link.depth(COORDINATOR) or 0, await link.depth(QUERIES) or 0
        submitting = asyncio.create_task(client.submit("anything"))
        asking = asyncio.create_task(client.llms())
        await until_depth(link, COORDINATOR, tasks + 1)
        await until_depth(link, QUERIES, queries + 1)
        proxy.cut()
        with fluffle("coordinator", url=amqp_url, state=tmp_path, until="ready"):
            await until_depth(link, COORDINATOR, 0)
            await until_depth(link, QUERIES, 0)
            assert not submitting.done()
            assert not asking.done()
            await proxy.open()
            assert (await submitting).view.status is Status.PENDING
            assert await asking is not None


async def test_the_client_prepares_a_new_broker(tmp_path: Path) -> None:
    with private_node(tmp_path) as node:
        if node.node is None:
            pytest.skip("the broker may have been used")
        async with Client(node.url, answer_timeout=0.2) as client:
            with pytest.raises(NoAnswer, match="is in RabbitMQ"):
                await client.submit("anything")
        async with RobustConnection(node.url, name="test") as link:
            assert await link.depth(COORDINATOR) == 1
