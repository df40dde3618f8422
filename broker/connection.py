"""Connections to RabbitMQ. The only module that knows pika."""

import asyncio
import logging
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import pika
from pika import frame, spec
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.exceptions import (
    AMQPConnectionError,
    AMQPError,
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    ConnectionClosedByClient,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from broker.errors import (
    AccessRefused,
    BrokerError,
    BrokerUnreachable,
    ConfigurationError,
    MessageTooLarge,
    Unroutable,
)
from broker.salvage import readable_properties
from broker.topology import Topology

UNDECODABLE = "fluffle-undecodable"  # header put in place of headers, or of text, that pika cannot decode

T = TypeVar("T")

_READ_BYTES = 16_384  # at a time; pika's 4,096 means four times as many system calls
_CLOSE_WITHIN = 3.0  # seconds; a broker under an alarm does not read that we want to close
_TEXT_PROPERTIES = (
    "content_type",
    "content_encoding",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "type",
    "user_id",
    "app_id",
)

logging.getLogger("pika").setLevel(logging.CRITICAL)  # its tracebacks are told as one sentence here


@dataclass(slots=True)
class Outgoing:
    """A message to publish. `mandatory`: fail with Unroutable when no queue takes it."""

    exchange: str
    routing_key: str
    body: bytes
    type: str | None = None
    content_type: str = "application/json"
    message_id: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    priority: int | None = None
    headers: Mapping[str, Any] | None = None
    expiration: float | None = None  # seconds
    persistent: bool = True
    mandatory: bool = True


@dataclass(slots=True, eq=False)
class Delivery:
    """A message that arrived. `ack` and `reject` do nothing once the channel it came by is gone."""

    exchange: str
    routing_key: str
    body: bytes
    redelivered: bool
    properties: spec.BasicProperties
    _tag: int
    _channel: Any

    @property
    def headers(self) -> dict[str, Any]:
        """The AMQP headers, an empty dict when there are none."""
        return self.properties.headers or {}

    @property
    def is_lost(self) -> bool:
        """Whether the channel it came by is gone: the message comes again by another one, or to somebody else."""
        return not self._channel.is_open

    def ack(self) -> None:
        """Settle the message: it is done with."""
        if self._channel.is_open:
            self._channel.basic_ack(self._tag)

    def reject(self) -> None:
        """Settle the message as bad: RabbitMQ moves it to the rejected queue."""
        if self._channel.is_open:
            self._channel.basic_reject(self._tag, requeue=False)

    def requeue(self) -> None:
        """Give the message back for somebody else."""
        if self._channel.is_open:
            self._channel.basic_reject(self._tag, requeue=True)


def ack_all(deliveries: list[Delivery]) -> None:
    """Settle deliveries of one consumer that have arrived one after the other, with one frame for each channel."""
    last = {delivery._channel: delivery._tag for delivery in deliveries}
    for channel, tag in last.items():
        if channel.is_open:
            channel.basic_ack(tag, multiple=True)


class _Connection(AsyncioConnection):
    """pika's connection, with short cuts for what happens a thousand times a second, able to survive bad headers.

    The short cuts leave out pika's callback registry and its repeated marshalling of equal frames, and join all frames
    of a turn of the loop in one write where pika makes a system call for each.
    """

    on_confirm: Callable[[Any], None] | None = None
    user: str | None = None  # whom RabbitMQ knows this connection's messages to be from
    _unsent: list[bytes] | None = None

    def publish(self, channel: int, message: "Outgoing") -> None:
        """Send a message, as Channel.basic_publish does."""
        frames = [
            _publish_frame(channel, message.exchange, message.routing_key, message.mandatory),
            _header_frame(channel, len(message.body), _encoded_properties(message, self.user)),
        ]
        most = self._body_max_length
        frames += [
            frame.Body(channel, message.body[start : start + most]).marshal()
            for start in range(0, len(message.body), most)
        ]
        self._output_marshaled_frames(frames)

    def _process_frame(self, frame_value: Any) -> None:
        method = type(getattr(frame_value, "method", None))
        if self.on_confirm is not None and (method is spec.Basic.Ack or method is spec.Basic.Nack):
            self.frames_received += 1
            self.on_confirm(frame_value.method)
        elif method is spec.Basic.Deliver or isinstance(frame_value, frame.Header | frame.Body):
            self.frames_received += 1
            self._deliver_frame_to_channel(frame_value)
        else:
            super()._process_frame(frame_value)

    def _output_marshaled_frames(self, marshaled_frames: Any) -> None:
        if self._unsent is None:
            self._unsent = []
            asyncio.get_running_loop().call_soon(self._send_unsent)
        self._unsent.extend(marshaled_frames)
        self.frames_sent += len(marshaled_frames)

    def _send_unsent(self) -> None:
        data, self._unsent = b"".join(self._unsent or ()), None
        self.bytes_sent += len(data)
        if data and not self.is_closed and self._transport is not None:
            self._adapter_emit_data(data)

    def _proto_connection_made(self, transport: Any) -> None:
        transport._MAX_RECV_BYTES = _READ_BYTES
        super()._proto_connection_made(transport)

    def drop(self) -> None:
        """End the connection without a word to the broker."""
        self._adapter_disconnect_stream()

    def _read_frame(self) -> Any:
        # A header table may hold what Python cannot (a timestamp past year 9999, a thousand levels). Left alone, the
        # error kills the connection, and the message is redelivered and kills the next one.
        try:
            consumed, decoded = super()._read_frame()
            if isinstance(decoded, frame.Header):
                _require_text(decoded.properties)
            return consumed, decoded
        except AMQPError:
            raise
        except Exception as error:
            return _frame_without_properties(self._frame_buffer, error)


def _require_text(properties: spec.BasicProperties) -> None:
    """Raises ValueError for text that is not UTF-8: pika leaves it as bytes where everybody expects str."""
    for name in _TEXT_PROPERTIES:
        if isinstance(getattr(properties, name), bytes):
            raise ValueError(f"{name} is not UTF-8")


def _frame_without_properties(data: bytes, error: Exception) -> tuple[int, frame.Header]:
    kind, channel, size = data[0], int.from_bytes(data[1:3]), int.from_bytes(data[3:7])
    if kind != spec.FRAME_HEADER:
        raise error
    payload = data[spec.FRAME_HEADER_SIZE : spec.FRAME_HEADER_SIZE + size]
    told = {UNDECODABLE: f"{type(error).__name__}: {error}"}
    properties = spec.BasicProperties(headers=told, **readable_properties(payload[12:]))
    header = frame.Header(channel, int.from_bytes(payload[4:12]), properties)
    return spec.FRAME_HEADER_SIZE + size + spec.FRAME_END_SIZE, header


@lru_cache(maxsize=4096)
def _publish_frame(channel: int, exchange: str, routing_key: str, mandatory: bool) -> bytes:
    method = spec.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory)
    return bytes(frame.Method(channel, method).marshal())


