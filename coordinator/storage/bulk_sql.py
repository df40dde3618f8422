"""Bulk writes as SQL text and tuples for the driver, because SQLAlchemy processes every value.

`benchmarks/storage.py` compares the two: 500 new tasks and 500 changes take SQLAlchemy 2.3 times as long (141 µs a row
against 58 µs, on SQLite).

A row is a mapping of column names to values that the driver takes as they are. All rows of one call have the same
columns in the same order.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from pydantic_core import to_json
from sqlalchemy import Connection, RowMapping, Table

Rows = Sequence[Mapping[str, Any]]
Columns = tuple[str, ...]
Statement = Callable[[Table, Columns, str], str]  # the last argument is the placeholder of a value


def insert_rows(connection: Connection, table: Table, rows: Rows) -> None:
    """Insert new rows."""
    _execute(connection, _insert, table, rows)


def keep_rows(connection: Connection, table: Table, rows: Rows) -> None:
    """Insert rows; a row that conflicts with a stored one in any unique column is left out."""
    _execute(connection, _keep, table, rows)


def upsert_rows(connection: Connection, table: Table, rows: Rows) -> None:
    """Insert rows; a stored row with the same primary key is replaced."""
    _execute(connection, _upsert, table, rows)


def update_rows(connection: Connection, table: Table, rows: Rows) -> None:
    """Update the given columns; the last one is the key."""
    _execute(connection, _update, table, rows)


def delete_rows(connection: Connection, table: Table, rows: Rows) -> None:
    """Delete the rows that have the given value in the one given column."""
    _execute(connection, _delete, table, rows)


def rows_with(connection: Connection, table: Table, column: str, values: Iterable[str]) -> Sequence[RowMapping]:
    """Return the rows with one of these values in the column; the number of values is not limited."""
    parameter: object
    if connection.dialect.name == "sqlite":
        one_of, parameter = "IN (SELECT value FROM json_each(?))", to_json(list(values)).decode()
    else:
        one_of, parameter = "= ANY(%s)", list(values)
    text = f"SELECT * FROM {table.name} WHERE {column} {one_of}"  # noqa: S608 - our own names
    return connection.exec_driver_sql(text, (parameter,)).mappings().all()


def _execute(connection: Connection, make: Statement, table: Table, rows: Rows) -> None:
    if rows:
        placeholder = "?" if connection.dialect.name == "sqlite" else "%s"
        connection.exec_driver_sql(make(table, tuple(rows[0]), placeholder), [tuple(row.values()) for row in rows])


@lru_cache
def _insert(table: Table, columns: Columns, placeholder: str) -> str:
    placeholders = ", ".join(placeholder for _ in columns)
    return f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({placeholders})"  # noqa: S608 - our own names


@lru_cache
def _keep(table: Table, columns: Columns, placeholder: str) -> str:
    return f"{_insert(table, columns, placeholder)} ON CONFLICT DO NOTHING"


@lru_cache
def _upsert(table: Table, columns: Columns, placeholder: str) -> str:
    key = [column.name for column in table.primary_key]
    rest = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in key)
    return f"{_insert(table, columns, placeholder)} ON CONFLICT ({', '.join(key)}) DO UPDATE SET {rest}"


@lru_cache
def _update(table: Table, columns: Columns, placeholder: str) -> str:
    *rest, key = columns
    assignments = ", ".join(f"{name} = {placeholder}" for name in rest)
    return f"UPDATE {table.name} SET {assignments} WHERE {key} = {placeholder}"  # noqa: S608 - our own names


@lru_cache
def _delete(table: Table, columns: Columns, placeholder: str) -> str:
    (column,) = columns
    return f"DELETE FROM {table.name} WHERE {column} = {placeholder}"  # noqa: S608 - our own names
