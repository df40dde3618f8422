"""The options of a worker, plain values: no setting and no variable of the environment is read after these."""

from dataclasses import dataclass
from pathlib import Path

from broker.protocol.task_requests import Tool
from broker.protocol.worker_reports import Presence, Price


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What a worker needs besides its LLM. Durations are seconds.

    Attributes:
        url: the AMQP URL
        presence: the name, the instance, the model, the skills, the slots and the properties that the worker reports
        spool_dir: the folder for results that RabbitMQ has not confirmed
        instructions: the instructions for the LLM, or None
        timeout: for attempts of tasks that set no timeout, or None
        groups: the groups whose messages the worker receives
        tools: the tools that the LLM may use
        heartbeat_interval: between two presence reports
        max_body: the largest message body, in bytes
        require_identity: whether messages count only from the RabbitMQ user that they name
        metrics_address: the host and port for metrics and health, or None
        price: the price at which the cost of attempts is computed whose LLM does not know it, or None
    """

    url: str
    presence: Presence
    spool_dir: Path
    instructions: str | None
    timeout: float | None
    groups: tuple[str, ...]
    tools: frozenset[Tool]
    heartbeat_interval: float
    max_body: int
    require_identity: bool
    metrics_address: tuple[str, int] | None
    price: Price | None = None

    @property
    def name(self) -> str:
        """The name of the LLM."""
        return self.presence.name

    @property
    def instance(self) -> str:
        """The id of this start of the worker."""
        return self.presence.instance
