"""Backup of an SQLite database while coordinators use it, and restore while none does."""

import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from sqlalchemy.engine import URL

from broker.errors import ConfigurationError, StoreError
from broker.secure_files import make_private, make_private_folder
from coordinator.storage.engine import parsed_url
from coordinator.storage.leader_lease import is_gone
from coordinator.storage.upgrade import HEAD

USE_POSTGRESQL_TOOL = "this command copies SQLite databases only: use {tool} for PostgreSQL, see docs/operations.md"


def back_up(database: str | URL, to: Path) -> int:
    """Copy the database, as it is at this moment, into a new file. Returns the number of tasks in the copy.

    Coordinators keep running meanwhile. Raises ConfigurationError for PostgreSQL and for an existing file; StoreError.
    """
    source = _file_of(database, "pg_dump")
    if not source.is_file():
        raise ConfigurationError(f"there is no database file {source}")
    if to.exists():
        raise ConfigurationError(f"{to} exists already: name a new file")
    with _errors(to), _beside(to) as copy:
        with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as database_file:
            _copy(database_file, copy)
        tasks = _checked(copy)
        os.link(copy, to)  # atomic, and never over another file
    return tasks


def restore(database: str | URL, backup: Path, *, agreed: Callable[[], object] = lambda: None) -> int:
    """Replace the database by a backup. Returns the number of tasks in it.

    `agreed` is called after all checks, before anything is replaced; it may raise. Raises ConfigurationError for
    PostgreSQL, for a file that is not a backup or is of a later version, and while a coordinator leads; StoreError.
    """
    target = _file_of(database, "pg_restore")
    if not backup.is_file():
        raise ConfigurationError(f"there is no file {backup}")
    with _errors(backup):
        make_private_folder(target.parent)
        with _beside(target) as copy:
            with closing(sqlite3.connect(f"{backup.absolute().as_uri()}?mode=ro", uri=True)) as source:
                _copy(source, copy)
            tasks = _checked(copy)
            if target.exists():
                with closing(sqlite3.connect(target, isolation_level=None, timeout=5)) as database_file:
                    _term_of(database_file, target)
            agreed()
            make_private(target, create=True)
            with closing(sqlite3.connect(target, isolation_level=None, timeout=5)) as database_file:
                term = _term_of(database_file, target)  # again: a coordinator may have started since the check
                with closing(sqlite3.connect(copy)) as restored, restored:  # the new term is later than all others
                    epoch = max(term, (_leader(restored) or ("", 0))[1]) + 1
                    restored.execute("UPDATE leader SET holder = '', epoch = ?", (epoch,))
                with closing(sqlite3.connect(copy)) as restored:
                    restored.backup(database_file)
    return tasks


def _term_of(connection: sqlite3.Connection, file: Path) -> int:
    """Return the last term of a coordinator. Raises ConfigurationError while one leads."""
    holder, epoch = _leader(connection) or ("", 0)
    if holder and not is_gone(holder):
        raise ConfigurationError(f"a coordinator leads on {file} ({holder}): stop the coordinator first")
    return epoch


def _file_of(database: str | URL, tool: str) -> Path:
    url = parsed_url(database)
    if url.get_backend_name() != "sqlite" or not url.database:
        raise ConfigurationError(USE_POSTGRESQL_TOOL.format(tool=tool))
    return Path(url.database)


@contextmanager
def _beside(file: Path) -> Iterator[Path]:
    """Yield a temporary file in the same folder, readable by its owner only, and delete it at the end."""
    copy = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    os.close(os.open(copy, os.O_CREAT | os.O_EXCL, 0o600))
    try:
        yield copy
    finally:
        for name in (copy, copy.with_name(f"{copy.name}-wal"), copy.with_name(f"{copy.name}-shm")):
            with suppress(FileNotFoundError):
                name.unlink()


def _copy(source: sqlite3.Connection, to: Path) -> None:
    """Copy everything in one read transaction, which blocks no writer. The copy is on disk when this returns."""
    with closing(sqlite3.connect(to)) as copy:
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # no separate write-ahead log
    with to.open("rb") as file:
        os.fsync(file.fileno())


def _checked(copy: Path) -> int:
    """Return the number of tasks in a copy. Raises ConfigurationError for a damaged or foreign one."""
    with closing(sqlite3.connect(copy)) as connection:
        try:
            _must_hold_data_only(connection)
            [(integrity,)] = connection.execute("PRAGMA integrity_check(1)").fetchall()
            [(schema,)] = connection.execute("SELECT version_num FROM alembic_version").fetchall()
            [(tasks,)] = connection.execute("SELECT count(*) FROM tasks").fetchall()
        except (sqlite3.DatabaseError, ValueError) as error:
            raise ConfigurationError(f"the file is not a database of Fluffle: {error}") from error
    if integrity != "ok":
        raise ConfigurationError(f"the database file is damaged: {integrity}")
    if schema > HEAD:
        raise ConfigurationError(
            f"the database file has schema {schema}, this Fluffle knows {HEAD}: use a newer Fluffle"
        )
    return int(tasks)


def _must_hold_data_only(connection: sqlite3.Connection) -> None:
    """Raise ConfigurationError for a database with triggers, views or virtual tables, which can run code."""
    for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_master"):
        if kind in ("trigger", "view") or (sql or "").upper().startswith("CREATE VIRTUAL"):
            what = "virtual table" if kind == "table" else kind
            raise ConfigurationError(
                f"the file has a {what}, {name}, which no backup of Fluffle has: it could run code"
            )


def _leader(connection: sqlite3.Connection) -> tuple[str, int] | None:
    """Return the holder of the lead ("" without one) and its term; None for a database without tables."""
    try:
        row = connection.execute("SELECT holder, epoch FROM leader").fetchone()
    except sqlite3.OperationalError:
        return None
    return None if row is None else (str(row[0]), int(row[1]))


@contextmanager
def _errors(file: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{file} cannot be copied: {error}") from error
