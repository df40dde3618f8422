"""Transactions on one database connection that stays open between them."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from coordinator.storage.engine import AUTOCOMMIT, database_errors


class Transactions:
    """One connection to the database, opened at the first transaction and kept until the database fails.

    Used by one thread at a time. After StoreUnavailable, the state of the transaction is unknown; repeat all of it.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._connection: Connection | None = None

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self.engine.dispose()

    @contextmanager
    def _transaction(self, *, single_read: bool = False) -> Iterator[Connection]:
        """Run a transaction. Raises StoreUnavailable and StoreError.

        With `single_read`, SQLite runs the one statement without a transaction. This is safe because only the leader
        writes: a coordinator that no longer leads learns this at its next commit.
        """
        with database_errors():
            connection = self._connection = self._connection or self.engine.connect()
            connection.info[AUTOCOMMIT] = single_read
            try:
                with connection.begin():
                    yield connection
            except DBAPIError:
                self._connection = None
                connection.invalidate()
                connection.close()
                raise
