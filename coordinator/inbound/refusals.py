"""Refusals of messages: the answer to the sender, and the message as a dead letter."""

from collections.abc import Mapping
from typing import Any

from broker.amqp.envelope import Delivery
from broker.errors import Problem
from broker.protocol import topology
from broker.timestamps import Instant
from coordinator.core.commands import Refuse, RejectionType
from coordinator.inbound.decoder import RejectedDelivery, address_of
from coordinator.outbound.outbox import Item, RejectedMessage

_KEPT_PROPERTIES = ("message_id", "reply_to", "correlation_id", "priority", "type", "content_type")
_MAX_HEADER_BYTES = 8192  # of the headers that are kept; more would leave no room for ours

_REJECTION_TYPES: Mapping[str, RejectionType] = {
    topology.MESSAGES: "message.rejected",
    topology.QUERIES: "query.rejected",
}


def refusal(refused: RejectedDelivery, now: Instant, task_id: str | None = None) -> list[Item]:
    """Return what a refused delivery leads to: an answer to its sender, and a rejected message.

    `task_id` is the task of the message, if known; otherwise the answer names the message_id.
    """
    properties = refused.delivery.properties
    name = task_id or properties.message_id or ""
    reply_to = properties.reply_to if refused.answered else None
    exchange, _ = address_of(refused.delivery)
    kind = _REJECTION_TYPES.get(exchange, "task.rejected")
    answer = Refuse(name, refused.problems, reply_to, properties.correlation_id, type=kind)
    return [answer, _rejected_message(refused.delivery, refused.problems, now)]


def _rejected_message(delivery: Delivery, problems: tuple[Problem, ...], now: Instant) -> RejectedMessage:
    properties = {name: getattr(delivery.properties, name) for name in _KEPT_PROPERTIES}
    properties["headers"] = _kept_headers(delivery.headers)
    given = {name: value for name, value in properties.items() if value not in (None, {})}
    user = delivery.properties.user_id
    return RejectedMessage(delivery.exchange, delivery.routing_key, delivery.body, given, problems, now, user=user)


def _kept_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headers that are text, such as a trace context; none if they are too large to add ours."""
    text = {key: value for key, value in headers.items() if isinstance(key, str) and isinstance(value, str)}
    size = sum(len((key + value).encode()) for key, value in text.items())
    return text if size <= _MAX_HEADER_BYTES else {}
