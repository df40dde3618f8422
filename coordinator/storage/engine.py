"""Opening a SQLite or PostgreSQL database, transactions on it, and turning the errors of its driver into ours."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, NoSuchModuleError

from broker.errors import ConfigurationError, StoreError, StoreUnavailable
from broker.secure_files import make_private, make_private_folder

BUSY_SECONDS = 5.0
AUTOCOMMIT = "fluffle.autocommit"
"""If true in the info of a SQLite connection, a statement runs without BEGIN and COMMIT. Only for reads.

BEGIN and COMMIT cost as much as a small read, because another thread may take the interpreter lock in between."""

_TOO_LARGE = "54"  # the class of PostgreSQL's errors for data that is too large or too complex
# In ms. A leader may be suspended in a transaction, or its machine may be gone: it must not keep the lease row locked.
# Set in each transaction: with a pooler such as PgBouncer, the next one may run in another session.
_IDLE_TIMEOUT = "SET LOCAL idle_in_transaction_session_timeout = 5000"
# Settings of libpq, in seconds, `tcp_user_timeout` in ms: they detect an unreachable PostgreSQL within seconds.
_KEEPALIVE_SETTINGS = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


def open_engine(url: str | URL, *, read_only: bool = False) -> Engine:
    """Return an engine for a SQLAlchemy URL. Raises ConfigurationError for a URL that names no usable database.

    PostgreSQL may be behind a pooler such as PgBouncer, which can give each transaction another session: no setting
    outlives a transaction.

    SQLite runs in WAL mode with synchronous=FULL: a commit that has returned is on disk, and readers never wait.
    """
    parsed = parsed_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(parsed, read_only)
    if parsed.get_backend_name() != "postgresql":
        raise ConfigurationError(f"the database must be sqlite or postgresql, not {parsed.get_backend_name()}")
    return _postgresql(parsed, read_only)


@contextmanager
def database_errors() -> Iterator[None]:
    """Raise the driver's errors as StoreUnavailable, or as StoreError when the database refuses the data for good."""
    try:
        yield
    except (DataError, IntegrityError) as error:
        raise StoreError(f"the database refuses the data: {error.orig}") from error
    except DBAPIError as error:
        if (getattr(error.orig, "sqlstate", None) or "").startswith(_TOO_LARGE):
            raise StoreError(f"the database refuses the data: {error.orig}") from error
        raise StoreUnavailable(f"the database cannot be used at the moment: {error.orig}") from error


def parsed_url(url: str | URL) -> URL:
    """Return the parts of a database URL. Raises ConfigurationError, whose text never quotes the URL."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        message = "FLUFFLE_DATABASE_URL is not a database URL, such as sqlite:////path/to.db"
        raise ConfigurationError(message) from None  # the cause may quote a part of the password
    if "@" in (parsed.host or ""):
        raise ConfigurationError('FLUFFLE_DATABASE_URL cannot be read: write a "@" in a user or password as %40')
    return parsed


def _postgresql(url: URL, read_only: bool) -> Engine:
    try:
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_size=1,
            max_overflow=3,  # the store keeps one connection; each other reader needs one more
            hide_parameters=True,  # a logged error must not quote task data
            pool_pre_ping=True,
            # A reader sees one state of the database in all its statements, as in SQLite.
            isolation_level="REPEATABLE READ" if read_only else "READ COMMITTED",
            connect_args=_KEEPALIVE_SETTINGS,
        )
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise ConfigurationError("PostgreSQL needs psycopg: pip install 'fluffle[postgres]'") from error

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _: Any) -> None:
        connection.read_only = True if read_only else None  # None: the server's default, which may be read-only
        if _is_pooled(connection):  # prepared statements would stay behind in a session of the pool
            connection.prepare_threshold = None

    @event.listens_for(engine, "begin")
    def on_begin(connection: Any) -> None:
        if not read_only:
            connection.exec_driver_sql(_IDLE_TIMEOUT)

    return engine


def _is_pooled(connection: Any) -> bool:
    """Return whether a psycopg connection goes through a pooler, which reports a made-up process id of the server."""
    connection.autocommit = True
    [(process,)] = connection.execute("SELECT pg_backend_pid()").fetchall()
    connection.autocommit = False
    return bool(process != connection.info.backend_pid)


def _sqlite(url: URL, read_only: bool) -> Engine:
    if not url.database or url.database == ":memory:":
        raise ConfigurationError("the SQLite database needs a file: sqlite:////path/to.db")
    file = Path(url.database)
    try:
        make_private_folder(file.parent)
        if not read_only:
            for path in (file, *_wal_files(file)):
                make_private(path, create=path is file)  # the others get its mode
    except OSError as error:
        raise ConfigurationError(f"cannot use {error.filename or file}: {error.strerror}") from error
    engine = create_engine(
        url,
        pool_size=1,
        max_overflow=3,  # the store keeps one connection; each other reader needs one more
        hide_parameters=True,
        paramstyle="named",
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False, "isolation_level": None},
    )

    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, _: Any) -> None:
        if read_only:
            connection.execute("PRAGMA query_only = ON")
        else:
            _write_ahead(connection)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA wal_autocheckpoint = 4000")
        connection.execute("PRAGMA cache_size = -32000")
        connection.create_function("lower", 1, _lower, deterministic=True)  # SQLite's own changes only ASCII

    @event.listens_for(engine, "begin")
    def on_begin(connection: Any) -> None:
        if not connection.info.get(AUTOCOMMIT):
            connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def _wal_files(file: Path) -> tuple[Path, Path]:
    """Return the paths of the write-ahead log and its index, which SQLite keeps beside a database."""
    return file.with_name(f"{file.name}-wal"), file.with_name(f"{file.name}-shm")


def _lower(text: Any) -> Any:
    """Return text in lower case, as PostgreSQL does. Other values stay as they are."""
    return text.lower() if isinstance(text, str) else text


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch the database to WAL mode, which it keeps.

    When two processes switch a new database at the same moment, SQLite fails one of them at once, without the busy
    timeout. That one tries again until the other has done it.
    """
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


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
