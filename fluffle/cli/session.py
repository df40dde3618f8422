"""What the commands that talk to the coordinator share."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fluffle.cli.exit_codes import ERROR, OK

if TYPE_CHECKING:
    from fluffle.client.client import Client

T = TypeVar("T")

ANSWER_TIMEOUT_SECONDS = 10.0  # seconds: somebody is waiting

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def client(user: str | None = None) -> "Client":
    """A client of the broker that the settings name, for one command; of messages as that user."""
    from fluffle.client.client import Client

    return Client(name="fluffle command", answer_timeout=ANSWER_TIMEOUT_SECONDS, user=user)


def run(command: Coroutine[Any, Any, T]) -> T:
    """Run the asynchronous part of a command to its end. Ctrl-C cancels it and raises KeyboardInterrupt."""
    return asyncio.run(command)


def change_each(
    names: Iterable[str], change: "Callable[[Client, str], Coroutine[Any, Any, T]]", tell: Callable[[T], object]
) -> int:
    """Change one after the other, and `tell` what each is now. Those that are refused are complained about.

    Returns the exit code.
    """
    from broker.errors import TaskRejected
    from fluffle.presentation.output import complain

    async def change_all() -> int:
        code = OK
        async with client() as steering:
            for name in names:
                try:
                    tell(await change(steering, name))
                except TaskRejected as error:
                    complain(f"{name}: {error}")
                    code = ERROR
        return code

    return run(change_all())
