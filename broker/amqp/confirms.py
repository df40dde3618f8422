"""Published messages that wait for RabbitMQ's confirm."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Self

from broker.amqp.envelope import Outgoing
from broker.errors import BrokerError, PublishRefused, Unroutable
from broker.futures import fail, resolve

_log = logging.getLogger(__name__)

OnPublished = Callable[[Outgoing, BrokerError | None], None]
"""Called with a published message and None when RabbitMQ has confirmed it, or with the error."""


@dataclass(slots=True)
class PendingPublish:
    """A message that RabbitMQ has not confirmed yet."""

    message: Outgoing
    on_published: OnPublished
    returned: bool = False  # no queue takes the message
    wanted: bool = True  # False: the message is not published again after a reconnect

    @classmethod
    def of_future(cls, message: Outgoing, done: asyncio.Future[None]) -> Self:
        """Create a pending message whose outcome ends a future."""
        pending = cls(message, partial(_settle, done))
        done.add_done_callback(pending._forget_if_cancelled)
        return pending

    def _forget_if_cancelled(self, done: asyncio.Future[None]) -> None:
        self.wanted = not done.cancelled()

    def end(self, error: BrokerError | None) -> None:
        """Report the outcome. An exception of the callback is logged: the connection goes on."""
        try:
            self.on_published(self.message, error)
        except Exception:
            _log.exception("the callback of a published message failed")


@dataclass(slots=True)
class PublisherConfirms:
    """The unconfirmed messages of one channel, by delivery tag."""

    next_tag: int = 1
    waiting: dict[int, PendingPublish] = field(default_factory=dict)

    def expect(self, pending: PendingPublish) -> None:
        """Add the message that was published next on the channel."""
        self.waiting[self.next_tag] = pending
        self.next_tag += 1

    def mark_returned(self, exchange: str, routing_key: str, body: bytes) -> None:
        """Mark the message that RabbitMQ has returned.

        A return arrives before its confirm and carries no tag. Equal messages are interchangeable.
        """
        for pending in self.waiting.values():
            message = pending.message
            if (
                not pending.returned
                and message.routing_key == routing_key
                and message.exchange == exchange
                and message.body == body
            ):
                pending.returned = True
                return

    def end(self, tags: list[tuple[int, int]], *, refused: bool) -> None:
        """Report the outcome of the messages that RabbitMQ has confirmed or refused."""
        for last, multiple in tags:
            for pending in self._take(last, multiple):
                if refused:
                    pending.end(PublishRefused())
                elif pending.returned:
                    to = pending.message
                    pending.end(Unroutable(f"no queue takes {to.routing_key!r} of exchange {to.exchange!r}"))
                else:
                    pending.end(None)

    def _take(self, last: int, multiple: int) -> list[PendingPublish]:
        """Remove the message with a tag, and with `multiple` all messages before it."""
        if not multiple:
            return [self.waiting.pop(last)] if last in self.waiting else []
        oldest = next(iter(self.waiting), self.next_tag)
        return [self.waiting.pop(tag) for tag in range(oldest, last + 1) if tag in self.waiting]


def _settle(done: asyncio.Future[None], _: Outgoing, error: BrokerError | None) -> None:
    if error is None:
        resolve(done, None)
    else:
        fail(done, error)
