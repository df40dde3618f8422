"""Requests to the coordinator and their replies, over one connection and one reply queue.

The owner of the reply queue consumes it and passes every delivery to `RpcClient.take`. A reply queue lives as long as
its connection, so a reply can be lost with the connection. Therefore the owner calls `RpcClient.send_again` after a
reconnect: it publishes again the pending requests that the coordinator may receive twice.
"""

import asyncio
import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from broker.amqp.envelope import Delivery, Outgoing
from broker.amqp.robust_connection import RobustConnection
from broker.errors import FluffleError, Problem, QueryRejected, TaskRejected
from broker.protocol.primitives import decode
from broker.protocol.views import Rejection


class RequestTimeout(TimeoutError):
    """No reply arrived in time. `is_confirmed` is true when RabbitMQ has the request."""

    def __init__(self, *, is_confirmed: bool) -> None:
        super().__init__("no reply arrived in time")
        self.is_confirmed = is_confirmed


class _Reply(NamedTuple):
    type: str
    body: bytes


class PendingRequest:
    """A request that awaits a reply, or several. `message` is published again after a reconnect, if that is safe."""

    def __init__(self, message: Outgoing, *, is_repeatable: bool) -> None:
        self.message = message
        self.is_repeatable = is_repeatable
        self.was_sent_again = False
        self._replies: asyncio.Queue[_Reply | FluffleError] = asyncio.Queue()

    async def reply(self) -> bytes:
        """Wait for the next reply and return its body, JSON.

        Raises TaskRejected, QueryRejected, DecodeError for a rejection that cannot be read, or the error for which
        the request could not be published.
        """
        reply = await self._replies.get()
        if isinstance(reply, FluffleError):
            raise reply
        if reply.type not in ("task.rejected", "query.rejected"):
            return reply.body
        errors = decode(Rejection, reply.body, limit=len(reply.body)).errors
        rejected = QueryRejected if reply.type == "query.rejected" else TaskRejected
        raise rejected([Problem(error.path, error.message) for error in errors])

    def take(self, reply: _Reply | FluffleError) -> None:
        """Add a reply, or the error in place of one."""
        self._replies.put_nowait(reply)

    def on_published(self, _: Outgoing, error: FluffleError | None) -> None:
        """Take the result of publishing the request."""
        if error is not None:
            self.take(error)


class RpcClient:
    """Publishes requests and passes replies to those who wait for them, by correlation id.

    All correlation ids from here begin with `prefix`, which separates the replies from other deliveries of the queue.
    """

    def __init__(self, link: RobustConnection, reply_to: str, *, prefix: str) -> None:
        self._link = link
        self._reply_to = reply_to
        self._prefix = prefix
        self._numbers = itertools.count(1)
        self._pending: dict[str, PendingRequest] = {}

    def request(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        *,
        message_id: str | None = None,
        headers: Mapping[str, Any] | None = None,
        expiration: float | None = None,
        persistent: bool = True,
    ) -> Outgoing:
        """Return a message with a new correlation id, whose reply comes here. `expiration` is in seconds."""
        return Outgoing(
            exchange,
            routing_key,
            body,
            message_id=message_id,
            correlation_id=f"{self._prefix}{next(self._numbers)}",
            reply_to=self._reply_to,
            headers=headers,
            expiration=expiration,
            persistent=persistent,
        )

    async def call(self, request: Outgoing, *, timeout_seconds: float, is_repeatable: bool = False) -> bytes:
        """Publish a request that has one reply, and return the body of the reply, JSON.

        Raises RequestTimeout, what `PendingRequest.reply` raises, and what `RobustConnection.publish` raises.
        """
        is_confirmed = False
        with self._awaiting(request, is_repeatable=is_repeatable) as pending:
            try:
                async with asyncio.timeout(timeout_seconds):
                    await self._link.publish(request)
                    is_confirmed = True
                    return await pending.reply()
            except TimeoutError as error:
                raise RequestTimeout(is_confirmed=is_confirmed) from error

    @contextmanager
    def open(self, request: Outgoing) -> Iterator[PendingRequest]:
        """Publish a request that may have several replies, and yield it to wait for them.

        Until the block ends, the request is published again after every reconnect.
        """
        with self._awaiting(request, is_repeatable=True) as pending:
            self._publish(pending)
            yield pending

    def take(self, delivery: Delivery) -> bool:
        """Pass a reply to the request that it answers. Returns False for a delivery that is no reply to this client.

        A reply that nobody awaits any more is dropped.
        """
        correlation_id = delivery.properties.correlation_id or ""
        if not correlation_id.startswith(self._prefix):
            return False
        if pending := self._pending.get(correlation_id):
            pending.take(_Reply(delivery.properties.type or "", delivery.body))
        return True

    def send_again(self) -> None:
        """Publish the pending requests again, as far as they are repeatable. Called after a reconnect."""
        for pending in self._pending.values():
            if pending.is_repeatable:
                pending.was_sent_again = True
                self._publish(pending)

    def fail(self, error: FluffleError) -> None:
        """Raise an error wherever a reply is awaited. Called when no reply can arrive any more."""
        for pending in self._pending.values():
            pending.take(error)

    @contextmanager
    def _awaiting(self, request: Outgoing, *, is_repeatable: bool) -> Iterator[PendingRequest]:
        assert request.correlation_id is not None
        pending = self._pending[request.correlation_id] = PendingRequest(request, is_repeatable=is_repeatable)
        try:
            yield pending
        finally:
            del self._pending[request.correlation_id]

    def _publish(self, pending: PendingRequest) -> None:
        self._link.send(pending.message, pending.on_published)
