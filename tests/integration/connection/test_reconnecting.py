"""Reconnecting: a proxy breaks the connections to a real RabbitMQ."""

import asyncio

import pika
import pytest

from broker.amqp.envelope import Outgoing
from broker.amqp.robust_connection import RobustConnection
from broker.errors import (
    ConnectionClosed,
)
from broker.protocol.topology import (
    COORDINATOR,
    MAILBOXES,
    MESSAGES,
    SHARED,
    UNDELIVERED,
    Binding,
    Exchange,
    Queue,
    Topology,
    control_address,
)
from tests.support.broker_traffic import WITHIN, Inbox, declared, until
from tests.support.proxy import Proxy


async def test_a_broken_link_declares_consumes_and_publishes_again_what_was_unconfirmed(
    proxy: Proxy, queue: str
) -> None:
    inbox, control = Inbox(), Inbox()
    states: list[bool] = []
    own = control_address("test", queue.removeprefix("test."))
    async with RobustConnection(proxy.url, name="test", on_state=states.append) as link:
        await link.declare(
            Topology(
                exchanges=(Exchange(f"{queue}.x", "direct"),),
                queues=(*declared(queue).queues, Queue(own, exclusive=True)),
                bindings=(Binding(f"{queue}.x", "key", own),),
            )
        )
        await link.consume(queue, inbox, prefetch=100)
        await link.consume(own, control, auto_ack=True)
        proxy.hold()
        unconfirmed = [link.publish_soon(Outgoing("", queue, b"%d" % number)) for number in range(50)]
        proxy.cut()
        proxy.resume()
        await until(lambda: False in states)
        while_away = link.publish_soon(Outgoing("", queue, b"while away"))
        assert not while_away.done()
        await proxy.open()
        await asyncio.wait_for(asyncio.gather(*unconfirmed, while_away), WITHIN)
        await until(lambda: states[-1])
        await link.publish(Outgoing(f"{queue}.x", "key", b"to a queue that went with its connection"))
        assert (await control.next()).body == b"to a queue that went with its connection"
        got = await inbox.bodies(51)
    assert set(got) == {b"while away", *(b"%d" % number for number in range(50))}
    with pika.BlockingConnection(pika.URLParameters(proxy.broker_url)) as connection:
        connection.channel().exchange_delete(f"{queue}.x")


async def test_an_exclusive_queue_has_another_name_after_a_reconnect(proxy: Proxy, queue: str) -> None:
    """RabbitMQ believes that the lost connection is there, and keeps the first name for it."""
    inbox, answers = Inbox(), Inbox()
    own = control_address("test", queue.removeprefix("test."))
    async with (
        RobustConnection(proxy.broker_url, name="other") as other,
        RobustConnection(proxy.url, name="test") as link,
    ):
        await other.declare(declared(queue))
        await other.consume(queue, inbox, auto_ack=True)
        await link.declare(Topology(queues=(Queue(own, exclusive=True),)))
        await link.consume(own, answers, auto_ack=True)
        await link.publish(Outgoing("", queue, b"first", reply_to=own))
        assert (await inbox.next()).properties.reply_to == own
        proxy.break_for_clients()
        await until(lambda: link.reconnects == 2 and link.connected)
        await link.publish(Outgoing("", queue, b"second", reply_to=own))
        renamed = (await inbox.next()).properties.reply_to
        assert renamed == f"{own}.2"
        await other.publish(Outgoing("", renamed, b"answer"))
        answer = await answers.next()
        assert (answer.body, answer.queue) == (b"answer", own)


async def test_the_address_of_a_session_stays_what_it_is_after_a_reconnect(proxy: Proxy, queue: str) -> None:
    inbox, answers = Inbox(), Inbox()
    session = f"llm.test.{queue.removeprefix('test.')}"
    async with (
        RobustConnection(proxy.broker_url, name="other") as other,
        RobustConnection(proxy.url, name="test") as link,
    ):
        await other.declare(SHARED)
        watching = Topology(
            queues=(Queue(f"{queue}.all", exclusive=True),), bindings=(Binding(MESSAGES, "#", f"{queue}.all"),)
        )
        await other.declare(watching)
        await other.consume(f"{queue}.all", inbox, auto_ack=True)
        await link.declare(
            Topology(queues=(Queue(session, exclusive=True),), bindings=(Binding(MAILBOXES, session, session),))
        )
        await link.consume(session, answers, auto_ack=True)
        proxy.break_for_clients()
        await until(lambda: link.reconnects == 2 and link.connected)
        await link.publish(Outgoing(MESSAGES, "llm.nobody", b"{}", reply_to=session))
        assert (await inbox.next()).properties.reply_to == session
        await other.publish(Outgoing(MESSAGES, session, b"answer"))
        assert (await answers.next()).body == b"answer"
    with pika.BlockingConnection(pika.URLParameters(proxy.broker_url)) as connection:
        for inbox_of_the_coordinator in (COORDINATOR, UNDELIVERED):
            connection.channel().queue_delete(inbox_of_the_coordinator)


