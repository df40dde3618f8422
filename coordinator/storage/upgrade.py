"""Upgrade of a database to the schema of this version."""

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine, func, inspect, select, text

from broker.errors import ConfigurationError
from coordinator.storage.engine import database_errors

if TYPE_CHECKING:
    from alembic.config import Config

UPGRADE_LOCK = 7_205_759  # an arbitrary number that names the lock
HEAD = "0006"  # the newest revision in migrations/versions


def upgrade(engine: Engine) -> None:
    """Create or migrate the tables, as needed. Raises ConfigurationError for the database of a later version.

    Alembic is imported only when something changes, so that a start with a current database stays quick.
    """
    with database_errors():
        present = _revision(engine)
        if present == HEAD:
            return
        if present is not None and present > HEAD:
            message = f"the database has schema {present}, this Fluffle knows {HEAD}: use a newer Fluffle"
            raise ConfigurationError(message)
        from alembic import command

        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":  # one upgrade at a time when several coordinators start together
                connection.execute(select(func.pg_advisory_xact_lock(UPGRADE_LOCK)))
            config = alembic_config()
            config.attributes["connection"] = connection
            command.upgrade(config, HEAD)


def alembic_config() -> "Config":
    """Return Alembic's configuration, without a file."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _revision(engine: Engine) -> str | None:
    if not inspect(engine).has_table("alembic_version"):
        return None
    with engine.begin() as connection:
        revision: str | None = connection.scalar(text("select version_num from alembic_version"))
        return revision
