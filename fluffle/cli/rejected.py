"""`fluffle rejected`: look at rejected messages, send them back or drop them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import click

from fluffle.cli.lazy import OrderedGroup
from fluffle.cli.main import ERROR, OK
from fluffle.cli.parameters import Whole
from fluffle.cli.session import json_option, run

if TYPE_CHECKING:
    from broker.link import Link
    from fluffle.rejected import Rejected

all_option = click.option("--all", "everything", is_flag=True, help="All of them.")


@click.group(cls=OrderedGroup)
def rejected() -> None:
    """Look at rejected messages, requeue or drop them.

    Messages that break the protocol, that were delivered too often, or that no queue takes are kept in the queue
    fluffle.rejected. Looking at them leaves them there. A message is named by its message_id, or by 12 hexadecimal
    digits made of its body, origin and addresses where it has none; several that are alike share their name.
    """


@rejected.command(name="list")
@click.option("--limit", "-n", type=Whole(min=1), default=50, show_default=True, help="At most so many.")
@json_option
def list_(*, limit: int, as_json: bool) -> None:
    """List rejected messages, oldest first."""
    from fluffle.cli.output import print_json, print_table
    from fluffle.rejected import look

    async def fetch() -> "list[Rejected]":
        async with _link() as link:
            return await look(link, limit)

    messages = run(fetch())
    if as_json:
        print_json([message.as_json() for message in messages])
        return
    print_table(
        ("ID", "EXCHANGE", "ROUTING KEY", "WHEN", "BYTES", "WHY"),
        [(m.id, m.exchange, m.routing_key, m.at, len(m.delivery.body), m.why) for m in messages],
        spare=("BYTES", "EXCHANGE", "WHEN", "ROUTING KEY"),
        empty="Nothing was rejected.",
    )


@rejected.command()
@click.argument("message_id", metavar="ID")
@json_option
def show(*, message_id: str, as_json: bool) -> int:
    """Show a rejected message with its body."""
    from fluffle.cli.output import complain, heading, plain, print_fields, print_json
    from fluffle.rejected import look

    async def fetch() -> "list[Rejected]":
        async with _link() as link:
            return [message for message in await look(link) if message.id == message_id]

    messages = run(fetch())
    if not messages:
        complain(f"there is no rejected message {message_id}")
        return ERROR
    if as_json:
        print_json([message.as_json() for message in messages])
        return OK
    for message in messages:
        properties = message.delivery.properties
        print_fields(
            [
                ("ID", message.id),
                ("Exchange", message.exchange),
                ("Routing key", message.routing_key),
                ("When", message.at),
                ("Why", "\n".join(message.why.split("; "))),
                ("Type", properties.type),
                ("Content type", properties.content_type),
                ("Correlation id", properties.correlation_id),
                ("Reply to", properties.reply_to),
                ("User", message.user),
                ("Headers", message.delivery.headers or None),
            ]
        )
        heading(f"Body ({len(message.delivery.body):,} bytes)")
        click.echo(plain(message.delivery.body.decode(errors="backslashreplace")))
    return OK


@rejected.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@all_option
def requeue(*, ids: tuple[str, ...], everything: bool) -> int:
    """Send rejected messages back where they were published.

    Each is taken off the queue only once RabbitMQ has it again. What is still wrong with it brings it back.
    """
    from fluffle.rejected import requeue as send_back

    return run(_settle(ids, everything, send_back, "requeued"))


@rejected.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@all_option
def drop(*, ids: tuple[str, ...], everything: bool) -> int:
    """Delete rejected messages."""

    async def delete(_: "Link", message: "Rejected") -> None:
        message.delivery.ack()

    return run(_settle(ids, everything, delete, "dropped"))


async def _settle(
    ids: tuple[str, ...],
    everything: bool,
    settle: "Callable[[Link, Rejected], Coroutine[Any, Any, None]]",
    done: str,
) -> int:
    """Do something with the messages of these ids, or with all. Returns the exit code."""
    from broker.errors import FluffleError
    from fluffle.cli.output import complain
    from fluffle.rejected import look

    if everything == bool(ids):
        raise click.UsageError("Give the ids of messages, or --all.")
    async with _link() as link:
        messages = [message for message in await look(link) if everything or message.id in ids]
        outcomes = await asyncio.gather(*(settle(link, message) for message in messages), return_exceptions=True)
    problems = [f"there is no rejected message {name}" for name in ids if name not in {m.id for m in messages}]
    for message, outcome in zip(messages, outcomes, strict=True):
        if isinstance(outcome, FluffleError):
            problems.append(f"{message.id}: {outcome}")
        elif outcome is not None:
            raise outcome
    for problem in problems:
        complain(problem)
    click.echo(f"{outcomes.count(None)} {done}")
    return ERROR if problems else OK


@asynccontextmanager
async def _link() -> "AsyncIterator[Link]":
    from broker.locate import amqp_url
    from broker.settings import load_settings
    from fluffle.opening import open_link

    async with open_link(amqp_url(load_settings()), name="fluffle rejected") as link:
        yield link
