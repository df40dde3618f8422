"""Encode and decode the frames of AMQP 0-9-1 that carry messages, acknowledgements and confirms.

pika handles all other frames. Thousands of these frames pass each second, and pika makes several objects of each.
For one message on its way through a process, this module is 2.7 times as fast as pika (median of five runs, 2.3 to
3.5): `.venv/bin/python benchmarks/codec.py --messages 50000`.
"""

import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from broker.amqp.envelope import UNREADABLE_REST
from broker.mappings import without_none

METHOD, HEADER, BODY = 1, 2, 3  # kinds of frames
DELIVER, ACK, NACK = 0x003C003C, 0x003C0050, 0x003C0078  # methods: class and number

# The properties of a message in their order on the wire, each with its flag (AMQP 0-9-1, 4.2.6.1 and basic).
# The last property of the specification is reserved and has no meaning.
TEXT, TABLE, OCTET, TIMESTAMP = range(4)
PROPERTIES = (
    (1 << 15, "content_type", TEXT),
    (1 << 14, "content_encoding", TEXT),
    (1 << 13, "headers", TABLE),
    (1 << 12, "delivery_mode", OCTET),
    (1 << 11, "priority", OCTET),
    (1 << 10, "correlation_id", TEXT),
    (1 << 9, "reply_to", TEXT),
    (1 << 8, "expiration", TEXT),
    (1 << 7, "message_id", TEXT),
    (1 << 6, "timestamp", TIMESTAMP),
    (1 << 5, "type", TEXT),
    (1 << 4, "user_id", TEXT),
    (1 << 3, "app_id", TEXT),
)
_FLAGS = {name: flag for flag, name, _ in PROPERTIES}
_HEADERS, _CORRELATION_ID, _REPLY_TO = _FLAGS["headers"], _FLAGS["correlation_id"], _FLAGS["reply_to"]
_EXPIRATION, _MESSAGE_ID = _FLAGS["expiration"], _FLAGS["message_id"]

_KIND_SIZES = {**dict.fromkeys(b"tbB", 1), **dict.fromkeys(b"suU", 2), **dict.fromkeys(b"Iif", 4)}
_KIND_SIZES |= {**dict.fromkeys(b"lLdT", 8), ord("D"): 5, ord("V"): 0}  # bytes of a header value, by its kind
_SIZED_KINDS = frozenset(b"SxAF")  # kinds whose values begin with their size in 4 bytes

_BYTES = "\0x:"  # begins a text that represents bytes that are not UTF-8, in hexadecimal

_END = b"\xce"
_OVERHEAD = 8  # bytes of a frame around its payload
_PAYLOAD = 7  # bytes of a frame before its payload
_BASIC = 60  # the class of all methods here
_LEAST_DELIVERY = 24  # bytes of a deliver frame with empty names

_frame = struct.Struct(">BHI")  # kind, channel, size of the payload
_method_frame = struct.Struct(">BHII")  # a frame with a method
_method = struct.Struct(">I")
_content = struct.Struct(">BHIHHQ")  # a frame with class, weight, size of the body
_body_size = struct.Struct(">Q")
_tag_and_bits = struct.Struct(">QB")
_ack = struct.Struct(">BHIIQB")
_flags = struct.Struct(">H")
_confirm = struct.Struct(">11xQBx")  # a whole frame: delivery tag, and whether it includes all earlier tags
_confirms = re.compile(rb"(?:\x01..\x00\x00\x00\x0d\x00\x3c\x00\x50.{9}\xce)+", re.DOTALL)
_timestamp = struct.Struct(">Q")
_table_size = struct.Struct(">I")

Deliver = tuple[bytes, int, bool, str, str]
"""Consumer tag, delivery tag, whether redelivered, exchange, routing key."""

# -- reading -----------------------------------------------------------------------------------------------------------


def end_of_frame(data: bytes, at: int) -> int:
    """Return the end of the frame at `at`; 0 for an incomplete frame. Raises ValueError for other data."""
    if len(data) - at < _OVERHEAD:
        return 0
    end = at + _OVERHEAD + int(_frame.unpack_from(data, at)[2])
    if end > len(data):
        return 0
    if data[end - 1] != _END[0]:
        raise ValueError("RabbitMQ sent data that is not AMQP 0-9-1")
    return end


def method_of(data: bytes, at: int) -> int:
    """Return the method of the frame at `at`."""
    return int(_method.unpack_from(data, at + _PAYLOAD)[0])


def read_deliver(data: bytes, at: int, end: int) -> Deliver:
    """Decode a deliver frame, which begins a delivery."""
    start = at + _PAYLOAD + 5
    place = start + data[start - 1]
    tag, redelivered = _tag_and_bits.unpack_from(data, place)
    return data[start:place], tag, bool(redelivered), *_two_names(data[place + 9 : end - 1])


@lru_cache(maxsize=4096)
def _two_names(encoded: bytes) -> tuple[str, str]:
    size = 1 + encoded[0]
    return encoded[1:size].decode(errors="replace"), encoded[size + 1 :].decode(errors="replace")


