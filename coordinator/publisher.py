"""Publishing what a batch has led to, until RabbitMQ has all of it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import structlog

from broker.connection import Outgoing
from broker.crash import crash_point, crash_point_soon
from broker.errors import BrokerError, LinkClosed, PublishRefused
from broker.link import Link
from coordinator.bookkeeper import Post

AGAIN = 0.5  # seconds before a message that was refused is published again

_log = structlog.get_logger("coordinator")


@dataclass(slots=True, eq=False)
class _UnderWay:
    """Outbox rows, and how many of their messages RabbitMQ does not have yet."""

    rows: tuple[int, ...]
    missing: int


class Publisher:
    """Calls `on_confirmed` with the outbox rows of each batch once RabbitMQ has taken the last message of it."""

    def __init__(self, link: Link, on_confirmed: Callable[[tuple[int, ...]], None]) -> None:
        self._link = link
        self._on_confirmed = on_confirmed
        self._under_way: set[_UnderWay] = set()
        self._idle = asyncio.Event()

    def publish(self, post: Post) -> None:
        """Publish a batch."""
        batch = _UnderWay(post.rows, len(post.messages))
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

    def _on_answer(self, batch: _UnderWay, message: Outgoing, error: BrokerError | None) -> None:
        match error:
            case None:
                pass
            case PublishRefused():
                asyncio.get_running_loop().call_later(AGAIN, self._link.send, message, partial(self._on_answer, batch))
                return
            case LinkClosed():  # the outbox keeps it
                self._end(batch)
                return
            case BrokerError():  # nobody is there to take it: a reply queue that has gone, an LLM's queue
                _log.debug("undeliverable", routing_key=message.routing_key, type=message.type, error=str(error))
        batch.missing -= 1
        self._end_if_complete(batch)

    def _end_if_complete(self, batch: _UnderWay) -> None:
        if not batch.missing:
            crash_point("after-confirm")
            self._on_confirmed(batch.rows)
            self._end(batch)

    def _end(self, batch: _UnderWay) -> None:
        self._under_way.discard(batch)
        if not self._under_way:
            self._idle.set()