async def test_why_a_link_cannot_be_set_up_again_is_logged(
    proxy: Proxy, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with RobustConnection(proxy.url, name="test") as link:
        await link.declare(Topology(queues=(Queue(queue, {"x-max-length": 5}),)))
        with pika.BlockingConnection(pika.URLParameters(proxy.broker_url)) as connection:
            connection.channel().queue_delete(queue)
            connection.channel().queue_declare(queue, durable=True, arguments={"x-max-length": 6})
        proxy.break_connections()
        await until(lambda: "cannot connect again" in caplog.text)
        assert "PRECONDITION_FAILED" in caplog.text
        await until(lambda: not link.connected and link.can_publish)
        with pika.BlockingConnection(pika.URLParameters(proxy.broker_url)) as connection:
            connection.channel().queue_delete(queue)
        await until(lambda: link.connected)


async def test_what_is_to_be_forgotten_is_not_published_again(proxy: Proxy, queue: str) -> None:
    inbox = Inbox()
    async with RobustConnection(proxy.url, name="test") as link:
        await link.declare(declared(queue))
        await link.consume(queue, inbox)
        proxy.hold()
        on_its_way = link.publish_soon(Outgoing("", queue, b"on its way"))
        proxy.cut()
        proxy.resume()
        await until(lambda: not link.connected)
        while_away = link.publish_soon(Outgoing("", queue, b"while away"))
        link.forget_unconfirmed()
        afterwards = link.publish_soon(Outgoing("", queue, b"afterwards"))
        await proxy.open()
        await asyncio.wait_for(afterwards, WITHIN)
        for forgotten in (on_its_way, while_away):
            with pytest.raises(ConnectionClosed):
                await forgotten
        assert (await inbox.next()).body == b"afterwards"


async def test_an_acknowledgement_of_a_delivery_from_before_the_break_does_no_harm(proxy: Proxy, queue: str) -> None:
    inbox = Inbox(settle=lambda delivery: None)
    async with RobustConnection(proxy.url, name="test") as link:
        await link.declare(declared(queue))
        await link.consume(queue, inbox, prefetch=1)
        await link.publish(Outgoing("", queue, b"first"))
        await link.publish(Outgoing("", queue, b"second"))
        before = await inbox.next()
        proxy.break_connections()
        again = await inbox.next()
        assert (again.body, again.redelivered) == (b"first", True)
        before.ack()
        again.ack()
        assert (await inbox.next()).body == b"second"


async def test_what_was_acknowledged_out_of_turn_does_not_come_again(proxy: Proxy, queue: str) -> None:
    inbox = Inbox(settle=lambda delivery: None)
    async with RobustConnection(proxy.url, name="test") as link:
        await link.declare(declared(queue))
        await link.consume(queue, inbox, prefetch=6)
        for number in range(6):
            await link.publish(Outgoing("", queue, b"%d" % number))
        held = [await inbox.next() for _ in range(6)]
        for number in (4, 0, 2, 1):
            held[number].ack()
        held[4].ack()
        await link.publish(Outgoing("", queue, b"6"))
        assert (await inbox.next()).body == b"6"  # there was room for it: the acknowledgements have arrived
        proxy.break_connections()
        assert set(await inbox.bodies(3)) == {b"3", b"5", b"6"}


async def test_a_consumer_whose_queue_was_deleted_consumes_the_queue_made_anew(amqp_url: str, queue: str) -> None:
    inbox = Inbox()
    states: list[bool] = []
    async with RobustConnection(amqp_url, name="test", on_state=states.append) as link:
        await link.declare(declared(queue))
        await link.consume(queue, inbox)
        with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
            connection.channel().queue_delete(queue)
        await until(lambda: True in states)
        await link.publish(Outgoing("", queue, b"x"))
        assert (await inbox.next()).body == b"x"


async def test_a_cancelled_subscription_stays_cancelled_after_a_reconnect(proxy: Proxy, queue: str) -> None:
    inbox = Inbox()
    states: list[bool] = []
    async with RobustConnection(proxy.url, name="test", on_state=states.append) as link:
        await link.declare(declared(queue))
        subscription = await link.consume(queue, inbox)
        subscription.cancel()
        proxy.break_connections()
        await until(lambda: True in states)
        await link.publish(Outgoing("", queue, b"x"))
        assert await link.depth(queue) == 1


async def test_a_link_that_closes_while_it_reconnects_leaves_no_connection(proxy: Proxy, queue: str) -> None:
    states: list[bool] = []
    async with RobustConnection(proxy.url, name="test", on_state=states.append):
        proxy.hold()  # new connections are accepted and never answered
        proxy.break_connections()
        await until(lambda: False in states)
        await until(lambda: bool(proxy.pairs))
    proxy.resume()
    await until(lambda: not proxy.pairs)
