"""The queue of rejected messages, and how to read it without losing a message.

The queue holds messages that the coordinator rejected, with the reasons in headers; dead letters, with the header
`x-death` of RabbitMQ; and messages that a program published there. They are read without acknowledgement, and return
to the queue when the connection closes.
"""

import asyncio
import hashlib
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from broker.amqp.envelope import Delivery, Outgoing
from broker.amqp.queue_browser import MOST, Browser
from broker.amqp.robust_connection import RobustConnection
from broker.amqp10.messages import UNTRANSLATABLE
from broker.errors import BrokerError, RequestError
from broker.mappings import without_none
from broker.protocol.primitives import JSON_TYPE
from broker.protocol.topology import COORDINATOR, REJECTED
from broker.protocol.views import ErrorDetail
from fluffle.client.requests import open_link

_ERRORS = TypeAdapter(list[ErrorDetail])
_TYPABLE = re.compile(r"[!-~]{1,128}")
_ADDED = ("x-fluffle-", "x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")


@dataclass(frozen=True, slots=True)
class RejectedMessage:
    """A rejected message.

    `id` is the message_id if it is short printable ASCII, else 12 hexadecimal digits, a hash of the body, the origin
    and the addresses. `exchange` and `routing_key` are those of the first publication; `why` is one line.
    """

    id: str
    exchange: str
    routing_key: str
    at: datetime | None
    why: str
    errors: tuple[ErrorDetail, ...]
    delivery: Delivery

    @property
    def user(self) -> str | None:
        """The RabbitMQ user of the sender: from a header where the coordinator published the message again."""
        kept = "x-fluffle-origin-exchange" in self.delivery.headers
        user = self.delivery.headers.get("x-fluffle-user") if kept else self.delivery.properties.user_id
        return user if isinstance(user, str) else None

    def as_json(self) -> dict[str, Any]:
        """Return the message as data for JSON. A body that is not UTF-8 is in `body_base64`."""
        properties = self.delivery.properties
        shown = {
            "id": self.id,
            "exchange": self.exchange,
            "routing_key": self.routing_key,
            "at": self.at and self.at.isoformat(),
            "why": self.why,
            "errors": [wrong.model_dump() for wrong in self.errors],
            "message_id": properties.message_id,
            "correlation_id": properties.correlation_id,
            "reply_to": properties.reply_to,
            "type": properties.type,
            "content_type": properties.content_type,
            "user_id": self.user,
            "size": len(self.delivery.body),
        }
        try:
            shown["body"] = self.delivery.body.decode()
        except UnicodeDecodeError:
            shown["body_base64"] = b64encode(self.delivery.body).decode()
        return without_none(shown)


@asynccontextmanager
async def opened(url: str, *, name: str) -> AsyncIterator["RejectedQueue"]:
    """Open the queue of rejected messages at this URL. Raises BrokerUnreachable and AccessRefused."""
    async with Browser(url, REJECTED, name=name) as browser:
        yield RejectedQueue(url, name, browser)


class RejectedQueue:
    """The messages of the queue. No other program receives them while it is open.

    A method returns when RabbitMQ has confirmed its work.
    """

    def __init__(self, url: str, name: str, browser: Browser) -> None:
        self._url = url
        self._name = name
        self._browser = browser
        self.withheld = 0  # messages that another program reads at the moment

    async def look(self, limit: int = MOST) -> list[RejectedMessage]:
        """Return the oldest messages of the queue, at most `limit`. They stay there until dropped or requeued.

        Raises Unreadable, BrokerError.
        """
        found = [read(delivery) for delivery in await self._browser.look(limit)]
        self.withheld = min(self._browser.waiting, limit) - len(found)
        return found

    async def drop(self, messages: Sequence[RejectedMessage]) -> None:
        """Delete messages. Raises BrokerError when RabbitMQ may not have deleted all of them."""
        for message in messages:
            message.delivery.ack()
        try:
            await self._browser.confirmed()
        except BrokerError as error:
            raise BrokerError(f"RabbitMQ may not have deleted all of them; list them again: {error}") from error

    async def drop_unseen(self) -> int:
        """Delete all messages of the queue unread, and return their number. Raises BrokerError."""
        return await self._browser.purge()

    async def requeue(self, messages: Sequence[RejectedMessage]) -> list[RequestError | BrokerError | None]:
        """Publish messages to their first exchange again, and delete them here when RabbitMQ has confirmed that.

        Returns an error for each message that could not be published, None for the others.
        """
        async with open_link(self._url, name=self._name) as link:
            results = await asyncio.gather(
                *(_publish_again(link, message) for message in messages), return_exceptions=True
            )
        outcomes: list[RequestError | BrokerError | None] = []
        for message, outcome in zip(messages, results, strict=True):
            if outcome is None:
                message.delivery.ack()
            elif not isinstance(outcome, RequestError | BrokerError):
                raise outcome
            outcomes.append(outcome)
        try:
            await self._browser.confirmed()
        except BrokerError as error:
            left = BrokerError(f"the message was published again, but may still be in the rejected queue: {error}")
            return [outcome or left for outcome in outcomes]
        return outcomes


