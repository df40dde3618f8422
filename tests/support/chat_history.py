"""Messages between LLMs and people, as the history shows them."""

from collections.abc import Iterator
from typing import Any

from broker.protocol.chat import Message
from broker.protocol.views import MessageView
from fluffle.client.sync import SyncClient
from tests.support.processes import until

CONVERSE = ("--handler", "tests.support.recording_llms:converse")
"""Options of a worker that answers messages."""


def contents(client: SyncClient, **filters: Any) -> list[str]:
    """Return the texts of the history, oldest first."""
    return [view.content for view in reversed(list(client.messages(**filters)))]


def until_recorded(client: SyncClient, count: int, **filters: Any) -> list[MessageView]:
    """Wait until the history has this many messages, and return them, oldest first."""
    until(lambda: len(list(client.messages(**filters))) >= count, f"{count} messages are in the history")
    return list(reversed(list(client.messages(**filters))))


def next_of(messages: Iterator[Message]) -> Message:
    """Return the next message."""
    return next(messages)
