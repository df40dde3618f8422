"""Connections and channels of RabbitMQ, made with pika. No other module uses pika.

The connection overrides private methods of pika, so pyproject.toml pins pika to one minor version, and
tests/unit/broker/amqp/test_pika_connection.py compares the methods with pika's.
"""

import asyncio
import logging
from asyncio import Future
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote

import pika
from pika import frame
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.data import decode_table, decode_value, encode_table
from pika.exceptions import (
    AMQPConnectionError,
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    ConnectionClosedByClient,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from broker.amqp import codec
from broker.amqp.ack_batcher import AckBatcher
from broker.amqp.channel import Channel, Connection, Consumer, OnConfirms, OnReturn, QueueState, Refusal
from broker.amqp.envelope import Delivery, Outgoing, Properties
from broker.amqp.url import AMQP_FORM, certificate_error, completed, split_off_tls, split_url, tls_context
from broker.errors import AccessRefused, BrokerError, BrokerUnreachable, ConfigurationError
from broker.futures import resolve

QUEUES = "/queues/"  # the prefix of a queue's address in AMQP 1.0 on RabbitMQ 4; the name is percent-encoded

_INTERNAL_ERROR = (541, "INTERNAL_ERROR")  # RabbitMQ's reply when it gives no reason

_READ_BYTES = 65_536  # of one read from the socket; pika's 4,096 would mean many more system calls

T = TypeVar("T")


class _PikaConnection(AsyncioConnection):
    """pika's connection, with fast paths for messages, acknowledgements and confirms.

    Messages and confirms are decoded and encoded by codec.py; pika handles all other frames. The frames of one turn of
    the event loop go into one write.
    """

    on_confirms: OnConfirms | None = None
    user: str | None = None  # the user_id property of published messages
    _frame_buffer: bytes
    _unsent: list[bytes] | None = None
    _arriving: codec.PartialMessage | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._consumers: dict[bytes, tuple[Consumer, AckBatcher]] = {}
        super().__init__(*args, **kwargs)

    def open_channel(
        self,
        on_closed: Callable[[Channel, BaseException], None],
        on_consumer_ended: Callable[[], None] = lambda: None,
    ) -> Future[Channel]:
        """Open a channel. `on_consumer_ended` is called when RabbitMQ ends one of its consumers."""
        opened: Future[Channel] = asyncio.get_running_loop().create_future()
        pika_channel = self.channel(on_open_callback=lambda _: resolve(opened, channel))
        channel: Channel = _PikaChannel(self, pika_channel, on_closed, on_consumer_ended)
        return opened

    def discard(self) -> None:
        """Begin to close the connection, unless it is closing or closed."""
        if not self.is_closing and not self.is_closed:
            self.close()

    def deliver_to(self, tag: str, consumer: Consumer, ack_batcher: AckBatcher) -> None:
        """Pass the deliveries of a consumer tag to a consumer, without pika."""
        self._consumers[tag.encode()] = consumer, ack_batcher

    def _on_data_available(self, data_in: bytes) -> None:
        self.bytes_received += len(data_in)
        data, at = self._frame_buffer + data_in, 0
        while True:
            if (message := codec.read_message(data, at)) is not None:
                at, begin, properties, body = message
                self._deliver(begin, properties, body)
            elif self.on_confirms is not None and (confirms := codec.read_confirms(data, at)) is not None:
                at, tags = confirms
                self.on_confirms(tags, False)
            elif end := codec.end_of_frame(data, at):
                self._on_frame(data, at, end)
                at = end
            else:
                break
        self._frame_buffer = data[at:]

    def _on_frame(self, data: bytes, at: int, end: int) -> None:
        kind, arriving = data[at], self._arriving
        if kind == codec.METHOD:
            method = codec.method_of(data, at)
            if method == codec.DELIVER:
                self._arriving = codec.PartialMessage(codec.read_deliver(data, at, end))
                return
            if self.on_confirms is not None and method == codec.NACK:
                self.on_confirms([codec.read_confirm(data, at)], True)
                return
        elif arriving is not None and kind in (codec.HEADER, codec.BODY):
            if arriving.add(data, at, end):
                self._arriving = None
                self._deliver(arriving.begin, arriving.properties, b"".join(arriving.parts))
            return
        self._process_frame(frame.decode_frame(data[at:end])[1])

    def _deliver(self, begin: codec.Deliver, properties: bytes, body: bytes) -> None:
        name, tag, redelivered, exchange, routing_key = begin
        consumer, ack_batcher = self._consumers[name]
        if not consumer.auto_ack:
            ack_batcher.expect(tag)
        delivery = Delivery(
            exchange, routing_key, body, redelivered, decode_properties(properties), tag, ack_batcher, consumer.queue
        )
        if consumer.cancelled:
            delivery.requeue()
        else:
            consumer.on_delivery(delivery)

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
            self._transport._on_socket_writable()  # pika would wait until the event loop finds the socket writable

    def _proto_connection_made(self, transport: Any) -> None:
        transport._MAX_RECV_BYTES = _READ_BYTES
        super()._proto_connection_made(transport)

    def _on_connection_workflow_done(self, conn_or_exc: Any) -> None:
        # For a connection that closes before it is open, pika passes the class of the error, and fails on that.
        super()._on_connection_workflow_done(conn_or_exc() if isinstance(conn_or_exc, type) else conn_or_exc)

    def drop(self) -> None:
        """End the connection without a message to RabbitMQ."""
        self._adapter_disconnect_stream()


class _PikaChannel:
    """A channel of pika's connection: broker.amqp.channel.Channel."""

    def __init__(
        self,
        connection: _PikaConnection,
        channel: Any,
        on_closed: Callable[[Channel, BaseException], None],
        on_consumer_ended: Callable[[], None],
    ) -> None:
        self._connection, self._channel, self._number = connection, channel, int(channel.channel_number)
        channel.add_on_close_callback(lambda _, error: on_closed(self, error))
        channel.add_on_cancel_callback(lambda _: on_consumer_ended())

    @property
    def is_open(self) -> bool:
        return bool(self._channel.is_open)

    def publish(self, message: Outgoing) -> None:
        connection, expiration = self._connection, message.expiration
        properties = codec.properties(
            content_type=message.content_type,
            headers=_table(message.headers) if message.headers else b"",
            persistent=message.persistent,
            priority=message.priority,
            correlation_id=message.correlation_id,
            reply_to=message.reply_to,
            expiration=None if expiration is None else str(round(expiration * 1000)),
            message_id=message.message_id,
            kind=message.type,
            user_id=connection.user,
        )
        begin = codec.publish(self._number, message.exchange, message.routing_key, message.mandatory)
        content = codec.content(self._number, properties, message.body, connection._body_max_length)
        connection._output_marshaled_frames((begin, content))

    def confirm(self, on_confirms: OnConfirms, on_return: OnReturn) -> None:
        self._channel.add_on_return_callback(
            lambda _, method, properties, body: on_return(method.exchange, method.routing_key, body)
        )
        self._channel.confirm_delivery(_ignore)
        self._connection.on_confirms = on_confirms

    def send_acks(self, *, up_to: int | None, besides: Sequence[int]) -> None:
        acks = [] if up_to is None else [codec.ack(self._number, up_to, multiple=True)]
        acks += [codec.ack(self._number, tag, multiple=False) for tag in besides]
        self._connection._output_marshaled_frames(acks)

    def reject(self, tag: int, *, requeue: bool) -> None:
        self._channel.basic_reject(tag, requeue=requeue)

    def set_prefetch(self, count: int) -> Future[None]:
        return _call(self._channel.basic_qos, _nothing, prefetch_count=count)

    def consume(self, queue: str, tag: str, consumer: Consumer, ack_batcher: AckBatcher) -> Future[None]:
        self._connection.deliver_to(tag, consumer, ack_batcher)
        consume = self._channel.basic_consume
        return _call(consume, _nothing, queue, _ignore, auto_ack=consumer.auto_ack, consumer_tag=tag)

    def cancel(self, tag: str) -> None:
        self._channel.basic_cancel(tag)

    def declare_exchange(self, name: str, kind: str, arguments: Mapping[str, object]) -> Future[None]:
        declare = self._channel.exchange_declare
        return _call(declare, _nothing, name, exchange_type=kind, durable=True, arguments=dict(arguments))

    def bind_exchange(self, destination: str, source: str) -> Future[None]:
        return _call(self._channel.exchange_bind, _nothing, destination, source, routing_key="#")

    def declare_queue(self, name: str, *, exclusive: bool, arguments: Mapping[str, object]) -> Future[None]:
        kind = {"durable": not exclusive, "exclusive": exclusive}
        return _call(self._channel.queue_declare, _nothing, name, **kind, arguments=dict(arguments))

    def bind_queue(self, queue: str, exchange: str, routing_key: str) -> Future[None]:
        return _call(self._channel.queue_bind, _nothing, queue, exchange, routing_key=routing_key)

    def unbind_queue(self, queue: str, exchange: str, routing_key: str) -> Future[None]:
        return _call(self._channel.queue_unbind, _nothing, queue, exchange, routing_key=routing_key)

    def queue_state(self, queue: str) -> Future[QueueState]:
        return _call(self._channel.queue_declare, _queue_state, queue, passive=True)

    def purge_queue(self, queue: str) -> Future[int]:
        return _call(self._channel.queue_purge, lambda answer: int(answer.method.message_count), queue)

    def delete_queue(self, queue: str) -> Future[None]:
        return _call(self._channel.queue_delete, _nothing, queue)

    def delete_exchange(self, exchange: str) -> Future[None]:
        return _call(self._channel.exchange_delete, _nothing, exchange)

    def close(self) -> None:
        self._channel.close()


def _call(method: Callable[..., Any], read: Callable[[Any], T], *args: Any, **kwargs: Any) -> Future[T]:
    """Call a method of pika's channel. The future ends with what `read` makes of RabbitMQ's answer."""
    answered: Future[T] = asyncio.get_running_loop().create_future()
    method(*args, callback=lambda answer: resolve(answered, read(answer)), **kwargs)
    return answered


def _nothing(_: Any) -> None:
    """Ignore the answer: it only says that RabbitMQ did what was asked."""


def _queue_state(answer: Any) -> QueueState:
    return QueueState(int(answer.method.message_count), int(answer.method.consumer_count))


def _ignore(*_: Any) -> None:
    """A callback that pika requires: deliveries and confirms do not pass through it."""


def connect(
    params: pika.URLParameters,
    *,
    user: str | None,
    on_open: Callable[[], None],
    on_open_error: Callable[[BaseException], None],
    on_closed: Callable[[Connection, BaseException], None],
    on_blocked: Callable[[str | None], None],
) -> Connection:
    """Begin to connect to RabbitMQ.

    `user` is the user_id property of published messages. `on_blocked` is called with the reason when RabbitMQ stops
    accepting messages, and with None when RabbitMQ accepts messages again.
    """
    if (log := logging.getLogger("pika")).level == logging.NOTSET:
        log.setLevel(logging.CRITICAL)  # the errors are raised and logged here, as one sentence without a traceback
    connection: Any = _PikaConnection(
        params,
        on_open_callback=lambda _: on_open(),
        on_open_error_callback=lambda _, error: on_open_error(error),
        on_close_callback=lambda _, error: on_closed(connection, error),
        custom_ioloop=asyncio.get_running_loop(),
    )
    connection.user = user
    connection.add_on_connection_blocked_callback(
        lambda _, blocked: on_blocked(blocked.method.reason or "a resource alarm")
    )
    connection.add_on_connection_unblocked_callback(lambda *_: on_blocked(None))
    opening: Connection = connection
    return opening


@lru_cache(maxsize=64)  # messages without an id often have equal properties
def decode_properties(encoded: bytes) -> Properties:
    """Decode the properties of a delivery as far as possible. Never raises.

    A header may hold values that Python lacks (a timestamp past year 9999, a thousand levels), and text may not be
    UTF-8. An error would end the connection; RabbitMQ would deliver the message again, and end the next one.
    """
    try:
        found = codec.read_properties(encoded)
        if table := found.get("headers"):
            found["headers"], _ = decode_table(table, 0)
    except Exception:
        found, unreadable = codec.read_properties_leniently(encoded)
        if (table := found.pop("headers", None)) is not None:
            found["headers"] = _readable_headers(table[4:], unreadable)
        found["unreadable"] = tuple(unreadable)
    if (reply_to := found.get("reply_to")) and reply_to.startswith(QUEUES):
        found["reply_to"] = unquote(reply_to.removeprefix(QUEUES))
    return Properties(**found)


def _readable_headers(table: bytes, unreadable: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        for name, value in codec.header_values(table):
            try:
                found[name], _ = decode_value(value, 0)
            except Exception:
                found[name] = None
    except ValueError:
        unreadable.append("headers")
    return found


def _table(headers: Mapping[str, Any]) -> bytes:
    pieces: list[bytes] = []
    encode_table(pieces, dict(headers))
    return b"".join(pieces)


def parameters(url: str, *, name: str, heartbeat: int = 20) -> pika.URLParameters:
    """Return pika's parameters for an AMQP URL. Raises ConfigurationError for an invalid URL."""
    plain, tls = split_off_tls(url)
    parts = split_url(plain)
    if parts.username and parts.password is None and not tls.external:
        raise ConfigurationError(f"the AMQP URL names the user {unquote(parts.username)} without a password")
    try:
        params = pika.URLParameters(completed(plain, password=""))
    except (ValueError, IndexError, TypeError):
        names = ", ".join(dict(parse_qsl(parts.query)))
        wrong = f"a parameter has a wrong value ({names})" if names else f"it must be like {AMQP_FORM}"
        raise ConfigurationError(f"the AMQP URL cannot be read: {wrong}") from None  # the cause would show the value
    if parts.scheme == "amqps":
        params.ssl_options = pika.SSLOptions(tls_context(tls), tls.server_name)
    if tls.external:
        params.credentials = pika.credentials.ExternalCredentials()
    params.heartbeat = heartbeat
    params.blocked_connection_timeout = None  # an alarm is reported; a new connection would be blocked, too
    params.connection_attempts = 1
    params.socket_timeout = 5
    params.stack_timeout = 10
    params.client_properties = {"connection_name": name, "product": "Fluffle"}
    return params


def refusal_of(error: BaseException) -> Refusal | None:
    """Return why RabbitMQ closed a channel; None when the channel closed for another reason."""
    return Refusal(error.reply_code, error.reply_text) if isinstance(error, ChannelClosedByBroker) else None


def failed_to_deliver(error: BaseException) -> bool:
    """Whether RabbitMQ closed the connection without a reason: it cannot translate a message to AMQP 0-9-1."""
    return isinstance(error, ConnectionClosedByBroker) and (error.reply_code, error.reply_text) == _INTERNAL_ERROR


def was_wanted(error: BaseException) -> bool:
    """Whether this side closed the connection."""
    return isinstance(error, ConnectionClosedByClient)


def translated(error: BaseException, where: object) -> BrokerError:
    """Convert an error of pika. `where` is RabbitMQ's address in error messages."""
    match error:
        case ProbableAuthenticationError() | ProbableAccessDeniedError():
            return AccessRefused(f"RabbitMQ at {where} refused the user, its password or the virtual host")
        case ConnectionClosedByBroker() | ChannelClosedByBroker():
            kind = AccessRefused if error.reply_code == 403 else BrokerError
            return kind(f"RabbitMQ at {where} said: {error.reply_text}")
        case AMQPConnectionError() if error.args and isinstance(error.args[0], BaseException):
            return translated(error.args[0], where)
        case _:
            while causes := getattr(error, "exceptions", None) or getattr(error, "exception", None):
                error = causes[-1] if isinstance(causes, tuple) else causes
            detail = getattr(error, "strerror", None) or str(error) or type(error).__name__
            return certificate_error(error, where) or BrokerUnreachable(
                f"RabbitMQ at {where} cannot be reached ({detail})"
            )
