"""What is read of properties whose headers cannot be."""

import struct

import pika

from broker.salvage import readable_properties

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


def test_everything_but_headers_and_timestamp_is_read_as_pika_wrote_it() -> None:
    bytes_ = encoded(**ALL, headers={"a": {"b": [1, 2]}}, timestamp=2**40, cluster_id="x")
    assert readable_properties(bytes_) == ALL


def test_what_is_not_there_is_not_found() -> None:
    assert readable_properties(encoded()) == {}
    assert readable_properties(encoded(reply_to="answers")) == {"reply_to": "answers"}


def test_text_that_is_not_utf_8_is_left_out_and_the_rest_is_read() -> None:
    assert readable_properties(encoded(correlation_id=b"\xff", reply_to="answers")) == {"reply_to": "answers"}


def test_bytes_that_end_too_early_give_what_came_before() -> None:
    whole = encoded(content_type="text/plain", headers={"a": 1}, reply_to="answers")
    assert readable_properties(b"") == {}
    assert readable_properties(whole[:2]) == {}
    assert readable_properties(whole[:14]) == {"content_type": "text/plain"}
    assert readable_properties(struct.pack(">H", 0xFFFE)) == {}
