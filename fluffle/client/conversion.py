"""From Python values to messages, and from answers to views."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from broker.errors import QueryRejected, TaskRejected
from broker.protocol.primitives import WireModel, decode, problems

W = TypeVar("W", bound=WireModel)
M = TypeVar("M", bound=BaseModel)


def made(kind: type[W], refusal: type[TaskRejected] | type[QueryRejected], **values: Any) -> W:
    """A message from Python values. What the coordinator would reject is refused here, in the same way."""
    try:
        return kind(**values)
    except ValidationError as error:
        raise refusal(problems(error)) from error


def read(kind: type[M], body: bytes) -> M:
    """What the coordinator has answered. Raises DecodeError."""
    return decode(kind, body, limit=len(body))
