"""`fluffle broker grant|revoke|users`: RabbitMQ users with the permissions of a role."""

from pathlib import Path

import click

from fluffle.cli.session import json_option
from fluffle.presentation.output import print_json, print_table

_USES = {
    "llm": "fluffle worker {name} …",
    "client": "fluffle task list",
    "web": "fluffle web",
    "coordinator": "fluffle coordinator",
}


@click.command()
@click.argument("role", type=click.Choice(list(_USES)))
@click.argument("name", required=False)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The file for the user's AMQP URL. Default: users/NAME.url in the state folder.",
)
@click.option("--new-password", is_flag=True, help="Give an existing user a new password.")
@click.option("--certificate", is_flag=True, help="No password: the user logs in with its TLS certificate.")
def grant(*, role: str, name: str | None, out: Path | None, new_password: bool, certificate: bool) -> None:
    """Create a RabbitMQ user with the permissions of a role.

    \b
      fluffle broker grant llm atlas      # an LLM: its own queues, reports under its own name
      fluffle broker grant client ana     # a person or a program: tasks, queries, events
      fluffle broker grant web            # a client that may also read rejected messages
      fluffle broker grant coordinator    # everything in Fluffle

    Writes the user's AMQP URL, with the password, to a file that only you can read. Set FLUFFLE_AMQP_URL_FILE to this
    file to run as the user. If the user exists, repairs its permissions and queues and keeps its password.

    Creates the user on the private node, or through RabbitMQ's management API (FLUFFLE_MANAGEMENT_URL) as the user of
    FLUFFLE_AMQP_URL, which must be an administrator.
    """
    import asyncio

    from broker.access import users
    from broker.access.admin_api import administration
    from broker.access.roles import Role, owned, user_name
    from broker.amqp.robust_connection import RobustConnection
    from broker.amqp.url import of_user, vhost
    from broker.node.locate import amqp_url
    from broker.protocol.topology import SHARED
    from broker.settings import load_settings

    granted = Role(role)
    user = user_name(granted, name)
    settings = load_settings()
    url = amqp_url(settings)

    async def declare() -> str:
        async with RobustConnection(url, name="fluffle broker grant") as link:
            await link.declare(SHARED)
            await link.declare(owned(granted, user))
            return link.where

    where = asyncio.run(declare())
    password = users.grant(
        administration(settings), vhost(url), granted, user, with_password=not certificate, renew=new_password
    )
    click.echo(f"{user} may use RabbitMQ at {where} as {granted.label}.")
    if certificate:
        click.echo(f"It logs in with FLUFFLE_TLS_LOGIN=true and a client certificate with the common name {user}.")
    elif password is None:
        click.echo("Its password is unchanged; --new-password sets a new one.")
    else:
        file = (out or settings.state_dir / "users" / f"{user}.url").absolute()
        _write(file, of_user(url, user, password))
        click.echo(f"Its AMQP URL, with the password, is in {file}, which only you can read. To run as {user}:")
        click.echo(f"  FLUFFLE_AMQP_URL_FILE={file} {_USES[role].format(name=user)}")


@click.command()
@click.argument("name")
def revoke(*, name: str) -> None:
    """Remove a user that `grant` created: close its connections, delete its queues and their messages."""
    import asyncio

    from broker.access import users
    from broker.access.admin_api import administration
    from broker.amqp.robust_connection import RobustConnection
    from broker.amqp.url import vhost
    from broker.node.locate import amqp_url
    from broker.settings import load_settings

    settings = load_settings()
    url = amqp_url(settings)
    revoked = users.revoke(administration(settings), vhost(url), name)
    (settings.state_dir / "users" / f"{name}.url").unlink(missing_ok=True)

    async def delete() -> None:
        async with RobustConnection(url, name="fluffle broker revoke") as link:
            await link.delete(queues=revoked.queues, exchanges=revoked.exchanges)

    asyncio.run(delete())
    click.echo(f"{name}, {revoked.role.label}, may no longer use RabbitMQ.")
    if deleted := [*revoked.queues, *revoked.exchanges]:
        click.echo(f"Deleted: {', '.join(deleted)}")


@click.command("users")
@json_option
def list_users(*, as_json: bool) -> None:
    """List the users that `grant` created, and whether they still have the permissions of their role."""
    from broker.access import users
    from broker.access.admin_api import administration
    from broker.amqp.url import vhost
    from broker.node.locate import amqp_url
    from broker.settings import load_settings

    settings = load_settings()
    found = users.users(administration(settings), vhost(amqp_url(settings)))
    if as_json:
        from pydantic import TypeAdapter

        print_json(TypeAdapter(list[users.User]).dump_json(found))
        return
    rows = [
        (
            user.name,
            user.role.value,
            "password" if user.has_password else "certificate",
            "as granted" if user.as_granted else "permissions changed; run `fluffle broker grant` again",
        )
        for user in found
    ]
    print_table(
        ("NAME", "ROLE", "LOGS IN WITH", "PERMISSIONS"),
        rows,
        empty="No users yet: create one with `fluffle broker grant`.",
    )


def _write(file: Path, url: str) -> None:
    from broker.errors import ConfigurationError
    from broker.secure_files import make_private_folder, write_private

    try:
        make_private_folder(file.parent)
        write_private(file, f"{url}\n")
    except OSError as error:
        raise ConfigurationError(
            f"cannot write {file}: {error.strerror}. The user exists; to get a password, give "
            "--new-password and another --out"
        ) from error
