"""The frames of AMQP 0-9-1 that carry messages, acknowledgements and confirms, as bytes.

pika knows them all. These go by a thousand times a second, and it makes several objects of each.
"""

import struct
from functools import lru_cache

METHOD, HEADER, BODY = 1, 2, 3  # kinds of frames
DELIVER, ACK, NACK = 0x003C003C, 0x003C0050, 0x003C0078  # methods: class and number
_END = b"\xce"
_OVERHEAD = 8  # bytes of a frame around its payload
_PAYLOAD = 7  # where it begins
_BASIC = 60  # the class of all of them

_frame = struct.Struct(">BHI")  # kind, channel, size of the payload
_method = struct.Struct(">I")
_content = struct.Struct(">BHIHHQ")  # a frame, and in it class, weight, size of the body
_body_size = struct.Struct(">Q")
_tag_and_bits = struct.Struct(">QB")
_ack = struct.Struct(">BHIIQB")
_flags = struct.Struct(">H")


# -- reading -----------------------------------------------------------------------------------------------------------


def end_of_frame(data: bytes, at: int) -> int:
    """Where the frame that begins at `at` ends; 0 when it is not all there. Raises ValueError when it is no frame."""
    if len(data) - at < _OVERHEAD:
        return 0
    end = at + _OVERHEAD + int(_frame.unpack_from(data, at)[2])
    if end > len(data):
        return 0
    if data[end - 1] != _END[0]:
        raise ValueError("what RabbitMQ sent is not AMQP 0-9-1")
    return end


def method_of(data: bytes, at: int) -> int:
    """Which method the frame at `at` calls."""
    return int(_method.unpack_from(data, at + _PAYLOAD)[0])


def read_deliver(data: bytes, at: int) -> tuple[bytes, int, bool, str, str]:
    """Of the frame that begins a delivery: consumer tag, delivery tag, whether redelivered, exchange, routing key."""
    start = at + _PAYLOAD + 5
    end = start + data[start - 1]
    consumer = data[start:end]
    tag, redelivered = _tag_and_bits.unpack_from(data, end)
    start = end + 10
    end = start + data[start - 1]
    exchange = data[start:end].decode(errors="replace")
    start = end + 1
    return consumer, tag, bool(redelivered), exchange, data[start : start + data[end]].decode(errors="replace")


def read_confirm(data: bytes, at: int) -> tuple[int, bool]:
    """Of an ack or nack: the delivery tag, and whether it is about all before it too."""
    tag, bits = _tag_and_bits.unpack_from(data, at + _PAYLOAD + 4)
    return tag, bool(bits & 1)


def read_header(data: bytes, at: int, end: int) -> tuple[int, bytes]:
    """Of a content header: the size of the body, and the properties, encoded."""
    return int(_body_size.unpack_from(data, at + _PAYLOAD + 4)[0]), data[at + _PAYLOAD + 12 : end - 1]


def payload(data: bytes, at: int, end: int) -> bytes:
    """What a frame holds."""
    return data[at + _PAYLOAD : end - 1]


# -- writing -----------------------------------------------------------------------------------------------------------


def ack(channel: int, tag: int, *, multiple: bool) -> bytes:
    """Acknowledge a delivery; with `multiple` all that came before it too."""
    return _ack.pack(METHOD, channel, 13, ACK, tag, multiple) + _END


@lru_cache(maxsize=4096)
def publish(channel: int, exchange: str, routing_key: str, mandatory: bool) -> bytes:
    """The frame that begins a message. Raises ValueError for a name that is too long."""
    where = struct.pack(">HHH", _BASIC, 40, 0) + _short(exchange) + _short(routing_key) + bytes([mandatory])
    return _frame.pack(METHOD, channel, len(where)) + where + _END


def content(channel: int, properties: bytes, body: bytes, most: int) -> bytes:
    """The frames that follow: the properties, encoded, and the body in frames of at most `most` bytes."""
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
    """The properties of a message: `headers` is an encoded table, or empty; `kind` is called `type` in AMQP.

    Raises ValueError for what does not fit.
    """
    flags, parts = 0x9000, [b"", _short(content_type)]
    if headers:
        flags |= 0x2000
        parts.append(headers)
    parts.append(b"\2" if persistent else b"\1")
    if priority is not None:
        flags |= 0x0800
        parts.append(bytes([priority]))
    if correlation_id is not None:
        flags |= 0x0400
        parts.append(_short(correlation_id))
    if reply_to is not None:
        flags |= 0x0200
        parts.append(_short(reply_to))
    if expiration is not None:
        flags |= 0x0100
        parts.append(_short(expiration))
    if message_id is not None:
        flags |= 0x0080
        parts.append(_short(message_id))
    if kind is not None:
        flags |= 0x0020
        parts.append(_short(kind))
    if user_id is not None:
        flags |= 0x0010
        parts.append(_short(user_id))
    parts[0] = _flags.pack(flags)
    return b"".join(parts)


def _short(text: str) -> bytes:
    """A short string."""
    encoded = text.encode()
    if len(encoded) > 255:
        raise ValueError(f"{text[:20]!r}… has {len(encoded)} bytes where 255 fit")
    return bytes([len(encoded)]) + encoded
