"""The codec, compared with pika's own encoder and decoder."""

import struct
from typing import Any

import pytest
from pika import frame, spec
from pika.data import encode_table

from broker.amqp import codec as frames

KINDS = {"content_type": "application/json", "delivery_mode": 2}


@pytest.mark.parametrize("mandatory", [True, False])
def test_a_publish_frame_equals_pikas(mandatory: bool) -> None:
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
def test_a_header_frame_equals_pikas(given: dict[str, Any]) -> None:
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
def test_a_body_is_split_by_the_size_of_a_frame(most: int, parts: list[bytes]) -> None:
    properties = spec.BasicProperties(**KINDS)
    expected = [frame.Header(7, 5, properties), *(frame.Body(7, part) for part in parts)]
    encoded = b"".join(properties.encode())
    assert frames.content(7, encoded, b"abcde", most) == b"".join(bytes(it.marshal()) for it in expected)


@pytest.mark.parametrize("multiple", [True, False])
def test_an_ack_frame_equals_pikas(multiple: bool) -> None:
    assert frames.ack(7, 2**40, multiple=multiple) == frame.Method(7, spec.Basic.Ack(2**40, multiple)).marshal()


def test_a_value_that_is_too_long_for_its_field_is_an_error() -> None:
    with pytest.raises(ValueError, match="300 bytes where 255 fit"):
        frames.publish(1, "", "k" * 300, True)


def test_a_deliver_frame_of_pika_is_decoded() -> None:
    method = spec.Basic.Deliver("consumer 1", 2**40, True, "fluffle.status", "atlas.claim")
    data = b"before" + bytes(frame.Method(7, method).marshal())
    assert frames.method_of(data, 6) == frames.DELIVER
    assert frames.read_deliver(data, 6, len(data)) == (b"consumer 1", 2**40, True, "fluffle.status", "atlas.claim")


def test_header_and_body_frames_of_pika_are_decoded() -> None:
    properties = spec.BasicProperties(**KINDS)
    data = b"before" + bytes(frame.Header(7, 3, properties).marshal())
    assert frames.read_header(data, 6, len(data)) == (3, b"".join(properties.encode()))
    data = b"before" + bytes(frame.Body(7, b"abc").marshal())
    assert frames.payload(data, 6, len(data)) == b"abc"


@pytest.mark.parametrize(("method", "kind"), [(spec.Basic.Ack, frames.ACK), (spec.Basic.Nack, frames.NACK)])
def test_a_confirm_of_pika_is_decoded(method: Any, kind: int) -> None:
    data = b"before" + bytes(frame.Method(7, method(2**40, True)).marshal())
    assert frames.method_of(data, 6) == kind
    assert frames.read_confirm(data, 6) == (2**40, 1)


def test_consecutive_confirms_are_decoded_together() -> None:
    told = [(1, 0), (2**40, 1), (206, 0)]  # 206 looks like the end of a frame
    acks = [bytes(frame.Method(7, spec.Basic.Ack(tag, bool(multiple))).marshal()) for tag, multiple in told]
    data = b"".join([b"before", *acks])
    nack = bytes(frame.Method(7, spec.Basic.Nack(1)).marshal())
    assert frames.read_confirms(data + nack, 6) == (len(data), told)
    assert frames.read_confirms(data[:-1], 6) == (len(data) - len(acks[-1]), told[:-1])
    assert frames.read_confirms(nack, 0) is None
    assert frames.read_confirms(acks[0][:-1] + b"x", 0) is None


MESSAGE = [
    bytes(frame.Method(7, spec.Basic.Deliver("consumer 1", 2**40, True, "fluffle.status", "atlas.claim")).marshal()),
    bytes(frame.Header(7, 5, spec.BasicProperties(**KINDS)).marshal()),
    bytes(frame.Body(7, b"abcde").marshal()),
]


def test_a_complete_message_is_decoded_at_once() -> None:
    data = b"".join(MESSAGE)
    begin = (b"consumer 1", 2**40, True, "fluffle.status", "atlas.claim")
    encoded = b"".join(spec.BasicProperties(**KINDS).encode())
    assert frames.read_message(b"before" + data + b"after", 6) == (6 + len(data), begin, encoded, b"abcde")
    assert [frames.read_message(data[:length], 0) for length in range(len(data))] == [None] * len(data)


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param(MESSAGE[1:], id="no delivery"),
        pytest.param([bytes(frame.Method(7, spec.Basic.Ack(1)).marshal()), *MESSAGE[1:]], id="another method"),
        pytest.param([MESSAGE[0], MESSAGE[2], MESSAGE[1]], id="the body first"),
        pytest.param([*MESSAGE[:2], MESSAGE[0]], id="no body"),
        pytest.param([*MESSAGE[:2], *(bytes(frame.Body(7, part).marshal()) for part in (b"ab", b"cde"))], id="cut up"),
        pytest.param([MESSAGE[0], bytes(frame.Header(7, 0, spec.BasicProperties()).marshal())], id="nothing in it"),
        *(
            pytest.param(
                [*MESSAGE[:spoilt], MESSAGE[spoilt][:-1] + b"x", *MESSAGE[spoilt + 1 :]], id=f"bad frame {spoilt}"
            )
            for spoilt in range(3)
        ),
    ],
)
def test_an_incomplete_message_is_not_decoded_at_once(pieces: list[bytes]) -> None:
    assert frames.read_message(b"".join(pieces) + bytes(50), 0) is None


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"correlation_id": "", "message_id": "tâche"},
        {**KINDS, "priority": 9, "reply_to": "r", "expiration": "1", "timestamp": 2**40, "type": "t"},
        {"content_encoding": "utf-8", "user_id": "u", "app_id": "a", "cluster_id": "reserved"},
    ],
)
def test_properties_of_pika_are_decoded(given: dict[str, Any]) -> None:
    encoded = b"".join(spec.BasicProperties(**given).encode())
    assert frames.read_properties(encoded) == {name: value for name, value in given.items() if name != "cluster_id"}


def test_headers_are_returned_as_an_encoded_table() -> None:
    table: list[bytes] = []
    encode_table(table, {"traceparent": "00-é", "n": 1})
    encoded = b"".join(spec.BasicProperties(headers={"traceparent": "00-é", "n": 1}, type="t").encode())
    assert frames.read_properties(encoded) == {"headers": b"".join(table), "type": "t"}


def test_unreadable_properties_are_an_error() -> None:
    with pytest.raises(ValueError, match="reply_to is not UTF-8"):
        frames.read_properties(b"".join(spec.BasicProperties(reply_to=b"\xff").encode()))
    whole = b"".join(spec.BasicProperties(**KINDS, timestamp=1, type="t").encode())
    for length in range(len(whole)):
        with pytest.raises((IndexError, struct.error)):
            frames.read_properties(whole[:length])


def test_a_frame_has_an_end_only_when_it_is_complete() -> None:
    data = b"before" + bytes(frame.Body(7, b"abc").marshal())
    assert frames.end_of_frame(data + b"after", 6) == len(data)
    assert [frames.end_of_frame(data[:length], 6) for length in range(6, len(data))] == [0] * (len(data) - 6)


def test_other_data_than_a_frame_is_an_error() -> None:
    data = bytes(frame.Body(7, b"abc").marshal())[:-1] + b"x"
    with pytest.raises(ValueError, match="not AMQP"):
        frames.end_of_frame(data, 0)