async def _publish_again(link: RobustConnection, message: RejectedMessage) -> None:
    """Publish a message again. Raises RequestError when that is impossible, Unroutable and PublishRefused."""
    properties, headers = message.delivery.properties, message.delivery.headers
    if UNTRANSLATABLE in headers:
        raise RequestError("the message cannot be published again: RabbitMQ cannot translate it to AMQP 0-9-1")
    if properties.problems():
        raise RequestError("the message cannot be published again: its properties cannot be decoded")
    if message.exchange == REJECTED:
        raise RequestError("the message cannot be published again: its first exchange was that of the rejected queue")
    await link.publish(
        Outgoing(
            message.exchange,
            message.routing_key,
            message.delivery.body,
            type=properties.type,
            content_type=properties.content_type or JSON_TYPE,
            message_id=properties.message_id,
            correlation_id=properties.correlation_id,
            reply_to=properties.reply_to,
            priority=properties.priority,
            headers={k: v for k, v in headers.items() if not k.startswith(_ADDED)},
        )
    )


def read(delivery: Delivery) -> RejectedMessage:
    """Decode a delivery of the queue, with its origin and the reason. Accepts every message, also a malformed one."""
    headers = delivery.headers
    death = _death(headers)
    exchange, routing_key, at = delivery.exchange, delivery.routing_key, None
    errors: tuple[ErrorDetail, ...] = ()
    if "x-fluffle-origin-exchange" in headers:
        exchange, routing_key = str(headers["x-fluffle-origin-exchange"]), str(headers.get("x-fluffle-origin-key", ""))
        errors, at = _errors(headers), _moment(headers.get("x-fluffle-at"))
        why = "; ".join(f"{wrong.path}: {wrong.message}" if wrong.path else wrong.message for wrong in errors)
    elif death:
        keys = death.get("routing-keys")
        exchange, routing_key = str(death.get("exchange", "")), str(keys[0]) if isinstance(keys, list) and keys else ""
        at = _moment(death.get("time"))
        why = _why_dead(str(death.get("queue")), str(death.get("reason")))
    elif problems := delivery.properties.problems():
        why = "; ".join(map(str, problems))
    else:
        why = "no reason given"
    if UNTRANSLATABLE in headers:
        cannot = f"RabbitMQ cannot deliver it to clients of AMQP 0-9-1: {headers[UNTRANSLATABLE]}"
        why = f"{why}; {cannot}" if death else cannot
    return RejectedMessage(_id(delivery, exchange, routing_key), exchange, routing_key, at, why, errors, delivery)


def _id(delivery: Delivery, exchange: str, routing_key: str) -> str:
    properties = delivery.properties
    if properties.message_id and _TYPABLE.fullmatch(properties.message_id):
        return str(properties.message_id)
    parts = (exchange, routing_key, properties.message_id, properties.correlation_id, properties.reply_to)
    return hashlib.sha256(repr(parts).encode() + delivery.body).hexdigest()[:12]


def _death(headers: Mapping[str, Any]) -> Mapping[str, Any] | None:
    deaths = headers.get("x-death")
    return deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else None


def _why_dead(queue: str, reason: str) -> str:
    if (queue, reason) == (COORDINATOR, "expired"):
        return "expired before the coordinator read it: it was published with an expiration"
    return f"dead letter of {queue}: {reason.replace('_', ' ')}"


def _errors(headers: Mapping[str, Any]) -> tuple[ErrorDetail, ...]:
    try:
        return tuple(_ERRORS.validate_json(headers.get("x-fluffle-errors", "[]")))
    except ValidationError:
        return ()


def _moment(value: object) -> datetime | None:
    """Return the time in a header: ISO 8601, or an AMQP timestamp, which is UTC without an offset."""
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return None
    if not isinstance(at, datetime):
        return None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at
