"""Whether this coordinator hears: somebody who is deaf must not judge who is silent.

A lease that has run out may mean that a worker is dead. It may also mean that its beats wait unread: in the inbox,
because this coordinator was suspended or has much to do, or before a RabbitMQ that stands still or takes nothing. So
before an LLM loses anything, the coordinator publishes an echo, a message to itself that takes the way of a beat. Once
it has handled the echo, it has handled all that reached the inbox before. If RabbitMQ did not react to the echo at
once, it was away, and beats may still be on their way: every lease begins again.

The echo is published and arrives in the thread of the event loop, and is handled in that of the books.
"""

import secrets
import time
from dataclasses import dataclass

from broker.amqp.envelope import Delivery, Outgoing
from broker.protocol.topology import ECHO, STATUS
from broker.timestamps import Micros

PROMPT = 6  # RabbitMQ has to react within this part of a lease
RECENT = 1  # leases after which another echo is published, if the last one is not handled yet


def steady() -> Micros:
    """Microseconds of the clock that nobody can set."""
    return Micros(time.monotonic_ns() // 1000)


@dataclass(slots=True)
class _Echo:
    published_at: Micros
    answered_at: Micros | None = None


class LivenessProbe:
    """Keeps account of the echoes. Moments are those of a steady clock, in microseconds."""

    def __init__(self, lease: Micros) -> None:
        self._lease = lease
        self._echoes: dict[str, _Echo] = {}  # by correlation id, oldest first
        self._was_away = False
        self.until: Micros | None = None  # all that was published before has been handled; None: nothing is known

    def is_time_to_ask(self, at: Micros) -> bool:
        """Whether an echo is to be published, when somebody is in doubt. Many messages may be before the last one."""
        newest = next(reversed(self._echoes.values()), None)
        return newest is None or at - newest.published_at > RECENT * self._lease

    def ask(self, at: Micros) -> Outgoing:
        """An echo, to be published, or withdrawn, as soon as RabbitMQ has told who else consumes the inbox."""
        token = secrets.token_hex(8)
        self._echoes[token] = _Echo(at)
        return Outgoing(STATUS, ECHO, b"{}", correlation_id=token, persistent=False)

    def withdraw(self, token: str | None) -> None:
        """The echo is not published: it would prove nothing."""
        self._echoes.pop(token or "", None)

    def answered(self, token: str | None, at: Micros) -> None:
        """RabbitMQ has confirmed the echo, or it has come."""
        if (echo := self._echoes.get(token or "")) and echo.answered_at is None:
            echo.answered_at = at

    def refused(self, token: str | None) -> None:
        """The echo did not get into the inbox: nor did a beat."""
        if self._echoes.pop(token or "", None):
            self._was_away = True

    def handled(self, token: str | None) -> None:
        """Everything that came before the echo has been handled. Forged ones change nothing."""
        if echo := self._echoes.pop(token or "", None):
            if echo.answered_at is None or echo.answered_at - echo.published_at > self._lease // PROMPT:
                self._was_away = True
            else:
                self.until = echo.published_at

    def was_away(self) -> None:
        """The connection was lost, and is there again."""
        self._was_away = True

    def take_outage(self) -> bool:
        """Whether RabbitMQ was away since the last call."""
        was_away, self._was_away = self._was_away, False
        return was_away


def is_echo(delivery: Delivery) -> bool:
    """Whether it is an echo, of whichever coordinator."""
    return delivery.routing_key == ECHO and delivery.exchange == STATUS
