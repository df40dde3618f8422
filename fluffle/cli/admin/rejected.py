"""`fluffle rejected`: list rejected messages, requeue or drop them."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import click

from fluffle.cli.exit_codes import ERROR, OK
from fluffle.cli.lazy import OrderedGroup
from fluffle.cli.options import Whole
from fluffle.cli.session import json_option, run

if TYPE_CHECKING:
    from broker.errors import BrokerError, RequestError
    from fluffle.client.rejected_queue import RejectedMessage, RejectedQueue

    Outcomes = list[RequestError | BrokerError | None]

all_option = click.option("--all", "everything", is_flag=True, help="All rejected messages.")


@click.group(cls=OrderedGroup)
def rejected() -> None:
    """List rejected messages, requeue or drop them.

    The queue fluffle.rejected keeps messages that break the protocol, that were delivered too often, or that RabbitMQ
    could not put in any queue. `list` and `show` do not remove them. The ID of a message is its message_id. Without
    one, the ID is 12 hexadecimal digits computed from body, origin and addresses; equal messages share one ID.
    """


@rejected.command(name="list")
@click.option("--limit", "-n", type=Whole(min=1), default=50, show_default=True, help="Maximum number of messages.")
@json_option
def list_(*, limit: int, as_json: bool) -> int:
    """List rejected messages, oldest first.

    Messages that RabbitMQ cannot deliver to AMQP 0-9-1 clients come last. The exit code is 1 if some messages could not
    be read.
    """
    from fluffle.presentation.output import print_json, print_table

    async def fetch() -> "tuple[list[RejectedMessage], int]":
        async with _queue() as queue:
            return await queue.look(limit), queue.withheld

    messages, withheld = run(fetch())
    if as_json:
        print_json([message.as_json() for message in messages])
        return _with_errors(_unread(withheld))
    print_table(
        ("ID", "EXCHANGE", "ROUTING KEY", "WHEN", "BYTES", "WHY"),
        [(m.id, m.exchange, m.routing_key, m.at, len(m.delivery.body), m.why) for m in messages],
        spare=("BYTES", "EXCHANGE", "WHEN", "ROUTING KEY"),
        empty="No rejected messages.",
    )
    return _with_errors(_unread(withheld))


@rejected.command()
@click.argument("message_id", metavar="ID")
@json_option
def show(*, message_id: str, as_json: bool) -> int:
    """Show a rejected message with its body."""
    from fluffle.presentation.output import heading, plain, print_fields, print_json

    async def fetch() -> "tuple[list[RejectedMessage], int]":
        async with _queue() as queue:
            return [message for message in await queue.look() if message.id == message_id], queue.withheld

    messages, withheld = run(fetch())
    if not messages:
        return _with_errors([f"there is no rejected message {message_id}", *_unread(withheld)])
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
                ("Correlation ID", properties.correlation_id),
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
    """Publish rejected messages again, to their original exchange.

    A message is removed from the queue only after RabbitMQ has accepted the republished copy. A message that is still
    wrong is rejected again.
    """

    async def send_back(queue: "RejectedQueue", messages: "list[RejectedMessage]") -> "Outcomes":
        return await queue.requeue(messages)

    return run(_settle(ids, everything, send_back, "requeued"))


@rejected.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@all_option
def drop(*, ids: tuple[str, ...], everything: bool) -> int:
    """Delete rejected messages.

    Prints the number of messages that RabbitMQ deleted.
    """
    from broker.amqp.queue_browser import Unreadable

    async def delete(queue: "RejectedQueue", messages: "list[RejectedMessage]") -> "Outcomes":
        await queue.drop(messages)
        return [None] * len(messages)

    async def delete_unseen() -> int:
        async with _queue() as queue:
            return await queue.drop_unseen()

    try:
        return run(_settle(ids, everything, delete, "dropped"))
    except Unreadable:
        if not everything:
            raise
        click.echo(f"{run(delete_unseen())} dropped")
        return OK


async def _settle(
    ids: tuple[str, ...],
    everything: bool,
    settle: "Callable[[RejectedQueue, list[RejectedMessage]], Awaitable[Outcomes]]",
    done: str,
) -> int:
    """Requeue or drop the messages with these ids, or all. Returns the exit code."""
    if everything == bool(ids):
        raise click.UsageError("Give the IDs of messages, or --all.")
    async with _queue() as queue:
        messages = [message for message in await queue.look() if everything or message.id in ids]
        problems = _unread(queue.withheld)
        outcomes = await settle(queue, messages) if messages else []
    problems += [f"there is no rejected message {name}" for name in ids if name not in {m.id for m in messages}]
    problems += [f"{message.id}: {why}" for message, why in zip(messages, outcomes, strict=True) if why is not None]
    click.echo(f"{outcomes.count(None)} {done}")
    return _with_errors(problems)


def _unread(withheld: int) -> list[str]:
    """Return an error for messages that RabbitMQ did not deliver to this command."""
    if withheld <= 0:
        return []
    which = "1 message" if withheld == 1 else f"{withheld:,} messages"
    return [f"{which} could not be read: another program is reading the rejected messages"]


def _with_errors(problems: list[str]) -> int:
    """Print the problems and return the exit code."""
    from fluffle.presentation.output import complain

    for problem in problems:
        complain(problem)
    return ERROR if problems else OK


def _queue() -> "AbstractAsyncContextManager[RejectedQueue]":
    from broker.node.locate import amqp_url
    from broker.settings import load_settings
    from fluffle.client.rejected_queue import opened

    return opened(amqp_url(load_settings()), name="fluffle rejected")
