"""Databases for tests: each test runs on SQLite and on a private PostgreSQL."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from coordinator.storage.engine import open_engine
from coordinator.storage.schema import metadata
from coordinator.storage.store import Store
from coordinator.storage.upgrade import upgrade
from tests.support.core_driver import T0
from tests.support.postgres import Postgres, postgres_or_skip
from tests.support.stored_tasks import LEAD


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL that runs during the session. A test that stops it starts it again."""
    with postgres_or_skip() as server:
        yield server


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    """The kind of database."""
    return str(request.param)


_numbers = count()


@pytest.fixture
def empty_database(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database without tables."""
    if backend == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    server: Postgres = request.getfixturevalue("postgres_server")
    name = f"empty_{next(_numbers)}"
    yield server.create(name)
    server.drop(name)


@pytest.fixture(scope="session")
def database(backend: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database with all tables. Use `engine`, which empties them."""
    if backend == "sqlite":
        yield _with_tables(f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'books.db'}")
        return
    server: Postgres = request.getfixturevalue("postgres_server")
    yield _with_tables(server.create("books"))
    server.drop("books")


def _with_tables(url: str) -> str:
    engine = open_engine(url)
    upgrade(engine)
    engine.dispose()
    return url


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """A database with empty tables. SQLite does not wait for the disk, because no test cuts the power."""
    engine = open_engine(database)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            connection.execute(table.delete())
    yield engine
    engine.dispose()


@pytest.fixture
def store(engine: Engine) -> Store:
    """The store of the leading coordinator, whose lease lasts five seconds from T0."""
    store = Store(engine)
    assert store.take_lead("leader", T0, LEAD)
    return store
