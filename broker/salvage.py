"""What can still be read of AMQP properties whose headers cannot.

A message with such headers is refused, but its sender is to be told, and where to is in the properties beside them.
"""

import struct
from contextlib import suppress
from typing import Any

# In the order in which they travel, each with its flag (AMQP 0-9-1, section 4.2.6.1 and class basic).
_TEXT, _TABLE, _OCTET, _TIMESTAMP = range(4)
_PROPERTIES = (
    (1 << 15, "content_type", _TEXT),
    (1 << 14, "content_encoding", _TEXT),
    (1 << 13, "headers", _TABLE),
    (1 << 12, "delivery_mode", _OCTET),
    (1 << 11, "priority", _OCTET),
    (1 << 10, "correlation_id", _TEXT),
    (1 << 9, "reply_to", _TEXT),
    (1 << 8, "expiration", _TEXT),
    (1 << 7, "message_id", _TEXT),
    (1 << 6, "timestamp", _TIMESTAMP),
    (1 << 5, "type", _TEXT),
    (1 << 4, "user_id", _TEXT),
    (1 << 3, "app_id", _TEXT),
)


def readable_properties(encoded: bytes) -> dict[str, Any]:
    """The properties of a message by name, without headers, timestamp and text that is not UTF-8.

    `encoded` are the flags and values as they are in a content header. Never raises: what follows something that
    makes no sense is left out.
    """
    found: dict[str, Any] = {}
    with suppress(struct.error, IndexError):
        (flags,) = struct.unpack_from(">H", encoded)
        at = 2
        for flag, name, kind in _PROPERTIES:
            if not flags & flag:
                continue
            if kind == _OCTET:
                found[name], size = encoded[at], 1
            elif kind == _TIMESTAMP:
                size = 8
            elif kind == _TABLE:
                size = 4 + int(struct.unpack_from(">I", encoded, at)[0])
            else:
                size = 1 + encoded[at]
                with suppress(UnicodeDecodeError):
                    found[name] = encoded[at + 1 : at + size].decode()
            at += size
    return found
