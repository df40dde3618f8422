"""`fluffle broker`: the private RabbitMQ node, and what Fluffle declares on any RabbitMQ."""

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from broker.node import NodeStatus, PrivateNode

NOT_RUNNING = 3  # exit code of `status`, as systemctl's


@click.group()
def broker() -> None:
    """RabbitMQ: the private node of this computer's user, and the topology on any broker.

    The private node is a RabbitMQ of your own. It listens on 127.0.0.1 only, keeps its data in the folder `broker`
    of the state folder (FLUFFLE_STATE_DIR), and leaves a RabbitMQ that the system runs alone.
    """


@broker.command()
@click.option("--install", is_flag=True, help="Install RabbitMQ first if there is none on this computer.")
def start(*, install: bool) -> None:
    """Start the private node and wait until it accepts clients.

    Does nothing when it runs already. FLUFFLE_RABBITMQ_SERVER names the rabbitmq-server script to run, or `docker`
    for a container.
    """
    if install:
        from broker.node_install import ensure_rabbitmq

        ensure_rabbitmq(lambda line: click.echo(line, err=True))
    node = _private_node()
    if node.status().state != "running":
        click.echo("Starting a private RabbitMQ node …", err=True)
    node.start()
    click.echo(_in_words(node.status()))


@broker.command()
def stop() -> None:
    """Stop the private node. Its data stays; `start` takes it up again."""
    if _private_node().stop():
        click.echo("The private RabbitMQ node is stopped.")
    else:
        click.echo("The private RabbitMQ node was not running.")


@broker.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--url", "only_url", is_flag=True, help="Print only the AMQP URL, with its password, for other clients.")
def status(*, as_json: bool, only_url: bool) -> None:
    """Show how the private node is: running, starting, stopping, crashed or stopped.

    The exit code is 0 when it is running and 3 when it is not.
    """
    node = _private_node()
    now = node.status()
    if as_json:
        from pydantic import TypeAdapter

        click.echo(TypeAdapter(type(now)).dump_json(now, indent=2))
    elif only_url and now.state == "running":
        click.echo(node.start())
    else:
        click.echo(_in_words(now), err=only_url)
    sys.exit(0 if now.state == "running" else NOT_RUNNING)


@broker.command()
def init() -> None:
    """Declare Fluffle's exchanges, queues and bindings on the broker.

    The broker is the one of FLUFFLE_AMQP_URL, else the private node. Declaring again changes nothing.
    """
    import asyncio

    from broker.connection import Link
    from broker.errors import NodeError
    from broker.node import running_url
    from broker.settings import load_settings
    from broker.topology import SHARED

    settings = load_settings()
    url = settings.amqp_url.get_secret_value() if settings.amqp_url else running_url(settings.state_dir)
    if url is None:
        raise NodeError("No broker: run `fluffle broker start`, or set FLUFFLE_AMQP_URL.")

    async def declare() -> str:
        async with Link(url, name="fluffle broker init") as link:
            await link.declare(SHARED)
            return link.where

    where = asyncio.run(declare())
    click.echo(f"Declared {len(SHARED.exchanges)} exchanges and {len(SHARED.queues)} queues on RabbitMQ at {where}.")


def _private_node() -> "PrivateNode":
    from broker.node import PrivateNode
    from broker.settings import load_settings

    return PrivateNode(load_settings().state_dir)


def _in_words(now: "NodeStatus") -> str:
    if now.state == "crashed":
        return f"The private RabbitMQ node has crashed; the next command starts it again. Its folder is {now.folder}"
    if now.state != "running":
        return f"The private RabbitMQ node is {now.state}. Its folder is {now.folder}"
    rows = {
        "RabbitMQ": f"{now.version}, in a {now.runs_as}",
        "URL": now.url,
        "pid": now.pid,
        "since": f"{now.since:%Y-%m-%d %H:%M:%S} UTC" if now.since else None,
        "folder": now.folder,
    }
    return "\n".join(f"{name:<9} {value}" for name, value in rows.items())
