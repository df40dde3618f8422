"""`fluffle broker`: the private RabbitMQ node, and Fluffle's exchanges and queues on any RabbitMQ."""

from typing import TYPE_CHECKING

import click

from fluffle.cli.admin.users import grant, list_users, revoke
from fluffle.cli.exit_codes import BLOCKED, ERROR, OK
from fluffle.cli.lazy import OrderedGroup
from fluffle.cli.session import json_option
from fluffle.presentation.output import print_fields, print_json

if TYPE_CHECKING:
    from broker.node.private_node import NodeStatus, PrivateNode


@click.group(cls=OrderedGroup)
def broker() -> None:
    """Manage the private RabbitMQ node, or prepare another RabbitMQ for Fluffle.

    The private node is a separate RabbitMQ for you. It listens only on 127.0.0.1, and keeps its data in the folder
    `broker` of the state folder (FLUFFLE_STATE_DIR). It does not affect other RabbitMQ servers on this computer.
    """


@broker.command()
@click.option("--install", is_flag=True, help="Install RabbitMQ first if this computer has none.")
@click.pass_context
def start(context: click.Context, *, install: bool) -> None:
    """Start the private node and wait until it accepts clients.

    Does nothing if the node is already running. FLUFFLE_RABBITMQ_SERVER names the rabbitmq-server script to run, or
    `docker` for a container. The exit code is 5 if the node runs but accepts no messages: it is low on disk or memory.
    """
    if install:
        from broker.node.install import ensure_rabbitmq

        ensure_rabbitmq(lambda line: click.echo(line, err=True))
    node = _private_node()
    if node.status().state != "running":
        click.echo("Starting the private RabbitMQ node …", err=True)
    url = node.start()
    alarm = _alarm(url, node)
    _print_status(node.status(), alarm)
    context.exit(BLOCKED if alarm else OK)


@broker.command()
def stop() -> None:
    """Stop the private node. Its data stays; `start` uses it again."""
    if _private_node().stop():
        click.echo("Stopped the private RabbitMQ node.")
    else:
        click.echo("The private RabbitMQ node was not running.")


@broker.command()
@json_option
@click.option("--url", "only_url", is_flag=True, help="Print only the AMQP URL with its password, for other clients.")
@click.pass_context
def status(context: click.Context, *, as_json: bool, only_url: bool) -> None:
    """Show the state of the private node: running, starting, stopping, crashed or stopped.

    The exit code is 0 if the node is running, 5 if it is running but accepts no messages (it is low on disk or memory),
    and 1 otherwise.
    """
    node = _private_node()
    now = node.status()
    alarm = _alarm(node.start(), node) if now.state == "running" else None
    if as_json:
        from pydantic import TypeAdapter

        print_json({**TypeAdapter(type(now)).dump_python(now, mode="json"), "alarm": alarm})
    elif not only_url:
        _print_status(now, alarm)
    elif now.state == "running":
        click.echo(node.start())
    else:
        click.echo(f"The private RabbitMQ node is {now.state}.", err=True)
    context.exit(ERROR if now.state != "running" else BLOCKED if alarm else OK)


@broker.command()
def init() -> None:
    """Declare Fluffle's exchanges, queues and bindings on RabbitMQ.

    Uses the RabbitMQ of FLUFFLE_AMQP_URL, or else the private node. Running it again changes nothing.
    """
    import asyncio

    from broker.amqp.robust_connection import RobustConnection
    from broker.node.locate import amqp_url
    from broker.protocol.topology import SHARED
    from broker.settings import load_settings

    async def declare() -> str:
        async with RobustConnection(amqp_url(load_settings()), name="fluffle broker init") as link:
            await link.declare(SHARED)
            return link.where

    where = asyncio.run(declare())
    click.echo(f"Declared {len(SHARED.exchanges)} exchanges and {len(SHARED.queues)} queues on RabbitMQ at {where}.")


broker.add_command(grant)
broker.add_command(revoke)
broker.add_command(list_users)


def _private_node() -> "PrivateNode":
    from broker.node.private_node import PrivateNode
    from broker.settings import load_settings

    return PrivateNode(load_settings().state_dir)


def _alarm(url: str, node: "PrivateNode") -> str | None:
    """Return why the running node accepts no messages; None if it accepts them, or has just ended."""
    from broker.amqp.alarms import alarm_of_node
    from broker.errors import BrokerError

    try:
        return alarm_of_node(url, node.folder)
    except BrokerError:
        return None


def _print_status(now: "NodeStatus", alarm: str | None) -> None:
    print_fields(
        [
            ("state", now.state),
            ("alarm", alarm),
            ("hint", "the next command starts the node again" if now.state == "crashed" else None),
            ("url", now.url),
            ("version", now.version),
            ("runs as", now.runs_as),
            ("pid", now.pid),
            ("since", now.since),
            ("folder", now.folder),
        ]
    )