def _header_frame(channel: int, body_size: int, properties: bytes) -> bytes:
    head = struct.pack(">BHIHHQ", spec.FRAME_HEADER, channel, 12 + len(properties), _BASIC_CLASS, 0, body_size)
    return head + properties + _FRAME_END


def _encoded_properties(message: "Outgoing", user: str | None) -> bytes:
    if message.headers or message.message_id or message.correlation_id:
        return _encode_properties(message, user)
    return _encoded_like_before(
        user,
        message.content_type,
        message.type,
        message.persistent,
        message.priority,
        message.expiration,
        message.reply_to,
    )


@lru_cache(maxsize=256)
def _encoded_like_before(user: str | None, *fields: Any) -> bytes:
    names = ("content_type", "type", "persistent", "priority", "expiration", "reply_to")
    return _encode_properties(Outgoing("", "", b"", **dict(zip(names, fields, strict=True))), user)


def _encode_properties(message: "Outgoing", user: str | None) -> bytes:
    properties = spec.BasicProperties(
        content_type=message.content_type,
        headers=dict(message.headers) if message.headers else None,
        delivery_mode=2 if message.persistent else 1,
        priority=message.priority,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        expiration=None if message.expiration is None else str(round(message.expiration * 1000)),
        message_id=message.message_id,
        type=message.type,
        user_id=user,
    )
    return b"".join(properties.encode())


