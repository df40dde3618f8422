"""What can still be read of AMQP properties whose headers cannot.

A message with such headers is refused, but its sender is to be told, and where to is in the properties beside them.
"""

import struct
from contextlib import suppress
from typing import Any

from broker.frames import OCTET, PROPERTIES, TABLE, TIMESTAMP


def readable_properties(encoded: bytes) -> dict[str, Any]:
    """The properties of a message by name, without headers, timestamp and text that is not UTF-8.

    `encoded` are the flags and values as they are in a content header. Never raises: what follows something that
    makes no sense is left out.
    """
    found: dict[str, Any] = {}
    with suppress(struct.error, IndexError):
        (flags,) = struct.unpack_from(">H", encoded)
        at = 2
        for flag, name, kind in PROPERTIES:
            if not flags & flag:
                continue
            if kind == OCTET:
                found[name], size = encoded[at], 1
            elif kind == TIMESTAMP:
                size = 8
            elif kind == TABLE:
                size = 4 + int(struct.unpack_from(">I", encoded, at)[0])
            else:
                size = 1 + encoded[at]
                with suppress(UnicodeDecodeError):
                    found[name] = encoded[at + 1 : at + size].decode()
            at += size
    return found
