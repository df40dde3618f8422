"""`fluffle web`: runs the web page, and sets the passwords of its users."""

from pathlib import Path

import click

from fluffle.cli.lazy import OrderedGroup
from fluffle.cli.options import Name, Whole

INSTALL = "the web page needs NiceGUI: install it with `pip install 'fluffle[web]'`"


@click.group(cls=OrderedGroup, invoke_without_command=True)
@click.option("--host", metavar="ADDRESS", help="The address to listen at.  [default: 127.0.0.1]")
@click.option("--port", type=Whole(0, 65_535), help="The port; 0: any free port.  [default: 8480]")
@click.option("--prefix", metavar="PATH", help="The path under which a proxy shows the page, such as /fluffle.")
@click.option(
    "--password-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The file with the names and passwords of users; `fluffle web passwd` creates it. Without this option, users "
    "log in with a token.",
)
@click.option("--no-login", is_flag=True, help="No login. Only on 127.0.0.1.")
@click.pass_context
def web(
    context: click.Context,
    /,
    *,
    host: str | None,
    port: int | None,
    prefix: str | None,
    password_file: Path | None,
    no_login: bool,
) -> None:
    """Serve the web page: tasks, LLMs, chat, questions, reports, rejected messages.

    Prints two addresses: one for operators, one for viewers. The web page is an AMQP client and needs no database. Each
    option is also a setting, such as FLUFFLE_WEB_HOST. Ctrl-C or SIGTERM stops the web page.
    """
    if context.invoked_subcommand is not None:
        return
    _must_be_installed()
    import asyncio

    from broker.node.locate import amqp_url
    from broker.settings import load_settings
    from broker.telemetry.log_config import configure_logging

    settings = load_settings()
    url = amqp_url(settings)
    configure_logging(settings.log_level)

    from fluffle.web.app import build_web  # a slow import, after the checks above

    server = build_web(
        url,
        state_dir=settings.state_dir,
        host=host or settings.web_host,
        port=settings.web_port if port is None else port,
        prefix=(settings.web_prefix or "") if prefix is None else prefix,
        token=None if settings.web_token is None else settings.web_token.get_secret_value(),
        password_file=password_file or settings.web_password_file,
        require_login=settings.web_login and not no_login,
        require_identity=settings.require_identity,
    )
    asyncio.run(server.serve(click.echo))


@web.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("name", type=Name())
@click.option("--role", type=click.Choice(["operator", "viewer"]), default="operator", show_default=True)
def passwd(*, file: Path, name: str, role: str) -> None:
    """Set the password of NAME in the password FILE.

    \b
      fluffle web passwd people ana
      fluffle web passwd people ben --role viewer
      fluffle web --password-file people

    Asks for the password, or reads it from standard input in a pipe. An operator may do everything, a viewer may only
    look. Removing or changing a line of the file ends the sessions of that user.
    """
    _must_be_installed()
    import sys

    from fluffle.web.access.auth import Role, set_password

    if sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\n")
    if not password:
        raise click.UsageError("The password is empty.")
    set_password(file, name, Role(role), password)


def _must_be_installed() -> None:
    """Raise ConfigurationError if the optional packages for the web page are missing."""
    from importlib.util import find_spec

    from broker.errors import ConfigurationError

    if find_spec("nicegui") is None or find_spec("nh3") is None:
        raise ConfigurationError(INSTALL)
