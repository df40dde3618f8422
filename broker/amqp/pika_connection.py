"""Connections to RabbitMQ. The only module that knows pika."""

import asyncio
import logging
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar
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

from broker.amqp import codec as frames
from broker.amqp.lenient_properties import header_values, readable_properties
from broker.amqp.url import AMQP_FORM, completed, split_off_tls, split_url, tls_context
from broker.errors import (
    AccessRefused,
    BrokerError,
    BrokerUnreachable,
    CertificateRefused,
    ConfigurationError,
)

_CERTIFICATE_ALERT = re.compile(r"\[SSL: \w+_ALERT_(\w*(?:CERTIFICATE|UNKNOWN_CA)\w*)\]")  # of OpenSSL

QUEUES = "/queues/"  # how RabbitMQ 4 addresses a queue in AMQP 1.0, with its name percent-encoded

T = TypeVar("T")

OnConfirms = Callable[[list[tuple[int, int]], bool], None]
"""Is called with delivery tags, each with whether it is about all before it too, and whether they are refused."""

_BROKEN = "INTERNAL_ERROR"  # what RabbitMQ says when it knows no reason

_READ_BYTES = 65_536  # at a time; pika's 4,096 means many more system calls

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


@dataclass(slots=True)
class Properties:
    """What AMQP tells of a message besides its body. None: the sender has not said, or it cannot be read.

    `unreadable` names those that cannot be read (see lenient_properties): text that is not UTF-8, headers that
    are no table. A header whose value cannot be read is None.
    """

    content_type: str | None = None
    content_encoding: str | None = None
    headers: dict[str, Any] | None = None
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: int | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None
    unreadable: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class Delivery:
    """A message that arrived. `ack` and `reject` do nothing once the channel it came by is gone."""

    exchange: str
    routing_key: str
    body: bytes
    redelivered: bool
    properties: Properties
    _tag: int
    _ack_batcher: "AckBatcher"
    queue: str = ""

    @property
    def headers(self) -> dict[str, Any]:
        """The AMQP headers, an empty dict when there are none."""
        return self.properties.headers or {}

    @property
    def is_lost(self) -> bool:
        """Whether the channel it came by is gone: the message comes again by another one, or to somebody else."""
        return not self._ack_batcher.is_open

    def ack(self) -> None:
        """Settle the message: it is done with."""
        self._ack_batcher.ack(self._tag)

    def reject(self) -> None:
        """Settle the message as bad: RabbitMQ moves it to the rejected queue."""
        self._ack_batcher.reject(self._tag, requeue=False)

    def requeue(self) -> None:
        """Give the message back for somebody else."""
        self._ack_batcher.reject(self._tag, requeue=True)


class AckBatcher:
    """What came by one channel and is not settled.

    All that is acknowledged in a turn of the loop goes in as few frames as possible: one, as long as nothing older is
    unsettled.
    """

    def __init__(self, connection: "Connection", channel: Any, on_settled: Callable[[], None] | None = None) -> None:
        """`on_settled` is called with every delivery that is acknowledged or rejected."""
        self._connection = connection
        self._channel = channel
        self._on_settled = on_settled
        self._unsettled: dict[int, None] = {}  # delivery tags, oldest first
        self._acked: list[int] = []  # and not told yet

    @property
    def is_open(self) -> bool:
        """Whether the channel is still there."""
        return bool(self._channel.is_open)

    def expect(self, tag: int) -> None:
        """This delivery is to be settled."""
        self._unsettled[tag] = None

    def ack(self, tag: int) -> None:
        """Settle a delivery, soon. One that is settled stays as it is."""
        if self._settle(tag):
            if not self._acked:
                asyncio.get_running_loop().call_soon(self.send_acks)
            self._acked.append(tag)

    def reject(self, tag: int, *, requeue: bool) -> None:
        """Settle a delivery as not done. One that is settled stays as it is."""
        if self._settle(tag) and self.is_open:
            self._channel.basic_reject(tag, requeue=requeue)

    def send_acks(self) -> None:
        """Tell what is acknowledged."""
        acked, self._acked = self._acked, []
        if acked and self.is_open:
            oldest = next(iter(self._unsettled), max(acked) + 1)
            self._connection.send_acks(
                self._channel.channel_number,
                up_to=max((tag for tag in acked if tag < oldest), default=None),
                besides=[tag for tag in acked if tag > oldest],
            )

    def _settle(self, tag: int) -> bool:
        """Whether the delivery was unsettled until now."""
        was_unsettled = self._unsettled.pop(tag, False) is None
        if was_unsettled and self._on_settled is not None:
            self._on_settled()
        return was_unsettled


