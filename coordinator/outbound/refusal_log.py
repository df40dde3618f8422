"""Log lines for refused messages, refused requests and lost attempts."""

from collections.abc import Iterable

from broker.errors import Problem
from broker.protocol.status import Outcome
from coordinator.core.commands import Refuse
from coordinator.core.state import StateChanges
from coordinator.outbound.outbox import Item, RejectedMessage
from coordinator.telemetry.rate_limited_log import RateLimitedLog


def log_refusals_and_losses(
    log: RateLimitedLog, items: Iterable[Item], requests: Iterable[Refuse], changes: StateChanges
) -> None:
    """Log every refused message and request, and every attempt that ended without a report of its worker."""
    for item in items:
        if isinstance(item, RejectedMessage):
            log.warning(
                "refused a message",
                exchange=item.exchange,
                routing_key=item.routing_key,
                message_id=item.properties.get("message_id"),
                user=item.user,
                errors=_in_words(item.problems),
            )
    for refuse in requests:
        log.warning("refused a request", about=refuse.task_id, errors=_in_words(refuse.problems))
    for task, attempt in changes.attempts:
        if attempt.outcome in (Outcome.LOST, Outcome.UNCLAIMED) and attempt not in changes.settled:
            log.warning(
                f"an attempt is {attempt.outcome}",
                task=task.id,
                attempt=attempt.attempt,
                llm=attempt.llm,
                instance=attempt.instance,
                reason=attempt.error and attempt.error.message,
            )


def _in_words(problems: Iterable[Problem]) -> str:
    return "; ".join(map(str, problems))
