"""Messages with their AMQP properties: outgoing messages and deliveries."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from broker.errors import Problem

UNREADABLE_REST = ""
"""Among the names of unreadable properties: the properties after an undecodable one are unreadable, too."""

_DECISIVE = ("content_encoding", "correlation_id", "reply_to", "message_id")


@dataclass(slots=True)
class Outgoing:
    """A message to publish. `mandatory`: fail with Unroutable when no queue takes the message."""

    exchange: str
    routing_key: str
    body: bytes
    type: str | None = None
    content_type: str = "application/json"
    message_id: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    priority: int | None = None
    headers: Mapping[str, Any] | None = None
    expiration: float | None = None  # seconds
    persistent: bool = True
    mandatory: bool = True


@dataclass(slots=True)
class Properties:
    """The AMQP properties of a delivery. None: the sender did not set the property, or the value is unreadable.

    `unreadable` names the unreadable properties: text that is not UTF-8, headers that are not a table. An unreadable
    header value is None.
    """

    content_type: str | None = None
    content_encoding: str | None = None
    headers: dict[str, Any] | None = None
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: int | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None
    unreadable: tuple[str, ...] = ()

    def problems(self) -> list[Problem]:
        """Return the unreadable properties for which the message must be refused."""
        found = [Problem(name, "is not text in UTF-8") for name in self.unreadable if name in _DECISIVE]
        if UNREADABLE_REST in self.unreadable:
            found.append(Problem("", "its AMQP properties cannot be read"))
        return found


class Settler(Protocol):
    """The object that sends the outcome of deliveries to RabbitMQ."""

    @property
    def is_open(self) -> bool:
        """Whether outcomes still reach RabbitMQ."""

    def ack(self, tag: int) -> None:
        """Acknowledge a delivery."""

    def reject(self, tag: int, *, requeue: bool) -> None:
        """Reject a delivery; `requeue` returns it to its queue."""


@dataclass(slots=True, eq=False)
class Delivery:
    """A message from a queue. `ack`, `reject` and `requeue` do nothing after its channel has closed."""

    exchange: str
    routing_key: str
    body: bytes
    redelivered: bool
    properties: Properties
    _tag: int
    _settler: Settler
    queue: str = ""

    @property
    def headers(self) -> dict[str, Any]:
        """The AMQP headers; an empty dict when there are none."""
        return self.properties.headers or {}

    @property
    def is_lost(self) -> bool:
        """Whether the channel of the delivery has closed: RabbitMQ delivers the message again, here or elsewhere."""
        return not self._settler.is_open

    def ack(self) -> None:
        """Acknowledge the message: it is processed."""
        self._settler.ack(self._tag)

    def reject(self) -> None:
        """Reject the message: RabbitMQ moves it to the rejected queue."""
        self._settler.reject(self._tag, requeue=False)

    def requeue(self) -> None:
        """Return the message to its queue for another consumer."""
        self._settler.reject(self._tag, requeue=True)