_BASIC_CLASS = spec.BasicProperties.INDEX
_FRAME_END = bytes([spec.FRAME_END])


@dataclass(slots=True)
class Consumer:
    queue: str
    on_delivery: Callable[[Delivery], None]
    prefetch: int
    auto_ack: bool
    tag: str | None = None
    cancelled: bool = False


@dataclass(eq=False, slots=True)
class Subscription:
    """A running consumer of a link. `cancel()` ends it; it is set up again after every reconnect until then."""

    _half: "HalfLink"
    _consumer: Consumer

    def cancel(self) -> None:
        """Take no more deliveries. Those taken and not settled stay unsettled until their channel closes."""
        self._half.cancel(self._consumer)


@dataclass(frozen=True, slots=True)
class _Where:
    """A URL for people: without the password."""

    url: str

    def __str__(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port or (5671 if parts.scheme == 'amqps' else 5672)}"


class QueueState(NamedTuple):
    """How many messages of a queue wait for a consumer, and how many consumers it has."""

    messages: int
    consumers: int


def parameters(url: str, *, name: str, heartbeat: int = 20) -> pika.URLParameters:
    """Connection parameters for an AMQP URL. Raises ConfigurationError when it is not one."""
    parts = urlsplit(url)
    if parts.username and parts.password is None:
        raise ConfigurationError(f"the AMQP URL names a user without a password: {url}")
    if parts.scheme not in ("amqp", "amqps"):
        raise ConfigurationError(f"not an AMQP URL (amqp://user:password@host:port/vhost): {_redacted(url)}")
    try:
        params = pika.URLParameters(url)
    except (ValueError, IndexError, TypeError) as error:
        raise ConfigurationError(f"not an AMQP URL ({error}): {_redacted(url)}") from error
    params.heartbeat = heartbeat
    params.blocked_connection_timeout = 300
    params.connection_attempts = 1
    params.socket_timeout = 5
    params.stack_timeout = 10
    params.client_properties = {"connection_name": name, "product": "Fluffle"}
    return params


def _redacted(url: str) -> str:
    password = urlsplit(url).password
    return url.replace(f":{password}@", ":***@") if password else url


