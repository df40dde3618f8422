"""Whether this coordinator still receives heartbeats: only then may it take tasks from silent workers.

An expired lease may mean that a worker is dead. It may also mean that its heartbeats are unread: in the inbox, because
this coordinator was suspended or overloaded, or in front of a RabbitMQ that is suspended or accepts no messages. So
before an LLM loses a task, the coordinator publishes an echo, a message to itself by the route of a heartbeat. Once it
has handled the echo, it has handled everything that reached the inbox before. If RabbitMQ did not react to the echo at
once, it was away, and heartbeats may still arrive: every lease begins again.

The echo is published and received in the thread of the event loop, and handled in the batch thread.
"""

import secrets
import time
from dataclasses import dataclass

from broker.amqp.envelope import Delivery, Outgoing
from broker.protocol.topology import ECHO, STATUS
from broker.timestamps import Micros

REACTION_SHARE = 6  # RabbitMQ must react to an echo within this part of a lease
ECHO_INTERVAL = 1  # leases after which another echo is published, if the last one is not handled yet


def steady() -> Micros:
    """Return the time of the monotonic clock, in microseconds."""
    return Micros(time.monotonic_ns() // 1000)


@dataclass(slots=True)
class _Echo:
    published_at: Micros
    answered_at: Micros | None = None


class LivenessProbe:
    """Tracks the echoes. Moments are of the monotonic clock, in microseconds."""

    def __init__(self, lease: Micros) -> None:
        self._lease = lease
        self._echoes: dict[str, _Echo] = {}  # by correlation id, oldest first
        self._was_away = False
        self.until: Micros | None = None  # everything published before is handled; None: unknown

    def is_time_to_ask(self, at: Micros) -> bool:
        """Return whether to publish another echo. Many messages may be queued before the last one."""
        newest = next(reversed(self._echoes.values()), None)
        return newest is None or at - newest.published_at > ECHO_INTERVAL * self._lease

    def ask(self, at: Micros) -> Outgoing:
        """Return an echo, to be published, or withdrawn if another coordinator consumes the inbox."""
        token = secrets.token_hex(8)
        self._echoes[token] = _Echo(at)
        return Outgoing(STATUS, ECHO, b"{}", correlation_id=token, persistent=False)

    def withdraw(self, token: str | None) -> None:
        """Forget an echo that is not published, because it would prove nothing."""
        self._echoes.pop(token or "", None)

    def answered(self, token: str | None, at: Micros) -> None:
        """Record that RabbitMQ has confirmed or delivered the echo."""
        if (echo := self._echoes.get(token or "")) and echo.answered_at is None:
            echo.answered_at = at

    def refused(self, token: str | None) -> None:
        """Record that the echo did not reach the inbox, so that heartbeats did not either."""
        if self._echoes.pop(token or "", None):
            self._was_away = True

    def handled(self, token: str | None) -> None:
        """Record that everything before the echo is handled. A forged echo changes nothing."""
        if echo := self._echoes.pop(token or "", None):
            if echo.answered_at is None or echo.answered_at - echo.published_at > self._lease // REACTION_SHARE:
                self._was_away = True
            else:
                self.until = echo.published_at

    def was_away(self) -> None:
        """Record that the connection was lost and is back."""
        self._was_away = True

    def take_outage(self) -> bool:
        """Return whether RabbitMQ was away since the last call."""
        was_away, self._was_away = self._was_away, False
        return was_away


def is_echo(delivery: Delivery) -> bool:
    """Return whether a delivery is an echo, of this or another coordinator."""
    return delivery.routing_key == ECHO and delivery.exchange == STATUS
