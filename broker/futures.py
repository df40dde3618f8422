"""Set the outcome of a future that may be done already."""

from asyncio import Future
from typing import TypeVar

T = TypeVar("T")


def resolve(future: Future[T], value: T) -> None:
    """Set the result of a future, unless the future is done."""
    if not future.done():
        future.set_result(value)


def fail(future: Future[T], error: Exception) -> None:
    """Set the exception of a future, unless the future is done."""
    if not future.done():
        future.set_exception(error)
