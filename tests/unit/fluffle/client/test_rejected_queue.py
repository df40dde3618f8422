"""Rejected messages as they are read: whatever anybody put there."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker.amqp.envelope import Delivery, Properties, Settler
from fluffle.client.rejected_queue import RejectedMessage, read


def rejected(
    body: bytes = b"{}", *, exchange: str = "fluffle.rejected", key: str = "x", headers: Any = None, **properties: Any
) -> RejectedMessage:
    props = Properties(headers=headers, **properties)
    return read(Delivery(exchange, key, body, False, props, 1, cast(Settler, SimpleNamespace(is_open=False))))


def test_a_message_rejected_by_the_coordinator_has_its_origin_time_and_reason() -> None:
    message = rejected(
        headers={
            "x-fluffle-origin-exchange": "fluffle.tasks",
            "x-fluffle-origin-key": "submit",
            "x-fluffle-errors": '[{"path": "priority", "message": "too high"}, {"path": "", "message": "odd"}]',
            "x-fluffle-at": "2026-12-01T09:00:00.000000Z",
        }
    )
    assert (message.exchange, message.routing_key) == ("fluffle.tasks", "submit")
    assert message.at == datetime(2026, 12, 1, 9, tzinfo=UTC)
    assert message.why == "priority: too high; odd"


def test_a_dead_letter_has_its_first_exchange_and_its_reason() -> None:
    death = {
        "count": 1,
        "reason": "delivery_limit",
        "queue": "llm.atlas.work",
        "time": datetime(2026, 12, 1, 9),  # noqa: DTZ001 - as pika gives it
        "exchange": "fluffle.work",
        "routing-keys": ["llm.atlas"],
    }
    message = rejected(headers={"x-death": [death]}, key="dead.llm.atlas.work")
    assert (message.exchange, message.routing_key) == ("fluffle.work", "llm.atlas")
    assert message.why == "dead letter of llm.atlas.work: delivery limit"
    assert message.at == datetime(2026, 12, 1, 9, tzinfo=UTC)


def test_a_message_without_headers_keeps_its_exchange_and_routing_key() -> None:
    message = rejected(exchange="fluffle.tasks", key="sumbit")
    assert (message.exchange, message.routing_key, message.at, message.errors) == ("fluffle.tasks", "sumbit", None, ())


def test_the_id_of_a_message_is_its_message_id_if_it_can_be_typed() -> None:
    assert rejected(message_id="task/1").id == "task/1"
    for untypable in (None, "", "with space", "\x1b[31m", "x" * 129):
        assert len(rejected(message_id=untypable).id) == 12


def test_the_id_of_a_message_without_message_id_is_stable() -> None:
    first = rejected(b"abc", correlation_id="c", headers={"x-delivery-count": 1})
    again = rejected(b"abc", correlation_id="c", headers={"x-delivery-count": 2})
    other = rejected(b"abd", correlation_id="c")
    assert first.id == again.id != other.id


@pytest.mark.parametrize(
    "headers",
    [
        {"x-death": "nonsense"},
        {"x-death": [{}]},
        {"x-death": [{"routing-keys": 7, "time": "soon"}]},
        {"x-death": [{"routing-keys": [], "exchange": None}]},
        {"x-fluffle-origin-exchange": 7, "x-fluffle-errors": "{", "x-fluffle-at": "soon"},
        {"x-fluffle-origin-exchange": "e", "x-fluffle-errors": 7, "x-fluffle-at": 7},
        {"x-death": None, "timestamp": None},
    ],
)
def test_a_malformed_header_does_not_hide_a_message(headers: dict[str, Any]) -> None:
    message = rejected(b"\xff", headers=headers)
    assert message.as_json()["body_base64"] == "/w=="