def read_message(data: bytes, at: int) -> tuple[int, Deliver, bytes, bytes] | None:
    """Decode a whole delivery at `at`. Returns its end, its deliver frame, its encoded properties and its body.

    Returns None for other frames, an incomplete delivery, and a body in several frames.
    """
    size = len(data)
    if size - at < _LEAST_DELIVERY:
        return None
    kind, _, length, method = _method_frame.unpack_from(data, at)
    header = at + length + _OVERHEAD
    if method != DELIVER or kind != METHOD or size < header + _content.size:
        return None
    kind, _, length, _, _, body_size = _content.unpack_from(data, header)
    start = header + length + _OVERHEAD
    end = start + body_size + _OVERHEAD
    if kind != HEADER or not body_size or end > size:
        return None
    kind, _, length = _frame.unpack_from(data, start)
    last = _END[0]
    if kind != BODY or length != body_size or not data[header - 1] == data[start - 1] == data[end - 1] == last:
        return None
    properties = data[header + _content.size : start - 1]
    return end, read_deliver(data, at, header), properties, data[start + _PAYLOAD : end - 1]


def read_confirms(data: bytes, at: int) -> tuple[int, list[tuple[int, int]]] | None:
    """Decode consecutive acks at `at`. Returns the end of the last, and `read_confirm` of each; None without any.

    Acks arrive by the hundred: RabbitMQ confirms messages that need no disk write one by one.
    """
    if (found := _confirms.match(data, at)) is None:
        return None
    return found.end(), list(_confirm.iter_unpack(found[0]))


def read_confirm(data: bytes, at: int) -> tuple[int, int]:
    """Decode an ack or nack. Returns its delivery tag, and 1 when it includes all earlier tags, else 0."""
    tag, bits = _tag_and_bits.unpack_from(data, at + _PAYLOAD + 4)
    return tag, bits & 1


def read_header(data: bytes, at: int, end: int) -> tuple[int, bytes]:
    """Decode a content header. Returns the size of the body and the encoded properties."""
    return int(_body_size.unpack_from(data, at + _PAYLOAD + 4)[0]), data[at + _PAYLOAD + 12 : end - 1]


def read_properties(encoded: bytes) -> dict[str, Any]:
    """Decode the properties of a message: the payload of a content header after the body size.

    Returns the properties by name; `headers` is an encoded table with its size. Raises ValueError for text that is not
    UTF-8, IndexError or struct.error for a payload that is cut off.
    """
    found: dict[str, Any] = {}
    _read_properties(encoded, found, None)
    return found


def read_properties_leniently(encoded: bytes) -> tuple[dict[str, Any], list[str]]:
    """Decode the properties of a message as far as possible. Never raises.

    Returns the readable properties by name, and the names of the unreadable ones. UNREADABLE_REST among these: the
    payload is cut off. A correlation_id that is not UTF-8 is in both, by `as_text`, for the answer to the message.
    """
    found: dict[str, Any] = {}
    unreadable: list[str] = []
    try:
        _read_properties(encoded, found, unreadable)
    except (struct.error, IndexError):
        unreadable.append(UNREADABLE_REST)
    return without_none(found), unreadable


def _read_properties(encoded: bytes, found: dict[str, Any], unreadable: list[str] | None) -> None:
    """Decode properties into `found`. With `unreadable`, text that is not UTF-8 is named there and not raised."""
    (flags,) = _flags.unpack_from(encoded)
    at, length = 2, len(encoded)
    value: Any
    for name, kind in _layout(flags):
        if kind == TEXT:
            size = 1 + encoded[at]
            try:
                value = encoded[at + 1 : at + size].decode()
            except UnicodeDecodeError as error:
                if unreadable is None:
                    raise ValueError(f"{name} is not UTF-8") from error
                unreadable.append(name)
                value = as_text(encoded[at + 1 : at + size]) if name == "correlation_id" else None
        elif kind == OCTET:
            value, size = encoded[at], 1
        elif kind == TABLE:
            size = _table_size.size + _table_size.unpack_from(encoded, at)[0]
            value = encoded[at : at + size]
        else:
            (value,), size = _timestamp.unpack_from(encoded, at), _timestamp.size
        at += size
        if at > length:
            raise IndexError(f"{name} is cut off")
        found[name] = value


@lru_cache
def _layout(flags: int) -> tuple[tuple[str, int], ...]:
    """Return the names and kinds of the properties with set flags."""
    return tuple((name, kind) for flag, name, kind in PROPERTIES if flags & flag)


