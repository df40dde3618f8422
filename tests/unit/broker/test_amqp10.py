"""Decoding of AMQP 1.0 values and messages as RabbitMQ sends them."""

import struct
from uuid import UUID

import pytest

from broker.amqp10.messages import UNTRANSLATABLE, read_delivery
from broker.amqp10.types import Alien, Described, Symbol, decode, encode


@pytest.mark.parametrize(
    "value", [None, True, False, 0, 2**32 - 1, b"\xff", "hello", Symbol("PLAIN"), [], [1, ["a", None]]], ids=repr
)
def test_encoded_values_are_decoded_again(value: object) -> None:
    encoded = encode(value)
    assert decode(encoded) == (value, len(encoded))
    assert decode(encode(Described(0x14, [value]))) == (Described(0x14, [value]), len(encoded) + 3 + 9)


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        (b"\x43", 0),
        (b"\x53\x2a", 42),
        (b"\x80" + struct.pack(">Q", 2**63), 2**63),
        (b"\x54\xff", -1),
        (b"\x82" + struct.pack(">d", 1.5), 1.5),
        (b"\x56\x01", True),
        (b"\xa3\x02ab", "ab"),
        (b"\xc1\x07\x02\xa1\x01k\xa1\x01v", {"k": "v"}),
        (b"\xe0\x06\x02\x60\x00\x01\x00\x02", [1, 2]),
        (b"\x98" + UUID(int=5).bytes, Alien("uuid", UUID(int=5).bytes)),
        (b"\x73\x00\x00\x00a", Alien("char", b"\x00\x00\x00a")),
    ],
)
def test_every_size_of_a_value_is_decoded(encoded: bytes, value: object) -> None:
    assert decode(encoded)[0] == value


def message(
    properties: bytes = b"\x45", application: bytes = b"\xc1\x01\x00", annotations: bytes = b"\xc1\x01\x00"
) -> bytes:
    """A message with the body {}; its other sections are encoded already."""
    sections = {0x72: annotations, 0x73: properties, 0x74: application, 0x75: encode(b"{}")}
    return b"".join(bytes((0, 0x53, kind)) + value for kind, value in sections.items())


def compound(constructor: int, *items: bytes) -> bytes:
    return bytes((constructor, sum(map(len, items)) + 1, len(items))) + b"".join(items)


NUMBER, UUID_5 = b"\x53\x2a", b"\x98" + UUID(int=5).bytes


@pytest.mark.parametrize(
    ("encoded", "on_3", "on_4"),
    [
        (message(), None, None),
        (message(compound(0xC0, encode("t-1"))), None, None),
        (message(compound(0xC0, UUID_5)), None, None),
        (message(compound(0xC0, NUMBER)), "message_id is a number", None),
        (message(compound(0xC0, *[b"\x40"] * 5, NUMBER)), "correlation_id is a number", None),
        (message(application=compound(0xC1, encode("u"), UUID_5)), None, "u is a uuid"),
        (message(annotations=compound(0xC1, encode("x-u"), compound(0xC0, UUID_5))), None, "x-u is a uuid"),
        (message(encode([None] * 6 + ["x" * 256])), *["content_type has more than 255 bytes"] * 2),
    ],
)
def test_untranslatable_messages_are_recognised_by_their_types(
    encoded: bytes, on_3: str | None, on_4: str | None
) -> None:
    assert [read_delivery(encoded, version, 1, None, "q").headers.get(UNTRANSLATABLE) for version in (3, 4)] == [
        on_3,
        on_4,
    ]
    assert read_delivery(encoded, 4, 1, None, "q").body == b"{}"


@pytest.mark.parametrize(
    "garbage", [b"\x00", b"\xff\xff", b"\x00\x53\x73\xd0\xff", b"\x00\x53\x75\x43", b"\x00\x53" * 5000]
)
def test_an_undecodable_message_keeps_its_bytes(garbage: bytes) -> None:
    delivery = read_delivery(garbage, 4, 1, None, "q")
    assert delivery.body == garbage
    assert delivery.headers[UNTRANSLATABLE].startswith("the message cannot be decoded")
