"""The link, with a real RabbitMQ, and a proxy to break its connections."""

import asyncio
import struct
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pika
import pytest
from pika import spec

from broker.amqp.envelope import Delivery, Outgoing
from broker.amqp.robust_connection import RobustConnection
from broker.errors import (
    AccessRefused,
    BrokerError,
    BrokerUnreachable,
    ConfigurationError,
    ConnectionClosed,
    MessageTooLarge,
    PublishRefused,
    Unroutable,
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
from tests.support.proxy import Proxy, proxy_to

WITHIN = 20.0  # seconds


class Inbox:
    """Collects deliveries, acknowledged unless told otherwise."""

    def __init__(self, *, settle: Callable[[Delivery], None] = Delivery.ack) -> None:
        self._settle = settle
        self._arrived: asyncio.Queue[Delivery] = asyncio.Queue()

    def __call__(self, delivery: Delivery) -> None:
        self._settle(delivery)
        self._arrived.put_nowait(delivery)

    async def next(self) -> Delivery:
        return await asyncio.wait_for(self._arrived.get(), WITHIN)

    async def bodies(self, count: int) -> list[bytes]:
        return [(await self.next()).body for _ in range(count)]


@pytest.fixture
def queue(amqp_url: str) -> Iterator[str]:
    """The name of a durable queue that is deleted at the end."""
    name = f"test.{uuid.uuid4().hex[:12]}"
    yield name
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        connection.channel().queue_delete(name)


@pytest.fixture
async def proxy(amqp_url: str) -> AsyncIterator[Proxy]:
    async with proxy_to(amqp_url) as proxy:
        yield proxy


def declared(queue: str, arguments: dict[str, str | int] | None = None) -> Topology:
    return Topology(queues=(Queue(queue, {"x-queue-type": "quorum"} | (arguments or {})),))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def publish_until_an_error(link: RobustConnection, queue: str) -> None:
    async with asyncio.timeout(WITHIN):
        while True:  # a quorum queue takes a few more than its limit
            await link.publish(Outgoing("", queue, b"x"))


def published_raw(url: str, queue: str, properties: pika.BasicProperties) -> None:
    """Publish with pika alone, as any client might."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        connection.channel().basic_publish("", queue, b"hostile", properties)


# -- publishing ----------------------------------------------------------------------------------------------------


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
        with pytest.raises(BrokerError, match="AMQP cannot carry"):
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


# -- connecting ----------------------------------------------------------------------------------------------------


async def test_a_wrong_password_is_refused_access(amqp_url: str) -> None:
    user, _, rest = amqp_url.removeprefix("amqp://").partition(":")
    with pytest.raises(AccessRefused, match="refused the user"):
        async with RobustConnection(f"amqp://{user}:wrong@{rest.partition('@')[2]}", name="test"):
            pass


async def test_a_port_where_nobody_listens_is_unreachable_and_says_so(proxy: Proxy) -> None:
    proxy.cut()
    with pytest.raises(BrokerUnreachable, match="Connection refused"):
        async with RobustConnection(proxy.url, name="test"):
            pass


async def test_what_is_not_an_amqp_url_is_a_wrong_setting_and_its_password_is_not_shown() -> None:
    with pytest.raises(ConfigurationError, match="the AMQP URL must begin") as caught:
        RobustConnection("http://ana:secret@host/", name="test")
    assert "secret" not in str(caught.value)


async def test_a_declaration_that_the_broker_refuses_is_told_and_the_link_goes_on(amqp_url: str, queue: str) -> None:
    async with RobustConnection(amqp_url, name="test") as link:
        await link.declare(declared(queue))
        with pytest.raises(BrokerError, match="inequivalent arg"):
            await link.declare(declared(queue, {"x-max-length": 5}))
        with pytest.raises(BrokerError, match="inequivalent arg"):  # not yet connected again
            await link.depth(queue)
        await until(lambda: link.connected)
        assert await link.depth(queue) == 0


# -- reconnecting --------------------------------------------------------------------------------------------------


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


# -- hostile messages ----------------------------------------------------------------------------------------------


class RawHeaders(pika.BasicProperties):  # type: ignore[misc] # pika has no type information
    """Properties with nothing but a header table, in bytes that pika would not produce."""

    def __init__(self, table: bytes) -> None:
        super().__init__()
        self._table = table

    def encode(self) -> list[bytes]:
        return [struct.pack(">H", self.FLAG_HEADERS), struct.pack(">I", len(self._table)), self._table]


def nested(levels: int) -> bytes:
    value = b"I" + struct.pack(">i", 1)
    for _ in range(levels):
        value = b"A" + struct.pack(">I", len(value)) + value
    return value


READABLE = b"\x01bS\0\0\0\x01x"  # a header beside


@pytest.mark.parametrize(
    ("properties", "headers", "unreadable"),
    [
        pytest.param(
            RawHeaders(b"\x01aT" + struct.pack(">Q", 2**62) + READABLE),
            {"a": None, "b": "x"},
            (),
            id="a timestamp past the year 9999",
        ),
        pytest.param(RawHeaders(b"\x01a" + nested(3000) + READABLE), {"a": None, "b": "x"}, (), id="3,000 levels"),
        pytest.param(pika.BasicProperties(reply_to=b"\xff\xfe"), {}, ("reply_to",), id="reply_to not UTF-8"),
        pytest.param(pika.BasicProperties(message_id=b"\xff\xfe"), {}, ("message_id",), id="message_id not UTF-8"),
    ],
)
async def test_of_undecodable_properties_the_rest_is_read_and_the_link_goes_on(
    amqp_url: str, queue: str, properties: spec.BasicProperties, headers: dict[str, Any], unreadable: tuple[str, ...]
) -> None:
    inbox = Inbox()
    states: list[bool] = []
    async with RobustConnection(amqp_url, name="test", on_state=states.append) as link:
        await link.declare(declared(queue))
        await link.consume(queue, inbox)
        await asyncio.to_thread(published_raw, amqp_url, queue, properties)
        await link.publish(Outgoing("", queue, b"harmless"))
        hostile, harmless = await inbox.next(), await inbox.next()
    assert hostile.body == b"hostile"
    assert (hostile.headers, hostile.properties.unreadable) == (headers, unreadable)
    assert (harmless.body, harmless.headers, states) == (b"harmless", {}, [])


async def test_a_rejected_message_goes_to_the_dead_letter_exchange(amqp_url: str, queue: str) -> None:
    inbox, dead = Inbox(settle=Delivery.reject), Inbox()
    async with RobustConnection(amqp_url, name="test") as link:
        await link.declare(Topology(queues=(Queue(f"{queue}.dead", exclusive=True),)))
        await link.declare(
            declared(queue, {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{queue}.dead"})
        )
        await link.consume(f"{queue}.dead", dead)
        await link.consume(queue, inbox)
        await link.publish(Outgoing("", queue, b"x"))
        assert (await dead.next()).body == b"x"


async def test_a_requeued_message_comes_again(amqp_url: str, queue: str) -> None:
    seen: list[bool] = []

    def requeue_once(delivery: Delivery) -> None:
        seen.append(delivery.redelivered)
        delivery.ack() if delivery.redelivered else delivery.requeue()

    async with RobustConnection(amqp_url, name="test") as link:
        await link.declare(declared(queue))
        await link.consume(queue, requeue_once)
        await link.publish(Outgoing("", queue, b"x"))
        await until(lambda: seen == [False, True])
