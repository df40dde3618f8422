"""Publishing what a batch has led to, until RabbitMQ has all of it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import structlog

from broker.amqp.envelope import Outgoing
from broker.amqp.robust_connection import RobustConnection
from broker.errors import BrokerError, ConnectionClosed, MessageTooLarge, PublishRefused, Unroutable
from broker.fault_injection import crash_point, crash_point_soon
from broker.protocol.topology import EVENTS, WORK
from coordinator.batch import OutgoingBatch
from coordinator.outbound.size_limits import fitted_body
from coordinator.telemetry.rate_limited_log import RateLimitedLog

AGAIN = 0.5  # seconds before a message that was refused is published again

_log = structlog.get_logger("coordinator")


@dataclass(slots=True, eq=False)
class _Unconfirmed:
    """Outbox rows, and how many of their messages RabbitMQ does not have yet."""

    rows: tuple[int, ...]
    missing: int


class Publisher:
    """Calls `on_confirmed` with the outbox rows of each batch once RabbitMQ has taken the last message of it."""

    def __init__(
        self,
        link: RobustConnection,
        on_confirmed: Callable[[tuple[int, ...]], None],
        on_too_large: Callable[[Outgoing], None],
    ) -> None:
        """`on_too_large` is called with an assignment that RabbitMQ does not take because of its size."""
        self._link = link
        self._on_confirmed = on_confirmed
        self._on_too_large = on_too_large
        self._warnings = RateLimitedLog(_log)
        self._under_way: set[_Unconfirmed] = set()
        self._idle = asyncio.Event()

    def publish(self, post: OutgoingBatch) -> None:
        """Publish a batch."""
        self._warnings.flush()
        batch = _Unconfirmed(post.rows, len(post.messages))
        self._under_way.add(batch)
        answered = partial(self._on_answer, batch)
        for message in post.messages:
            self._link.send(message, answered)
        if post.messages:
            crash_point_soon("after-publish")
        else:
            self._end_if_complete(batch)

    async def idle(self, timeout: float) -> None:
        """Wait until RabbitMQ has everything, at most so many seconds."""
        if self._under_way:
            self._idle.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._idle.wait()

    def _on_answer(self, batch: _Unconfirmed, message: Outgoing, error: BrokerError | None) -> None:
        match error:
            case None:
                pass
            case PublishRefused():
                asyncio.get_running_loop().call_later(AGAIN, self._link.send, message, partial(self._on_answer, batch))
                return
            case ConnectionClosed():  # the outbox keeps it
                self._end(batch)
                return
            case MessageTooLarge():
                told = {"exchange": message.exchange, "routing_key": message.routing_key, "error": str(error)}
                if smaller := _without_bulk(message, error.limit):
                    self._warnings.warning("a message is too large: publishing it without what is large", **told)
                    self._link.send(smaller, partial(self._on_answer, batch))
                    return
                self._warnings.warning("a message is too large and cannot be published", **told)
                if message.exchange == WORK:
                    self._on_too_large(message)
            case Unroutable():  # nobody is there to take it: a reply queue that has gone, an LLM's queue
                _log.debug("undeliverable", routing_key=message.routing_key, type=message.type, error=str(error))
            case BrokerError():
                self._warnings.warning(
                    "a message cannot be published",
                    exchange=message.exchange,
                    routing_key=message.routing_key,
                    error=str(error),
                )
        batch.missing -= 1
        self._end_if_complete(batch)

    def _end_if_complete(self, batch: _Unconfirmed) -> None:
        if not batch.missing:
            crash_point("after-confirm")
            self._on_confirmed(batch.rows)
            self._end(batch)

    def _end(self, batch: _Unconfirmed) -> None:
        self._under_way.discard(batch)
        if not self._under_way:
            self._idle.set()


def _without_bulk(message: Outgoing, limit: int | None) -> Outgoing | None:
    """An answer or an event without what is large in it; None where that does not help."""
    is_answer = message.exchange == "" and message.type is not None
    if limit is None or not (is_answer or message.exchange == EVENTS):
        return None
    smaller = fitted_body(message.body, limit)
    return None if smaller is None else replace(message, body=smaller)
