"""The frames that are written and read without pika, held against pika's own."""

from typing import Any

import pytest
from pika import frame, spec
from pika.data import encode_table

from broker import frames

KINDS = {"content_type": "application/json", "delivery_mode": 2}


@pytest.mark.parametrize("mandatory", [True, False])
def test_a_published_message_reads_as_pika_would_have_written_it(mandatory: bool) -> None:
    method = spec.Basic.Publish(exchange="fluffle.tasks", routing_key="tâche", mandatory=mandatory)
    assert frames.publish(7, "fluffle.tasks", "tâche", mandatory) == frame.Method(7, method).marshal()


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"priority": 0, "correlation_id": "", "message_id": "m"},
        {"priority": 9, "correlation_id": "c", "reply_to": "r", "expiration": "1", "message_id": "m", "type": "t"},
        {"user_id": "llm-atlas"},
        {"headers": {"traceparent": "00-é", "n": 1}, "delivery_mode": 1},
    ],
)
def test_a_header_reads_as_pika_would_have_written_it(given: dict[str, Any]) -> None:
    table: list[bytes] = []
    if headers := given.get("headers"):
        encode_table(table, headers)
    encoded = frames.properties(
        content_type="application/json",
        headers=b"".join(table),
        persistent=given.get("delivery_mode") != 1,
        kind=given.get("type"),
        **{
            name: given.get(name)
            for name in ("priority", "correlation_id", "reply_to", "expiration", "message_id", "user_id")
        },
    )
    expected = frame.Header(7, 0, spec.BasicProperties(**{**KINDS, **given})).marshal()
    assert frames.content(7, encoded, b"", 10) == expected


@pytest.mark.parametrize(("most", "parts"), [(2, [b"ab", b"cd", b"e"]), (5, [b"abcde"])])
def test_a_body_is_cut_to_the_size_of_a_frame(most: int, parts: list[bytes]) -> None:
    properties = spec.BasicProperties(**KINDS)
    expected = [frame.Header(7, 5, properties), *(frame.Body(7, part) for part in parts)]
    encoded = b"".join(properties.encode())
    assert frames.content(7, encoded, b"abcde", most) == b"".join(bytes(it.marshal()) for it in expected)


@pytest.mark.parametrize("multiple", [True, False])
def test_an_acknowledgement_reads_as_pika_would_have_written_it(multiple: bool) -> None:
    assert frames.ack(7, 2**40, multiple=multiple) == frame.Method(7, spec.Basic.Ack(2**40, multiple)).marshal()


def test_what_is_too_long_for_its_field_is_told() -> None:
    with pytest.raises(ValueError, match="300 bytes where 255 fit"):
        frames.publish(1, "", "k" * 300, True)


def test_a_delivery_written_by_pika_is_read() -> None:
    method = spec.Basic.Deliver("consumer 1", 2**40, True, "fluffle.status", "atlas.claim")
    data = b"before" + bytes(frame.Method(7, method).marshal())
    assert frames.method_of(data, 6) == frames.DELIVER
    assert frames.read_deliver(data, 6) == (b"consumer 1", 2**40, True, "fluffle.status", "atlas.claim")


def test_a_header_and_a_body_written_by_pika_are_read() -> None:
    properties = spec.BasicProperties(**KINDS)
    data = b"before" + bytes(frame.Header(7, 3, properties).marshal())
    assert frames.read_header(data, 6, len(data)) == (3, b"".join(properties.encode()))
    data = b"before" + bytes(frame.Body(7, b"abc").marshal())
    assert frames.payload(data, 6, len(data)) == b"abc"


@pytest.mark.parametrize(("method", "kind"), [(spec.Basic.Ack, frames.ACK), (spec.Basic.Nack, frames.NACK)])
def test_a_confirm_written_by_pika_is_read(method: Any, kind: int) -> None:
    data = b"before" + bytes(frame.Method(7, method(2**40, True)).marshal())
    assert frames.method_of(data, 6) == kind
    assert frames.read_confirm(data, 6) == (2**40, True)


def test_a_frame_ends_where_it_says_and_only_when_all_of_it_is_there() -> None:
    data = b"before" + bytes(frame.Body(7, b"abc").marshal())
    assert frames.end_of_frame(data + b"after", 6) == len(data)
    assert [frames.end_of_frame(data[:length], 6) for length in range(6, len(data))] == [0] * (len(data) - 6)


def test_what_is_no_frame_is_not_taken_for_one() -> None:
    data = bytes(frame.Body(7, b"abc").marshal())[:-1] + b"x"
    with pytest.raises(ValueError, match="not AMQP"):
        frames.end_of_frame(data, 0)
