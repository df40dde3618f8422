"""`fluffle database`: backup and restore of the coordinator's database."""

from pathlib import Path

import click

from fluffle.cli.lazy import OrderedGroup


@click.group(cls=OrderedGroup)
def database() -> None:
    """Back up and restore the coordinator's SQLite database (FLUFFLE_DATABASE_URL, or the one in the state folder)."""


@database.command()
@click.argument("file", type=click.Path(path_type=Path))
def backup(*, file: Path) -> None:
    """Copy the database to the new FILE while the coordinator runs."""
    from broker.settings import load_settings
    from coordinator.storage.backup import back_up

    click.echo(f"{file}: {back_up(load_settings().database, file):,} tasks")


@database.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--yes", is_flag=True, help="Replace the current database without asking.")
def restore(*, file: Path, yes: bool) -> None:
    """Replace the database with the backup in FILE. All coordinators must be stopped.

    The restored database reflects the time of the backup: later changes are lost. Restart the workers, too.
    """
    from broker.settings import load_settings
    from coordinator.storage.backup import restore as restore_backup

    def agreed() -> None:
        if not yes:
            click.confirm("Replace the current database?", abort=True)

    click.echo(f"restored {restore_backup(load_settings().database, file, agreed=agreed):,} tasks")
