"""Lenient decoding of properties of which a part is unreadable."""

import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pika
import pytest
from pika.data import decode_value

from broker.amqp import codec as frames
from broker.amqp.codec import header_values, read_properties_leniently

ALL = {
    "content_type": "application/json",
    "content_encoding": "utf-8",
    "delivery_mode": 2,
    "priority": 7,
    "correlation_id": "c-1",
    "reply_to": "answers",
    "expiration": "5000",
    "message_id": "t-1",
    "type": "task",
    "user_id": "ana",
    "app_id": "shell",
}


def encoded(**properties: object) -> bytes:
    return b"".join(pika.BasicProperties(**properties).encode())


def test_every_property_is_read_as_pika_wrote_it() -> None:
    found, unreadable = read_properties_leniently(
        encoded(**ALL, headers={"a": {"b": [1, 2]}}, timestamp=2**40, cluster_id="x")
    )
    assert [name for name, _ in header_values(found.pop("headers")[4:])] == ["a"]
    assert (found, unreadable) == ({**ALL, "timestamp": 2**40}, [])


def test_absent_properties_are_not_returned() -> None:
    assert read_properties_leniently(encoded()) == ({}, [])
    assert read_properties_leniently(encoded(reply_to="answers")) == ({"reply_to": "answers"}, [])


def test_a_property_that_is_not_utf_8_is_named_and_the_others_are_read() -> None:
    assert read_properties_leniently(encoded(message_id=b"\xff", reply_to="answers")) == (
        {"reply_to": "answers"},
        ["message_id"],
    )


def test_a_correlation_id_that_is_not_utf_8_is_encoded_to_the_same_bytes() -> None:
    found, unreadable = read_properties_leniently(encoded(correlation_id=b"\xff\0\xfe"))
    assert unreadable == ["correlation_id"]
    assert b"\x03\xff\0\xfe" in properties_of(found["correlation_id"])


@pytest.mark.parametrize("text", ["\0x:abc", "\0x:no", "\0", ""])
def test_a_text_correlation_id_is_encoded_as_text(text: str) -> None:
    assert bytes([len(text)]) + text.encode() in properties_of(text)


def properties_of(correlation_id: str) -> bytes:
    nothing: Any = dict.fromkeys(("priority", "reply_to", "expiration", "message_id", "kind", "user_id"))
    told = {"content_type": "", "headers": b"", "persistent": False, "correlation_id": correlation_id}
    return frames.properties(**{**nothing, **told})


def test_truncated_properties_are_read_up_to_the_cut() -> None:
    whole = encoded(content_type="text/plain", headers={"a": 1}, reply_to="answers")
    assert read_properties_leniently(b"") == ({}, [""])
    assert read_properties_leniently(whole[:2]) == ({}, [""])
    assert read_properties_leniently(whole[:14]) == ({"content_type": "text/plain"}, [""])
    assert read_properties_leniently(struct.pack(">H", 0xFFFE)) == ({}, [""])


def test_header_values_of_every_kind_are_split() -> None:
    headers = {
        "bool": True,
        "int": 5,
        "long": 2**40,
        "text": "ä",
        "bytes": b"\xff",
        "list": [1, {"a": [2]}],
        "table": {"a": {"b": 1}},
        "none": None,
        "moment": datetime(2026, 1, 1, tzinfo=UTC),
        "decimal": Decimal("1.5"),
    }
    found, _ = read_properties_leniently(encoded(headers=headers))
    names = [name for name, _ in header_values(found["headers"][4:])]
    assert names == list(headers)
    assert {name: decode_value(value, 0)[0] for name, value in header_values(found["headers"][4:])} == headers


@pytest.mark.parametrize(
    "kind", [b"b", b"B", b"s", b"u", b"U", b"I", b"i", b"l", b"L", b"f", b"d", b"D", b"T", b"V", b"t"]
)
def test_the_header_after_a_value_of_any_kind_is_found(kind: bytes) -> None:
    _, size = decode_value(kind + bytes(8), 0)
    table = b"\1a" + kind + bytes(size - 1) + b"\1bV"
    assert list(header_values(table)) == [("a", kind + bytes(size - 1)), ("b", b"V")]


@pytest.mark.parametrize("table", [b"\1", b"\1a", b"\1a?", b"\1aI\0", b"\1aS\0\0\0\5abc", b"\5ab"])
def test_other_bytes_than_a_table_are_an_error(table: bytes) -> None:
    with pytest.raises(ValueError, match="not an AMQP table"):
        list(header_values(table))
