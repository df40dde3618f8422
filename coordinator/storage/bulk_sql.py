"""What happens to rows in every batch, as text and tuples for the driver: SQLAlchemy would look at every value.

A row that is written is a mapping of columns to values as the database takes them; those of one call have the same
columns in the same order.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from pydantic_core import to_json
from sqlalchemy import Connection, RowMapping, Table

Rows = Sequence[Mapping[str, Any]]
Columns = tuple[str, ...]
Statement = Callable[[Table, Columns, str], str]  # the string stands for a value


def insert_rows(connection: Connection, table: Table, rows: Rows) -> None:
    """Put new rows into a table."""
    _execute(connection, _insert, table, rows)


def keep_rows(connection: Connection, table: Table, rows: Rows) -> None:
    """Put rows into a table; one that is there already, by any unique column, stays as it is."""
    _execute(connection, _keep, table, rows)


def upsert_rows(connection: Connection, table: Table, rows: Rows) -> None:
    """Put rows into a table; one that is there already, by its primary key, is replaced."""
    _execute(connection, _upsert, table, rows)


def update_rows(connection: Connection, table: Table, rows: Rows) -> None:
    """Change rows in the columns that are given, of which the last one tells which row it is."""
    _execute(connection, _update, table, rows)


def delete_rows(connection: Connection, table: Table, rows: Rows) -> None:
    """Take out the rows that have this value in the one column that is given."""
    _execute(connection, _delete, table, rows)


def rows_with(connection: Connection, table: Table, column: str, values: Iterable[str]) -> Sequence[RowMapping]:
    """The rows that have one of these values in that column, however many there are."""
    given: object
    if connection.dialect.name == "sqlite":
        one_of, given = "IN (SELECT value FROM json_each(?))", to_json(list(values)).decode()
    else:
        one_of, given = "= ANY(%s)", list(values)
    text = f"SELECT * FROM {table.name} WHERE {column} {one_of}"  # noqa: S608 - our own names
    return connection.exec_driver_sql(text, (given,)).mappings().all()


def _execute(connection: Connection, make: Statement, table: Table, rows: Rows) -> None:
    if rows:
        mark = "?" if connection.dialect.name == "sqlite" else "%s"
        connection.exec_driver_sql(make(table, tuple(rows[0]), mark), [tuple(row.values()) for row in rows])


@lru_cache
def _insert(table: Table, columns: Columns, mark: str) -> str:
    marks = ", ".join(mark for _ in columns)
    return f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - our own names


@lru_cache
def _keep(table: Table, columns: Columns, mark: str) -> str:
    return f"{_insert(table, columns, mark)} ON CONFLICT DO NOTHING"


@lru_cache
def _upsert(table: Table, columns: Columns, mark: str) -> str:
    key = [column.name for column in table.primary_key]
    rest = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in key)
    return f"{_insert(table, columns, mark)} ON CONFLICT ({', '.join(key)}) DO UPDATE SET {rest}"


@lru_cache
def _update(table: Table, columns: Columns, mark: str) -> str:
    *rest, key = columns
    told = ", ".join(f"{name} = {mark}" for name in rest)
    return f"UPDATE {table.name} SET {told} WHERE {key} = {mark}"  # noqa: S608 - our own names


@lru_cache
def _delete(table: Table, columns: Columns, mark: str) -> str:
    (column,) = columns
    return f"DELETE FROM {table.name} WHERE {column} = {mark}"  # noqa: S608 - our own names
