"""Encode and decode the AMQP 1.0 values that are needed to read a queue (AMQP 1.0, part 1: types)."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_FIXED = {  # constructor -> how `struct` reads the value
    0x50: "B", 0x52: "B", 0x53: "B", 0x60: "H", 0x70: "I", 0x80: "Q",
    0x51: "b", 0x54: "b", 0x55: "b", 0x61: "h", 0x71: "i", 0x81: "q",
    0x72: "f", 0x82: "d", 0x83: "q", 0x56: "?",
}  # fmt: skip
_EMPTY: dict[int, Any] = {0x40: None, 0x41: True, 0x42: False, 0x43: 0, 0x44: 0}
_ALIEN = {0x73: "char", 0x74: "decimal32", 0x84: "decimal64", 0x94: "decimal128", 0x98: "uuid"}
_WIDTHS = {0x4: 0, 0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16}


class Symbol(str):
    """A symbol of AMQP 1.0."""


@dataclass(frozen=True, slots=True)
class Alien:
    """The bytes of a value of a type that AMQP 0-9-1 lacks."""

    kind: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Described:
    """A value with a descriptor: a frame or a section of a message."""

    kind: Any
    value: Any


def encode(value: Any) -> bytes:
    """Encode a value of a frame. Every int becomes a uint."""
    match value:
        case None:
            return b"\x40"
        case bool():
            return b"\x41" if value else b"\x42"
        case int():
            return struct.pack(">BI", 0x70, value)
        case bytes():
            return struct.pack(">BI", 0xB0, len(value)) + value
        case str():
            text = value.encode()
            return struct.pack(">BI", 0xB3 if isinstance(value, Symbol) else 0xB1, len(text)) + text
        case list():
            items = b"".join(map(encode, value))
            return struct.pack(">BII", 0xD0, len(items) + 4, len(value)) + items
        case Described():
            return struct.pack(">BBB", 0, 0x53, value.kind) + encode(value.value)
        case _:
            raise TypeError(f"no frame has a {type(value).__name__}")


def decode(data: bytes, at: int = 0) -> tuple[Any, int]:
    """Decode the value at a position. Returns the value and its end.

    Integers and timestamps (in milliseconds) become int, a map becomes a dict, a list and an array become lists. Raises
    ValueError, struct.error, IndexError, RecursionError.
    """
    if data[at] == 0:
        kind, at = decode(data, at + 1)
        value, at = decode(data, at)
        return Described(kind, value), at
    return _decode(data[at], data, at + 1)


def _decode(constructor: int, data: bytes, at: int) -> tuple[Any, int]:
    form = constructor >> 4
    if (width := _WIDTHS.get(form)) is not None:
        end = at + width
        raw = data[at:end]
        if len(raw) < width:
            raise ValueError("it ends in the middle of a value")
        if layout := _FIXED.get(constructor):
            return struct.unpack(f">{layout}", raw)[0], end
        if constructor in _ALIEN:
            return Alien(_ALIEN[constructor], raw), end
        if constructor == 0x45:
            return [], end
        return _EMPTY[constructor], end
    size, at = (data[at], at + 1) if not form & 1 else (int.from_bytes(data[at : at + 4]), at + 4)
    end = at + size
    if end > len(data):
        raise ValueError("it ends in the middle of a value")
    if form in (0xA, 0xB):
        return _text(constructor & 0xF, data[at:end]), end
    count, at = (data[at], at + 1) if not form & 1 else (int.from_bytes(data[at : at + 4]), at + 4)
    if count > size:
        raise ValueError("it has more parts than bytes")
    if form in (0xE, 0xF):
        return _array(count, data, at), end
    items = []
    for _ in range(count):
        item, at = decode(data, at)
        items.append(item)
    if constructor & 0xF == 1:
        return {_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)}, end
    return items, end


def _text(kind: int, raw: bytes) -> Any:
    return raw if kind == 0 else Symbol(raw.decode()) if kind == 3 else raw.decode()


def _array(count: int, data: bytes, at: int) -> Sequence[Any]:
    described = data[at] == 0
    if described:
        _, at = decode(data, at + 1)
    constructor, at = data[at], at + 1
    items = []
    for _ in range(count):
        item, at = _decode(constructor, data, at)
        items.append(item)
    return items


def _key(key: Any) -> Any:
    return key if isinstance(key, str | int) else repr(key)
