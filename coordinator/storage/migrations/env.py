"""The entry point of Alembic: runs the migrations on the connection from coordinator/storage/upgrade.py."""

from alembic import context

from coordinator.storage.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
