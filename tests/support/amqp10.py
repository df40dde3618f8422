"""A client of AMQP 1.0 that publishes messages that RabbitMQ cannot translate to AMQP 0-9-1."""

import asyncio
import struct
from pathlib import Path
from uuid import uuid4

import pytest

from broker.amqp10.client import Receiver
from broker.amqp10.types import Described, encode
from broker.errors import NodeError
from tests.support.rabbitmq import NodeInfo

PLUGIN = "rabbitmq_amqp1_0"  # part of RabbitMQ from 4.0 on


def enable_amqp10(rabbitmq: NodeInfo) -> None:
    """Enable AMQP 1.0 on the broker. Skips the test if that is impossible."""
    if (node := rabbitmq.node) is None:
        return
    plugins = Path(node.folder) / "enabled_plugins"
    plugins.write_text(f"[{PLUGIN}].\n")
    try:
        node.control("eval", f'{{ok, _, _}} = rabbit_plugins:ensure("{plugins}").')
    except NodeError as error:
        pytest.skip(f"this RabbitMQ has no plugin {PLUGIN}: {error}")


def publish_untranslatable(url: str, *places: str, message_id: str | None = None, body: bytes = b"{}") -> None:
    """Publish to each place a message that RabbitMQ accepts and cannot deliver to a client of AMQP 0-9-1.

    A place is the name of a queue, or exchange/routing key. RabbitMQ 4.0 cannot translate a property of the type uuid,
    3.10 a correlation id that is a number.
    """

    async def publish(place: str) -> None:
        async with _Sender(url, place) as sender:
            await sender.publish(_message(message_id, body))

    for place in places:
        asyncio.run(publish(place))


class _Sender(Receiver):
    async def _attach(self, version: int) -> None:
        exchange, _, key = self._queue.partition("/")
        if version >= 4:
            address = f"/exchanges/{exchange}/{key}" if key else f"/queues/{exchange}"
        else:
            address = f"/exchange/{exchange}/{key}" if key else f"/amq/queue/{exchange}"
        self._send(0x11, [None, 0, 2**31 - 1, 2**31 - 1])  # begin
        await self._expect(0x11)
        source, target = Described(0x28, []), Described(0x29, [address])
        self._send(0x12, ["test", 0, False, None, None, source, target, None, None, 0])  # attach
        await self._expect(0x12)
        await self._expect(0x13)  # flow: there is credit

    async def publish(self, message: bytes) -> None:
        frame = encode(Described(0x14, [0, 0, b"1", 0, False])) + message  # transfer
        self._writer.write(struct.pack(">IBBH", len(frame) + 8, 2, 0, 0) + frame)
        outcome = (await self._expect(0x15))[4]  # disposition
        assert outcome.kind == 0x24, f"RabbitMQ has not accepted the message: {outcome}"


def _message(message_id: str | None, body: bytes) -> bytes:
    null, number = b"\x40", struct.pack(">BQ", 0x80, 42)
    header = _section(0x70, _compound(0xD0, b"\x41"))  # durable
    properties = _section(0x73, _compound(0xD0, encode(message_id), null, null, null, null, number))
    application = _section(0x74, _compound(0xD1, encode("trace"), b"\x98" + uuid4().bytes))
    return header + properties + application + _section(0x75, encode(body))


def _section(kind: int, value: bytes) -> bytes:
    return bytes((0, 0x53, kind)) + value


def _compound(constructor: int, *items: bytes) -> bytes:
    content = b"".join(items)
    return struct.pack(">BII", constructor, len(content) + 4, len(items)) + content
