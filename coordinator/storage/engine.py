"""Opening the database: SQLite with every commit on disk, or PostgreSQL."""

import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from broker.errors import ConfigurationError
from broker.secure_files import make_private, make_private_folder

BUSY_SECONDS = 5.0
EACH_ALONE = "fluffle.each_alone"
"""In the info of a connection, if true: on SQLite every statement is a transaction of its own, for one that only reads.

To begin and to end one is as dear as a small read, because another thread may take the interpreter meanwhile."""

# In ms. Who leads may be stopped in a transaction, or gone with its machine: it must not keep the row of the lead then.
# It is set for each transaction: with a pooler such as PgBouncer, the next one may be in another session.
_IDLE_TIMEOUT = "SET LOCAL idle_in_transaction_session_timeout = 5000"
# Of libpq, in seconds but for the last, which is in ms: a PostgreSQL that the network no longer leads to is away soon.
_SIGNS_OF_LIFE = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


def open_engine(url: str | URL, *, read_only: bool = False) -> Engine:
    """An engine for a SQLAlchemy URL. Raises ConfigurationError for a URL that names no usable database.

    PostgreSQL may be reached through a pooler that gives each transaction another session, such as PgBouncer: nothing
    that is set outlives a transaction.

    SQLite runs in WAL mode with synchronous=FULL: a commit that has returned is on disk, and readers never wait.
    """
    parsed = parsed_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(parsed, read_only)
    if parsed.get_backend_name() != "postgresql":
        raise ConfigurationError(f"the database must be sqlite or postgresql, not {parsed.get_backend_name()}")
    return _postgresql(parsed, read_only)


def parsed_url(url: str | URL) -> URL:
    """The parts of a database URL. Raises ConfigurationError, which shows nothing of one that cannot be read."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        told = "FLUFFLE_DATABASE_URL is not a database URL, such as sqlite:////path/to.db"
        raise ConfigurationError(told) from None  # its cause may show a part of the password
    if "@" in (parsed.host or ""):
        raise ConfigurationError('FLUFFLE_DATABASE_URL cannot be read: a "@" in a user or password must be written %40')
    return parsed


def _postgresql(url: URL, read_only: bool) -> Engine:
    try:
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_size=1,
            max_overflow=3,  # a store keeps its connection; whoever else reads besides needs one more
            hide_parameters=True,  # an error that is logged shows nothing of a task
            pool_pre_ping=True,
            # A reader sees one state of the database in all its statements, as in SQLite.
            isolation_level="REPEATABLE READ" if read_only else "READ COMMITTED",
            connect_args=_SIGNS_OF_LIFE,
        )
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise ConfigurationError("PostgreSQL needs psycopg: pip install 'fluffle[postgres]'") from error

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _: Any) -> None:
        connection.read_only = True if read_only else None  # None: as the server has it, which may allow no writing
        if _is_pooled(connection):  # what is prepared would stay behind in a session of the pool
            connection.prepare_threshold = None

    @event.listens_for(engine, "begin")
    def on_begin(connection: Any) -> None:
        if not read_only:
            connection.exec_driver_sql(_IDLE_TIMEOUT)

    return engine


def _is_pooled(connection: Any) -> bool:
    """Whether a pooler is between a psycopg connection and the server: it makes up the id of the server's process."""
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
            for path in (file, *_beside(file)):
                make_private(path, create=path is file)  # SQLite makes those beside it as the file is
    except OSError as error:
        raise ConfigurationError(f"cannot use {error.filename or file}: {error.strerror}") from error
    engine = create_engine(
        url,
        pool_size=1,
        max_overflow=3,  # a store keeps its connection; whoever else reads besides needs one more
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
        connection.create_function("lower", 1, _lower, deterministic=True)  # SQLite's own knows ASCII only

    @event.listens_for(engine, "begin")
    def on_begin(connection: Any) -> None:
        if not connection.info.get(EACH_ALONE):
            connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def _beside(file: Path) -> tuple[Path, Path]:
    """The files that SQLite has beside a database."""
    return file.with_name(f"{file.name}-wal"), file.with_name(f"{file.name}-shm")


def _lower(text: Any) -> Any:
    """In lower case, as PostgreSQL has it. What is no text stays as it is."""
    return text.lower() if isinstance(text, str) else text


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch to WAL mode, which a database keeps.

    Two that switch a new database at the same moment wait for each other's lock; SQLite then fails one of them at
    once, without the busy timeout. It tries again until the other has done it.
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
