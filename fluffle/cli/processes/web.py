"""`fluffle web`: the web page, and the passwords of its users."""

from pathlib import Path

import click

from fluffle.cli.lazy import OrderedGroup
from fluffle.cli.options import Name, Whole

INSTALL = "the web page needs NiceGUI: install Fluffle with its extra, `pip install 'fluffle[web]'`"


@click.group(cls=OrderedGroup, invoke_without_command=True)
@click.option("--host", metavar="ADDRESS", help="Where it listens; 127.0.0.1 unless set.")
@click.option("--port", type=Whole(0, 65_535), help="Its port, 8480 unless set; 0: any that is free.")
@click.option("--prefix", metavar="PATH", help="The path under which a proxy shows it, such as /fluffle.")
@click.option(
    "--password-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The people who may log in, as `fluffle web passwd` writes them. Without it, tokens let people in.",
)
@click.option("--no-login", is_flag=True, help="Ask nobody for a login. Only on 127.0.0.1.")
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

    It prints two addresses: one to work with, one to look only. It is an AMQP client like any other, and needs no
    database. Every option is a setting as well, FLUFFLE_WEB_HOST and so on. Ctrl-C and SIGTERM stop it.
    """
    if context.invoked_subcommand is not None:
        return
    _must_be_installed()
    import asyncio

    from broker.log_config import configure_logging
    from broker.node.locate import amqp_url
    from broker.settings import load_settings

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

    It is asked for, or taken from standard input in a pipe. An operator may do everything, a viewer only look. A line
    that is taken out of the file or changed ends the logins that it has given.
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
    """Raises ConfigurationError, which says what to install, where the extra is missing."""
    from importlib.util import find_spec

    from broker.errors import ConfigurationError

    if find_spec("nicegui") is None or find_spec("nh3") is None:
        raise ConfigurationError(INSTALL)
