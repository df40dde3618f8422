"""What the commands that talk to the coordinator share."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from fluffle.client import Client

T = TypeVar("T")

ANSWER_TIMEOUT = 10.0  # seconds: somebody is waiting

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def client(user: str | None = None) -> "Client":
    """A client of the broker that the settings name, for one command; of messages as that user."""
    from fluffle.client import Client

    return Client(name="fluffle command", answer_timeout=ANSWER_TIMEOUT, user=user)


def run(command: Coroutine[Any, Any, T]) -> T:
    """Run the asynchronous part of a command to its end. Ctrl-C cancels it and raises KeyboardInterrupt."""
    return asyncio.run(command)
