"""`fluffle database`: copies of the coordinator's database."""

from pathlib import Path

import click

from fluffle.cli.lazy import OrderedGroup


@click.group(cls=OrderedGroup)
def database() -> None:
    """Back up and restore the coordinator's SQLite database (FLUFFLE_DATABASE_URL, else that of the state folder)."""


@database.command()
@click.argument("file", type=click.Path(path_type=Path))
def backup(*, file: Path) -> None:
    """Copy the database, as it is at this moment, into the new FILE. The coordinator works on."""
    from broker.settings import load_settings
    from coordinator.storage.backup import back_up

    click.echo(f"{file}: {back_up(load_settings().database, file):,} tasks")


@database.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--yes", is_flag=True, help="Do not ask before what is in the database now is replaced.")
def restore(*, file: Path, yes: bool) -> None:
    """Put the copy in FILE in place of the database. All coordinators must be stopped.

    What happened after the copy was taken is forgotten. Start the workers anew as well.
    """
    from broker.settings import load_settings
    from coordinator.storage.backup import restore as put_back

    def agreed() -> None:
        if not yes:
            click.confirm("Replace all that is in the database now?", abort=True)

    click.echo(f"restored {put_back(load_settings().database, file, agreed=agreed):,} tasks")
