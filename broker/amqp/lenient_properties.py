"""What can still be read of AMQP properties of which something cannot.

Most of them decide nothing: a timestamp in milliseconds, which is past the year 9999, must not cost a task. And where
a message is refused, its sender is to be told, and where to is in the properties beside.
"""

import struct
from collections.abc import Collection, Iterator
from typing import Any

from broker.amqp.codec import OCTET, PROPERTIES, TABLE, TIMESTAMP, as_text
from broker.errors import Problem

ALL = ""  # among what is unreadable: whatever follows somewhere
DECISIVE = ("content_encoding", "correlation_id", "reply_to", "message_id")

_FIXED = {**dict.fromkeys(b"tbB", 1), **dict.fromkeys(b"suU", 2), **dict.fromkeys(b"Iif", 4)}
_FIXED |= {**dict.fromkeys(b"lLdT", 8), ord("D"): 5, ord("V"): 0}  # bytes of a value, by its kind
_SIZED = frozenset(b"SxAF")  # kinds whose values begin with their size


def readable_properties(encoded: bytes) -> tuple[dict[str, Any], list[str]]:
    """The properties of a message by name, without the timestamp; and the names of those that cannot be read.

    `encoded` are the flags and values as they are in a content header; headers are an encoded table, without its size.
    Never raises: what follows something that makes no sense is left out.
    """
    found: dict[str, Any] = {}
    unreadable: list[str] = []
    try:
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
                found[name] = encoded[at + 4 : at + size]
            else:
                size = 1 + encoded[at]
                text = encoded[at + 1 : at + size]
                try:
                    found[name] = text.decode()
                except UnicodeDecodeError:
                    unreadable.append(name)
                    if name == "correlation_id":  # so that the answer can have it
                        found[name] = as_text(text)
            at += size
            if at > len(encoded):
                found.pop(name, None)
                raise IndexError
    except (struct.error, IndexError):
        unreadable.append(ALL)
    return found, unreadable


def header_values(table: bytes) -> Iterator[tuple[str, bytes]]:
    """The names in an encoded table, without its size, each with its value: the kind, and what follows it.

    Raises ValueError where that is no table.
    """
    at = 0
    try:
        while at < len(table):
            name = table[at + 1 : at + 1 + table[at]].decode(errors="replace")
            at += 1 + table[at]
            kind = table[at]
            size = 4 + int(struct.unpack_from(">I", table, at + 1)[0]) if kind in _SIZED else _FIXED[kind]
            end = at + 1 + size
            if end > len(table):
                raise IndexError
            yield name, table[at:end]
            at = end
    except (struct.error, IndexError, KeyError) as error:
        raise ValueError("not a table of AMQP") from error


def problems_of(unreadable: Collection[str]) -> list[Problem]:
    """Why a message is refused of which these properties cannot be read; nothing where they decide nothing."""
    problems = [Problem(name, "is not text in UTF-8") for name in unreadable if name in DECISIVE]
    return [*problems, Problem(ALL, "its AMQP properties cannot be read")] if ALL in unreadable else problems
