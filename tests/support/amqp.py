"""A plain AMQP client written with pika, which can also send properties that pika would refuse."""

import json
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pika
from pika.exceptions import ChannelClosedByBroker
from pika.spec import BasicProperties

from tests.support.processes import until


@dataclass(frozen=True)
class Message:
    """A message that was taken from a queue."""

    exchange: str
    routing_key: str
    properties: BasicProperties
    body: bytes

    @property
    def type(self) -> str:
        return str(self.properties.type)

    @property
    def headers(self) -> dict[str, Any]:
        return self.properties.headers or {}

    def json(self) -> Any:
        return json.loads(self.body)


class RawProperties(BasicProperties):  # type: ignore[misc]  # pika has no type information
    """AMQP properties as their bytes on the wire: flags and values (AMQP 0-9-1, 2.3.5.2)."""

    def __init__(self, encoded: bytes) -> None:
        super().__init__()
        self._encoded = encoded

    def encode(self) -> list[bytes]:
        return [self._encoded]


def raw_properties(
    *,
    headers: bytes | None = None,
    correlation_id: bytes | None = None,
    reply_to: bytes | None = None,
    message_id: bytes | None = None,
) -> bytes:
    """Return properties with these values for `publish(raw=…)`. `headers` is a table without its length."""
    values = {13: headers, 10: correlation_id, 9: reply_to, 7: message_id}
    encoded = struct.pack(">H", sum(1 << flag for flag, value in values.items() if value is not None))
    for flag, value in values.items():
        if value is not None:
            encoded += struct.pack(">I" if flag == 13 else ">B", len(value)) + value
    return encoded


class Amqp:
    """A connection with one channel that publishes with confirms."""

    def __init__(self, url: str) -> None:
        parameters = pika.URLParameters(url)
        parameters.heartbeat = 0  # no heartbeats while a test does something else
        self._connection = pika.BlockingConnection(parameters)
        self._open_channel()

    def _open_channel(self) -> None:
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()

    @property
    def channel(self) -> Any:
        """The channel of pika, for rare operations."""
        return self._channel

    def close(self) -> None:
        self._connection.close()

    def publish(self, exchange: str, key: str | bytes, body: Any, **properties: Any) -> None:
        """Publish `body` (bytes unchanged, anything else as JSON) and wait for the confirm.

        `properties` are those of AMQP, or `raw` with their bytes.
        """
        encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
        raw = properties.pop("raw", None)
        self._channel.basic_publish(
            exchange, key, encoded, RawProperties(raw) if raw is not None else BasicProperties(**properties)
        )

    def submit(self, task: Any, **properties: Any) -> None:
        """Publish a task."""
        self.publish("fluffle.tasks", "submit", task, **properties)

    def queue(self, *bindings: tuple[str, str], name: str = "", durable: bool = False) -> str:
        """Declare a queue with these bindings (exchange, routing key): exclusive, or a durable quorum queue."""
        arguments = {"x-queue-type": "quorum"} if durable else None
        ok = self._channel.queue_declare(name, exclusive=not durable, durable=durable, arguments=arguments)
        queue = str(ok.method.queue)
        self.bind(queue, *bindings)
        return queue

    def take(self, queue: str, *, within: float = 30) -> Message:
        """Wait for the next message of a queue and return it."""
        found: list[Message] = []

        def look() -> bool:
            found.extend(self._get(queue))
            return bool(found)

        until(look, f"a message in {queue}", within=within)
        return found[0]

    def take_all(self, queue: str) -> list[Message]:
        """Take all messages out of a queue."""
        found: list[Message] = []
        while more := self._get(queue):  # the depth may be outdated; this is not
            found += more
            found += self._consume(queue, self.depth(queue))
        return found

    def _consume(self, queue: str, count: int) -> list[Message]:
        """Take up to `count` messages, fewer when no more arrive."""
        found: list[Message] = []
        if count:
            tag = 0
            for method, properties, body in self._channel.consume(queue, inactivity_timeout=1):
                if method is None:
                    break
                tag = method.delivery_tag
                found.append(Message(method.exchange, _text(method.routing_key), properties, body))
                if len(found) == count:
                    break
            self._channel.basic_ack(tag, multiple=True)  # 0 means all, which is none here
            self._channel.cancel()
        return found

    def give_back(self, queue: str) -> None:
        """Return the next message to its queue, so that it is redelivered.

        The message may still be returning from a consumer that has just died.
        """
        method: Any = None

        def got() -> bool:
            nonlocal method
            method, _, _ = self._channel.basic_get(queue)
            return method is not None

        until(got, f"{queue} has a message")
        self._channel.basic_nack(method.delivery_tag)

    def _get(self, queue: str) -> list[Message]:
        method, properties, body = self._channel.basic_get(queue, auto_ack=True)
        return [] if method is None else [Message(method.exchange, _text(method.routing_key), properties, body)]

    def depth(self, queue: str) -> int:
        """Return how many messages are ready in a queue, without unacknowledged ones; 0 if there is no such queue."""
        try:
            return int(self._channel.queue_declare(queue, passive=True).method.message_count)
        except ChannelClosedByBroker:
            self._open_channel()
            return 0

    def declare(self, queue: str, arguments: dict[str, Any]) -> None:
        """Declare a durable classic queue with these arguments."""
        self._channel.queue_declare(queue, durable=True, arguments=arguments)

    def declare_exchange(self, name: str) -> None:
        """Declare a durable topic exchange."""
        self._channel.exchange_declare(name, "topic", durable=True)

    @contextmanager
    def exchange(self, name: str, *, bound_to: str) -> Iterator[None]:
        """Declare a topic exchange that routes everything to another one."""
        self.declare_exchange(name)
        self._channel.exchange_bind(bound_to, name, "#")
        try:
            yield
        finally:
            self._channel.exchange_delete(name)

    def bind(self, queue: str, *bindings: tuple[str, str]) -> None:
        """Bind a queue to these exchanges with these routing keys."""
        for exchange, key in bindings:
            self._channel.queue_bind(queue, exchange, key)

    def unbind(self, queue: str, *bindings: tuple[str, str]) -> None:
        """Remove these bindings."""
        for exchange, key in bindings:
            self._channel.queue_unbind(queue, exchange, key)

    def delete(self, *queues: str) -> None:
        """Delete queues if they exist."""
        for queue in queues:
            self._channel.queue_delete(queue)

    def ask_directly(self, exchange: str, key: str, body: Any, answers: int, *, within: float = 30) -> list[Message]:
        """Publish with RabbitMQ's direct reply-to and return this many answers."""
        found: list[Message] = []

        def on_answer(_: Any, method: Any, properties: BasicProperties, answer: bytes) -> None:
            found.append(Message(method.exchange, method.routing_key, properties, answer))

        tag = self._channel.basic_consume("amq.rabbitmq.reply-to", on_answer, auto_ack=True)
        self.publish(exchange, key, body, reply_to="amq.rabbitmq.reply-to", correlation_id="direct")
        deadline = time.monotonic() + within
        while len(found) < answers and time.monotonic() < deadline:
            self._connection.process_data_events(time_limit=0.1)
        self._channel.basic_cancel(tag)
        return found


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


@contextmanager
def amqp(url: str) -> Iterator[Amqp]:
    """Connect a client to the broker at `url`; close it at the end of the block."""
    client = Amqp(url)
    try:
        yield client
    finally:
        client.close()
