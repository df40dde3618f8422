"""SQLite files: their place, their permissions, and what a backup may contain."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from broker.errors import ConfigurationError, StoreError
from broker.settings import Settings
from coordinator.storage.backup import back_up, restore
from coordinator.storage.engine import open_engine
from coordinator.storage.store import Store
from coordinator.storage.upgrade import upgrade


def modes(folder: Path) -> dict[str, int]:
    """The permissions of the files in a folder, by name."""
    return {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir() if file.is_file()}


def database(folder: Path) -> str:
    """The URL of a database with tables in that folder."""
    url = f"sqlite:///{folder / 'fluffle.db'}"
    engine = open_engine(url)
    upgrade(engine)
    engine.dispose()
    return url


def test_database_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    store = Store(open_engine(f"sqlite:///{tmp_path / 'fluffle.db'}"))
    upgrade(store.engine)
    assert modes(tmp_path) == {"fluffle.db": 0o600, "fluffle.db-wal": 0o600, "fluffle.db-shm": 0o600}
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    store.close()


def test_the_mode_of_readable_database_files_is_corrected(tmp_path: Path) -> None:
    url = database(tmp_path)
    with closing(sqlite3.connect(tmp_path / "fluffle.db")) as open_for_others:
        open_for_others.execute("SELECT count(*) FROM tasks")
        for file in tmp_path.iterdir():
            file.chmod(0o644)
        store = Store(open_engine(url))
        upgrade(store.engine)
        assert set(modes(tmp_path).values()) == {0o600}
        store.close()


def test_backup_and_restored_database_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    url, copy = database(tmp_path), tmp_path / "copy.db"
    back_up(url, copy)
    (tmp_path / "open").mkdir(mode=0o755)
    restore(f"sqlite:///{tmp_path / 'open' / 'fluffle.db'}", copy)
    assert modes(tmp_path)["copy.db"] == 0o600
    assert set(modes(tmp_path / "open").values()) == {0o600}


@pytest.mark.parametrize("name", ["?b", "a?b=c&d", "#b", "100%", "%3F", "a b", "é"])
def test_the_database_is_in_the_state_folder_whatever_its_name(tmp_path: Path, name: str) -> None:
    settings = Settings(state_dir=tmp_path / name / "fluffle")
    store = Store(open_engine(settings.database))
    upgrade(store.engine)
    assert (tmp_path / name / "fluffle" / "fluffle.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    store.close()
    back_up(settings.database, tmp_path / "copy.db")
    assert restore(settings.database, tmp_path / "copy.db") == 0


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("CREATE TRIGGER evil AFTER UPDATE ON leader BEGIN DELETE FROM tasks; END", "trigger, evil"),
        ("CREATE VIEW evil AS SELECT * FROM tasks", "view, evil"),
        ("CREATE VIRTUAL TABLE evil USING fts5(text)", "virtual table, evil"),
    ],
)
def test_a_backup_that_could_run_code_is_refused_and_nothing_is_replaced(
    tmp_path: Path, statement: str, named: str
) -> None:
    url, copy = database(tmp_path), tmp_path / "copy.db"
    back_up(url, copy)
    with closing(sqlite3.connect(copy)) as altered:
        altered.execute(statement)
    before = (tmp_path / "fluffle.db").read_bytes()
    with pytest.raises(ConfigurationError, match=f"the file has a {named}, which no backup of Fluffle has"):
        restore(url, copy)
    assert (tmp_path / "fluffle.db").read_bytes() == before


def test_a_view_instead_of_the_tasks_table_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "copy.db")) as altered:
        altered.execute("CREATE TABLE alembic_version (version_num)")
        altered.execute("INSERT INTO alembic_version VALUES ('0001')")
        endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"
        altered.execute(f"CREATE VIEW tasks AS {endless}")
        altered.commit()
    with pytest.raises(ConfigurationError, match="view, tasks"):
        restore(f"sqlite:///{tmp_path / 'fluffle.db'}", tmp_path / "copy.db")


def test_no_confirmation_is_requested_for_a_backup_that_is_refused(tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_bytes(b"no database")
    asked: list[None] = []
    with pytest.raises(StoreError, match="file is not a database"):
        restore(f"sqlite:///{tmp_path / 'fluffle.db'}", tmp_path / "copy.db", agreed=lambda: asked.append(None))
    assert asked == []


def test_a_restore_that_is_not_confirmed_replaces_nothing(tmp_path: Path) -> None:
    url = database(tmp_path)
    back_up(url, tmp_path / "copy.db")

    def refuse() -> None:
        raise KeyboardInterrupt

    before = (tmp_path / "fluffle.db").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        restore(url, tmp_path / "copy.db", agreed=refuse)
    assert (tmp_path / "fluffle.db").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} <= {"fluffle.db", "fluffle.db-wal", "fluffle.db-shm", "copy.db"}


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://u:p@3cret@h/d",
        "postgresql+psycopg://u:3cret@h:3cret/d",
        "u:3cret@h",
        "3cret",
        "mysql://u:3cret@h/d",
    ],
)
def test_an_error_about_a_database_url_never_shows_its_password(tmp_path: Path, url: str) -> None:
    for use in (lambda: open_engine(url), lambda: back_up(url, tmp_path / "copy.db")):
        with pytest.raises(ConfigurationError) as caught:
            use()
        assert "3cret" not in str(caught.value)
