"""Connecting to a real RabbitMQ, and messages that strangers publish."""

import asyncio
import struct
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
)
from broker.protocol.topology import (
    Queue,
    Topology,
)
from tests.support.broker_traffic import Inbox, declared, published_raw, until
from tests.support.proxy import Proxy


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
