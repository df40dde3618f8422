"""Publishing with confirms on a real RabbitMQ."""

import asyncio
import time

import pytest

from broker.amqp.envelope import Delivery, Outgoing
from broker.amqp.robust_connection import RobustConnection
from broker.errors import (
    BrokerError,
    ConnectionClosed,
    MessageTooLarge,
    PublishRefused,
    Unroutable,
)
from tests.support.broker_traffic import WITHIN, Inbox, declared, publish_until_an_error
from tests.support.proxy import Proxy


async def test_opening_can_be_broken_off(caplog: pytest.LogCaptureFixture) -> None:
    accepted, ended = asyncio.Event(), asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        accepted.set()
        await reader.read()
        ended.set()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        opening = asyncio.create_task(RobustConnection(f"amqp://guest:guest@{host}:{port}/", name="test").__aenter__())
        await asyncio.wait_for(accepted.wait(), WITHIN)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await asyncio.wait_for(ended.wait(), WITHIN)
        await asyncio.sleep(0)
    assert caplog.text == ""


async def test_a_published_message_is_in_its_queue_when_publish_returns(amqp_url: str, queue: str) -> None:
    async with RobustConnection(amqp_url, name="test") as link:
        await link.declare(declared(queue))
        await link.publish(Outgoing("", queue, b"hello"))
        assert await link.depth(queue) == 1


async def test_properties_and_headers_arrive_as_they_were_given(amqp_url: str, queue: str) -> None:
    inbox = Inbox()
    async with RobustConnection(amqp_url, name="test") as link:
        await link.declare(declared(queue))
        await link.consume(queue, inbox)
        await link.publish(
            Outgoing(
                "",
                queue,
                b"{}",
                type="task.accepted",
                message_id="m-1",
                correlation_id="c-1",
                reply_to="r",
                priority=7,
                headers={"traceparent": "00-1"},
            )
        )
        got = await inbox.next()
    properties = got.properties
    assert (properties.type, properties.message_id, properties.correlation_id) == ("task.accepted", "m-1", "c-1")
    assert (properties.reply_to, properties.priority, properties.delivery_mode) == ("r", 7, 2)
    assert (properties.content_type, got.headers) == ("application/json", {"traceparent": "00-1"})
    assert (got.exchange, got.routing_key, got.redelivered) == ("", queue, False)


async def test_a_message_that_no_queue_takes_is_unroutable_and_the_others_are_not(amqp_url: str, queue: str) -> None:
    async with RobustConnection(amqp_url, name="test") as link:
        await link.declare(declared(queue))
        lost, kept = link.publish_soon(Outgoing("", "test.nobody", b"x")), link.publish_soon(Outgoing("", queue, b"x"))
        with pytest.raises(Unroutable, match=r"test\.nobody"):
            await lost
        await kept


async def test_an_optional_message_that_no_queue_takes_is_dropped_without_an_error(amqp_url: str) -> None:
    async with RobustConnection(amqp_url, name="test") as link:
        await link.publish(Outgoing("", "test.nobody", b"x", mandatory=False))


async def test_a_full_queue_refuses_the_message(amqp_url: str, queue: str) -> None:
    async with RobustConnection(amqp_url, name="test") as link:
        await link.declare(declared(queue, {"x-max-length": 1, "x-overflow": "reject-publish"}))
        await link.publish(Outgoing("", queue, b"x"))
        with pytest.raises(PublishRefused):
            await publish_until_an_error(link, queue)


async def test_a_body_over_the_limit_is_refused_before_it_is_sent(amqp_url: str, queue: str) -> None:
    async with RobustConnection(amqp_url, name="test", max_body=10) as link:
        await link.declare(declared(queue))
        with pytest.raises(MessageTooLarge, match="11 bytes"):
            await link.publish(Outgoing("", queue, b"x" * 11))
        assert await link.depth(queue) == 0


async def test_thousands_of_messages_are_confirmed_through_a_small_window(amqp_url: str, queue: str) -> None:
    inbox = Inbox(settle=lambda delivery: None)
    held: list[Delivery] = []
    async with RobustConnection(amqp_url, name="test", window=10) as link:
        await link.declare(declared(queue))
        await link.consume(queue, inbox, prefetch=2000)
        async with asyncio.TaskGroup() as group:
            for number in range(2000):
                group.create_task(link.publish(Outgoing("", queue, b"%d" % number)))
        held = [await inbox.next() for _ in range(2000)]
        for delivery in held:
            delivery.ack()
    assert {delivery.body for delivery in held} == {b"%d" % number for number in range(2000)}
    async with RobustConnection(amqp_url, name="test") as link:
        assert await link.depth(queue) == 0


async def test_a_value_that_amqp_cannot_carry_fails_alone(amqp_url: str, queue: str) -> None:
    async with RobustConnection(amqp_url, name="test") as link:
        await link.declare(declared(queue))
        with pytest.raises(BrokerError, match="cannot be encoded for AMQP"):
            await link.publish(Outgoing("", "k" * 256, b"x"))
        await asyncio.wait_for(link.publish(Outgoing("", queue, b"x")), WITHIN)


async def test_a_message_to_an_unknown_exchange_fails_and_does_not_hold_up_the_others(
    amqp_url: str, queue: str
) -> None:
    async with RobustConnection(amqp_url, name="test") as link:
        await link.declare(declared(queue))
        bad, good = link.publish_soon(Outgoing("test.none", "x", b"x")), link.publish_soon(Outgoing("", queue, b"x"))
        with pytest.raises(Unroutable, match=r"no exchange 'test\.none'"):
            await asyncio.wait_for(bad, WITHIN)
        await asyncio.wait_for(good, WITHIN)


async def test_closing_the_link_ends_what_was_not_confirmed(proxy: Proxy, queue: str) -> None:
    async with RobustConnection(proxy.url, name="test") as link:
        await link.declare(declared(queue))
        proxy.hold()
        future = link.publish_soon(Outgoing("", queue, b"x"))
    with pytest.raises(ConnectionClosed):
        await future


async def test_closing_does_not_wait_for_a_broker_that_does_not_answer(proxy: Proxy) -> None:
    async with RobustConnection(proxy.url, name="test"):
        proxy.hold()
        leaving = time.monotonic()
    assert time.monotonic() - leaving < 10
