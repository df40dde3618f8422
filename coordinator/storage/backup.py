"""Copies of an SQLite database, taken while coordinators work on it, and put back while none does."""

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

WITH_POSTGRESQL = "PostgreSQL brings its own tool: {tool}. See docs/operations.md"


def back_up(database: str | URL, to: Path) -> int:
    """Copy the database at that URL, as it is at this moment, into a new file. Returns how many tasks are in it.

    Nobody has to stop or wait. Raises ConfigurationError for PostgreSQL and for a file that exists, StoreError.
    """
    source = _file_of(database, "pg_dump")
    if not source.is_file():
        raise ConfigurationError(f"there is no database {source}")
    if to.exists():
        raise ConfigurationError(f"{to} exists already")
    with _errors(to), _beside(to) as copy:
        with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as books:
            _copy(books, copy)
        tasks = _checked(copy)
        os.link(copy, to)  # all of it or nothing, and never over another file
    return tasks


def restore(database: str | URL, backup: Path, *, agreed: Callable[[], object] = lambda: None) -> int:
    """Put a copy in place of the database at that URL. Returns how many tasks are in it.

    `agreed` is called before anything is replaced, when nothing else is in the way; it may raise. Raises
    ConfigurationError for PostgreSQL, for a file that is no copy or of a later version, and while a coordinator leads;
    StoreError.
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
                with closing(sqlite3.connect(target, isolation_level=None, timeout=5)) as books:
                    _term_of(books, target)
            agreed()
            make_private(target, create=True)
            with closing(sqlite3.connect(target, isolation_level=None, timeout=5)) as books:
                term = _term_of(books, target)  # a coordinator may have started meanwhile
                with closing(sqlite3.connect(copy)) as restored, restored:  # nobody goes on in a term of before
                    epoch = max(term, (_leader(restored) or ("", 0))[1]) + 1
                    restored.execute("UPDATE leader SET holder = '', epoch = ?", (epoch,))
                with closing(sqlite3.connect(copy)) as restored:
                    restored.backup(books)
    return tasks


def _term_of(books: sqlite3.Connection, file: Path) -> int:
    """The last term of a coordinator. Raises ConfigurationError while one leads."""
    holder, epoch = _leader(books) or ("", 0)
    if holder and not is_gone(holder):
        raise ConfigurationError(f"a coordinator leads on {file} ({holder}): stop it first")
    return epoch


def _file_of(database: str | URL, tool: str) -> Path:
    url = parsed_url(database)
    if url.get_backend_name() != "sqlite" or not url.database:
        raise ConfigurationError(WITH_POSTGRESQL.format(tool=tool))
    return Path(url.database)


@contextmanager
def _beside(file: Path) -> Iterator[Path]:
    """A new file in the same folder, for its owner alone, gone at the end."""
    copy = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    os.close(os.open(copy, os.O_CREAT | os.O_EXCL, 0o600))
    try:
        yield copy
    finally:
        for name in (copy, copy.with_name(f"{copy.name}-wal"), copy.with_name(f"{copy.name}-shm")):
            with suppress(FileNotFoundError):
                name.unlink()


def _copy(source: sqlite3.Connection, to: Path) -> None:
    """All of it in one read transaction, which keeps nobody from writing; on disk when it returns."""
    with closing(sqlite3.connect(to)) as copy:
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file
    with to.open("rb") as file:
        os.fsync(file.fileno())


def _checked(copy: Path) -> int:
    """How many tasks are in a copy that is whole. Raises ConfigurationError for one that is not."""
    with closing(sqlite3.connect(copy)) as books:
        try:
            _must_hold_data_alone(books)
            [(said,)] = books.execute("PRAGMA integrity_check(1)").fetchall()
            [(schema,)] = books.execute("SELECT version_num FROM alembic_version").fetchall()
            [(tasks,)] = books.execute("SELECT count(*) FROM tasks").fetchall()
        except (sqlite3.DatabaseError, ValueError) as error:
            raise ConfigurationError(f"it is no database of Fluffle: {error}") from error
    if said != "ok":
        raise ConfigurationError(f"it is damaged: {said}")
    if schema > HEAD:
        raise ConfigurationError(f"it has schema {schema}, this Fluffle knows {HEAD}: use a newer one")
    return int(tasks)


def _must_hold_data_alone(books: sqlite3.Connection) -> None:
    """Raises ConfigurationError for what runs when the database is used: triggers, views and virtual tables."""
    for kind, name, sql in books.execute("SELECT type, name, sql FROM sqlite_master"):
        if kind in ("trigger", "view") or (sql or "").upper().startswith("CREATE VIRTUAL"):
            what = "virtual table" if kind == "table" else kind
            raise ConfigurationError(f"it has a {what}, {name}, which no backup of Fluffle has: it may run code")


def _leader(books: sqlite3.Connection) -> tuple[str, int] | None:
    """Who leads, or nobody, and in which term; None in a database without tables."""
    try:
        row = books.execute("SELECT holder, epoch FROM leader").fetchone()
    except sqlite3.OperationalError:
        return None
    return None if row is None else (str(row[0]), int(row[1]))


@contextmanager
def _errors(file: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{file} cannot be copied: {error}") from error
