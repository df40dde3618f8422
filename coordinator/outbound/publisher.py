"""Publishing of batches until RabbitMQ has confirmed every message."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import structlog

from broker.amqp.envelope import Outgoing
from broker.amqp.robust_connection import RobustConnection
from broker.errors import BrokerError, ConnectionClosed, MessageTooLarge, PublishRefused, Unroutable
from broker.fault_injection import crash_point, crash_point_soon
from broker.protocol.topology import EVENTS, WORK
from coordinator.outbound.size_limits import fitted_body
from coordinator.telemetry.rate_limited_log import RateLimitedLog

RETRY_SECONDS = 0.5  # before a refused message is published again

_log = structlog.get_logger("coordinator")


@dataclass(slots=True, eq=False)
class _Unconfirmed:
    """Outbox rows, and how many of their messages RabbitMQ has not confirmed yet."""

    rows: tuple[int, ...]
    missing: int


class Publisher:
    """Calls `on_confirmed` with the outbox rows of each batch once RabbitMQ has confirmed its last message."""

    def __init__(
        self,
        connection: RobustConnection,
        on_confirmed: Callable[[tuple[int, ...]], None],
        on_too_large: Callable[[Outgoing], None],
    ) -> None:
        """`on_too_large` is called with an assignment that is too large for RabbitMQ."""
        self._connection = connection
        self._on_confirmed = on_confirmed
        self._on_too_large = on_too_large
        self._warnings = RateLimitedLog(_log)
        self._under_way: set[_Unconfirmed] = set()
        self._idle = asyncio.Event()

    def publish(self, messages: Sequence[Outgoing], rows: tuple[int, ...]) -> None:
        """Publish the messages of a batch, which are stored in these outbox rows."""
        self._warnings.flush()
        batch = _Unconfirmed(rows, len(messages))
        self._under_way.add(batch)
        answered = partial(self._on_answer, batch)
        for message in messages:
            self._connection.send(message, answered)
        if messages:
            crash_point_soon("after-publish")
        else:
            self._end_if_complete(batch)

    async def idle(self, timeout: float) -> None:
        """Wait until RabbitMQ has confirmed everything, at most `timeout` seconds."""
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
                again = partial(self._connection.send, message, partial(self._on_answer, batch))
                asyncio.get_running_loop().call_later(RETRY_SECONDS, again)
                return
            case ConnectionClosed():  # it stays in the outbox
                self._end(batch)
                return
            case MessageTooLarge():
                fields = {"exchange": message.exchange, "routing_key": message.routing_key, "error": str(error)}
                if smaller := _without_bulk(message, error.limit):
                    self._warnings.warning("a message is too large: publishing it in short", **fields)
                    self._connection.send(smaller, partial(self._on_answer, batch))
                    return
                self._warnings.warning("a message is too large and cannot be published", **fields)
                if message.exchange == WORK:
                    self._on_too_large(message)
            case Unroutable():  # its queue is gone: a client's reply queue, or an LLM's queue
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
    """Return an answer or event without its large fields; None if that is not enough or does not apply."""
    is_answer = message.exchange == "" and message.type is not None
    if limit is None or not (is_answer or message.exchange == EVENTS):
        return None
    smaller = fitted_body(message.body, limit)
    return None if smaller is None else replace(message, body=smaller)
