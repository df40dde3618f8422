"""The queue of rejected messages: nothing is reported as done that RabbitMQ has not confirmed."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from broker.amqp.envelope import Outgoing
from broker.amqp.robust_connection import RobustConnection
from broker.errors import BrokerError
from broker.protocol.topology import REJECTED, SHARED, Queue, Topology
from fluffle.client.dead_letters import opened
from tests.support.rabbitmq import NodeInfo

IDS = [f"m-{number}" for number in range(5)]


@pytest.fixture
async def link(amqp_url: str) -> AsyncIterator[RobustConnection]:
    """A link to a broker with five rejected messages, and none that earlier tests have left behind."""
    async with RobustConnection(amqp_url, name="test") as link:
        await link.declare(SHARED)
        async with opened(amqp_url, name="test") as queue:
            await queue.drop_unseen()
        for message_id in IDS:
            await link.publish(Outgoing(REJECTED, "rejected.x", b"{}", message_id=message_id))
        yield link
        async with opened(amqp_url, name="test") as queue:
            await queue.drop_unseen()


async def until_depth(link: RobustConnection, depth: int) -> None:
    async with asyncio.timeout(30):
        while await link.depth(REJECTED) != depth:  # noqa: ASYNC110 - RabbitMQ tells nobody
            await asyncio.sleep(0.02)


async def test_dropped_messages_are_gone_and_the_others_are_there(link: RobustConnection, amqp_url: str) -> None:
    async with opened(amqp_url, name="test") as queue:
        found = await queue.look()
        assert [message.id for message in found] == IDS
        await queue.drop(found[:2])
    await until_depth(link, 3)


async def test_nothing_is_dropped_when_the_connection_was_lost_meanwhile(
    rabbitmq: NodeInfo, link: RobustConnection, amqp_url: str
) -> None:
    async with opened(amqp_url, name="test") as queue:
        found = await queue.look()
        rabbitmq.control("close_all_connections", "test")
        with pytest.raises(BrokerError, match="RabbitMQ may not have deleted all of them"):
            await queue.drop(found)
    await link.until_connected()
    await until_depth(link, 5)


async def test_a_message_that_was_sent_back_and_may_still_be_rejected_is_reported(
    rabbitmq: NodeInfo, link: RobustConnection, amqp_url: str
) -> None:
    dead = {"x-fluffle-origin-exchange": "", "x-fluffle-origin-key": "again"}
    await link.declare(Topology(queues=(Queue("again", exclusive=True),)))
    await link.publish(Outgoing(REJECTED, "rejected.x", b"{}", message_id="back", headers=dead))
    async with opened(amqp_url, name="test") as queue:
        [*_, back] = await queue.look()
        [pid] = [
            line.split("\t")[0]
            for line in rabbitmq.control("list_connections", "--silent", "pid", "client_properties").splitlines()
            if '"connection_name","test"' in line.replace(" ", "")
        ]
        rabbitmq.control("close_connection", pid, "test")
        [outcome] = await queue.requeue([back])
    assert "it was sent back, and may be among the rejected all the same" in str(outcome)
    assert await link.depth("again") == 1


async def test_messages_that_another_program_looks_at_are_counted_as_withheld(
    link: RobustConnection, amqp_url: str
) -> None:
    async with opened(amqp_url, name="first") as first, opened(amqp_url, name="second") as second:
        assert len(await first.look(2)) == 2
        assert [message.id for message in await second.look()] == IDS[2:]
        assert (first.withheld, second.withheld) == (0, 0), "it never saw the others in the queue"
