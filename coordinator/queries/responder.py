"""Queries from RabbitMQ: takes them from their queue, has them answered, publishes the answers."""

import asyncio
from dataclasses import replace

import structlog

from broker.amqp.envelope import Delivery, Outgoing
from broker.amqp.robust_connection import RobustConnection
from broker.amqp.session import Subscription
from broker.errors import BrokerError, DecodeError, MessageTooLarge, Problem, StoreUnavailable, Unroutable
from broker.protocol.queries import TaskQuery
from broker.protocol.topology import QUERIES
from coordinator.outbound.size_limits import fitted_body
from coordinator.queries.executor import QueryExecutor
from coordinator.queries.handlers import rejected, too_large
from coordinator.telemetry.rate_limited_log import RateLimitedLog
from coordinator.validation import must_be_identified

PREFETCH = 100  # queries
RETRY_SECONDS = 0.5  # before a query goes back to its queue while the database is unavailable

_log = structlog.get_logger("coordinator")


class QueryResponder:
    """Answers queries on its own connection, whether this coordinator leads or stands by."""

    def __init__(self, connection: RobustConnection, executor: QueryExecutor, *, require_identity: bool) -> None:
        self.connection = connection
        self._executor = executor
        self._require_identity = require_identity
        self._warnings = RateLimitedLog(_log)
        self._answering: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Begin to take queries. The connection must be connected."""
        self._subscription = await self.connection.consume(QUERIES, self._on_query, prefetch=PREFETCH)

    def stop(self) -> None:
        """Do not wait for the database any more."""
        self._stopping.set()

    async def finish(self, timeout: float) -> None:
        """Take no more queries, and wait at most so many seconds for those that are being answered."""
        if self._subscription is not None:
            self._subscription.cancel()
        if self._answering:
            await asyncio.wait(self._answering, timeout=timeout)

    def close(self) -> None:
        """Close the threads and connections to the database."""
        self._executor.close()

    def _on_query(self, delivery: Delivery) -> None:
        task = asyncio.create_task(self._answer(delivery))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, delivery: Delivery) -> None:
        reply_to, correlation_id = delivery.properties.reply_to, delivery.properties.correlation_id
        try:
            if reply_to and self._may_answer(delivery):
                kind, body = await self._executor.answer(_query_of(delivery), delivery.body)
                answer = Outgoing("", reply_to, body, type=kind, correlation_id=correlation_id, persistent=False)
                await self._publish(answer, delivery.routing_key)
        except StoreUnavailable as error:
            _log.warning("a query has to wait for the database", error=str(error))
            await self._pause()
            delivery.requeue()
        else:
            delivery.ack()

    async def _publish(self, answer: Outgoing, query: str) -> None:
        """Publish an answer. If it is too large for RabbitMQ: the part of a task that fits, or the reason."""
        try:
            await self.connection.publish(answer)
        except Unroutable:  # the client has gone
            _log.debug("the reply queue of a query is gone", query=query, reply_to=answer.routing_key)
        except MessageTooLarge as error:
            self._warnings.warning("the answer to a query is too large", query=query, error=str(error))
            if answer.type == "query.answer":
                fits = fitted_body(answer.body, error.limit) if query == TaskQuery.routing_key and error.limit else None
                why = rejected([Problem("", too_large(len(answer.body), error.limit))])
                kind, body = why if fits is None else ("query.answer", fits)
                await self._publish(replace(answer, type=kind, body=body), query)
        except BrokerError as error:
            self._warnings.warning("the answer to a query cannot be published", query=query, error=str(error))

    def _may_answer(self, delivery: Delivery) -> bool:
        """Return whether the sender is identified and asks for the answer at its own queue, where that is required."""
        if not self._require_identity:
            return True
        properties = delivery.properties
        try:
            must_be_identified(delivery)
        except DecodeError as error:
            self._warnings.warning(
                "refused a query", user=properties.user_id, reply_to=properties.reply_to, error=str(error)
            )
            return False
        return True

    async def _pause(self) -> None:
        """Wait RETRY_SECONDS, or until `stop` is called."""
        try:
            async with asyncio.timeout(RETRY_SECONDS):
                await self._stopping.wait()
        except TimeoutError:
            pass


def _query_of(delivery: Delivery) -> str:
    """Return the name of the query: its routing key, or its type when it came straight to the queue."""
    return delivery.routing_key if delivery.exchange else delivery.properties.type or ""