@dataclass(slots=True)
class _Arrival:
    """A delivery whose frames come in one by one."""

    begin: frames.Deliver
    properties: bytes = b""
    missing: int = 0  # bytes of the body
    parts: list[bytes] = field(default_factory=list)


class Connection(AsyncioConnection):
    """pika's connection, with short cuts for what happens a thousand times a second, able to survive bad headers.

    Messages and confirms are read and written here, as bytes; all the rest is pika's. What is sent in a turn of the
    loop goes in one write.
    """

    on_confirms: OnConfirms | None = None
    user: str | None = None  # whom RabbitMQ knows this connection's messages to be from
    _frame_buffer: bytes
    _unsent: list[bytes] | None = None
    _arriving: _Arrival | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._consumers: dict[bytes, tuple[Consumer, AckBatcher]] = {}
        super().__init__(*args, **kwargs)

    def publish(self, channel: int, message: "Outgoing") -> None:
        """Send a message, as Channel.basic_publish does."""
        expiration = message.expiration
        properties = frames.properties(
            content_type=message.content_type,
            headers=_table(message.headers) if message.headers else b"",
            persistent=message.persistent,
            priority=message.priority,
            correlation_id=message.correlation_id,
            reply_to=message.reply_to,
            expiration=None if expiration is None else str(round(expiration * 1000)),
            message_id=message.message_id,
            kind=message.type,
            user_id=self.user,
        )
        begin = frames.publish(channel, message.exchange, message.routing_key, message.mandatory)
        self._output_marshaled_frames((begin, frames.content(channel, properties, message.body, self._body_max_length)))

    def send_acks(self, channel: int, *, up_to: int | None, besides: list[int]) -> None:
        """Acknowledge all deliveries up to one, and some besides."""
        acks = [] if up_to is None else [frames.ack(channel, up_to, multiple=True)]
        self._output_marshaled_frames(acks + [frames.ack(channel, tag, multiple=False) for tag in besides])

    def deliver_to(self, tag: str, consumer: "Consumer", ack_batcher: AckBatcher) -> None:
        """Give the consumer with that tag its deliveries, here and not by pika."""
        self._consumers[tag.encode()] = consumer, ack_batcher

    def _on_data_available(self, data_in: bytes) -> None:
        self.bytes_received += len(data_in)
        data, at = self._frame_buffer + data_in, 0
        while True:
            if (message := frames.read_message(data, at)) is not None:
                at, begin, properties, body = message
                self._deliver(begin, properties, body)
            elif self.on_confirms is not None and (confirms := frames.read_confirms(data, at)) is not None:
                at, told = confirms
                self.on_confirms(told, False)
            elif end := frames.end_of_frame(data, at):
                self._on_frame(data, at, end)
                at = end
            else:
                break
        self._frame_buffer = data[at:]

    def _on_frame(self, data: bytes, at: int, end: int) -> None:
        kind, arriving = data[at], self._arriving
        if kind == frames.METHOD:
            method = frames.method_of(data, at)
            if method == frames.DELIVER:
                self._arriving = _Arrival(frames.read_deliver(data, at, end))
                return
            if self.on_confirms is not None and method == frames.NACK:
                self.on_confirms([frames.read_confirm(data, at)], True)
                return
        elif arriving is not None and kind in (frames.HEADER, frames.BODY):
            if kind == frames.HEADER:
                arriving.missing, arriving.properties = frames.read_header(data, at, end)
            else:
                part = frames.payload(data, at, end)
                arriving.missing -= len(part)
                arriving.parts.append(part)
            if not arriving.missing:
                self._arriving = None
                self._deliver(arriving.begin, arriving.properties, b"".join(arriving.parts))
            return
        self._process_frame(frame.decode_frame(data[at:end])[1])

    def _deliver(self, begin: frames.Deliver, properties: bytes, body: bytes) -> None:
        name, tag, redelivered, exchange, routing_key = begin
        consumer, ack_batcher = self._consumers[name]
        if not consumer.auto_ack:
            ack_batcher.expect(tag)
        delivery = Delivery(
            exchange, routing_key, body, redelivered, _properties(properties), tag, ack_batcher, consumer.queue
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
            self._transport._on_socket_writable()  # now; pika would wait for the loop to find that it is

    def _proto_connection_made(self, transport: Any) -> None:
        transport._MAX_RECV_BYTES = _READ_BYTES
        super()._proto_connection_made(transport)

    def _on_connection_workflow_done(self, conn_or_exc: Any) -> None:
        # Of a connection that is closed before it is open, pika gives the class of the error, and trips over it.
        super()._on_connection_workflow_done(conn_or_exc() if isinstance(conn_or_exc, type) else conn_or_exc)

    def drop(self) -> None:
        """End the connection without a word to the broker."""
        self._adapter_disconnect_stream()


@lru_cache(maxsize=64)  # those without an id are the same again and again
def _properties(encoded: bytes) -> Properties:
    """The properties of a message that has arrived.

    A header table may hold what Python cannot (a timestamp past year 9999, a thousand levels), and text may not be
    UTF-8. An error would kill the connection, and the message would be redelivered and kill the next one: what can be
    read is read.
    """
    try:
        found = frames.read_properties(encoded)
        if table := found.get("headers"):
            found["headers"], _ = decode_table(table, 0)
    except Exception:
        found, unreadable = readable_properties(encoded)
        if (table := found.pop("headers", None)) is not None:
            found["headers"] = _readable_headers(table, unreadable)
        found["unreadable"] = tuple(unreadable)
    if (reply_to := found.get("reply_to")) and reply_to.startswith(QUEUES):
        found["reply_to"] = unquote(reply_to.removeprefix(QUEUES))
    return Properties(**found)


def _readable_headers(table: bytes, unreadable: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        for name, value in header_values(table):
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


@dataclass(slots=True)
class Consumer:
    queue: str
    on_delivery: Callable[[Delivery], object]
    prefetch: int
    auto_ack: bool
    tag: str | None = None
    cancelled: bool = False


def parameters(url: str, *, name: str, heartbeat: int = 20) -> pika.URLParameters:
    """Connection parameters for an AMQP URL. Raises ConfigurationError when it is not one."""
    plain, tls = split_off_tls(url)
    parts = split_url(plain)
    if parts.username and parts.password is None and not tls.external:
        raise ConfigurationError(f"the AMQP URL names the user {unquote(parts.username)} without a password")
    try:
        params = pika.URLParameters(completed(plain, password=""))
    except (ValueError, IndexError, TypeError):
        names = ", ".join(dict(parse_qsl(parts.query)))
        wrong = f"a parameter has a wrong value ({names})" if names else f"it must be like {AMQP_FORM}"
        raise ConfigurationError(f"the AMQP URL cannot be read: {wrong}") from None  # its cause shows the value
    if parts.scheme == "amqps":
        params.ssl_options = pika.SSLOptions(tls_context(tls), tls.server_name)
    if tls.external:
        params.credentials = pika.credentials.ExternalCredentials()
    params.heartbeat = heartbeat
    params.blocked_connection_timeout = None  # it is reported, and a new connection would be blocked as well
    params.connection_attempts = 1
    params.socket_timeout = 5
    params.stack_timeout = 10
    params.client_properties = {"connection_name": name, "product": "Fluffle"}
    return params


class Refusal(NamedTuple):
    """Why RabbitMQ has closed a channel."""

    code: int
    text: str


def refusal_of(error: BaseException) -> Refusal | None:
    """Why RabbitMQ has closed the channel; None when the channel went for another reason."""
    return Refusal(error.reply_code, error.reply_text) if isinstance(error, ChannelClosedByBroker) else None


def failed_to_deliver(error: BaseException) -> bool:
    """Whether RabbitMQ has closed the connection because something in it broke.

    That happens when it cannot translate a message for this client. Where it knows a reason, it says more than that.
    """
    return isinstance(error, ConnectionClosedByBroker) and (error.reply_code, error.reply_text) == (541, _BROKEN)


def was_wanted(error: BaseException) -> bool:
    """Whether the connection was closed by this side."""
    return isinstance(error, ConnectionClosedByClient)


def translated(error: BaseException, where: object) -> BrokerError:
    """pika's error as ours. `where` is RabbitMQ's address, for people."""
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
            if isinstance(error, ssl.SSLCertVerificationError):
                return CertificateRefused(
                    f"the certificate of RabbitMQ at {where} is not accepted: {error.verify_message}"
                )
            if alert := _CERTIFICATE_ALERT.search(str(error)):
                why = alert[1].replace("_", " ").lower()
                return CertificateRefused(f"RabbitMQ at {where} does not accept the client certificate: {why}")
            detail = getattr(error, "strerror", None) or str(error) or type(error).__name__
            return BrokerUnreachable(f"RabbitMQ at {where} cannot be reached ({detail})")


def resolve(future: asyncio.Future[T], value: T) -> None:
    if not future.done():
        future.set_result(value)


def fail(future: asyncio.Future[T], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
