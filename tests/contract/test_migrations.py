"""The migrations lead to the schema that the code expects."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

from broker.errors import ConfigurationError
from coordinator.database import open_engine
from coordinator.schema import metadata
from coordinator.store import Store
from coordinator.upgrade import HEAD, alembic_config, upgrade
from tests.support.books import LEAD, NOW, a_task, stored


def made(engine: Engine) -> set[str]:
    """Columns, keys and indexes of a database, each as the database itself describes it."""
    if engine.dialect.name == "sqlite":
        described = "select sql from sqlite_master where tbl_name != 'alembic_version' and sql is not null"
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
