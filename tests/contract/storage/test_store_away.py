"""Unavailable databases: the store reports them, loses nothing and uses them again when they are back."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import event

from broker.errors import ConfigurationError, NotTheLeader, StoreUnavailable
from coordinator.storage import engine as database
from coordinator.storage.store import Store
from coordinator.storage.upgrade import upgrade
from tests.support.postgres import Postgres
from tests.support.stored_tasks import LEAD, NOW, a_task, commit, stored


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the SQLite database, with a short wait for locks."""
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.01)
    return tmp_path / "books.db"


@pytest.fixture
def sqlite(file: Path) -> Iterator[Store]:
    """A store on SQLite."""
    store = Store(database.open_engine(f"sqlite:///{file}"))
    upgrade(store.engine)
    assert store.take_lead("leader", NOW, LEAD)
    yield store
    store.close()


@pytest.fixture
def postgresql(postgres_server: Postgres) -> Iterator[Store]:
    """A store on PostgreSQL."""
    store = Store(database.open_engine(postgres_server.create("away")))
    upgrade(store.engine)
    assert store.take_lead("leader", NOW, LEAD)
    yield store
    store.close()
    postgres_server.drop("away")


def test_a_locked_sqlite_database_is_unavailable_until_it_is_free(sqlite: Store, file: Path) -> None:
    stored(sqlite, a_task(1))
    locker = sqlite3.connect(file, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    for use in (
        lambda: commit(sqlite),
        lambda: sqlite.take_lead("leader", NOW, LEAD),
        lambda: sqlite.give_up_lead(),
        lambda: sqlite.in_hand(),
    ):
        with pytest.raises(StoreUnavailable, match="database is locked"):
            use()
    assert [task.id for task in sqlite.load(["t1"])] == ["t1"]  # a look needs no lock
    locker.execute("ROLLBACK")
    locker.close()
    commit(sqlite)
    assert [task.id for task in sqlite.load(["t1"])] == ["t1"]


def test_a_locked_sqlite_database_can_be_read_by_read_only_connections(sqlite: Store, file: Path) -> None:
    stored(sqlite, a_task(1))
    locker = sqlite3.connect(file, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    reader = Store(database.open_engine(f"sqlite:///{file}", read_only=True))
    assert [task.id for task in reader.load(["t1"])] == ["t1"]
    reader.close()
    locker.close()


def test_a_read_only_sqlite_database_is_unavailable_for_writing(sqlite: Store, file: Path) -> None:
    stored(sqlite, a_task(1))
    reader = Store(database.open_engine(f"sqlite:///{file}", read_only=True))
    with pytest.raises(StoreUnavailable, match="readonly"):
        reader.take_lead("leader", NOW, LEAD)
    assert [task.id for task in reader.load(["t1"])] == ["t1"]
    reader.close()


def test_a_full_sqlite_database_is_unavailable_and_keeps_what_it_has(sqlite: Store) -> None:
    stored(sqlite, a_task(1))
    sqlite.close()

    @event.listens_for(sqlite.engine, "connect")
    def on_connect(connection: sqlite3.Connection, _: object) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")

    with pytest.raises(StoreUnavailable, match="full"):
        stored(sqlite, a_task(2, inputs="x" * 5_000_000))
    assert [task.id for task in sqlite.load(["t1", "t2"])] == ["t1"]


def test_a_file_that_is_not_a_database_is_unavailable(file: Path) -> None:
    file.write_text("This is no database. " * 100)
    store = Store(database.open_engine(f"sqlite:///{file}"))
    with pytest.raises(StoreUnavailable, match="not a database"):
        store.leader()
    store.close()


def test_a_stopped_postgresql_is_unavailable_until_it_is_back(postgresql: Store, postgres_server: Postgres) -> None:
    stored(postgresql, a_task(1))
    postgres_server.stop()
    try:
        for use in (
            lambda: commit(postgresql),
            lambda: postgresql.take_lead("leader", NOW, LEAD),
            lambda: postgresql.give_up_lead(),
            lambda: postgresql.load(["t1"]),
        ):
            with pytest.raises(StoreUnavailable, match="cannot be used at the moment"):
                use()
    finally:
        postgres_server.start()
    assert [task.id for task in postgresql.load(["t1"])] == ["t1"]
    commit(postgresql)


def test_a_leader_suspended_in_a_transaction_does_not_block_its_successor(postgresql: Store) -> None:
    seen = postgresql.leader()
    other = Store(database.open_engine(postgresql.engine.url.render_as_string(hide_password=False)))
    with postgresql.engine.connect() as standing_still:
        postgresql._extend(standing_still, NOW, LEAD)
        assert other.take_lead("other", NOW, LEAD, over=seen)
        standing_still.invalidate()
    with pytest.raises(NotTheLeader):
        commit(postgresql)
    commit(other)
    other.close()


def test_a_read_only_postgresql_is_unavailable_for_writing(postgresql: Store) -> None:
    stored(postgresql, a_task(1))
    url = postgresql.engine.url.render_as_string(hide_password=False)
    reader = Store(database.open_engine(url, read_only=True))
    assert [task.id for task in reader.load(["t1"])] == ["t1"]
    with pytest.raises(StoreUnavailable, match="read-only"):
        commit(reader)
    reader.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("no url", "is not a database URL"),
        ("mysql://localhost/x", "must be sqlite or postgresql"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        ("sqlite:////dev/null/x/books.db", "cannot use /dev/null/x: Not a directory"),
    ],
)
def test_a_url_that_names_no_usable_database_is_refused(url: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        database.open_engine(url)