def header_values(table: bytes) -> Iterator[tuple[str, bytes]]:
    """Split an encoded table, without its size, into names and encoded values: the kind and the bytes after it.

    Raises ValueError for bytes that are not a table.
    """
    at = 0
    try:
        while at < len(table):
            name = table[at + 1 : at + 1 + table[at]].decode(errors="replace")
            at += 1 + table[at]
            kind = table[at]
            size = 4 + int(_table_size.unpack_from(table, at + 1)[0]) if kind in _SIZED_KINDS else _KIND_SIZES[kind]
            end = at + 1 + size
            if end > len(table):
                raise IndexError
            yield name, table[at:end]
            at = end
    except (struct.error, IndexError, KeyError) as error:
        raise ValueError("not an AMQP table") from error


@dataclass(slots=True)
class PartialMessage:
    """A delivery whose frames arrive one by one."""

    begin: Deliver
    properties: bytes = b""
    missing: int = 0  # bytes of the body
    parts: list[bytes] = field(default_factory=list)

    def add(self, data: bytes, at: int, end: int) -> bool:
        """Add the header frame or body frame at `at`. Returns whether the message is complete."""
        if data[at] == HEADER:
            self.missing, self.properties = read_header(data, at, end)
        else:
            part = payload(data, at, end)
            self.missing -= len(part)
            self.parts.append(part)
        return not self.missing


def payload(data: bytes, at: int, end: int) -> bytes:
    """Return the payload of a frame."""
    return data[at + _PAYLOAD : end - 1]


# -- writing -----------------------------------------------------------------------------------------------------------


def ack(channel: int, tag: int, *, multiple: bool) -> bytes:
    """Encode the acknowledgement of a delivery; with `multiple`, of all earlier deliveries, too."""
    return _ack.pack(METHOD, channel, 13, ACK, tag, multiple) + _END


@lru_cache(maxsize=4096)
def publish(channel: int, exchange: str, routing_key: str, mandatory: bool) -> bytes:
    """Encode the frame that begins a message. Raises ValueError for a name that is too long."""
    where = struct.pack(">HHH", _BASIC, 40, 0) + _short(exchange) + _short(routing_key) + bytes([mandatory])
    return _frame.pack(METHOD, channel, len(where)) + where + _END


def content(channel: int, properties: bytes, body: bytes, most: int) -> bytes:
    """Encode the other frames of a message: encoded properties, and the body in frames of at most `most` bytes."""
    size = len(body)
    head = _content.pack(HEADER, channel, 12 + len(properties), _BASIC, 0, size) + properties + _END
    if not size:
        return head
    if size <= most:
        return head + _frame.pack(BODY, channel, size) + body + _END
    parts = [body[start : start + most] for start in range(0, size, most)]
    return head + b"".join([_frame.pack(BODY, channel, len(part)) + part + _END for part in parts])


def properties(
    *,
    content_type: str,
    headers: bytes,
    persistent: bool,
    priority: int | None,
    correlation_id: str | None,
    reply_to: str | None,
    expiration: str | None,
    message_id: str | None,
    kind: str | None,
    user_id: str | None,
) -> bytes:
    """Encode the properties of a message. `headers` is an encoded table or empty; `kind` is AMQP's `type`.

    Raises ValueError for a value that is too long.
    """
    flags, content, how, last = _common_properties(content_type, persistent, priority, kind, user_id)
    parts = [b"", content, headers, how]
    if headers:
        flags |= _HEADERS
    if correlation_id is not None:
        flags |= _CORRELATION_ID
        parts.append(_short(correlation_id))
    if reply_to is not None:
        flags |= _REPLY_TO
        parts.append(_short(reply_to))
    if expiration is not None:
        flags |= _EXPIRATION
        parts.append(_short(expiration))
    if message_id is not None:
        flags |= _MESSAGE_ID
        parts.append(_short(message_id))
    parts.append(last)
    parts[0] = _flags.pack(flags)
    return b"".join(parts)


@lru_cache
def _common_properties(
    content_type: str, persistent: bool, priority: int | None, kind: str | None, user_id: str | None
) -> tuple[int, bytes, bytes, bytes]:
    """Encode the properties that many messages have in common. Returns their flags, and their bytes in three pieces."""
    flags, how, last = _FLAGS["content_type"] | _FLAGS["delivery_mode"], b"\2" if persistent else b"\1", b""
    if priority is not None:
        flags |= _FLAGS["priority"]
        how += bytes([priority])
    if kind is not None:
        flags |= _FLAGS["type"]
        last += _short(kind)
    if user_id is not None:
        flags |= _FLAGS["user_id"]
        last += _short(user_id)
    return flags, _short(content_type), how, last


def as_text(no_text: bytes) -> str:
    """Return a text that represents bytes that are not UTF-8; encoded as a property it becomes these bytes again."""
    return _BYTES + no_text.hex()


def _short(text: str) -> bytes:
    """Encode a short string."""
    encoded = text.encode()
    if encoded[:1] == b"\0" and text.startswith(_BYTES):
        with suppress(ValueError):  # else the text is meant literally
            encoded = bytes.fromhex(text.removeprefix(_BYTES))
    if len(encoded) > 255:
        raise ValueError(f"{text[:20]!r}… has {len(encoded)} bytes where 255 fit")
    return bytes([len(encoded)]) + encoded
