"""Helpers of the commands that talk to the coordinator: the client, running async code, changing several things."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fluffle.cli.exit_codes import ERROR, OK

if TYPE_CHECKING:
    from fluffle.client.client import Client

T = TypeVar("T")

ANSWER_TIMEOUT_SECONDS = 10.0  # a person waits for the answer

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def client(user: str | None = None) -> "Client":
    """Return a client for one command, with the RabbitMQ of the settings. It sends messages as `user`."""
    from fluffle.client.client import Client

    return Client(name="fluffle command", answer_timeout=ANSWER_TIMEOUT_SECONDS, user=user)


def run(command: Coroutine[Any, Any, T]) -> T:
    """Run the asynchronous part of a command. Ctrl-C cancels it and raises KeyboardInterrupt."""
    return asyncio.run(command)


def change_each(
    names: Iterable[str], change: "Callable[[Client, str], Coroutine[Any, Any, T]]", show: Callable[[T], object]
) -> int:
    """Change one after the other and `show` each result; print an error for each that is refused.

    Returns the exit code.
    """
    from broker.errors import TaskRejected
    from fluffle.presentation.output import complain

    async def change_all() -> int:
        code = OK
        async with client() as steering:
            for name in names:
                try:
                    show(await change(steering, name))
                except TaskRejected as error:
                    complain(f"{name}: {error}")
                    code = ERROR
        return code

    return run(change_all())
