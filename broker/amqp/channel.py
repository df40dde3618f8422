"""The typed interface of a connection and its channels. pika_connection.py implements it."""

from asyncio import Future
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from broker.amqp.ack_batcher import AckBatcher
from broker.amqp.envelope import Delivery, Outgoing

OnConfirms = Callable[[list[tuple[int, int]], bool], None]
"""Called with delivery tags, each with 1 if it includes all earlier tags, else 0; and whether RabbitMQ refused them."""

OnReturn = Callable[[str, str, bytes], None]
"""Called with the exchange, the routing key and the body of a message that no queue takes."""


@dataclass(slots=True)
class Consumer:
    """A consumer of one queue. `prefetch`: the maximum number of its unsettled deliveries."""

    queue: str
    on_delivery: Callable[[Delivery], object]
    prefetch: int
    auto_ack: bool
    tag: str | None = None
    cancelled: bool = False


class QueueState(NamedTuple):
    """The number of messages in a queue that wait for a consumer, and the number of its consumers."""

    messages: int
    consumers: int


class Refusal(NamedTuple):
    """The reason why RabbitMQ closed a channel."""

    code: int
    text: str


class Channel(Protocol):
    """An AMQP channel.

    A future ends with RabbitMQ's answer. It never ends when the channel or the connection closes before the answer.
    """

    @property
    def is_open(self) -> bool:
        """Whether the channel is open."""

    def publish(self, message: Outgoing) -> None:
        """Send a message. Raises an error of any class, and sends nothing, when a value does not fit its field."""

    def confirm(self, on_confirms: OnConfirms, on_return: OnReturn) -> None:
        """Ask RabbitMQ to confirm published messages, and to return messages that no queue takes."""

    def send_acks(self, *, up_to: int | None, besides: Sequence[int]) -> None:
        """Acknowledge all deliveries up to a tag, and the tags in `besides`."""

    def reject(self, tag: int, *, requeue: bool) -> None:
        """Reject one delivery; `requeue` returns it to its queue."""

    def set_prefetch(self, count: int) -> Future[None]:
        """Set the maximum number of unsettled deliveries of each consumer that begins after this."""

    def consume(self, queue: str, tag: str, consumer: Consumer, ack_batcher: AckBatcher) -> Future[None]:
        """Begin to consume a queue under a consumer tag."""

    def cancel(self, tag: str) -> None:
        """End a consumer."""

    def declare_exchange(self, name: str, kind: str, arguments: Mapping[str, object]) -> Future[None]:
        """Declare a durable exchange."""

    def bind_exchange(self, destination: str, source: str) -> Future[None]:
        """Route all messages of the exchange `source` to the exchange `destination`, too."""

    def declare_queue(self, name: str, *, exclusive: bool, arguments: Mapping[str, object]) -> Future[None]:
        """Declare an exclusive or a durable queue."""

    def bind_queue(self, queue: str, exchange: str, routing_key: str) -> Future[None]:
        """Bind a queue to an exchange."""

    def unbind_queue(self, queue: str, exchange: str, routing_key: str) -> Future[None]:
        """Remove a binding, if it exists."""

    def queue_state(self, queue: str) -> Future[QueueState]:
        """Return the state of a queue. RabbitMQ closes the channel when the queue does not exist."""

    def purge_queue(self, queue: str) -> Future[int]:
        """Delete the messages of a queue that wait for a consumer. Returns their number."""

    def delete_queue(self, queue: str) -> Future[None]:
        """Delete a queue with its messages, if it exists."""

    def delete_exchange(self, exchange: str) -> Future[None]:
        """Delete an exchange, if it exists."""

    def close(self) -> None:
        """Close the channel."""


class Connection(Protocol):
    """A connection to RabbitMQ."""

    @property
    def is_open(self) -> bool:
        """Whether the connection is open."""

    def open_channel(
        self,
        on_closed: Callable[[Channel, BaseException], None],
        on_consumer_ended: Callable[[], None] = lambda: None,
    ) -> Future[Channel]:
        """Open a channel. `on_consumer_ended` is called when RabbitMQ ends one of its consumers."""

    def close(self, code: int = 200, reason: str = "normal shutdown") -> None:
        """Begin to close an open connection."""

    def discard(self) -> None:
        """Begin to close the connection, unless it is closing or closed."""

    def drop(self) -> None:
        """End the connection without a message to RabbitMQ."""
