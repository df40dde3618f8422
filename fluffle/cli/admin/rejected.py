"""`fluffle rejected`: look at rejected messages, send them back or drop them."""

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
def list_(*, limit: int, as_json: bool) -> int:
    """List rejected messages, oldest first.

    Those that RabbitMQ cannot deliver to clients of AMQP 0-9-1 come last. The exit code is 1 when some of the messages
    could not be read.
    """
    from fluffle.presentation.output import print_json, print_table

    async def fetch() -> "tuple[list[RejectedMessage], int]":
        async with _queue() as queue:
            return await queue.look(limit), queue.withheld

    messages, withheld = run(fetch())
    if as_json:
        print_json([message.as_json() for message in messages])
        return _with_complaints(_unread(withheld))
    print_table(
        ("ID", "EXCHANGE", "ROUTING KEY", "WHEN", "BYTES", "WHY"),
        [(m.id, m.exchange, m.routing_key, m.at, len(m.delivery.body), m.why) for m in messages],
        spare=("BYTES", "EXCHANGE", "WHEN", "ROUTING KEY"),
        empty="Nothing was rejected.",
    )
    return _with_complaints(_unread(withheld))


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
        return _with_complaints([f"there is no rejected message {message_id}", *_unread(withheld)])
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

    async def send_back(queue: "RejectedQueue", messages: "list[RejectedMessage]") -> "Outcomes":
        return await queue.requeue(messages)

    return run(_settle(ids, everything, send_back, "requeued"))


@rejected.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@all_option
def drop(*, ids: tuple[str, ...], everything: bool) -> int:
    """Delete rejected messages.

    The number printed is that of the messages that RabbitMQ has deleted.
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
    """Do something with the messages of these ids, or with all. Returns the exit code."""
    if everything == bool(ids):
        raise click.UsageError("Give the ids of messages, or --all.")
    async with _queue() as queue:
        messages = [message for message in await queue.look() if everything or message.id in ids]
        problems = _unread(queue.withheld)
        outcomes = await settle(queue, messages) if messages else []
    problems += [f"there is no rejected message {name}" for name in ids if name not in {m.id for m in messages}]
    problems += [f"{message.id}: {why}" for message, why in zip(messages, outcomes, strict=True) if why is not None]
    click.echo(f"{outcomes.count(None)} {done}")
    return _with_complaints(problems)


def _unread(withheld: int) -> list[str]:
    """What is to be said about messages of the queue that were not to be had."""
    if withheld <= 0:
        return []
    which = "1 message was" if withheld == 1 else f"{withheld:,} messages were"
    return [f"{which} not delivered: another program is looking at the rejected messages"]


def _with_complaints(problems: list[str]) -> int:
    """Says what is wrong, and returns the exit code."""
    from fluffle.presentation.output import complain

    for problem in problems:
        complain(problem)
    return ERROR if problems else OK


def _queue() -> "AbstractAsyncContextManager[RejectedQueue]":
    from broker.node.locate import amqp_url
    from broker.settings import load_settings
    from fluffle.client.rejected_queue import opened

    return opened(amqp_url(load_settings()), name="fluffle rejected")
