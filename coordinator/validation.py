"""Checks of incoming messages that the batch loop and the queries share."""

from collections.abc import Sequence
from typing import Any

from broker.access.roles import may_be_answered_at, was_dead_lettered
from broker.amqp.envelope import Delivery
from broker.errors import DecodeError, Problem
from broker.untrusted.json_schema import schema_problem

MAX_PROBLEMS = 20  # they travel in a header, and all headers of a message have to fit into one frame
MAX_PATH_CHARACTERS, MAX_MESSAGE_CHARACTERS = 200, 300


def must_be_identified(delivery: Delivery) -> None:
    """Raise DecodeError for a message with an unknown sender, or one that uses the queues of another user."""
    user, reply_to, headers = delivery.properties.user_id, delivery.properties.reply_to, delivery.headers
    problems = []
    if not user:
        problems.append(Problem("user_id", "is missing: set it to the RabbitMQ user that publishes the message"))
    if not may_be_answered_at(user, reply_to or ""):
        problems.append(Problem("reply_to", "must be a queue of the user that publishes the message"))
    if "CC" in headers:
        problems.append(Problem("headers.CC", "is not allowed: publish the message once for each receiver"))
    if was_dead_lettered(headers):
        problems.append(Problem("headers.x-death", "is not allowed: the message is a dead letter of another queue"))
    if "headers" in delivery.properties.unreadable:
        problems.append(Problem("headers", "cannot be read"))
    if problems:
        raise DecodeError(problems)


def must_be_schema(schema: dict[str, Any] | None, *, path: str = "output_schema") -> None:
    """Raise DecodeError for a JSON Schema that cannot be used to check results. `path`: its place in the message."""
    if schema is not None and (why := schema_problem(schema)):
        raise DecodeError([Problem(path, why)])


def shortened_problems(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    """Return the first MAX_PROBLEMS problems with shortened texts, and the number of the others."""
    shown = [
        Problem(path[:MAX_PATH_CHARACTERS], message[:MAX_MESSAGE_CHARACTERS])
        for path, message in problems[:MAX_PROBLEMS]
    ]
    if len(problems) > MAX_PROBLEMS:
        shown.append(Problem("", f"and {len(problems) - MAX_PROBLEMS:,} more"))
    return tuple(shown)
