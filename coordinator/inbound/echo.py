"""Sending the echoes of the liveness probe, and watching the connection for it."""

import asyncio
import time

from broker.amqp.envelope import Outgoing
from broker.amqp.robust_connection import RobustConnection
from broker.errors import BrokerError
from broker.protocol.topology import COORDINATOR
from broker.timestamps import Micros, seconds
from coordinator.inbound.liveness import LivenessProbe, steady


class ConnectionMonitor:
    """How long the connection to RabbitMQ has been lost. Reports each loss to the liveness probe."""

    def __init__(self, liveness: LivenessProbe) -> None:
        self._liveness = liveness
        self._lost_at: float | None = None

    def on_state(self, connected: bool) -> None:
        """Record that the connection is established or lost."""
        if connected:
            self._liveness.was_away()
        self._lost_at = None if connected else self._lost_at or time.monotonic()

    def is_lost_for(self, duration: Micros) -> bool:
        """Return whether the connection has been lost for at least so long."""
        return self._lost_at is not None and seconds(time.monotonic() - self._lost_at) >= duration


class EchoSender:
    """Publishes an echo before an LLM loses a task, see liveness.py."""

    def __init__(self, connection: RobustConnection, liveness: LivenessProbe) -> None:
        self._connection = connection
        self._liveness = liveness
        self._sending: asyncio.Task[None] | None = None

    def send_if_due(self) -> None:
        """Begin to send an echo, unless one is being sent or the last one is recent."""
        if self._sending is None and self._connection.connected and self._liveness.is_time_to_ask(steady()):
            self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        """Publish an echo, unless another consumer could take heartbeats from the inbox.

        That is a former leader that still consumes, or a dead connection that RabbitMQ has not noticed.
        """
        echo = self._liveness.ask(steady())
        try:
            alone = await self._connection.consumers(COORDINATOR) == 1
        except BrokerError:  # the connection reports its loss itself
            self._liveness.refused(echo.correlation_id)
        else:
            if alone:
                self._connection.send(echo, self._on_published)
            else:
                self._liveness.withdraw(echo.correlation_id)
        finally:
            self._sending = None

    def _on_published(self, echo: Outgoing, error: BrokerError | None) -> None:
        if error is None:
            self._liveness.answered(echo.correlation_id, steady())
        else:
            self._liveness.refused(echo.correlation_id)