class HalfLink:
    """One connection with one channel: opened, rebuilt after failures, closed."""

    def __init__(self, url: str, name: str, on_ready: Callable[[], None]) -> None:
        self.where = _Where(url)
        self._parameters = parameters(url, name=name)
        self._on_ready = on_ready
        self._topology: list[Topology] = []
        self._consumers: list[Consumer] = []
        self.connection: _Connection | None = None
        self.channel: Any = None  # None while it is being rebuilt
        self.whole = False  # connected, with everything declared and consumed
        self.lost = asyncio.Event()
        self.error: BrokerError | None = None  # why the connection was lost or could not be opened
        self.refusal: ChannelClosedByBroker | None = None  # why the broker closed the channel

    # -- life ------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect once and set everything up. Raises BrokerUnreachable or AccessRefused."""
        self.lost, self.error = asyncio.Event(), None
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[_Connection] = loop.create_future()
        connection: _Connection = _Connection(
            self._parameters,
            on_open_callback=lambda _: resolve(opened, connection),
            on_open_error_callback=lambda _, error: fail(opened, self._translated(error)),
            on_close_callback=lambda _, error: self._on_connection_closed(connection, error),
            custom_ioloop=loop,
        )
        connection.user = self._parameters.credentials.username
        try:
            self.connection = await opened
            self.channel = await self._open_channel()
            for topology in self._topology:
                await self._declare_now(topology)
            for consumer in list(self._consumers):
                await self._consume_now(consumer)
        except BaseException:
            if not connection.is_closing and not connection.is_closed:
                connection.close()
            raise
        self.whole = True
        self._on_ready()

    async def close(self) -> None:
        """Close the connection and wait until it is closed."""
        if self.connection is not None and self.connection.is_open:
            self.connection.close()
            try:
                await asyncio.wait_for(self.lost.wait(), _CLOSE_WITHIN)
            except TimeoutError:
                self.connection.drop()
                await self.lost.wait()

    def _rebuild(self, error: BrokerError) -> None:
        """Close the connection, so that it is opened anew, because of `error`."""
        self.error = error
        if self.connection is not None and self.connection.is_open:
            self.connection.close(320, "rebuilding")

    def _on_connection_closed(self, connection: _Connection, error: BaseException) -> None:
        if connection is self.connection:
            if not isinstance(error, ConnectionClosedByClient):
                self.error = self._translated(error)
            self.lost.set()

    def _translated(self, error: BaseException) -> BrokerError:
        match error:
            case ProbableAuthenticationError() | ProbableAccessDeniedError():
                return AccessRefused(f"RabbitMQ at {self.where} refused the user, its password or the virtual host")
            case ConnectionClosedByBroker() | ChannelClosedByBroker():
                kind = AccessRefused if error.reply_code == 403 else BrokerError
                return kind(f"RabbitMQ at {self.where} said: {error.reply_text}")
            case AMQPConnectionError() if error.args and isinstance(error.args[0], BaseException):
                return self._translated(error.args[0])
            case _:
                while causes := getattr(error, "exceptions", None) or getattr(error, "exception", None):
                    error = causes[-1] if isinstance(causes, tuple) else causes
                detail = getattr(error, "strerror", None) or str(error) or type(error).__name__
                return BrokerUnreachable(f"RabbitMQ at {self.where} cannot be reached ({detail})")

    # -- channel ---------------------------------------------------------------------------------------------------

    async def _open_channel(self) -> Any:
        assert self.connection is not None
        opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        channel = self.connection.channel(on_open_callback=lambda ch: resolve(opened, ch))
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_cancel_callback(lambda _: self._rebuild(self._ended_consumer()))
        return await self._or_lost(opened)

    def _ended_consumer(self) -> BrokerError:
        return BrokerError(f"RabbitMQ at {self.where} ended a subscription: its queue was deleted or moved")

    def _on_channel_closed(self, channel: Any, error: Exception) -> None:
        if isinstance(error, ChannelClosedByBroker) and (channel is self.channel or self.channel is None):
            self.refusal = error
            self._rebuild(self._translated(error))

    async def rpc(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """One AMQP method and its answer. Raises BrokerError when the channel or connection goes instead."""
        if self.channel is None or not self.channel.is_open:
            raise self.error or BrokerUnreachable()
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        call = getattr(self.channel, method)
        call(*args, callback=lambda answer: resolve(answered, answer), **kwargs)
        return await self._or_lost(answered)

    async def _or_lost(self, future: asyncio.Future[T]) -> T:
        lost = asyncio.ensure_future(self.lost.wait())
        either: set[asyncio.Future[Any]] = {future, lost}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost.cancel()
        if future.done():
            return future.result()
        raise self.error or BrokerUnreachable()

    def confirm(self, on_confirm: Callable[[Any], None], on_return: Callable[[Any, bytes], None]) -> None:
        """From now on the broker tells what it has taken, and gives back what no queue takes."""
        assert self.connection is not None
        self.channel.add_on_return_callback(lambda _, method, properties, body: on_return(method, body))
        self.channel.confirm_delivery(_ignore)
        self.connection.on_confirm = on_confirm

    def publish(self, message: Outgoing) -> None:
        """Send a message. Raises whatever pika does when a value does not fit into its field; nothing is sent then."""
        assert self.connection is not None
        self.connection.publish(self.channel.channel_number, message)

    async def queue_state(self, queue: str) -> QueueState | None:
        """What is in a queue now, by a channel of its own: RabbitMQ closes the one that asks in vain."""
        if self.connection is None or not self.connection.is_open:
            raise self.error or BrokerUnreachable()
        answered: asyncio.Future[QueueState | None] = asyncio.get_running_loop().create_future()

        def on_state(channel: Any, ok: Any) -> None:
            resolve(answered, QueueState(int(ok.method.message_count), int(ok.method.consumer_count)))
            channel.close()

        def on_closed(error: BaseException) -> None:
            if isinstance(error, ChannelClosedByBroker) and error.reply_code == 404:
                resolve(answered, None)
            else:
                fail(answered, self._translated(error))

        def on_open(channel: Any) -> None:
            channel.add_on_close_callback(lambda _, error: on_closed(error))
            channel.queue_declare(queue, passive=True, callback=partial(on_state, channel))

        self.connection.channel(on_open_callback=on_open)
        return await self._or_lost(answered)

    # -- declarations and consumers --------------------------------------------------------------------------------

    async def declare(self, topology: Topology) -> None:
        """Declare now, and again after every reconnect."""
        await self._declare_now(topology)
        self._topology.append(topology)

    async def _declare_now(self, topology: Topology) -> None:
        for exchange in topology.exchanges:
            await self.rpc(
                "exchange_declare",
                exchange.name,
                exchange_type=exchange.type,
                durable=True,
                arguments=dict(exchange.arguments),
            )
        for queue in topology.queues:
            await self.rpc(
                "queue_declare",
                queue.name,
                durable=not queue.exclusive,
                exclusive=queue.exclusive,
                arguments=dict(queue.arguments),
            )
        for binding in topology.bindings:
            await self.rpc("queue_bind", binding.queue, binding.exchange, routing_key=binding.routing_key)

    async def consume(self, consumer: Consumer) -> Subscription:
        await self._consume_now(consumer)
        self._consumers.append(consumer)
        return Subscription(self, consumer)

    async def _consume_now(self, consumer: Consumer) -> None:
        if not consumer.auto_ack:
            await self.rpc("basic_qos", prefetch_count=consumer.prefetch)
        channel = self.channel

        def on_message(_: Any, method: Any, properties: Any, body: bytes) -> None:
            consumer.on_delivery(
                Delivery(
                    method.exchange,
                    _text(method.routing_key),
                    body,
                    method.redelivered,
                    properties,
                    method.delivery_tag,
                    channel,
                )
            )

        ok = await self.rpc("basic_consume", consumer.queue, on_message, auto_ack=consumer.auto_ack)
        consumer.tag = ok.method.consumer_tag
        if consumer.cancelled:
            channel.basic_cancel(consumer.tag)

    def cancel(self, consumer: Consumer) -> None:
        consumer.cancelled = True
        if consumer in self._consumers:
            self._consumers.remove(consumer)
            if self.channel is not None and self.channel.is_open and consumer.tag:
                self.channel.basic_cancel(consumer.tag)


def fault_of(message: Outgoing, refusal: ChannelClosedByBroker) -> BrokerError | None:
    """What is wrong with a message for which the broker may have closed the channel; None when nothing is."""
    said = refusal.reply_text
    if named := re.search(r"(?:topic '([^']*)' in )?exchange '([^']*)'", said):
        topic, exchange = named.groups()
        if message.exchange == exchange and topic in (None, message.routing_key):
            return AccessRefused(f"RabbitMQ said: {said}") if refusal.reply_code == 403 else Unroutable(said)
    if (limit := re.search(r"max size (\d+)", said)) and len(message.body) > int(limit[1]):
        return MessageTooLarge(f"RabbitMQ said: {said}")
    return None


def is_refusal(method: Any) -> bool:
    """Whether the broker's word on a message is that it has not taken it."""
    return isinstance(method, spec.Basic.Nack)


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _ignore(_: Any) -> None:
    """For pika, which wants a callback: confirms go to `_Connection.on_confirm`."""


def resolve(future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)


def fail(future: asyncio.Future[T], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
