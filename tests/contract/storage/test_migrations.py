"""Migrations from every earlier schema to the one that the code expects."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, MetaData, Table, inspect, select, text

from broker.errors import ConfigurationError
from coordinator.core.tasks.task import view
from coordinator.storage.engine import open_engine
from coordinator.storage.rows import task_row
from coordinator.storage.schema import metadata
from coordinator.storage.store import Store
from coordinator.storage.upgrade import HEAD, alembic_config, upgrade
from tests.support.stored_tasks import LEAD, NOW, a_task, stored


def made(engine: Engine) -> set[str]:
    """Columns, keys and indexes of a database, each as the database itself describes it."""
    if engine.dialect.name == "sqlite":
        described = """
            select sql from sqlite_master where type = 'index' and tbl_name != 'alembic_version' and sql is not null
            union all
            select m.name || l.wr || ' ' || c.name || ' ' || c.type || c."notnull" || coalesce(c.dflt_value, '') || c.pk
            from sqlite_master m join pragma_table_list(m.name) l join pragma_table_info(m.name) c
            where m.type = 'table' and m.name != 'alembic_version'
        """
    else:
        described = """
            select indexdef from pg_indexes where schemaname = 'public' and tablename != 'alembic_version'
            union all
            select concat_ws(' ', table_name, column_name, data_type, is_nullable, column_default, is_identity)
            from information_schema.columns where table_schema = 'public' and table_name != 'alembic_version'
        """
    with engine.connect() as connection:
        return {re.sub(r"\s+", " ", row[0]).replace('"', "") for row in connection.execute(text(described))}


def test_the_newest_migration_is_the_one_that_the_code_expects() -> None:
    assert ScriptDirectory.from_config(alembic_config()).get_heads() == [HEAD]


def test_the_migrations_make_the_tables_of_the_schema(empty_database: str, engine: Engine) -> None:
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    by_schema = open_engine(empty_database)
    metadata.create_all(by_schema)
    assert made(engine) == made(by_schema)
    by_schema.dispose()


def test_an_empty_database_gets_its_tables(empty_database: str) -> None:
    engine = open_engine(empty_database)
    upgrade(engine)
    assert set(inspect(engine).get_table_names()) == {*metadata.tables, "alembic_version"}
    engine.dispose()


def test_a_current_database_stays_as_it_is(store: Store) -> None:
    stored(store, a_task(1))
    before = made(store.engine)
    upgrade(store.engine)
    assert [task.id for task in store.load(["t1"])] == ["t1"]
    assert made(store.engine) == before


def revisions() -> list[str]:
    """Every earlier schema, oldest first."""
    scripts = ScriptDirectory.from_config(alembic_config()).walk_revisions()
    return [script.revision for script in scripts][:0:-1]


def at_revision(database: str, revision: str) -> Engine:
    """Make a database as the version with that schema left it."""
    engine, config = open_engine(database), alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    return engine


def a_row(table: Table, number: int) -> dict[str, object]:
    """A row with something in every column that must have something, as far as that schema knows the table."""
    values: dict[type, object] = {int: number, str: f"{number}", bool: True, bytes: b"12345678"}
    return {column.name: values[column.type.python_type] for column in table.columns if not column.nullable}


@pytest.mark.parametrize("revision", revisions())
def test_a_leader_of_an_earlier_version_can_write_after_the_upgrade(empty_database: str, revision: str) -> None:
    engine = at_revision(empty_database, revision)
    earlier = MetaData()
    earlier.reflect(engine)
    tables = [table for table in earlier.sorted_tables if table.name != "alembic_version"]
    with engine.begin() as connection:
        for table in tables:
            connection.execute(table.insert().values(a_row(table, 1)))
    upgrade(engine)
    with engine.begin() as connection:
        for table in tables:
            connection.execute(table.insert().values(a_row(table, 2)))
            assert len(connection.execute(select(table)).all()) == 2, table.name
    engine.dispose()


@pytest.mark.parametrize("revision", revisions())
def test_tasks_of_an_earlier_version_are_kept_by_the_upgrade(empty_database: str, revision: str) -> None:
    engine = at_revision(empty_database, revision)
    known = MetaData()
    known.reflect(engine, only=["tasks"])
    columns = known.tables["tasks"].columns.keys()
    task = a_task(1, inputs={"a": [1]}, labels=["x"], due="2026-12-01T09:00:00Z")
    with engine.begin() as connection:
        row = {name: value for name, value in task_row(task).items() if name in columns}
        connection.execute(known.tables["tasks"].insert().values(row))
    upgrade(engine)
    [loaded] = Store(engine).load(["t1"])
    assert view(loaded) == view(task)
    engine.dispose()


def test_a_database_of_a_later_version_is_refused(empty_database: str) -> None:
    engine = open_engine(empty_database)
    upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("update alembic_version set version_num = '9999'"))
    with pytest.raises(ConfigurationError, match=f"the database has schema 9999, this Fluffle knows {HEAD}"):
        upgrade(engine)
    engine.dispose()


def test_coordinators_that_start_together_upgrade_one_after_the_other(empty_database: str) -> None:
    def start(number: int) -> bool:
        store = Store(open_engine(empty_database))
        upgrade(store.engine)
        leads = store.take_lead(f"coordinator {number}", NOW, LEAD)
        store.close()
        return leads

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(start, range(4))) == [False, False, False, True]
